"""Backtests: simulates policies on a manual clock, with the policies, controller and account of a real run, and rates them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from windfall import clock
from windfall.config.schema import Config
from windfall.energy.always_on import AlwaysOn, always_on
from windfall.errors import ConfigError, RunError
from windfall.grid.build import Grid, build_grid, recorded
from windfall.grid.signal import StepSignal
from windfall.policy.build import build_policy
from windfall.policy.criterion import intensity
from windfall.simulate.deadlines import deadlines_of, fitting_deadlines, past_the_end
from windfall.simulate.oracle import BudgetOracle, best_value, gap, worth_of
from windfall.simulate.provenance import Provenance, as_asked, provenance
from windfall.simulate.quantiles import quantiles
from windfall.simulate.simulation import Simulation, SimulationResult, TimeSpan
from windfall.simulate.work import TrainerModel
from windfall.units import iso_utc, parse_utc

#: The figures of a row that differ from seed to seed, of a policy that draws.
OVER_SEEDS = (
    "finish_h", "site_hours", "energy_kwh", "kg_co2", "money", "starts", "share_inside", "g_per_kwh_training", "share_of_oracle",
    "kg_over_oracle",
)  # fmt: skip

Lanes = dict[str, list[tuple[float, float, str]]]


@dataclass(frozen=True)
class Row:
    """One policy's result. Hours are run time from the start; null figures could not be computed.

    ``share_of_oracle``: the schedule's value over the largest possible value in the same time. ``kg_over_oracle``: its emissions
    over the least possible ones for the same tokens by ``deadline_h``. ``unknown_kwh``: energy used in hours without a reading,
    which is part of ``energy_kwh`` but not of any kg nor of ``share_inside``. ``g_per_kwh_training``: intensity of the energy of
    training alone. ``over_seeds``: of a policy that draws, each figure's 10th, 50th and 90th percentile over ``seeds`` seeds; the
    row itself is of the configuration's.
    """

    policy: str
    preset: str
    publication_delay_s: float | None
    deadline_h: float | None
    finish_h: float | None
    site_hours: float
    energy_kwh: float
    kg_co2: float | None
    kg_by_method: dict[str, float]
    money: float | None
    money_by_currency: dict[str, float]
    starts: int
    idle_h: float
    share_inside: float | None
    share_of_oracle: float | None
    kg_over_oracle: float | None
    value: float | None
    site_hours_by_site: dict[str, float]
    #: Hours from the start to the finish, or to where the simulation ended.
    span_h: float
    unknown_kwh: float = 0.0
    g_per_kwh_training: float | None = None
    #: Of sites with a microgrid, where their energy came from: own, stored, grid (kWh).
    kwh_by_origin: dict[str, float] = field(default_factory=dict)
    seeds: int = 1
    over_seeds: dict[str, tuple[float, ...]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    #: Mean power of sites with power levels while they trained.
    training_power_w: float | None = None
    #: By site, (start, end, state) each, for figures. It is not in the JSON.
    lanes: Lanes = field(default_factory=dict)
    #: By site with power levels, (start, end, W) of its training, likewise.
    levels: dict[str, list[tuple[float, float, float]]] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """The row without its lanes and levels."""
        row = asdict(replace(self, lanes={}, levels={}))
        del row["lanes"], row["levels"]
        row["over_seeds"] = {k: dict(zip(("p10", "p50", "p90"), v, strict=True)) for k, v in self.over_seeds.items()}
        return row

    def __repr__(self) -> str:
        figures = (
            ("site-h", self.site_hours), ("kWh", self.energy_kwh), ("kg CO2", self.kg_co2), ("of oracle", self.share_of_oracle),
            ("kg / oracle", self.kg_over_oracle),
        )  # fmt: skip
        said = ", ".join(f"{v:.4g} {name}" for name, v in figures if v is not None)
        return f"Row({self.policy}: {'not done' if self.finish_h is None else f'{self.finish_h:.4g} h'}, {said})"


@dataclass(frozen=True)
class Backtest:
    """All rows, the always-on baselines by region (kg), and how long the simulation took.

    A region with unknown hours has no baseline. ``partly`` has its known part.
    """

    start: float
    end: float
    target: str
    site_hours: float | None
    baseline_site_hours: float
    baselines: dict[str, float | None]
    rows: list[Row]
    elapsed_s: float
    warnings: list[str]
    references: list[dict[str, Any]] = field(default_factory=list)
    #: The same policies with readings that are known later than in ``rows``.
    late: list[Row] = field(default_factory=list)
    partly: dict[str, AlwaysOn] = field(default_factory=dict)
    #: What it was computed with.
    provenance: Provenance | None = None

    def __repr__(self) -> str:
        what = "no budget" if self.site_hours is None else f"{self.site_hours:g} site-hours"
        policies = ", ".join(dict.fromkeys(r.policy for r in self.rows))
        return f"Backtest({iso_utc(self.start)} to {iso_utc(self.end)}, {what}, {len(self.rows)} rows: {policies})"

    def as_json(self) -> dict[str, Any]:
        """The object that `windfall backtest --json` prints."""
        return {
            "baselines": self.baselines,
            "baseline_site_hours": self.baseline_site_hours,
            "baselines_partly_known": {r: {"kg": a.kg, "unknown_h": a.unknown_h} for r, a in self.partly.items()},
            "references": self.references,
            "rows": [r.as_json() for r in self.rows],
            "late_rows": [r.as_json() for r in self.late],
            "elapsed_s": round(self.elapsed_s, 4),
            "warnings": self.warnings,
            "provenance": self.provenance and self.provenance.as_json(),
        }


def backtest(
    config: Config, policies: list[str] | None = None, *, start: float | None = None, until: float | None = None,
    tell: Callable[[float, str], None] = lambda _, what: None, command: Sequence[str] | str = (),
) -> Backtest:  # fmt: skip
    """Run every policy (default: ``[backtest] policies``) over the configuration's signals, from ``start`` to ``until``.

    ``command`` is what was typed, for the record. ``tell`` is called with the share done (0 to 1; below 0 if unknown) and what is
    being done.

    Raises:
        SignalError: a trace cannot be used, or a signal is live.
        ConfigError: a policy cannot decide on these signals.
    """
    tell(-1.0, "reading the signals")
    grid = build_grid(config)
    span = span_of(config, grid, start, until)
    mean_rate = sum(s.tokens_per_s for s in config.site) / len(config.site)
    site_hours = None
    if config.backtest.target == "budget":
        site_hours = config.backtest.site_hours or config.run.budget_tokens / mean_rate / 3600
    baseline_hours = config.backtest.baseline_site_hours or site_hours or (span.end - span.start) / 3600
    before = clock.monotonic()
    late = past_the_end(config, span)
    if late and not fitting_deadlines(config, span):
        raise RunError(f"nothing to compare: {late}; choose an earlier start (--from), a nearer deadline, or longer traces")
    rows = compare(config, grid, span, policies or list(config.backtest.policies), tell=tell)
    elapsed = clock.monotonic() - before
    tables = {s.region: s.signal for s in reversed(config.site)} | {c.region: c.signal for c in reversed(config.counterfactual)}
    watts = config.site[0].train_power_w
    always = {
        region: always_on(signal, watts, span.start, baseline_hours)
        for region, signal in grid.by_region.items()
        if intensity(tables[region].type)
    }
    baselines = {region: always[region].whole_kg if region in always else None for region in grid.by_region}
    references = [r.model_dump(exclude_none=True) for r in config.backtest.reference]
    delays = config.backtest.publication_delays_s
    on_time = [r for r in rows if not delays or r.publication_delay_s == delays[0]]
    return Backtest(
        span.start, span.end, config.backtest.target, site_hours, baseline_hours, baselines, on_time, elapsed,
        [*grid.warnings, *([late] if late else []), *oddities(grid, span, until), *_missing(config, rows, policies)],
        references, [r for r in rows if r not in on_time],
        {region: a for region, a in always.items() if a.unknown_h > 0},
        provenance(as_asked(config, policies, start, until), grid, command),
    )  # fmt: skip


def _missing(config: Config, rows: Sequence[Row], policies: Sequence[str] | None) -> list[str]:
    """Why there is no row for an oracle that was asked for."""
    if "oracle" not in (policies or config.backtest.policies) or any(r.policy == "oracle" for r in rows):
        return []
    if config.backtest.target == "none":
        return ["no row of the oracle: no site has a worth (with a trigger there is none), or nothing is known of their signals"]
    if not deadlines_of(config, TimeSpan(0.0, 0.0)) and all(r.finish_h is None for r in rows):
        return ["no row of the oracle: no policy has trained the budget, and no deadline is set that it could be judged by"]
    if any(s.signal.type in ("curtailed_power", "surplus_power") for s in config.site):
        return ['no row of the oracle: a power is no cost that a budget could have least of; [backtest] target = "none" has one']
    return ["no row of the oracle: signals of several kinds cannot be summed, or nothing is known of them in this time"]


def oddities(grid: Grid, span: TimeSpan, until: float | None = None) -> list[str]:
    """Warnings about a backtest's time: where a site's signal has holes, and where it ends before ``until``."""
    found = []
    if until is not None and until > span.end + 1.0:
        found.append(f"the signals end at {iso_utc(span.end)}, and so does the backtest, before {iso_utc(until)}")
    for name, signals in grid.signals.items():
        if math.isinf(recorded(next(iter(signals.values()))).ends_at()) and until is None:
            last = iso_utc(span.end)
            found.append(f"{name}: its last row, of {last}, holds without an end, and the backtest ends there; set `until` or --to")
    for name, signals in grid.signals.items():
        for label, signal in signals.items():
            holes = recorded(signal).holes(span.start, span.end)
            if holes:
                hours = sum(b - a for a, b in holes) / 3600
                longest = sorted(holes, key=lambda h: h[0] - h[1])[:3]
                when = ", ".join(f"{iso_utc(a)} to {iso_utc(b)}" for a, b in sorted(longest))
                which = "" if len(holes) <= 3 else f" in {len(holes)} holes, the longest"
                first = label == next(iter(signals))
                so = "no policy trains there by it" if first else "what it prices there is in no account"
                found.append(f"{name}: nothing is known of {label} for {hours:,.1f} h{which}: {when}; {so}")
    return found


def span_of(config: Config, grid: Grid, start: float | None = None, until: float | None = None) -> TimeSpan:
    """The time of a backtest: as asked, else as configured, else as far as the traces reach."""
    table = config.backtest
    begun = table.start or config.run.start
    first = start if start is not None else parse_utc(begun) if begun else grid.starts_at()
    ends = max(_end_of(recorded(s)) for s in grid.by_site.values())
    begins = min(recorded(s).starts_at() for s in grid.by_site.values())
    if first < begins:
        raise RunError(
            f"the backtest would begin at {iso_utc(first)}, and its signals begin at {iso_utc(begins)}; choose a later start "
            "(--from, or [backtest] start)"
        )
    last = until if until is not None else parse_utc(table.until) if table.until else ends
    # If a trace's last row holds without end, the time may go further, but only as far as it is told to.
    endless = any(math.isinf(recorded(s).ends_at()) for s in grid.by_site.values())
    end = last if endless else min(last, ends)
    if end <= first:
        where = "its signals end" if end < last else "it was asked to"
        raise RunError(
            f"nothing to simulate: the backtest would begin at {iso_utc(first)} and end at {iso_utc(end)}, where {where}; choose "
            "another start or end (--from, --to, or [backtest] start, until)"
        )
    return TimeSpan(first, end)


def _end_of(signal: StepSignal) -> float:
    """When a signal ends; where its last row holds without end, that row's instant."""
    return signal.ends_at() if math.isfinite(signal.ends_at()) else signal.last_row_at()


