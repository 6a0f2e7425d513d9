"""Local driver: a site is a process group of its own on this machine, led by its agent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from windfall import clock
from windfall.errors import Transient
from windfall.fleet.driver import Owned
from windfall.fleet.machine import Observed
from windfall.fleet.processes import group_members, signal_group, spawn, start_time
from windfall.store.files import read_json, write_json

#: What a site is told at start: everything that goes into its `site.json` besides its name and generation.
Describe = Callable[[str], dict[str, Any]]


class LocalDriver:
    """Starts `windfall site` in the site's folder. Implements ``fleet.driver.Driver``."""

    def __init__(self, sites_dir: Path, run_id: str, describe: Describe, *, environment: dict[str, str] | None = None) -> None:
        self._dir = sites_dir
        self._run_id = run_id
        self._describe = describe
        self._environment = environment or {}
        self._agents: dict[str, subprocess.Popen[bytes]] = {}
        self._kill_at: dict[str, float] = {}

    def ensure_up(self, site: str, generation: int) -> None:
        agent = self._agents.get(site)
        if agent is not None and agent.poll() is None:
            return
        folder = self._dir / site
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write_json(
                folder / "site.json", {"site": site, "generation": generation, "run_id": self._run_id, **self._describe(site)}
            )
            env = {**os.environ, **self._environment}
            # Console scripts of Flower must be found by the SuperNode that starts them.
            env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{env.get('PATH', '')}"
            agent = spawn([sys.executable, "-m", "windfall.run.agent", str(folder)], log=folder / "logs" / "agent.log", env=env)
        except OSError as e:
            raise Transient(f"{site}: cannot be started: {e.strerror or e}") from None
        self._agents[site] = agent
        self._kill_at.pop(site, None)
        write_json(
            folder / "agent.json",
            {"pid": agent.pid, "start_time": start_time(agent.pid), "generation": generation, "run_id": self._run_id},
        )

    def ensure_down(self, site: str, grace_s: float, reason: str) -> None:
        agent = self._agents.get(site)
        if agent is None:
            return
        if agent.poll() is None:
            agent.send_signal(signal.SIGTERM)
        self._kill_at[site] = clock.monotonic() + grace_s

    def observe(self, sites: Iterable[str]) -> dict[str, Observed]:
        return {s: self._look(s) for s in sites}

    def _look(self, site: str) -> Observed:
        agent = self._agents.get(site)
        if agent is None:
            return Observed.ABSENT
        stopping = site in self._kill_at
        if agent.poll() is None:
            if stopping and clock.monotonic() > self._kill_at[site]:
                signal_group(agent.pid, signal.SIGKILL)
            return Observed.STOPPING if stopping else Observed.UP
        if group_members(agent.pid):
            # The agent is gone and left children: nobody will ask them nicely.
            signal_group(agent.pid, signal.SIGKILL)
            return Observed.STOPPING
        if not stopping:
            return Observed.FAILED
        del self._agents[site]
        del self._kill_at[site]
        (self._dir / site / "agent.json").unlink(missing_ok=True)
        return Observed.ABSENT

    def list_owned(self, run_id: str) -> list[Owned]:
        found = []
        for path in sorted(self._dir.glob("*/agent.json")):
            facts = read_json(path)
            if isinstance(facts, dict) and facts.get("run_id") == run_id and _lives(facts):
                found.append(Owned(path.parent.name, int(facts["generation"]), str(facts["pid"])))
        return found

    def sweep(self, run_id: str, *, wait_s: float = 10.0) -> list[Owned]:
        """End what an earlier coordinator of this run left running: its work is in its outbox and snapshot."""
        owned = self.list_owned(run_id)
        for one in owned:
            signal_group(int(one.handle), signal.SIGKILL)
        deadline = clock.monotonic() + wait_s
        while any(group_members(int(o.handle)) for o in owned) and clock.monotonic() < deadline:
            clock.pause(0.05)
        for path in self._dir.glob("*/agent.json"):
            path.unlink(missing_ok=True)
        return owned

    def kill_all(self) -> None:
        """End every site at once. For a forced stop."""
        for agent in self._agents.values():
            signal_group(agent.pid, signal.SIGKILL)
            agent.poll()


def _lives(facts: dict[str, Any]) -> bool:
    """Whether the very process that was written down still runs (and not another one of its number)."""
    pid = int(facts.get("pid", 0))
    return pid > 0 and start_time(pid) is not None and start_time(pid) == facts.get("start_time")
