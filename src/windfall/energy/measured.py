"""What sites' meters say, on the run's time: from cumulative joules at instants of a machine's uptime to joules between run times.

A sample says when it was taken on its own machine's uptime. It cannot have been heard before it was taken, so the least of
(heard − taken) over the last hour is how far that uptime is from run time, up to the quickest delivery. The site's calendar is
never asked. Joules between two samples of one identity are spread evenly between their instants; between two identities nobody
knows what was used.
"""

from __future__ import annotations

import bisect
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

#: Over so long (s) the quickest delivery is looked for: long enough to have had one, longer than most links are cut, and short
#: against the drift of clocks.
_WINDOW_S = 3600.0
#: What is older than this (run time) is forgotten: by then it has been booked, or nobody will correct it any more.
_KEPT_S = 7 * 86400.0


@dataclass(frozen=True, slots=True)
class Counted:
    """Cumulative joules of one identity of a meter, at a run time."""

    boot: str
    t: float
    joules: float
    measured_joules: float


@dataclass(frozen=True, slots=True)
class Used:
    """Joules over ``[t0, t1)`` (run time), and how many of them were measured and not modelled by the meter."""

    t0: float
    t1: float
    joules: float
    measured_joules: float


class SiteMeter:
    """One site's meter as the coordinator sees it."""

    def __init__(self) -> None:
        self._last: Counted | None = None
        self._uptime = -1.0
        self._offsets: deque[tuple[float, float]] = deque()
        self._boot = ""
        #: In order, none overlapping.
        self._used: list[Used] = []
        self._ends: list[float] = []

    def heard(self, boot: str, at: float, joules: float, measured_joules: float, now: float) -> None:
        """Take a sample in, heard at run time ``now``. One that is older than the last, or runs backwards, is left alone."""
        machine = boot.split("/")[0]
        if machine != self._boot:
            self._boot, self._uptime = machine, -1.0
            self._offsets.clear()
        self._offsets.append((now, now - at))
        while now - self._offsets[0][0] > _WINDOW_S:
            self._offsets.popleft()
        t = min(now, at + min(offset for _, offset in self._offsets))
        last = self._last
        if last is not None and last.boot == boot and at <= self._uptime:
            return  # told twice, or overtaken
        if last is not None:
            t = max(t, last.t)
        if last is not None and last.boot == boot and t > last.t and joules >= last.joules:
            measured = min(max(0.0, measured_joules - last.measured_joules), joules - last.joules)
            self._used.append(Used(last.t, t, joules - last.joules, measured))
            self._ends.append(t)
        elif last is not None and last.boot == boot and t <= last.t:
            return  # nothing can be spread over no time; the next one has it
        self._last, self._uptime = Counted(boot, t, joules, measured_joules), at
        while self._used and now - self._used[0].t1 > _KEPT_S:
            self._used.pop(0)
            self._ends.pop(0)

    def between(self, t0: float, t1: float) -> list[Used]:
        """The parts of ``[t0, t1)`` of which it is known what was used, in order; neighbours are one part."""
        found: list[Used] = []
        for u in self._used[bisect.bisect_right(self._ends, t0) :]:
            if u.t0 >= t1:
                break
            a, b = max(u.t0, t0), min(u.t1, t1)
            share = (b - a) / (u.t1 - u.t0)
            part = Used(a, b, u.joules * share, u.measured_joules * share)
            if found and found[-1].t1 == a:
                was = found.pop()
                part = Used(was.t0, b, was.joules + part.joules, was.measured_joules + part.measured_joules)
            found.append(part)
        return found

    @property
    def until(self) -> float:
        """The run time up to which anything is known."""
        return self._ends[-1] if self._ends else float("-inf")

    def as_json(self) -> dict[str, Any] | None:
        """What the next coordinator needs to go on from the last sample."""
        return None if self._last is None else {**asdict(self._last), "uptime": self._uptime}

    @classmethod
    def restored(cls, said: Mapping[str, Any]) -> SiteMeter:
        """Go on from what ``as_json`` gave."""
        found = cls()
        found._last = Counted(str(said["boot"]), float(said["t"]), float(said["joules"]), float(said["measured_joules"]))
        found._uptime, found._boot = float(said["uptime"]), str(said["boot"]).split("/")[0]
        return found