def compare(
    config: Config, grid: Grid, span: TimeSpan, policies: Sequence[str], *, judged: bool = True,
    tell: Callable[[float, str], None] = lambda _, what: None,
) -> list[Row]:  # fmt: skip
    """A row for every policy, deadline and publication delay. ``judged=False``: not compared with the oracle, which is quicker.

    Deadlines after the span's end have no rows (``past_the_end`` says so); where all are, there are none at all.

    Raises:
        ConfigError: some of the policies cannot decide on these signals; the message names them all.
    """
    table = config.backtest
    policies = list(dict.fromkeys(policies))
    deadlines = fitting_deadlines(config, span)
    _refuse(config, policies, deadlines or deadlines_of(config, span))
    if past_the_end(config, span) and not deadlines:
        return []
    delays: list[float | None] = list(dict.fromkeys(table.publication_delays_s)) or [None]
    results: list[tuple[SimulationResult, float | None, float | None]] = []
    for k, delay in enumerate(delays):
        for i, name in enumerate(policies):
            tell((k * len(policies) + i) / (len(delays) * len(policies) + 1), name)
            if name == "oracle" or (delay != delays[0] and name in ("always", "random_duty")):
                continue  # such policies do not look at readings, so the delay changes nothing
            preset = table.paper_preset if name == "paper" else table.trainer.preset
            bound = deadlines if name == "budgeted" and table.target == "budget" else [None]
            for d in bound:
                result = Simulation(config, grid, span, preset, delay_s=delay).run(name, deadline_h=d)
                results.append((result, delay, d))
    tell(1 - 1 / (len(delays) * len(policies) + 1), "the oracle beside them")
    judge = _Judge(config, grid, span, deadlines or _common_deadline([o for o, _, _ in results], span.start), judged)
    rows = [judge.row(*found) for found in results]
    if judged and table.random_seeds > 1:
        rows = [_over_seeds(config, grid, span, r, judge, bool(deadlines)) if r.policy == "random_duty" else r for r in rows]
    if "oracle" in policies:
        rows += judge.oracles(delays[0])
    order = {(delay, name): i for i, (delay, name) in enumerate((d, n) for d in delays for n in policies)}
    return sorted(rows, key=lambda r: order[r.publication_delay_s, r.policy])


