"""Local driver: each site is a process group of its own on this machine, led by its agent.

Sites outlive the coordinator that started them. The next coordinator finds them by the mark in their environment. Because nothing
else is written down, no crash between starting a site and writing it down can lose one.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

from windfall import clock
from windfall.errors import Permanent, Transient
from windfall.fleet.driver import Owned
from windfall.fleet.drivers.asking import FOR_A_PERSON
from windfall.fleet.machine import Observation, Observed
from windfall.processes import SiteProcess, group_members, mark, marked, signal_group, spawn, start_time
from windfall.site.nursery import Lost, Nursery
from windfall.store.files import write_json, write_secret
from windfall.store.redis_access import PASSWORD
from windfall.wire.bulk import TOKEN_NAME

#: From a site's name to what it is told at its start: the contents of its `site.json`, without name, generation and run.
Describe = Callable[[str], dict[str, Any]]
#: From a site and its generation to what nobody else may know: its token for large files.
TokenFor = Callable[[str, int], str]
#: The command that runs a site; the site's folder is added to it.
AGENT = (sys.executable, "-m", "windfall.site.agent")


class LocalDriver:
    """Starts `windfall site` in the site's folder. Implements ``fleet.driver.Driver``."""

    def __init__(
        self, sites_dir: Path, run_id: str, describe: Describe, *, environment: dict[str, str] | None = None,
        agent: Sequence[str] = AGENT, token_for: TokenFor | None = None, nursery: Nursery | None = None,
        withheld: Collection[str] = (),
    ) -> None:  # fmt: skip
        """``token_for``: for a file that only this user may read, and that the site removes when it has read it. ``nursery`` makes
        agents of sites that train on processors, where it can; it ends with `close`. ``withheld``: variables that sites do not get,
        unless they watch a signal by themselves."""
        self._withheld = withheld
        self._token_for = token_for
        self._dir = sites_dir
        self._run_id = run_id
        self._describe = describe
        self._environment = environment or {}
        self._agent = agent
        self._nursery = nursery
        self._agents: dict[str, SiteProcess] = {}
        self._kill_at: dict[str, float] = {}
        self._adopt()

    def _adopt(self) -> None:
        """Take over the living agents of earlier coordinators.

        End processes without an agent, and agents that are not the newest.
        """
        processes = [p for p in marked(self._run_id, self._dir.parent) if p.site]
        for p in sorted(processes, key=lambda p: p.generation):
            if p.pid == p.pgid:
                self._agents[p.site] = SiteProcess(p.pid, p.generation, start_time(p.pid))
        leaders = {a.pid for a in self._agents.values()}
        for pgid in {p.pgid for p in processes} - leaders:
            signal_group(pgid, signal.SIGKILL)

    def ensure_up(self, site: str, generation: int) -> None:
        agent = self._agents.get(site)
        if agent is not None and agent.lives():
            return
        folder = self._dir / site
        try:
            folder.mkdir(parents=True, exist_ok=True)
            told = {"site": site, "generation": generation, "run_id": self._run_id, **self._describe(site)}
            write_json(folder / "site.json", told)
            if self._token_for is not None:
                write_secret(folder / TOKEN_NAME, self._token_for(site, generation))
            kept = {k: v for k, v in os.environ.items() if told.get("own_signal") or k not in self._withheld}
            env = {**kept, **self._environment, **mark(self._run_id, self._dir.parent, site, generation)}
            if told.get("bus_login"):
                env.pop(PASSWORD, None)  # the run's own; the site has one for its own keys
            # The SuperNode must find Flower's console scripts, which it starts.
            env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{env.get('PATH', '')}"
            on_processors = told.get("trainer", {}).get("device") == "cpu"
            self._agents[site] = self._start(site, generation, folder, env, self._nursery if on_processors else None)
        except OSError as e:
            kind = Permanent if e.errno in FOR_A_PERSON else Transient
            raise kind(f"{site}: cannot be started: {e.strerror or e}{f' ({e.filename})' if e.filename else ''}") from None
        self._kill_at.pop(site, None)

    def _start(self, site: str, generation: int, folder: Path, env: dict[str, str], nursery: Nursery | None) -> SiteProcess:
        log = folder / "logs" / "agent.log"
        if nursery is not None:
            try:
                pid = nursery.start(folder, env, log)
            except Lost:
                found = [p for p in marked(self._run_id, self._dir.parent) if (p.site, p.generation) == (site, generation)]
                pid = next((p.pid for p in found if p.pid == p.pgid), 0)
            if pid:
                return SiteProcess(pid, generation, start_time(pid))
        child = spawn([*self._agent, str(folder)], log=log, env=env)
        return SiteProcess(child.pid, generation, start_time(child.pid), child)

    def ensure_down(self, site: str, grace_s: float, reason: str) -> None:
        agent = self._agents.get(site)
        if agent is None:
            return
        if agent.lives():
            try:
                os.kill(agent.pid, signal.SIGTERM)
            except ProcessLookupError:
                return
        self._kill_at[site] = clock.monotonic() + grace_s

    def observe(self, sites: Iterable[str]) -> dict[str, Observation]:
        return {s: Observation(self._look(s)) for s in sites}

    def _look(self, site: str) -> Observed:
        agent = self._agents.get(site)
        if agent is None:
            return Observed.ABSENT
        stopping = site in self._kill_at
        if agent.lives():
            if stopping and clock.monotonic() > self._kill_at[site]:
                signal_group(agent.pid, signal.SIGKILL)
            return Observed.STOPPING if stopping else Observed.UP
        if group_members(agent.pid):
            # The agent has ended and left children. Nothing is there any more that could end them in order.
            signal_group(agent.pid, signal.SIGKILL)
            return Observed.STOPPING
        if not stopping:
            return Observed.FAILED
        del self._agents[site]
        del self._kill_at[site]
        return Observed.ABSENT

    def list_owned(self, run_id: str) -> list[Owned]:
        if run_id != self._run_id:
            return []
        return [Owned(site, a.generation, str(a.pid)) for site, a in sorted(self._agents.items()) if a.lives()]

    def prepare(self, within_s: float) -> None:
        """Wait for what makes starts cheap, for so long at most. For a moment in which nothing else waits."""
        if self._nursery is not None:
            self._nursery.ready(within_s)

    def close(self) -> None:
        """End what this driver keeps for itself; sites live on."""
        if self._nursery is not None:
            self._nursery.close()

    def kill_all(self) -> None:
        """End every site at once, by force."""
        for agent in self._agents.values():
            signal_group(agent.pid, signal.SIGKILL)
            if agent.child is not None:
                agent.child.poll()
