"""Sends a run's figures to its trackers, from a process of its own that reads the run directory: training never waits for it.

How far a tracker has been told is in ``trackers/KIND-PLACE.json`` of the run directory, so that nothing is sent twice and nothing
is left out, however often this process, the run or the tracker's server ends.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from windfall.config.trackers import TrackerTable
from windfall.errors import StoreError, TrackerError
from windfall.store.files import read_json, write_json
from windfall.store.rundir import RunDir
from windfall.ui.trackers.base import Tracker, open_tracker
from windfall.view.tracked import ToldMark, since

#: After a failure, so long (s) until the next attempt; twice as long each time, up to the second.
_BACKOFF_S, _BACKOFF_MAX_S = 5.0, 300.0
#: States in which a run may have more to tell soon.
_GOES_ON = ("running", "stopped")

Say = Callable[[str], None]
Opener = Callable[[TrackerTable, str, Path, Mapping[str, Any]], Tracker]


class Follower:
    """One tracker of one run."""

    def __init__(
        self, run: RunDir, run_id: str, table: TrackerTable, config: Mapping[str, Any], say: Say, opener: Opener = open_tracker
    ) -> None:
        self._run, self._run_id, self._table, self._config = run, run_id, table, config
        self._say, self._opener = say, opener
        self._file = run.root / "trackers" / f"{table.kind}-{_place(table)}.json"
        kept = read_json(self._file) or {}
        self._mark = ToldMark(int(kept.get("metric", 0)), int(kept.get("version", -1)))
        self._tracker: Tracker | None = None
        self._fails = 0
        self._said = ""
        self.sent = 0

    def look(self) -> str:
        """Send what is new. Returns the run's state.

        Raises:
            TrackerError: the tracker could not be told; the next look tries again from where it stands.
            StoreError: the run cannot be read.
        """
        while True:
            told = since(self._run, self._mark)
            if told.points:
                if self._tracker is None:
                    self._tracker = self._opener(self._table, self._run_id, self._run.root, self._config)
                self._tracker.log(told.points)
                self.sent += len(told.points)
            if told.mark != self._mark:
                self._mark = told.mark
                self._keep()
            if not told.more:
                return told.state

    def close(self, state: str) -> None:
        """Let go of the tracker. Raises TrackerError."""
        if self._tracker is not None:
            tracker, self._tracker = self._tracker, None
            tracker.close(state)

    def follow(self, ended: threading.Event, *, to_the_end: bool) -> None:
        """Look until the run is over (``to_the_end``: until ``ended`` is set), and once more then. Says what fails, and goes on."""
        while True:
            last = ended.is_set()
            state, wait_s = self._try()
            if last or (not to_the_end and state and state not in _GOES_ON):
                break
            ended.wait(wait_s)
        try:
            self.close(state)
        except TrackerError as e:
            self._say(str(e))

    def _try(self) -> tuple[str, float]:
        """One look: the run's state (empty: unknown), and how long to wait until the next one."""
        try:
            state = self.look()
        except (TrackerError, StoreError) as e:
            if str(e) != self._said:
                self._said = str(e)
                self._say(f"{e}; the run goes on, and what is missing is sent later")
            wait_s = min(_BACKOFF_S * 2.0**self._fails, _BACKOFF_MAX_S)
            self._fails += 1
            return "", wait_s
        self._fails, self._said = 0, ""
        return state, self._table.every_s

    def _keep(self) -> None:
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            write_json(self._file, asdict(self._mark))
        except OSError as e:
            raise TrackerError(f"{self._file}: cannot be written ({e.strerror}), so figures would be sent twice") from None


def _place(table: TrackerTable) -> str:
    """Where the figures go, in a few letters: another project or server is told from the beginning."""
    where = (table.folder, table.project, table.entity, table.url)
    return hashlib.sha256(repr(where).encode()).hexdigest()[:8]


def follow_all(followers: list[Follower], ended: threading.Event, *, to_the_end: bool) -> None:
    """Follow with a thread each: a tracker that hangs keeps none of the others."""
    threads = [
        threading.Thread(target=f.follow, args=(ended,), kwargs={"to_the_end": to_the_end}, name="tracker", daemon=True)
        for f in followers
    ]
    for t in threads:
        t.start()
    for t in threads:
        while t.is_alive():
            t.join(timeout=0.5)  # a signal is heard in between