def _over_seeds(config: Config, grid: Grid, span: TimeSpan, row: Row, judge: _Judge, bound: bool) -> Row:
    """The row of a policy that draws, with its figures over the seeds after the configuration's, itself included.

    Shares of the oracle are among them where one oracle serves all: without a budget, or with a deadline that is set (``bound``).
    """
    same = bound or config.backtest.target == "none"
    rows = [row]
    for i in range(1, config.backtest.random_seeds):
        drawn = config.model_copy(update={"run": config.run.model_copy(update={"seed": config.run.seed + i})})
        result = Simulation(drawn, grid, span, row.preset, delay_s=row.publication_delay_s).run(row.policy)
        rows.append((judge if same else _Judge(config, grid, span, [], False)).row(result, row.publication_delay_s, None))
    figures = [k for k in OVER_SEEDS if same or k not in ("share_of_oracle", "kg_over_oracle")]
    values = {k: [v for r in rows if (v := getattr(r, k)) is not None] for k in figures}
    return replace(row, seeds=len(rows), over_seeds={k: quantiles(v) for k, v in values.items() if v})


def _mean_power(levels: Iterable[Sequence[tuple[float, float, float]]]) -> float | None:
    """The mean of powers, each weighed by its time."""
    spans = [span for own in levels for span in own]
    seconds = sum(b - a for a, b, _ in spans)
    return sum((b - a) * watts for a, b, watts in spans) / seconds if seconds > 0 else None


