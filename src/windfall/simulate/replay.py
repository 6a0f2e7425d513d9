"""Replays a run's recorded readings through its policy, which must give the recorded decisions again (invariant 7).

What operators changed on the way is part of the record: a changed limit is a configuration of its own, and a hold is an event.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import numpy as np

from windfall.config.load import load, stored
from windfall.errors import StoreError
from windfall.grid.signal import Columns, Forecast, Reading
from windfall.policy.base import Decision, FleetView, Policy, SiteView
from windfall.policy.build import build_policy
from windfall.store.ledger import Ledger
from windfall.store.rundir import RunDir
from windfall.store.telemetry import Telemetry


@dataclass(frozen=True)
class Difference:
    """A decision that differs from the recorded one."""

    t: float
    site: str
    recorded: str
    now: str


@dataclass
class ReplayReport:
    """What a replay found."""

    policy: str
    ticks: int = 0
    decisions: int = 0
    #: Holds and drains that operators asked for, while which their sites may not have started.
    holds: int = 0
    differences: list[Difference] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """The object that `windfall backtest --replay --json` prints."""
        return {
            "policy": self.policy, "ticks": self.ticks, "decisions": self.decisions, "holds": self.holds,
            "equal": not self.differences,
            "differences": [{"t": d.t, "site": d.site, "recorded": d.recorded, "now": d.now} for d in self.differences],
        }  # fmt: skip


def replay(run: RunDir) -> ReplayReport:
    """Decide again, tick by tick, from what the run recorded.

    Raises:
        StoreError: no run, no telemetry, or a record of an older version that lacks what decisions depend on.
        ConfigError: its configuration cannot be read.
    """
    policies = _policies(run.open_existing())
    telemetry = Telemetry.open(run.telemetry, read_only=True)
    try:
        record = _Record(telemetry)
        found = ReplayReport("")
        for t, group in groupby(telemetry.decisions(), key=lambda d: d.t_run):
            told = list(group)
            given = {d.site: d.given for d in told}
            # After a restart at this very instant the run decided again, for the sites that it then had.
            number = max(int(was.get("configuration", 1)) for was in given.values())
            given = {site: was for site, was in given.items() if was.get("configuration", 1) == number}
            told = [d for d in told if d.site in given]
            one = next(iter(given.values()))
            if "begun" not in one:
                raise StoreError(f"{run.telemetry}: recorded by an older Windfall, without what its decisions depended on")
            if number not in policies:
                raise StoreError(f"{run.ledger}: knows no configuration {number}, under which was decided; restore it from a copy")
            policy = policies[number]
            if policy.name not in found.policy.split(", then "):
                found.policy += f", then {policy.name}" if found.policy else policy.name
            sites = {site: record.view(t, site, was) for site, was in given.items()}
            decisions = policy.decide(FleetView(t, sites, one["begun"], one["left"], one["spent"], one["tick_s"]))
            found.ticks += 1
            for was in told:
                found.decisions += 1
                d = decisions[was.site]
                same = (
                    d.on == was.wanted and d.reason == was.reason and _same(dict(d.numbers), was.numbers)
                    and d.until == was.until and _same(dict(d.memory), was.memory)
                )  # fmt: skip
                if not same:
                    recorded = f"{'on' if was.wanted else 'off'} ({was.reason})"
                    found.differences.append(Difference(t, was.site, recorded, _words(d)))
        _holds(telemetry, found)
        return found
    finally:
        telemetry.close()


def _holds(telemetry: Telemetry, found: ReplayReport) -> None:
    """What operators held off must have stayed off: no site may have begun to start between a hold and its end."""
    spans: dict[str, list[tuple[float, float, str]]] = {}
    for _, e in telemetry.events_of("held", "drain_asked", "released"):
        own = spans.setdefault(str(e.site), [])
        if own and own[-1][1] == math.inf:
            own[-1] = (own[-1][0], e.t_run, own[-1][2])
        if e.kind != "released":
            found.holds += 1
            own.append((e.t_run, math.inf, f"{'held' if e.kind == 'held' else 'drained'} by {e.detail.get('who')}"))
    for row in telemetry.states() if spans else ():
        # At the instant of the hold itself a site may have been starting already.
        why = next((w for t0, t1, w in spans.get(row.site, ()) if t0 < row.t_run < t1), "")
        if why and row.state == "provisioning":
            found.differences.append(Difference(row.t_run, row.site, f"provisioning ({row.reason})", f"off ({why})"))


def _policies(run: RunDir) -> dict[int, Policy]:
    """The policies of the run's configurations, by their numbers. A run older than that table has one configuration."""
    ledger = Ledger.open(run.ledger, read_only=True)
    try:
        kept = ledger.configurations()
    finally:
        ledger.close()
    if not kept:
        return {1: build_policy(load(run.config))}
    return {c.number: build_policy(stored(c.text)) for c in kept}


