"""Resident driver: a machine that is always there, whose own agent asks the run's endpoint what it is to do.

Driver and endpoint meet in files of the site's folder (``store.residents``), so nothing here waits for the machine.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from windfall import clock
from windfall.errors import Permanent, Transient
from windfall.fleet.driver import Owned
from windfall.fleet.drivers.start import Starts
from windfall.fleet.machine import Observation, Observed
from windfall.store.residents import Assignment, Presence, Resident

#: What wakes a machine has to be done within this.
_WAKE_S = 30.0
_STATES = {
    "starting": Observed.STARTING, "up": Observed.UP, "stopping": Observed.STOPPING, "failed": Observed.FAILED,
    "absent": Observed.ABSENT,
}  # fmt: skip


class ResidentDriver:
    """One machine. Implements ``fleet.driver.Driver`` for its site."""

    def __init__(
        self, site: str, sites_dir: Path, run_id: str, starts: Starts, *, away_after_s: float, on_command: Sequence[str] = (),
        now: Callable[[], float] = clock.wall,
    ) -> None:  # fmt: skip
        """``away_after_s``: silence after which the machine counts as away. ``on_command`` wakes one that sleeps."""
        self._site = site
        self._run_id = run_id
        self._starts = starts
        self._files = Resident(sites_dir, site)
        self._away_after_s = away_after_s
        self._on_command = list(on_command)
        self._now = now

    def ensure_up(self, site: str, generation: int) -> None:
        if self._files.assignment().generation == generation:
            return
        presence = self._files.presence()
        if self._away(presence):
            if presence is None or not presence.asleep or not self._on_command:
                raise Transient(self._why_away(presence))
            self._wake()
        self._files.assign(Assignment(generation), self._starts.of(site, generation).token)

    def ensure_down(self, site: str, grace_s: float, reason: str) -> None:
        now = self._files.assignment()
        if now.generation or (now.grace_s, now.reason) != (grace_s, reason):
            self._files.assign(Assignment(0, grace_s, reason))

    def observe(self, sites: Iterable[str]) -> dict[str, Observation]:
        return dict.fromkeys(sites, self._look())

    def _look(self) -> Observation:
        presence, wanted = self._files.presence(), self._files.assignment().generation
        if presence is not None and presence.asleep and not wanted:
            return Observation(Observed.ABSENT, "sleeps")
        if presence is None or self._away(presence):
            if presence is not None and presence.asleep:
                return Observation(Observed.STARTING, "was woken")
            raise Transient(self._why_away(presence))
        state = _STATES[presence.state]
        if wanted and presence.generation != wanted:
            return Observation(Observed.STARTING, presence.words or "its machine has been asked to start it")
        if not wanted and state in (Observed.UP, Observed.STARTING):
            return Observation(Observed.STOPPING, presence.words)
        if wanted and state is Observed.ABSENT:
            return Observation(Observed.FAILED, presence.words or "its machine has ended it")
        if not wanted and state is Observed.FAILED:
            return Observation(Observed.ABSENT, presence.words)  # nothing of it is left
        return Observation(state, presence.words)

    def list_owned(self, run_id: str) -> list[Owned]:
        if run_id != self._run_id:
            return []
        presence = self._files.presence()
        if self._away(presence) and not (presence is not None and presence.asleep) and self._files.joined:
            raise Transient(self._why_away(presence))
        wanted = self._files.assignment().generation
        if wanted and (presence is None or presence.generation != wanted):
            return [Owned(self._site, wanted, self._site)]  # its machine has been asked to start it, and has not said how that went
        alive = presence is not None and presence.state in ("starting", "up", "stopping")
        return [Owned(self._site, presence.generation, self._site)] if presence is not None and alive else []

    def _away(self, presence: Presence | None) -> bool:
        return presence is None or self._now() - presence.at > self._away_after_s

    def _why_away(self, presence: Presence | None) -> str:
        if not self._files.joined:
            return (
                f"no machine has joined as {self._site}; run `windfall site invite RUN {self._site}` and `windfall site join` there"
            )
        if presence is None:
            return "its machine has joined and not been heard since"
        return f"its machine has not been heard for {self._now() - presence.at:.0f} s; is it off, or out of reach?"

    def _wake(self) -> None:
        try:
            done = subprocess.run(self._on_command, capture_output=True, timeout=_WAKE_S, check=False, stdin=subprocess.DEVNULL)
        except subprocess.TimeoutExpired:
            raise Transient(f"{self._on_command[0]} (on_command) took longer than {_WAKE_S:.0f} s") from None
        except OSError as e:
            raise Permanent(f"{self._on_command[0]} (on_command) cannot be run: {e.strerror}") from None
        if done.returncode:
            told = (done.stderr or done.stdout).decode(errors="replace").strip().splitlines()
            raise Transient(f"{self._on_command[0]} (on_command) ended with {done.returncode}: {told[-1][:200] if told else ''}")
