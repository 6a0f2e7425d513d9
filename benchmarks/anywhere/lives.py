"""How long after a decision a site takes its first step, and is released, by driver; and what comes after a SIGKILL."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.anywhere.platforms import ROOT, Platform, platforms

from windfall import clock
from windfall.errors import StoreError
from windfall.run.asking import ask
from windfall.run.endpoint import endpoint_port
from windfall.run.requests import Request
from windfall.store.residents import Resident
from windfall.store.rundir import RunDir
from windfall.store.telemetry import Telemetry
from windfall.units import iso_utc

_PATIENCE_S, _LOOK_S, _PLATFORM_LOOK_S = 900.0, 0.02, 0.1
_CONFIG = """
[run]
name = "measured"
budget_tokens = {budget}
clock = "real"
tick_s = 1
[policy]
name = "threshold"
[model]
depth = 1
width = 32
sequence_length = 32
[data]
source = "corpus.txt"
eval_sequences = 8
[train]
batch_sequences = 4
block_sequences = 2
[federation]
round_s = 60
round_min_s = 5
solo_cut_s = 60
snapshot_s = 10
[fleet]
start_timeout_s = 600
backoff_s = 1
[network]
certificates = "{certificates}"
"""
_SITE = """
[[site]]
name = "{name}"
region = "{name}"
driver = "{driver}"
spin_up_s = 20
train_power_w = 2000
idle_power_w = 400
tokens_per_s = 1000
{table}
[site.signal]
path = "signal.csv"
column = "g"
period_s = 0
until = "{until}"
"""


class Lives:
    """A run with a site of each driver, all in a window and all held; one at a time is released to its policy and held again."""

    def __init__(self, folder: Path, run: Path, found: dict[str, Platform]) -> None:
        self._folder, self.run, self._platforms = folder, RunDir(run), found
        self._looking: Platform | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def write(self) -> Path:
        """The configuration."""
        certificates = self._folder / "certs"
        self._windfall("certs", "init", certificates, "--address", "127.0.0.1")
        (self._folder / "signal.csv").write_text("time_utc,g\n2020-01-01T00:00:00Z,10\n")
        words = ["the", "wind", "turns", "and", "power", "flows", "where", "none", "is", "wanted"]
        lines = (" ".join(words[(i * k + i) % 10] for k in range(12)) for i in range(600))
        (self._folder / "corpus.txt").write_text("\n".join(lines))
        text = _CONFIG.format(budget=64 * 10**7, certificates=certificates)
        for name, p in self._platforms.items():
            table = f"[site.{p.driver}]\n{p.table}" if p.table else ""
            text += _SITE.format(name=name, driver=p.driver, table=table, until=iso_utc(clock.wall() + 86400))
        file = self._folder / "measured.toml"
        file.write_text(text)
        return file

    @contextmanager
    def living(self) -> Iterator[None]:
        """The run, from its start to its end, and the agent of the machine that is always there."""
        env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), *sys.path])}
        command = [sys.executable, "-m", "windfall", "run", str(self.write()), "--run-dir", str(self.run.root), "--quiet"]
        said = open(self._folder / "said.txt", "ab")  # noqa: SIM115 - closed below
        self._child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=said, stderr=said, start_new_session=True, env=env)
        agent: subprocess.Popen[bytes] | None = None
        try:
            self._wait("the run", lambda: self.run.telemetry.exists() and endpoint_port(self.run) is not None)
            for name in self._platforms:
                self._ask("hold", name)
            if "resident" in self._platforms:
                machine = self._platforms["resident"].places[0]
                machine.mkdir()
                token = self._folder / "join-token"
                token.write_text(Resident(self.run.sites, "resident").invite(clock.wall() + 3600))
                url = f"https://127.0.0.1:{endpoint_port(self.run)}"
                words = ["join", url, "--token-file", token, "--ca-file", self._folder / "certs" / "ca.pem", "--folder", machine]
                agent = subprocess.Popen(
                    [sys.executable, "-m", "windfall", "site", *map(str, words)], stdin=subprocess.DEVNULL, stdout=said,
                    stderr=said, env=env, start_new_session=True,
                )  # fmt: skip
            self._wait("all to be held", lambda: all(self._state(n) in ("", "off") and self._held(n) for n in self._platforms))
            self._thread.start()
            yield
        finally:
            self._over.set()
            os.kill(self._child.pid, signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._child.wait(120)
            for child in (self._child, agent):
                if child is not None:
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(child.pid, signal.SIGKILL)
                    child.wait()
            said.close()

    def measure(self, name: str) -> Iterator[dict[str, Any]]:
        """Two lives of a site: in the second its agent is killed, and the next one comes."""
        p = self._platforms[name]
        for life in (1, 2):
            p.forget()
            self._looking = p
            since = clock.wall()
            self._ask("release", name)
            decided = self._until_in(name, "provisioning", since)
            first = self._first_step(name)
            up = {"driver": name, "life": life, "decision_to_first_step_s": round(first - decided, 2)}
            platform = p.platform_up_s(p.when())
            yield {"figure": "first step", **up, "platform_s": round(platform, 2), "ours_s": round(first - decided - platform, 2)}
            if life == 2:
                yield self._killed(p)
            p.forget()
            since = clock.wall()
            self._ask("hold", name)
            decided, off = self._until_in(name, "draining", since), self._until_in(name, "off", since)
            platform = p.platform_down_s(p.when())
            asked = p.when().get("asked-down")
            yield {
                "figure": "released", "driver": name, "life": life, "decision_to_off_s": round(off - decided, 2),
                "of_this_drain_s": round(asked - decided, 2) if asked else None, "platform_s": round(platform, 2),
                "ours_s": round(off - decided - platform, 2),
            }  # fmt: skip

    def _killed(self, p: Platform) -> dict[str, Any]:
        at = clock.wall()
        pid = p.leader()
        assert pid, f"{p.name}: its agent is not found"
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        self._until_in(p.name, "provisioning", at)
        return {"figure": "after SIGKILL", "driver": p.name, "kill_to_first_step_s": round(self._first_step(p.name) - at, 2)}

    # -- what is seen ----------------------------------------------------------------------------------------

    def _look(self) -> None:
        while not self._over.wait(_PLATFORM_LOOK_S):
            if (p := self._looking) is not None:
                p.look()

    def _first_step(self, name: str) -> float:
        """When a site's newest life has taken its first step: its folder says so, looked at every so often."""
        generation = self._generation(name)
        found: list[Path] = []

        def stepped() -> bool:
            if not found:
                for place in self._platforms[name].places:
                    found.extend(f.parent for f in place.rglob(f"trained/{generation:06d}"))
            return bool(found) and int((found[0] / f"{generation:06d}").read_bytes()[:20] or b"0") > 0

        self._wait(f"a step of {name}", stepped, _LOOK_S)
        return clock.wall()

    def _rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        try:
            telemetry = Telemetry.open(self.run.telemetry, read_only=True)
        except StoreError:
            return []
        try:
            return telemetry.rows(query, *values)
        finally:
            telemetry.close()

    def _until_in(self, name: str, state: str, since: float) -> float:
        """Wait until a site goes into a state after ``since``; when it did."""
        self._wait(f"{name} to be {state}", lambda: self._moved(name, state, since))
        return self._moved(name, state, since)

    def _moved(self, name: str, state: str, since: float) -> float:
        """When it went into a state, first after ``since``; 0 if it has not."""
        rows = self._rows(
            "SELECT t_wall FROM states WHERE site = ? AND state = ? AND t_wall >= ? ORDER BY t_wall LIMIT 1", name, state, since
        )
        return float(rows[0][0]) if rows else 0.0

    def _state(self, name: str) -> str:
        rows = self._rows("SELECT state FROM states WHERE site = ? ORDER BY t_wall DESC LIMIT 1", name)
        return str(rows[0][0]) if rows else ""

    def _held(self, name: str) -> bool:
        return bool(self._rows("SELECT 1 FROM events WHERE kind = 'held' AND site = ?", name))

    def _generation(self, name: str) -> int:
        rows = self._rows(
            "SELECT detail ->> 'generation' FROM events WHERE kind = 'state' AND site = ? ORDER BY id DESC LIMIT 1", name
        )
        return int(rows[0][0])

    def _wait(self, what: str, ready: Callable[[], object], pause_s: float = 0.2) -> None:
        deadline = clock.monotonic() + _PATIENCE_S
        while not ready():
            if self._child.poll() is not None or clock.monotonic() > deadline:
                said = (self._folder / "said.txt").read_text()[-3000:]
                raise RuntimeError(f"no sign of {what}; the run's status is {self._child.returncode}; it said: {said}")
            clock.pause(pause_s)

    def _ask(self, kind: str, name: str) -> None:
        ask(self.run, Request(kind, name, who="benchmark", why="it is measured"))

    def _windfall(self, *words: object) -> None:
        subprocess.run([sys.executable, "-m", "windfall", *map(str, words)], check=True, capture_output=True)


def lives(folder: Path, only: list[str]) -> Iterator[dict[str, Any]]:
    """All figures of all drivers, `local` first."""
    run = folder / "run"
    with platforms(folder, run, only) as found:
        measured = Lives(folder, run, found)
        with measured.living():
            for name in found:
                yield from measured.measure(name)
