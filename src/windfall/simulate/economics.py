"""What a run costs: owned or rented, in windows or always on, from simulations of its configuration and its `[economics]`.

Every bill is for the run's whole budget. Simulations from several start dates are added up before anything is divided, so that the
parts of a bill add up to it; the spread over start dates stands beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from windfall.config.economics import EconomicsTable
from windfall.config.schema import Config
from windfall.errors import ConfigError, RunError
from windfall.grid.build import Grid, build_grid
from windfall.simulate.backtest import Row, compare, span_of
from windfall.simulate.battery import BatterySize, battery_sizes
from windfall.simulate.curves import trained
from windfall.simulate.fleet_size import FleetSize, fleet_sizes
from windfall.simulate.outlay import YEAR_H, Outlay, break_even_duty, break_even_price, capital_per_h
from windfall.simulate.power_cost import power_cost
from windfall.simulate.provenance import Provenance, provenance
from windfall.simulate.quantiles import quantiles
from windfall.simulate.regions import jobs_for, with_deadlines
from windfall.simulate.simulation import TimeSpan

#: Policies that no site could be run by: they know the future.
_HINDSIGHT = ("oracle",)
_MINIMAL = "[economics]\ncapex_per_gpu = 40_000\nrented_per_gpu_h = 2.5\n[[economics.tariff]]\nprice_per_mwh = 60"


@dataclass(frozen=True)
class Bill:
    """What some training costs, by part, in the currency of `[economics]`. Hours are site-hours.

    ``hardware`` of rented sites is the rent, power included. ``later_model`` is what the owner asks for that.
    """

    name: str
    tokens: float
    days: float
    owned_h: float
    useful_h: float
    #: GPU-hours in which sites were on, starts included: what a rented one bills.
    on_gpu_h: float
    hardware: float
    energy: float
    #: Rent of the links, and what is paid by the GB.
    link: float
    traffic: float
    people: float
    later_model: float
    kwh: float
    unknown_kwh: float
    kg: float | None
    #: Of making the hardware, by the owned time; None where a site does not say.
    embodied_kg: float | None

    @property
    def outlay(self) -> Outlay:
        """Per million tokens."""
        opex = self.energy + self.network + self.people + self.later_model
        return Outlay(self.tokens / 1e6, self.hardware, opex, self.kg)

    @property
    def network(self) -> float:
        """Links and what travels over them."""
        return self.link + self.traffic

    @property
    def total(self) -> float:
        """All parts."""
        return self.outlay.total

    @property
    def duty(self) -> float:
        """Share of the owned hours in which sites trained."""
        return self.useful_h / self.owned_h if self.owned_h > 0 else 0.0

    def times(self, factor: float) -> Bill:
        """The bill of so many times the training."""
        scaled: dict[str, Any] = {f.name: v * factor for f in fields(self) if isinstance(v := getattr(self, f.name), float)}
        return replace(self, **scaled)

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        own = {f.name: getattr(self, f.name) for f in fields(self)}
        o = self.outlay
        return {
            **own, "network": self.network, "total": self.total, "duty": self.duty, "per_million_tokens": o.per_unit,
            "kg_per_million_tokens": o.kg_per_unit,
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class BreakEven:
    """When owning costs what renting the same hours costs. People, and what a later model costs, are the same for both."""

    #: Share of its life that the hardware must be useful; None: no rented price is given, or running alone costs as much.
    duty: float | None
    #: What a rented GPU-hour must cost.
    rented_per_gpu_h: float | None
    #: What share counts for the hardware now: that of `used_share`, or the run's own duty where it is larger.
    used: float


@dataclass(frozen=True, slots=True)
class WaitingPrice:
    """What training in windows only costs over always on, and for how much longer it takes. Negative: it saves."""

    days_later: float
    extra: float
    #: Of that: hardware, links and people for a longer time; energy, which is cheaper or dearer in windows; a later model.
    owning: float
    energy: float
    later_model: float
    per_day: float | None
    kg_avoided: float | None
    per_tonne_avoided: float | None


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """What a million tokens cost in windows, if one figure were so much smaller or larger."""

    figure: str
    smaller: float
    larger: float

    @property
    def width(self) -> float:
        """How far apart the two are."""
        return abs(self.larger - self.smaller)


@dataclass(frozen=True)
class Economics:
    """All of it. ``bills``: own and rented, by the policy and always on; the first is that of the policy on own sites."""

    policy: str
    currency: str
    budget_tokens: int
    start_dates: int
    finished: int
    begin: float
    end: float
    bills: list[Bill]
    #: 10th, 50th and 90th percentile over start dates of what a million tokens cost on own sites by the policy, and of the days.
    per_million_tokens_over_dates: tuple[float, ...]
    days_over_dates: tuple[float, ...]
    break_even: BreakEven
    waiting: WaitingPrice | None
    sensitivity: list[Sensitivity]
    fleet: list[FleetSize]
    open_share: float
    battery: list[BatterySize]
    notes: list[str] = field(default_factory=list)
    provenance: Provenance | None = None
    #: Sites of the run, and what share its bills' hardware counts by.
    sites: int = 1
    used_share: float | None = None
    vary_share: float = 0.3

    @property
    def own(self) -> Bill:
        """The policy on own sites."""
        return self.bills[0]

    def at_duty(self, duty: float) -> float:
        """What a million tokens would cost on own sites at another duty, without people and what a later model costs."""
        return _at_duty(replace(self.own, people=0.0, later_model=0.0), self.used_share, duty)

    def as_json(self) -> dict[str, Any]:
        """The object that `windfall economics --json` prints."""

        def plain(x: Any) -> dict[str, Any]:
            return {f.name: getattr(x, f.name) for f in fields(x)}

        def triple(x: tuple[float, ...]) -> dict[str, float]:
            return dict(zip(("p10", "p50", "p90"), x, strict=True))

        return {
            "policy": self.policy, "currency": self.currency, "budget_tokens": self.budget_tokens,
            "start_dates": self.start_dates, "finished": self.finished,
            "bills": [b.as_json() for b in self.bills],
            "per_million_tokens_over_dates": triple(self.per_million_tokens_over_dates),
            "days_over_dates": triple(self.days_over_dates),
            "break_even": plain(self.break_even), "waiting": self.waiting and plain(self.waiting),
            "sensitivity": [plain(s) for s in self.sensitivity],
            "open_share": self.open_share, "fleet": [plain(f) for f in self.fleet], "battery": [plain(b) for b in self.battery],
            "notes": self.notes, "provenance": self.provenance and self.provenance.as_json(),
        }  # fmt: skip


def economics_of(
    config: Config, policy: str | None = None, *, starts: int = 1, span_days: float | None = None, start: float | None = None,
    until: float | None = None, command: Sequence[str] = (), tell: Callable[[float, str], None] = lambda _, what: None,
) -> Economics:  # fmt: skip
    """What the run of ``config`` costs under ``policy`` (default: its own), over ``starts`` start dates.

    Raises:
        ConfigError: there is no `[economics]`, or the policy cannot be used.
        RunError: from no start date was the budget trained within the signals.
    """
    table = required(config)
    chosen = policy or config.policy.name
    grid = build_grid(config)
    span = span_of(config, grid, start, until)
    rows, notes = economics_rows(config, grid, span, chosen, starts, span_days, tell)
    used = [(s, own, always) for s, own, always in rows if own.useful and always.useful]
    if not used:
        raise RunError(
            f"under {chosen} the budget was not trained from any start date before the signals ended; lower budget_tokens or "
            'site_hours, take longer traces, or set [backtest] target = "none"'
        )
    owns, alls = [o.bill for _, o, _ in used], [a.bill for _, _, a in used]
    own, always = settled(owns, config, "own, in windows"), settled(alls, config, "own, always on")
    later = max(0.0, own.days - always.days)
    own = replace(own, later_model=table.waiting_per_day * later)
    bills = [own, always] if chosen != "always" else [replace(own, name=always.name)]
    if table.rented_per_gpu_h is not None:
        bills += [_rented(b, table.rented_per_gpu_h, b.name.replace("own", "rented")) for b in bills]
    dates = [b.times(config.run.budget_tokens / b.tokens) for b in owns]
    others = [b.times(config.run.budget_tokens / b.tokens) for b in alls]
    asked = [replace(d, later_model=table.waiting_per_day * max(0.0, d.days - a.days)) for d, a in zip(dates, others, strict=True)]
    over = quantiles([d.outlay.per_unit for d in asked])
    dark = sum(b.unknown_kwh for b in owns)
    if dark > 0:
        notes.append(f"{dark:,.2f} kWh were used while nothing was known of their price, and are in no bill")
    behind = sum(kwh for o in used for origin, kwh in o[1].row.kwh_by_origin.items() if origin != "grid")
    if behind > 0:
        share = behind / sum(b.kwh for b in owns) * 100
        told = "came from behind the meter, and is billed like the grid's: let the region's tariff be what it costs you"
        notes.append(f"{share:.1f} % of the energy {told}")
    if all(b.embodied_kg is None for b in bills):
        notes.append("kg are of running it: no site has [site.embodied], so those of making it are not known")
    fleet = fleet_sizes(config, grid, span, capital_per_site_h(config, table))
    lanes = [o.row.lanes for _, o, _ in used]
    return Economics(
        policy=chosen, currency=table.currency, budget_tokens=config.run.budget_tokens, start_dates=len(rows),
        finished=len(used), begin=min(s.start for s, _, _ in used), end=max(s.end for s, _, _ in used), bills=bills,
        per_million_tokens_over_dates=over, days_over_dates=quantiles([d.days for d in dates]),
        break_even=_break_even(own, config, table), waiting=_waiting(own, always) if chosen != "always" else None,
        sensitivity=_sensitivity(own, table), fleet=fleet, open_share=table.open_share,
        battery=battery_sizes(own, lanes, config, table) if table.battery else [], notes=notes,
        provenance=provenance(config, grid, command), sites=len(config.site), used_share=table.used_share,
        vary_share=table.vary_share,
    )  # fmt: skip


def required(config: Config) -> EconomicsTable:
    """The table `[economics]`. Raises ConfigError if there is none."""
    if config.economics is None:
        raise ConfigError(f"the configuration has no [economics], and what a site costs is not known; add for example\n{_MINIMAL}")
    return config.economics


@dataclass(frozen=True)
class CostedRow:
    """A simulation and what it cost. ``useful``: the budget was trained; without one, anything was."""

    row: Row
    bill: Bill
    useful: bool


def economics_rows(
    config: Config, grid: Grid, span: TimeSpan, policy: str, starts: int, span_days: float | None,
    tell: Callable[[float, str], None],
) -> tuple[list[tuple[TimeSpan, CostedRow, CostedRow]], list[str]]:  # fmt: skip
    """The policy and `always` from each start date, and notes on those that are left out.

    Raises:
        ConfigError: the policy is none that a site could be run by, or cannot decide on these signals.
        RunError: no start date has its deadline within the signals.
    """
    if policy in _HINDSIGHT:
        raise ConfigError(f"--policy {policy}: it knows the future, and no site could be run by it; take another")
    jobs, notes = with_deadlines(config, jobs_for(config, span, [policy], starts, span_days))
    if not jobs:
        raise RunError(f"nothing to simulate: {notes[0]}; choose a nearer deadline, or longer traces")
    once = {"publication_delays_s": config.backtest.publication_delays_s[:1], "deadlines_h": config.backtest.deadlines_h[:1]}
    simple = config.model_copy(update={"backtest": config.backtest.model_copy(update=once)})
    found = []
    for i, job in enumerate(jobs):
        tell(i / len(jobs), f"simulation {i + 1} of {len(jobs)}")
        time = TimeSpan(job.start, job.end)
        rows = {r.policy: r for r in compare(simple, grid, time, list(dict.fromkeys([policy, "always"])), judged=False)}
        found.append((time, _costed(rows[policy], simple, grid), _costed(rows["always"], simple, grid)))
    return found, notes


def _costed(row: Row, config: Config, grid: Grid) -> CostedRow:
    table = required(config)
    energy = power_cost(row, config, table, grid)
    hardware = gpu_h = tokens = made = 0.0
    for s in config.site:
        useful = row.site_hours_by_site.get(s.name, 0.0)
        per_h = capital_per_h(table.capex_per_gpu * gpus(s.ranks, table), table.life_years, table.interest_share_per_year)
        hardware += per_h * (row.span_h if table.used_share is None else min(row.span_h, useful / table.used_share))
        on_s = sum(b - a for a, b, state in row.lanes.get(s.name, []) if state != "off")
        gpu_h += gpus(s.ranks, table) * on_s / 3600
        tokens += trained(row, s) if s.power_levels else useful * 3600 * s.tokens_per_s
        if s.embodied is not None:
            made += s.embodied.kg_co2 * row.span_h / (s.embodied.life_years * YEAR_H)
    sites, useful = len(config.site), row.site_hours
    link = table.network_per_month * 12 / YEAR_H * row.span_h * sites
    traffic = table.network_per_gb * table.gb_per_site_hour * useful
    bill = Bill(
        name=row.policy, tokens=tokens, days=row.span_h / 24, owned_h=row.span_h * sites, useful_h=useful, on_gpu_h=gpu_h,
        hardware=hardware, energy=energy.money, link=link, traffic=traffic, people=table.staff_per_year / YEAR_H * row.span_h,
        later_model=0.0, kwh=energy.kwh, unknown_kwh=energy.unknown_kwh, kg=row.kg_co2,
        embodied_kg=made if all(s.embodied is not None for s in config.site) else None,
    )  # fmt: skip
    done = row.finish_h is not None if config.backtest.target == "budget" else tokens > 0
    return CostedRow(row, bill, done and tokens > 0)


def gpus(ranks: int, table: EconomicsTable) -> int:
    """GPUs of a site."""
    return table.gpus_per_site or ranks


def capital_per_site_h(config: Config, table: EconomicsTable) -> float:
    """What an hour of owning a site costs, the mean over sites."""
    per_gpu = capital_per_h(table.capex_per_gpu, table.life_years, table.interest_share_per_year)
    return per_gpu * sum(gpus(s.ranks, table) for s in config.site) / len(config.site)


def settled(bills: Sequence[Bill], config: Config, name: str) -> Bill:
    """Bills of several simulations as that of the run's budget."""
    total = bills[0]
    for b in bills[1:]:
        parts: dict[str, Any] = {
            f.name: getattr(total, f.name) + v for f in fields(b) if isinstance(v := getattr(b, f.name), float)
        }  # fmt: skip
        # What one of them does not know is not known of the sum.
        unknown = {n: None for n in ("kg", "embodied_kg") if getattr(b, n) is None or getattr(total, n) is None}
        total = replace(total, **{**parts, **unknown})
    return replace(total.times(config.run.budget_tokens / total.tokens), name=name)