def _common_deadline(results: Iterable[SimulationResult], start: float) -> list[float]:
    """The finish (h) of the slowest policy that looks at the grid. All rows are judged by it if no deadline is configured."""
    done = [(o.done_at - start) / 3600 for o in results if o.done_at is not None and o.policy not in ("always", "random_duty")]
    return [max(done)] if done else []


def _refuse(config: Config, policies: Sequence[str], deadlines: Sequence[float]) -> None:
    """Raise ConfigError if any of the policies cannot decide here."""
    wrong = []
    for name in policies:
        if name == "budgeted" and config.backtest.target == "none":
            wrong.append('policy budgeted has nothing to do without a budget ([backtest] target = "none"); leave it out')
        elif name != "oracle":
            try:
                build_policy(config, name, deadline_h=deadlines[0] if deadlines else None)
            except ConfigError as e:
                wrong.append(str(e))
    if wrong:
        raise ConfigError("\n".join(wrong))


class _Judge:
    """Compares results with the oracle."""

    def __init__(self, config: Config, grid: Grid, span: TimeSpan, deadlines: list[float], judged: bool) -> None:
        self._judged = judged
        self._config = config
        self._grid = grid
        self._span = span
        self._deadlines = sorted(deadlines)
        self._simulation = self._again()
        #: Oracles for budgets by preset, and largest values by preset and end. A row is judged by an oracle whose starts are its
        #: own.
        self._budgets: dict[str, BudgetOracle] = {}
        self._values: dict[tuple[str, float], float | None] = {}

    def row(self, o: SimulationResult, delay: float | None, deadline: float | None) -> Row:
        """A simulation's result as a row."""
        finish_h = None if o.done_at is None else (o.done_at - self._span.start) / 3600
        against = deadline if deadline is not None else self._deadline_for(finish_h)
        kg_over = None
        budget = self._judged and self._config.backtest.target == "budget"
        known = o.unknown_kwh <= 1e-3 * o.kwh  # with more unknown energy the kg cannot be compared with others
        if budget and known and finish_h is not None and against is not None and o.kg is not None:
            best = self._budget(o.preset).schedule(against) if finish_h <= against + 1e-6 else None
            if best is not None and best.reachable and best.cost > 0 and self._in_grams():
                kg_over = o.kg * 1000.0 / (best.cost / 3600.0)
        share = None
        if self._judged and o.value is not None:
            most = self._most(o.preset, o.done_at if o.done_at is not None else self._span.end)
            share = o.value / most if most is not None and most > 0 else None
            if share is not None and 1.0 < share < 1.0 + 1e-9:
                share = 1.0  # the same schedule, summed in another order
        money = next(iter(o.money_by_currency.values())) if len(o.money_by_currency) == 1 else None
        return Row(
            policy=o.policy, preset=o.preset, publication_delay_s=delay, deadline_h=against, finish_h=finish_h,
            site_hours=o.site_hours, energy_kwh=o.kwh, kg_co2=o.kg, kg_by_method=o.kg_by_method, money=money,
            money_by_currency=o.money_by_currency, starts=o.starts, idle_h=o.idle_h, share_inside=o.share_inside,
            share_of_oracle=share, kg_over_oracle=kg_over, value=o.value, site_hours_by_site=o.hours_by_site,
            span_h=((o.done_at or self._span.end) - self._span.start) / 3600, unknown_kwh=o.unknown_kwh, notes=o.notes,
            lanes=o.lanes, g_per_kwh_training=o.g_per_kwh_training, kwh_by_origin=o.kwh_by_origin, levels=o.levels,
            training_power_w=_mean_power(o.levels.values()),
        )  # fmt: skip

    def oracles(self, delay: float | None) -> list[Row]:
        """The oracle's own rows, carried out by the controller like any policy's."""
        if self._config.backtest.target == "none":
            best = best_value(self._config, self._simulation.signals, self._simulation.model, self._span.start, self._span.end)
            if best is None:
                return []
            self._values[self._simulation.model.preset, self._span.end] = best[0]
            row = self.row(self._again().scheduled(best[1]), delay, None)
            return [replace(row, notes=[*row.notes, *self._caveats()])]
        found = []
        for deadline in self._deadlines:
            made = self._budget(self._simulation.model.preset).schedule(deadline)
            if made is None:
                continue
            periods = {n: [(s.start, s.stop) for s in x] for n, x in made.on_periods.items()}
            row = self.row(self._again().scheduled(periods), delay, deadline)
            # A cost at or below zero cannot be a denominator.
            close = f"no schedule is cheaper by more than {gap(made) * 100:.2f} %"
            note = close if made.reachable else "cannot be met: every site on"
            found.append(replace(row, notes=[*row.notes, note, *self._caveats()]))
        return found

    def _caveats(self) -> list[str]:
        """Notes on advantages that the oracle has over policies."""
        found = []
        c = self._config
        bound = [s.name for s in c.site if s.max_starts_per_h is not None or s.ramp_w_per_min is not None]
        if c.limits.model_dump(exclude_none=True) or bound:
            found.append("the oracle keeps no limits: with [limits], or limits of a site, less can be reached than it says")
        unvalued = [s.name for s in c.site if worth_of(s, c) is None]
        if unvalued:
            found.append(f"not valued, and left out by the oracle: {', '.join(unvalued)} (a trigger has no worth)")
        return found

    def _again(self) -> Simulation:
        return Simulation(self._config, self._grid, self._span, self._config.backtest.trainer.preset)

    def _deadline_for(self, finish_h: float | None) -> float | None:
        """The deadline by which a finish is judged: the first one that it keeps, or its own if none is configured or kept."""
        if finish_h is None or self._config.backtest.target == "none":
            return None
        return next((d for d in self._deadlines if finish_h <= d + 1e-6), finish_h)

    def _budget(self, preset: str) -> BudgetOracle:
        if preset not in self._budgets:
            s, model = self._simulation, TrainerModel.of(self._config, preset)
            self._budgets[preset] = BudgetOracle(self._config, s.signals, model, self._span.start, s.rates, s.budget)
        return self._budgets[preset]

    def _most(self, preset: str, end: float) -> float | None:
        if (preset, end) not in self._values:
            model = TrainerModel.of(self._config, preset)
            best = best_value(self._config, self._simulation.signals, model, self._span.start, end)
            self._values[preset, end] = None if best is None else best[0]
        return self._values[preset, end]

    def _in_grams(self) -> bool:
        return intensity(self._config.site[0].signal.type)


def require_finished(result: Backtest) -> None:
    """Raise RunError if no policy finished its budget before the signals ended."""
    if result.target == "budget" and result.rows and all(r.finish_h is None for r in result.rows):
        raise RunError(
            "no policy finished the budget before the traces ended; lower site_hours or budget_tokens, or use longer traces"
        )
