"""A run as series over run time and tokens, from which figures and tables are made.

Like the summary they are read from ledger and telemetry alone, without numpy. Long series are thinned here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeVar

from windfall.energy.phases import of_state
from windfall.store.rundir import RunDir
from windfall.store.telemetry import Event, Telemetry
from windfall.store.telemetry_energy import EnergyRow, EnergySums
from windfall.store.telemetry_metrics import LOSS
from windfall.view.moment import Moment, one_moment

_T = TypeVar("_T")

#: A series with more points is thinned, because a figure has not more pixels.
MAX_POINTS = 2000

#: Event kinds that a reader of the report should see.
NOTABLE = (
    "warning", "error", "refused", "discarded", "clipped", "work_lost", "message_failed", "quarantined", "lease_ended",
    "stranger", "swept", "round_closed_without", "site_note", "resumed", "interrupted", "adopted", "held", "drain_asked",
    "released", "bus_down", "bus_up", "signal_lost", "signal_back", "meter_lost", "meter_silent", "meter_back", "meter_closed",
    "microgrid_trouble", "microgrid_back",
    "checkpoint_repaired", "checkpoint_damaged", "tidied", "node_gone", "leaving", "configuration_changed", "site_left",
    "given_up", "driver_trouble", "driver_back", "out_of_reach", "stop_asked", "request_refused",
    "alert", "alert_over", "alerts_unsent", "alerts_sent_again",
    "grid_note", "grid_lost", "grid_back", "grid_reported",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class VersionRow:
    """One version, with its evaluation if it has one."""

    version: int
    t_run: float
    mode: str
    tokens: int
    tokens_total: int
    sites: dict[str, int]
    val_bpb: float | None


@dataclass(frozen=True, slots=True)
class Step:
    """Training loss (nats per token) of one optimizer step at a site."""

    t_run: float
    tokens: int
    loss: float


@dataclass(frozen=True, slots=True)
class LaneSpan:
    """What a site was over ``[t0, t1)`` (run time): local, federated or idle if it was on, else the name of its state."""

    t0: float
    t1: float
    what: str


@dataclass(frozen=True, slots=True)
class Switch:
    """A decision that turned a site on or off."""

    t_run: float
    site: str
    wanted: str
    reason: str


@dataclass(frozen=True, slots=True)
class Sample:
    """What a version wrote beside its evaluation."""

    version: int
    text: str


@dataclass
class RunSeries:
    """All series of a run. Times are Unix seconds of run time."""

    start: float = 0.0
    end: float = 0.0
    versions: list[VersionRow] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    modes: list[tuple[float, float, str]] = field(default_factory=list)
    lanes: dict[str, list[LaneSpan]] = field(default_factory=dict)
    #: By site: (valid from, value) as they became known, and the unit.
    readings: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    unit: str = "gCO2/kWh"
    #: By site, the newest worth (or threshold) in its decisions.
    worth: dict[str, float] = field(default_factory=dict)
    costs: list[EnergySums] = field(default_factory=list)
    #: (run time, kg since the start), all sites.
    emissions: list[tuple[float, float]] = field(default_factory=list)
    changes: list[Switch] = field(default_factory=list)
    notable: list[Event] = field(default_factory=list)
    #: In the order in which they came.
    samples: list[Sample] = field(default_factory=list)


def run_series(run: RunDir, at: Moment | None = None) -> RunSeries:
    """Read the series of a run, running or ended; ``at``: the moment to read (default: now).

    Raises:
        StoreError: there is no run, or its databases cannot be read.
    """
    found = RunSeries()
    bpb: dict[int, float] = {}
    with one_moment(run, at) as now:
        versions = now.ledger.versions()
        if versions:
            found.start, found.end = versions[0].t_run, versions[-1].t_run
        if now.telemetry is not None:
            bpb = dict(now.telemetry.evaluations())
            _fill(found, now.telemetry)
    found.versions = [
        VersionRow(v.version, v.t_run, v.mode, v.tokens, v.tokens_total, v.sites, bpb.get(v.version)) for v in versions
    ]
    return found


def thin(rows: list[_T], most: int = MAX_POINTS) -> list[_T]:
    """Every n-th row, and the last: at most about ``most``."""
    if len(rows) <= most:
        return rows
    step = -(-len(rows) // most)
    return rows[:-1:step] + rows[-1:]


def _fill(s: RunSeries, t: Telemetry) -> None:
    now = t.now()
    begun = t.events_of("started", "resumed")
    if begun:
        s.start = begun[0][1].t_run
    s.end = max(s.start, s.end, float(now["t_run"]) if now else s.end)
    # Thinned in the query: a long run has millions of steps.
    every = max(1, -(-t.metric_count(LOSS) // MAX_POINTS))
    s.steps = [Step(m.t_run, m.tokens or 0, m.value) for m in t.metrics(LOSS, every=every)]
    s.modes = _joined([(m.t_run, m.mode) for m in t.modes()], s.end)
    s.costs = t.energy_sums()
    _lanes(s, t)
    for r in t.readings():
        s.readings.setdefault(r.site, []).append((r.valid_from, r.value))
        s.unit = r.unit
    for site in s.readings:
        last = t.newest_decision(site)
        if last is not None and (worth := last.numbers.get("worth")) is not None:
            s.worth[site] = float(worth)
    s.emissions = _cumulative(t.energy(), s.start)
    for _, e in t.events():
        if e.kind == "decision":
            s.changes.append(Switch(e.t_run, e.site or "", str(e.detail.get("wanted", "")), str(e.detail.get("reason", ""))))
        elif e.kind == "evaluation" and e.detail.get("sample"):
            s.samples.append(Sample(int(e.version or 0), str(e.detail["sample"])))
        elif e.kind in NOTABLE or (e.kind == "state" and e.detail.get("now") == "failed"):
            s.notable.append(e)


def _joined(marks: list[tuple[float, str]], end: float) -> list[tuple[float, float, str]]:
    """(from, to, what) of a list of changes (instant, what). Parts of no length are left out and equal neighbours joined."""
    found: list[tuple[float, float, str]] = []
    for i, (t0, what) in enumerate(marks):
        t1 = marks[i + 1][0] if i + 1 < len(marks) else end
        if t1 <= t0:
            continue
        if found and found[-1][2] == what and found[-1][1] == t0:
            found[-1] = (found[-1][0], t1, what)
        else:
            found.append((t0, t1, what))
    return found


def _lanes(s: RunSeries, t: Telemetry) -> None:
    marks: dict[str, list[tuple[float, str]]] = {}
    for row in t.states():
        marks.setdefault(row.site, []).append((row.t_run, row.state))
    idle: dict[str, list[tuple[float, float]]] = {}
    # The account has idle time within a spin-up (loading), and stalls within training (waiting for a round's end).
    for e in [*t.energy("idle"), *t.energy("stall")]:
        idle.setdefault(e.site, []).append((e.t0, e.t1))
    for site, changes in marks.items():
        spans: list[LaneSpan] = []
        for t0, t1, state in _joined(changes, s.end):
            match state:
                case "off":
                    continue
                case "training":
                    spans += [
                        LaneSpan(max(a, t0), min(b, t1), m if m != "paused" else "local")
                        for a, b, m in s.modes if b > t0 and a < t1
                    ]  # fmt: skip
                case "failed":  # no phase of energy, and worth a colour of its own
                    spans.append(LaneSpan(t0, t1, state))
                case _:
                    spans += [LaneSpan(a, b, phase) for phase, a, b in of_state(state, t0, t1)]
            spans += [LaneSpan(max(a, t0), min(b, t1), "idle") for a, b in idle.get(site, []) if b > t0 and a < t1]
        s.lanes[site] = spans


def _cumulative(rows: list[EnergyRow], start: float) -> list[tuple[float, float]]:
    """Emissions since the start at every border of the account's intervals. Within one, power and reading are constant."""
    slopes: dict[float, float] = {}
    jumps: dict[float, float] = {}
    for e in rows:
        if e.t1 == e.t0:
            slopes.setdefault(e.t0, 0.0)
            jumps[e.t0] = jumps.get(e.t0, 0.0) + e.grams
        else:
            rate = e.grams / (e.t1 - e.t0)
            slopes[e.t0] = slopes.get(e.t0, 0.0) + rate
            slopes[e.t1] = slopes.get(e.t1, 0.0) - rate
    found = [(start, 0.0)]
    rate = total = 0.0
    for t in sorted(slopes):
        total += rate * (t - found[-1][0]) + jumps.get(t, 0.0)
        found.append((t, total / 1000.0))
        rate += slopes[t]
    return thin(found)
