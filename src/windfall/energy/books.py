"""Who books what when: a site with a meter is booked when its meter has told, and by its model where it has not in time.

The account is append-only. What a meter tells after the model has stood in for it is booked as a correction: a signed entry over
the same time, under the same readings, with its cause. Sites without a meter are booked at once.

What no meter will correct any more is behind the *watermark*: all that is booked, less what the model has stood in for within the
last hours. Sums of that never fall, and are what is counted for others (``open_by_site``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import astuple, dataclass, replace
from typing import Any

from windfall.energy.account import Account, Interval
from windfall.energy.measured import SiteMeter

#: What was booked longer ago than this (run time) stays as it is: no site is out of sight for so long and goes on.
CORRECTED_S = 6 * 3600.0
#: Why an entry corrects another one.
LATE = "measured late: its model had stood in"


@dataclass(frozen=True, slots=True)
class _Waiting:
    """Time of a site that its meter has not told of yet."""

    site: str
    phase: str
    t0: float
    t1: float
    #: What the model says that it took, where that is not what it always says of the phase.
    watts: float | None = None


class Books:
    """Books into an account. Times are run time; what is due is booked by ``settle``, which is told the time."""

    def __init__(self, account: Account, metered: Iterable[str] = (), lag_s: float = 0.0) -> None:
        """``metered``: sites with a meter. ``lag_s``: how long after its end a time waits for the meter."""
        self.account = account
        self.meters: dict[str, SiteMeter] = {name: SiteMeter() for name in metered}
        self._lag_s = lag_s
        self._waiting: list[_Waiting] = []
        #: What models have stood in for and meters may still correct, in order; none of a site overlap.
        self._stood_in: list[Interval] = []

    def spent(self) -> float:
        """The cost of what is booked."""
        return self.account.spent()

    def book(self, site: str, phase: str, t0: float, t1: float, *, watts: float | None = None) -> list[Interval]:
        """Book ``[t0, t1)`` of a site in a phase, now or, where it has a meter, when that has told.

        ``watts``: at its power level (default: what its model always takes in that phase).
        """
        nothing = phase == "off" and self.account.watts(site, phase) == 0.0
        # A microgrid has to be told of everything in order.
        if site in self.account.microgrids and any(w.site == site for w in self._waiting):
            nothing = False
        if site not in self.meters or nothing:
            return self.account.book(site, phase, t0, t1, watts=watts)
        if t1 > t0:
            self._waiting.append(_Waiting(site, phase, t0, t1, watts))
        return []

    def book_at(self, site: str, phase: str, t: float, joules: float) -> list[Interval]:
        """Book what no meter of the site's measures, at an instant."""
        return self.account.book_at(site, phase, t, joules)

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
                took = used.joules / (used.t1 - used.t0)
                found += self.account.book(
                    w.site, w.phase, used.t0, used.t1, watts=took, measured=used.measured_joules, booked_at=now
                )
                at = used.t1
            found += self._model(w, at, w.t1, now)
        found += self._corrections(now)
        if closing:
            self._stood_in.clear()
        return found

    def _model(self, w: _Waiting, t0: float, t1: float, now: float) -> list[Interval]:
        """Book a part by the model."""
        if t1 <= t0:
            return []
        entries = self.account.book(w.site, w.phase, t0, t1, watts=w.watts, booked_at=now)
        # A phase without power has no entry, and yet a meter may tell of some.
        for e in entries or [Interval(t0, t1, w.site, w.phase, 0.0, None, 0.0, 0.0, None)]:
            last = next((i for i in range(len(self._stood_in) - 1, -1, -1) if self._stood_in[i].site == w.site), None)
            joined = None if last is None else _joined(self._stood_in[last], e)
            if last is None or joined is None:
                self._stood_in.append(e)
            else:
                self._stood_in[last] = joined
        return entries

    def _corrections(self, now: float) -> list[Interval]:
        """Where a meter has told by now of time that was booked by its model."""
        found: list[Interval] = []
        left: list[Interval] = []
        for s in self._stood_in:
            if s.t1 <= now - CORRECTED_S:
                continue
            s = _part(s, max(s.t0, now - CORRECTED_S), s.t1)
            at = s.t0
            for used in self.meters[s.site].between(s.t0, s.t1):
                left.append(_part(s, at, used.t0))
                watts, measured = used.joules / (used.t1 - used.t0), used.measured_joules
                if s.joules:
                    found.append(self.account.correct(s, used.t0, used.t1, watts, measured=measured, cause=LATE, booked_at=now))
                else:
                    found += self.account.book(
                        s.site, s.phase, used.t0, used.t1, watts=watts, measured=measured, cause=LATE, booked_at=now
                    )
                at = used.t1
            left.append(_part(s, at, s.t1))
        self._stood_in = [s for s in left if s.t1 > s.t0]
        return found

    @property
    def waits(self) -> bool:
        """Whether anything waits for a meter."""
        return bool(self._waiting)

    def open_by_site(self) -> dict[str, list[Interval]]:
        """By site: what is booked by its model and may still be corrected. What was booked less this lies behind the watermark."""
        found: dict[str, list[Interval]] = {}
        for s in self._stood_in:
            if s.joules:
                found.setdefault(s.site, []).append(s)
        return found

    def as_json(self) -> dict[str, Any]:
        """What the next coordinator needs to go on: what waits, what was stood in for, and the meters' last words."""
        meters = {name: said for name, m in self.meters.items() if (said := m.as_json()) is not None}
        return {
            "waiting": [list(astuple(w)) for w in self._waiting],
            "stood_in": [list(astuple(s)) for s in self._stood_in],
            "meters": meters,
        }  # fmt: skip

    def restore(self, said: Mapping[str, Any]) -> list[Interval]:
        """Go on from what ``as_json`` gave; returns what can be booked at once: time of sites that have no meter any more."""
        booked: list[Interval] = []
        for w in (_Waiting(*row) for row in said.get("waiting", ())):
            if w.site in self.meters:
                self._waiting.append(w)
            elif w.site in self.account.tariffs:
                booked += self.account.book(w.site, w.phase, w.t0, w.t1, watts=w.watts)
        self._stood_in = [s for s in stood_in(said) if s.site in self.meters]
        for site, last in said.get("meters", {}).items():
            if site in self.meters:
                self.meters[site] = SiteMeter.restored(last)
        return booked


