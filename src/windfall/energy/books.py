"""Who books what when: a site with a meter is booked when its meter has told, and by its model where it has not in time.

The account is append-only. What a meter tells after the model has stood in for it is booked as a correction: a signed entry over
the same time, with its cause. Sites without a meter are booked at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from windfall.energy.account import Account, Interval
from windfall.energy.measured import SiteMeter

#: What was booked longer ago than this (run time) stays as it is.
_CORRECTED_S = 86400.0
#: Why an entry corrects another one.
LATE = "measured late: its model had stood in"


@dataclass(frozen=True, slots=True)
class _Waiting:
    """Time of a site that its meter has not told of yet."""

    site: str
    phase: str
    t0: float
    t1: float


@dataclass(slots=True)
class _StoodIn:
    """Time of a site that was booked by its model, at so many watts."""

    site: str
    phase: str
    t0: float
    t1: float
    watts: float


class Books:
    """Books into an account. Times are run time; what is due is booked by ``settle``, which is told the time."""

    def __init__(self, account: Account, metered: Iterable[str] = (), lag_s: float = 0.0) -> None:
        """``metered``: sites with a meter. ``lag_s``: how long after its end a time waits for the meter."""
        self.account = account
        self.meters: dict[str, SiteMeter] = {name: SiteMeter() for name in metered}
        self._lag_s = lag_s
        self._waiting: list[_Waiting] = []
        self._stood_in: list[_StoodIn] = []

    def spent(self) -> float:
        """The cost of what is booked."""
        return self.account.spent()

    def book(self, site: str, phase: str, t0: float, t1: float) -> list[Interval]:
        """Book ``[t0, t1)`` of a site in a phase, now or, where it has a meter, when that has told."""
        nothing = phase == "off" and self.account.watts(site, phase) == 0.0
        # A microgrid has to be told of everything in order.
        if site in self.account.microgrids and any(w.site == site for w in self._waiting):
            nothing = False
        if site not in self.meters or nothing:
            return self.account.book(site, phase, t0, t1)
        if t1 > t0:
            self._waiting.append(_Waiting(site, phase, t0, t1))
        return []

    def heard(self, site: str, boot: str, at: float, joules: float, measured_joules: float, now: float) -> None:
        """Take in what a meter says."""
        if site in self.meters:
            self.meters[site].heard(boot, at, joules, measured_joules, now)

    def settle(self, now: float, *, closing: bool = False) -> list[Interval]:
        """What is due by run time ``now``. ``closing``: everything that waits, because nothing more will be told."""
        found: list[Interval] = []
        waiting, self._waiting = self._waiting, []
        ordered: set[str] = set()
        for w in waiting:
            late = closing or now - w.t1 >= self._lag_s
            meter = self.meters[w.site]
            if w.site in ordered or (not late and meter.until < w.t1):
                self._waiting.append(w)
                if w.site in self.account.microgrids:
                    ordered.add(w.site)
                continue
            at = w.t0
            for used in meter.between(w.t0, w.t1):
                found += self._model(w, at, used.t0, now)
                watts = used.joules / (used.t1 - used.t0)
                found += self.account.book(
                    w.site, w.phase, used.t0, used.t1, watts=watts, measured=used.measured_joules, booked_at=now
                )
                at = used.t1
            found += self._model(w, at, w.t1, now)
        return found + self._corrections(now)

    def _model(self, w: _Waiting, t0: float, t1: float, now: float) -> list[Interval]:
        """Book a part by the model."""
        if t1 <= t0:
            return []
        watts = self.account.watts(w.site, w.phase)
        last = next((s for s in reversed(self._stood_in) if s.site == w.site), None)
        if last is not None and last.t1 == t0 and (last.phase, last.watts) == (w.phase, watts):
            last.t1 = t1
        else:
            self._stood_in.append(_StoodIn(w.site, w.phase, t0, t1, watts))
        return self.account.book(w.site, w.phase, t0, t1, booked_at=now)

    def _corrections(self, now: float) -> list[Interval]:
        """Where a meter has told by now of time that was booked by its model."""
        found: list[Interval] = []
        left: list[_StoodIn] = []
        for s in self._stood_in:
            if now - s.t1 > _CORRECTED_S:
                continue
            at = s.t0
            for used in self.meters[s.site].between(s.t0, s.t1):
                if used.t0 > at:
                    left.append(_StoodIn(s.site, s.phase, at, used.t0, s.watts))
                watts = used.joules / (used.t1 - used.t0)
                found += self.account.book(
                    s.site,
                    s.phase,
                    used.t0,
                    used.t1,
                    watts=watts - s.watts,
                    measured=used.measured_joules,
                    cause=LATE,
                    booked_at=now,
                )
                at = used.t1
            if at < s.t1:
                left.append(_StoodIn(s.site, s.phase, at, s.t1, s.watts))
        self._stood_in = left
        return found

    @property
    def waits(self) -> bool:
        """Whether anything waits for a meter."""
        return bool(self._waiting)

    def as_json(self) -> dict[str, Any]:
        """What the next coordinator needs to go on: what waits, what was stood in for, and the meters' last words."""
        meters = {name: said for name, m in self.meters.items() if (said := m.as_json()) is not None}
        return {
            "waiting": [[w.site, w.phase, w.t0, w.t1] for w in self._waiting],
            "stood_in": [[s.site, s.phase, s.t0, s.t1, s.watts] for s in self._stood_in[-200:]],
            "meters": meters,
        }  # fmt: skip

    def restore(self, said: Mapping[str, Any]) -> list[Interval]:
        """Go on from what ``as_json`` gave; returns what can be booked at once: time of sites that have no meter any more."""
        booked: list[Interval] = []
        for site, phase, t0, t1 in said.get("waiting", ()):
            if site in self.meters:
                self._waiting.append(_Waiting(site, phase, t0, t1))
            elif site in self.account.tariffs:
                booked += self.account.book(site, phase, t0, t1)
        self._stood_in = [_StoodIn(*s) for s in said.get("stood_in", ()) if s[0] in self.meters]
        for site, last in said.get("meters", {}).items():
            if site in self.meters:
                self.meters[site] = SiteMeter.restored(last)
        return booked