class _Record:
    """The readings and forecasts in a run's telemetry."""

    def __init__(self, telemetry: Telemetry) -> None:
        self.readings: dict[str, tuple[Any, ...]] = {}
        for site, group in groupby(telemetry.readings(), key=lambda r: r.site):
            rows = [(r.valid_from, r.value, r.known_at, r.stale_at) for r in group]
            self.readings[site] = tuple(np.array(x, np.float64) for x in zip(*rows, strict=True))
        self.forecasts: dict[tuple[str, float], Forecast] = {}
        for f in telemetry.forecasts():
            self.forecasts[(f.site, f.made_at)] = Forecast(
                f.made_at, np.array(f.times, np.float64), np.array(f.values, np.float64), f.ends_at
            )

    def view(self, t: float, site: str, was: Mapping[str, Any]) -> SiteView:
        """A site as its policy saw it."""
        reading = _reading(was["reading"])
        readings = {label: _reading(r) for label, r in was["readings"].items()} if "readings" in was else {}
        return SiteView(
            site, reading, was["on"], was["since"], was["spin_up_s"], was["memory"], readings or {"": reading},
            _RecordedOutlook(self, t, site, was.get("forecast")), was["state"], was["ready_in_s"], was["rate"], was["watts"],
            tuple(was["starts"]),
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _RecordedOutlook:
    """The outlook of a recorded decision: it has the answers that the policy got."""

    record: _Record
    t: float
    site: str
    made_at: float | None

    def forecast(self, horizon_s: float) -> Forecast | None:
        return None if self.made_at is None else self.record.forecasts.get((self.site, self.made_at))

    def history(self, span_s: float) -> Columns:
        none = np.empty(0)
        if self.site not in self.record.readings:
            return Columns(none, none, none)
        valid, value, known, stale = self.record.readings[self.site]
        seen = known <= self.t
        valid, value, stale = valid[seen], value[seen], stale[seen]
        begin = max(self.t - span_s, float(valid[0])) if len(valid) else math.inf
        if self.t <= begin:
            return Columns(none, none, none)
        first = int(np.searchsorted(valid, begin, side="right")) - 1
        starts = np.maximum(valid[first:], begin)
        # A reading may have become stale before the next one came: then there is a hole between them.
        ends = np.minimum(np.append(starts[1:], self.t), np.where(np.isnan(stale[first:]), math.inf, stale[first:]))
        keep = ends > starts
        return Columns(starts[keep], ends[keep], value[first:][keep])


def _reading(row: list[Any] | None) -> Reading | None:
    return None if row is None else Reading(*row)


def _same(a: Mapping[str, float], b: Mapping[str, float]) -> bool:
    return a.keys() == b.keys() and all(x == b[k] or (x != x and b[k] != b[k]) for k, x in a.items())


def _words(d: Decision) -> str:
    return f"{'on' if d.on else 'off'} ({d.reason})"