def _rented(own: Bill, per_gpu_h: float, name: str) -> Bill:
    """The same training on rented sites, which bill the hours in which they are on. People are needed too; a link is included."""
    return replace(own, name=name, hardware=per_gpu_h * own.on_gpu_h, energy=0.0, link=0.0, traffic=0.0, embodied_kg=None)


def _break_even(own: Bill, config: Config, table: EconomicsTable) -> BreakEven:
    per_h, link_h = capital_per_site_h(config, table), own.link / own.owned_h
    running, gpu_h = (own.energy + own.traffic) / own.useful_h, own.on_gpu_h / own.useful_h
    used = own.duty if table.used_share is None else max(table.used_share, own.duty)
    price = break_even_price(per_h, running + link_h / own.duty, used)
    # Hardware that is used otherwise too is not paid for while it waits, and its link is.
    owned, all_else = (per_h + link_h, running) if table.used_share is None else (per_h, running + link_h / own.duty)
    duty = None if table.rented_per_gpu_h is None else break_even_duty(owned, all_else, table.rented_per_gpu_h * gpu_h)
    return BreakEven(duty, None if price is None else price / gpu_h, used)


def _waiting(own: Bill, always: Bill) -> WaitingPrice:
    later, extra = own.days - always.days, own.total - always.total
    avoided = None if own.kg is None or always.kg is None else always.kg - own.kg
    return WaitingPrice(
        days_later=later, extra=extra, owning=extra - own.later_model - (own.energy - always.energy),
        energy=own.energy - always.energy, later_model=own.later_model, per_day=extra / later if later > 0 else None,
        kg_avoided=avoided, per_tonne_avoided=extra / avoided * 1000 if avoided is not None and avoided > 0 else None,
    )  # fmt: skip