def stood_in(said: Mapping[str, Any]) -> list[Interval]:
    """What models have stood in for and meters may still correct, of what ``Books.as_json`` gave."""
    # An earlier form had no readings with it, and is left alone.
    return [Interval(*s) for s in said.get("stood_in", ()) if len(s) == len(Interval.__slots__)]


def _part(e: Interval, t0: float, t1: float) -> Interval:
    """The part ``[t0, t1)`` of an entry of a model, within which nothing changes."""
    share = (t1 - t0) / (e.t1 - e.t0)
    if share == 1.0:
        return e
    return replace(
        e, t0=t0, t1=t1, joules=e.joules * share, grams=e.grams * share,
        average_grams=None if e.average_grams is None else e.average_grams * share,
        money=None if e.money is None else e.money * share, own_joules=e.own_joules * share,
        stored_joules=e.stored_joules * share,
    )  # fmt: skip


def _joined(a: Interval, b: Interval) -> Interval | None:
    """Two entries of a model as one, where the second goes on with the first and nothing has changed."""

    def rates(e: Interval) -> tuple[object, ...]:
        each = (
            None if x is None or not e.joules else round(x / e.joules, 15)
            for x in (e.average_grams, e.money, e.own_joules, e.stored_joules)
        )
        return e.phase, e.watts, e.g_per_kwh, e.inside, *each

    if a.t1 != b.t0 or rates(a) != rates(b):
        return None
    return replace(
        a, t1=b.t1, joules=a.joules + b.joules, grams=a.grams + b.grams,
        average_grams=None if a.average_grams is None else a.average_grams + (b.average_grams or 0.0),
        money=None if a.money is None else a.money + (b.money or 0.0), booked_at=b.booked_at,
        own_joules=a.own_joules + b.own_joules, stored_joules=a.stored_joules + b.stored_joules,
    )  # fmt: skip