def _at_duty(own: Bill, used_share: float | None, duty: float) -> float:
    """What a million tokens would cost at another duty: what is paid for owning is shared by more or fewer useful hours."""
    shares = [1 / d if used_share is None else min(1 / d, 1 / used_share) for d in (own.duty, duty)]
    hardware = own.hardware * shares[1] / shares[0]
    # People and links are there all the time.
    owning = (own.link + own.people) * own.duty / duty
    return (hardware + owning + own.traffic + own.energy + own.later_model) / (own.tokens / 1e6)


def _sensitivity(own: Bill, table: EconomicsTable) -> list[Sensitivity]:
    """Each figure smaller and larger by `vary_share`, the one that moves most first."""
    low, high = 1 - table.vary_share, 1 + table.vary_share
    units, interest = own.tokens / 1e6, table.interest_share_per_year

    def with_parts(part: str, factors: tuple[float, float]) -> tuple[float, float]:
        rest = own.total - getattr(own, part)
        smaller, larger = ((rest + getattr(own, part) * f) / units for f in factors)
        return smaller, larger

    whole = capital_per_h(1.0, table.life_years, interest)
    life_low, life_high = (capital_per_h(1.0, table.life_years * f, interest) / whole for f in (low, high))
    found = [
        ("price of the hardware", with_parts("hardware", (low, high))),
        ("life of the hardware", with_parts("hardware", (life_low, life_high))),
        ("price of energy", with_parts("energy", (low, high))),
        ("duty", tuple(_at_duty(own, table.used_share, min(1.0, own.duty * f)) for f in (low, high))),
        ("tokens a second", (own.total / units / low, own.total / units / high)),
        ("rent of links", with_parts("link", (low, high))),
        ("price of traffic", with_parts("traffic", (low, high))),
        ("people", with_parts("people", (low, high))),
        ("price of a later model", with_parts("later_model", (low, high))),
    ]
    made = [Sensitivity(name, values[0], values[1]) for name, values in found]
    return sorted((s for s in made if s.width > 0), key=lambda s: -s.width)
