"""The account of a run: what it cost by site, phase, version and hour, in joules, grams and money, and how it closes.

Bookings and corrections are read as they were written and only ever added up. Two ways of counting emissions never add: the
marginal intensity says what the run has caused (consequential), the average one what its share of the grid's emissions is
(attributional, location-based).
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from windfall.config.microgrid import MicrogridTable
from windfall.config.schema import Config
from windfall.energy.embodied import Embodied, embodied
from windfall.energy.phases import PHASES
from windfall.energy.ranges import Range, emissions_range
from windfall.errors import WindfallError
from windfall.run.training_inputs import data_dir, trainer_spec
from windfall.store.records import Version
from windfall.store.rundir import RunDir
from windfall.store.telemetry_energy import EnergyRow
from windfall.units import J_PER_KWH, duration_text, from_grid, iso_utc
from windfall.view.moment import Moment, one_moment
from windfall.view.recorded import configuration
from windfall.view.state import RunState, run_state
from windfall.view.tokens_paid import ENDED, TokensPaid, tokens_paid

BY = ("site", "phase", "version", "hour")
_USEFUL = ("training", "evaluation")


@dataclass(frozen=True, slots=True)
class AccountLine:
    """What one site, phase, version or hour used. Corrections are in every figure, and once more by themselves.

    ``grams`` by the site's main method (marginal where it has such a signal), ``money`` by currency.
    """

    name: str
    seconds: float
    joules: float
    measured_joules: float
    corrected_joules: float
    grams: float
    average_grams: float
    unpriced_joules: float
    inside_joules: float
    unjudged_joules: float
    money: dict[str, float]
    #: Of sites with a microgrid: what came from their own plants, and out of their batteries. Grams and money are of the rest.
    own_joules: float = 0.0
    stored_joules: float = 0.0
    #: What moved between sites and coordinator: assumed by its bytes, neither measured nor modelled.
    assumed_joules: float = 0.0

    @property
    def grid_joules(self) -> float:
        """Joules from the grid."""
        return from_grid(self.joules, self.own_joules, self.stored_joules)

    @property
    def kwh(self) -> float:
        """Energy in kWh."""
        return self.joules / J_PER_KWH

    @property
    def kg(self) -> float | None:
        """kgCO2 by the main method; None where no intensity was known."""
        unknown = self.unpriced_joules > 1e-9 * self.joules and self.unpriced_joules >= self.grid_joules * (1 - 1e-9)
        return None if unknown else self.grams / 1000.0


@dataclass(frozen=True, slots=True)
class Sci:
    """Software carbon intensity (ISO/IEC 21031): (E · I + M) / R, over the whole run with lost and repeated work."""

    energy_kwh: float
    g_per_kwh: float | None
    embodied_g: float | None
    per: dict[str, float | None]
    units: dict[str, float]


@dataclass(frozen=True, slots=True)
class MicrogridAccount:
    """What became of a microgrid's energy (J), by its co-simulation.

    generated = own + charged + exported + curtailed; charged = discharged + lost + stored_after − stored_before. ``unserved``: more
    than the grid connection lets through, and ``unknown``: taken while nobody knew what the plants delivered; both are booked as
    taken from the grid.
    """

    generated: float
    own: float
    charged: float
    discharged: float
    imported: float
    exported: float
    curtailed: float
    unserved: float
    unknown: float
    lost: float
    soc_before: float | None
    soc: float | None
    stored_before: float
    stored_after: float
    trouble: str


@dataclass(frozen=True, slots=True)
class RunAccount:
    """A run's account at a moment. ``open``: it goes on, or crashed, so that more may be booked."""

    run_id: str
    state: str
    open: bool
    start: float | None
    end: float | None
    method: str
    total: AccountLine
    rows: tuple[EnergyRow, ...]
    versions: tuple[Version, ...]
    currencies: dict[str, str]
    tokens: TokensPaid
    embodied: dict[str, Embodied | None]
    sci: Sci
    range: Range | None
    notes: tuple[str, ...]
    #: By site: what its microgrid did.
    microgrids: dict[str, MicrogridAccount] = field(default_factory=dict)
    #: kWh of work that came too late, and of work that was trained again: part of training's, and added nowhere.
    lost_kwh: float = 0.0
    repeated_kwh: float = 0.0
    #: By site with a meter: seconds for which nothing measured it, so that its model stands.
    stayed_modelled_s: dict[str, float] = field(default_factory=dict)

    @property
    def measured_share(self) -> float:
        """Share of all joules that was measured; the others are modelled."""
        return self.total.measured_joules / self.total.joules if self.total.joules > 0 else 0.0

    def lines(self, by: str) -> list[AccountLine]:
        """The account by `site`, `phase`, `version` or `hour`: whatever is booked is in exactly one of the lines.

        Version n is what was used from the commit before to its own; what came after the last one is `after version n`.
        """
        match by:
            case "site":
                parts: Iterable[tuple[str, EnergyRow]] = ((r.site, r) for r in self.rows)
            case "phase":
                parts = ((r.phase, r) for r in self.rows)
            case "version":
                parts = _cut(self.rows, [v.t_run for v in self.versions], self._version_name)
            case "hour":
                parts = _by_hour(self.rows)
            case _:
                raise ValueError(f"by {by}: there are {', '.join(BY)}")
        grouped: dict[str, list[EnergyRow]] = {}
        for name, row in parts:
            grouped.setdefault(name, []).append(row)
        found = [_line(name, rows, self.currencies) for name, rows in grouped.items()]
        order = {p: i for i, p in enumerate(PHASES)}
        return sorted(found, key=lambda x: order.get(x.name, 99)) if by == "phase" else found

    def _version_name(self, place: int) -> str:
        if place < len(self.versions):
            return f"version {self.versions[place].version}"
        return f"after version {self.versions[-1].version}" if self.versions else "before version 0"

    def as_json(self, by: str | None = None) -> dict[str, Any]:
        """What `windfall account --json` prints."""
        kinds = BY[:2] if by is None else (by,)
        whole = {k: v for k, v in asdict(self).items() if k not in ("rows", "versions", "currencies", "range")}
        r = self.range
        ranged = None if r is None else {
            "low_kg": r.low / 1000, "kg": r.value / 1000, "high_kg": r.high / 1000, "moved_most_by": r.moved_most_by,
            "factors": [{"name": f.name, "low_kg": f.low / 1000, "high_kg": f.high / 1000} for f in r.factors],
        }  # fmt: skip
        return {
            **whole, "measured_share": self.measured_share, "range": ranged,
            "corrections": sum(1 for e in self.rows if e.cause), **{f"by_{k}": [asdict(x) for x in self.lines(k)] for k in kinds},
        }  # fmt: skip


def run_account(run: RunDir, at: Moment | None = None) -> RunAccount:
    """Read a run's account; ``at``: the moment to read (default: now).

    Raises:
        StoreError: there is no run, or its databases cannot be read.
        ConfigError: its configuration cannot be read.
    """
    config = configuration(run)
    with one_moment(run, at) as now:
        state = run_state(run, now)
        rows = tuple(now.telemetry.energy()) if now.telemetry else ()
        versions = tuple(now.ledger.versions())
        starts = now.ledger.generations()
        said = now.telemetry.now().get("microgrids", {}) if now.telemetry else {}
    behind = {s.name: _behind(s.microgrid, said[s.name]) for s in config.site if s.microgrid is not None and s.name in said}
    currencies = {
        s.name: price.currency for s in config.site if (price := next((t for t in s.all_signals if t.type == "price"), None))
    }
    total = _line("all", rows, currencies)
    made = {s.name: _embodied(s.embodied, [r for r in rows if r.site == s.name]) for s in config.site}
    tokens = tokens_paid(run, config, state, rows, starts)
    trained_kwh = math.fsum(r.joules for r in rows if r.phase == "training") / J_PER_KWH
    wasted = [trained_kwh * n / tokens.paid if tokens.paid else 0.0 for n in (tokens.lost, tokens.repeated)]
    modelled = _stayed_modelled(config, rows)
    notes = [*_notes(config, state, total, made, tokens, modelled), *_microgrid_notes(behind)]
    return RunAccount(
        run_id=state.run_id, state=state.state, open=state.state not in ENDED, start=state.started_run,
        end=state.t_run, method=_method(config), total=total, rows=rows, versions=versions, currencies=currencies, tokens=tokens,
        embodied=made, sci=_sci(run, config, total, made, tokens), range=_range(config, rows, total, made), notes=tuple(notes),
        lost_kwh=wasted[0], repeated_kwh=wasted[1], stayed_modelled_s=modelled,
        microgrids=behind,
    )  # fmt: skip


def _behind(table: MicrogridTable, said: dict[str, Any]) -> MicrogridAccount:
    before = None if table.battery is None else table.battery.initial_soc
    stored = 0.0 if table.battery is None else table.battery.initial_soc * table.battery.capacity_wh * 3600.0
    names = ("generated", "own", "charged", "discharged", "imported", "exported", "curtailed", "unserved", "unknown")
    return MicrogridAccount(
        **{n: float(said.get(n, 0.0)) for n in names}, lost=float(said.get("lost_j", 0.0)), soc_before=before,
        soc=None if before is None else float(said["soc"]), stored_before=stored, stored_after=float(said.get("stored_j", 0.0)),
        trouble=str(said.get("trouble", "")),
    )  # fmt: skip


def _microgrid_notes(found: dict[str, MicrogridAccount]) -> Iterator[str]:
    for name, m in found.items():
        if m.unserved > 1.0:
            more = f"{m.unserved / J_PER_KWH:,.3g} kWh were more than its grid connection lets through"
            yield f"{name}: {more}, and count as from the grid"
        if m.unknown > 1.0:
            yield f"{name}: for {m.unknown / J_PER_KWH:,.3g} kWh nobody knew what its plants delivered; they count as from the grid"
        if m.trouble:
            yield f"{name}: its microgrid is in trouble: {m.trouble}"


def _line(name: str, rows: Sequence[EnergyRow], currencies: dict[str, str]) -> AccountLine:
    money: dict[str, list[float]] = {}
    for r in rows:
        if r.money is not None:
            money.setdefault(currencies.get(r.site, ""), []).append(r.money)
    return AccountLine(
        name,
        math.fsum(r.t1 - r.t0 for r in rows if not r.cause),
        math.fsum(r.joules for r in rows),
        math.fsum(r.measured_joules for r in rows),
        math.fsum(r.joules for r in rows if r.cause),
        math.fsum(r.grams for r in rows),
        math.fsum(r.average_grams for r in rows if r.average_grams is not None),
        math.fsum(r.grid_joules for r in rows if r.g_per_kwh is None),
        math.fsum(r.joules for r in rows if r.inside == 1),
        math.fsum(r.joules for r in rows if r.inside == -1),
        {currency: math.fsum(parts) for currency, parts in money.items()},
        math.fsum(r.own_joules for r in rows),
        math.fsum(r.stored_joules for r in rows),
        math.fsum(r.joules for r in rows if r.phase == "network"),
    )


def _share(r: EnergyRow, t0: float, t1: float) -> EnergyRow:
    """The part of an entry in ``[t0, t1)``: within an entry power and reading are constant."""
    if r.t1 == r.t0:
        return r
    share = (t1 - t0) / (r.t1 - r.t0)
    return r._replace(
        t0=t0, t1=t1, joules=r.joules * share, grams=r.grams * share, measured_joules=r.measured_joules * share,
        average_grams=None if r.average_grams is None else r.average_grams * share,
        money=None if r.money is None else r.money * share, own_joules=r.own_joules * share,
        stored_joules=r.stored_joules * share,
    )  # fmt: skip


def _cut(rows: Iterable[EnergyRow], borders: Sequence[float], name: Callable[[int], str]) -> Iterator[tuple[str, EnergyRow]]:
    """Entries cut at ascending ``borders``; ``name``: of the place before border i, and of the last place of all."""
    for r in rows:
        at, i = r.t0, bisect.bisect_right(borders, r.t0)
        while i < len(borders) and borders[i] < r.t1:
            yield name(i), _share(r, at, borders[i])
            at, i = borders[i], bisect.bisect_right(borders, borders[i])
        yield name(i), _share(r, at, r.t1)


def _by_hour(rows: Iterable[EnergyRow]) -> Iterator[tuple[str, EnergyRow]]:
    for r in sorted(rows, key=lambda r: r.t0):
        first = math.floor(r.t0 / 3600.0)
        for hour in range(first, max(first + 1, math.ceil(r.t1 / 3600.0))):
            yield iso_utc(hour * 3600.0), _share(r, max(r.t0, hour * 3600.0), min(r.t1, hour * 3600.0 + 3600.0))


def _method(config: Config) -> str:
    kinds = {t.type for s in config.site for t in s.all_signals}
    return "marginal" if "marginal_co2" in kinds else "average" if "average_co2" in kinds else "none"


def _stayed_modelled(config: Config, rows: Sequence[EnergyRow]) -> dict[str, float]:
    """By site with a meter: for how long (s) its model stands, because nothing was measured then."""
    if config.run.clock == "scaled":
        return {}
    found = {s.name: 0.0 for s in config.site if s.meter is not None}
    for r in rows:
        if r.site in found and (r.cause or not r.measured_joules):
            found[r.site] += (r.t0 - r.t1) if r.cause else r.t1 - r.t0
    return found


def _embodied(table: Any, rows: Sequence[EnergyRow]) -> Embodied | None:
    if table is None:
        return None
    on = math.fsum(r.t1 - r.t0 for r in rows if not r.cause and r.phase != "off")
    useful = math.fsum(r.t1 - r.t0 for r in rows if not r.cause and r.phase in _USEFUL)
    return embodied(table.kg_co2, table.life_years, table.used_share, reserved_s=on, useful_s=useful)


def _sci(run: RunDir, config: Config, total: AccountLine, made: dict[str, Embodied | None], tokens: TokensPaid) -> Sci:
    known = total.joules - total.unpriced_joules
    intensity = total.grams / (known / J_PER_KWH) if known > 0 else None
    parts = [m.reserved_g for m in made.values() if m is not None]
    m = math.fsum(parts) if parts else None
    units: dict[str, float] = {"million tokens": tokens.committed / 1e6}
    try:
        from windfall.train.manifest import Manifest
        from windfall.train.shape import flops_per_token, parameter_count
        from windfall.train.spec import model_config

        folder = data_dir(config, run)
        shape = model_config(trainer_spec(config, folder), Manifest.load(folder).tokenizer.vocab_size)
        units["10^15 FLOP"] = flops_per_token(shape) * tokens.committed / 1e15
        units["million parameters"] = parameter_count(shape) / 1e6
    except WindfallError:
        pass  # its data are gone, and with them what the model's size depends on
    whole = None if intensity is None else total.kwh * intensity + (m or 0.0)
    return Sci(
        total.kwh, intensity, m, {name: whole / n if whole is not None and n > 0 else None for name, n in units.items()}, units
    )


def _range(config: Config, rows: Sequence[EnergyRow], total: AccountLine, made: dict[str, Embodied | None]) -> Range | None:
    known = total.joules - total.unpriced_joules
    if known <= 0:
        return None
    measured = math.fsum(
        r.measured_joules * (r.grid_joules / r.joules) / J_PER_KWH * r.g_per_kwh
        for r in rows if r.g_per_kwh is not None and r.joules
    )  # fmt: skip
    network = math.fsum(r.grams for r in rows if r.phase == "network")
    a = config.account
    return emissions_range(
        measured_g=measured, modelled_g=total.grams - measured - network, network_g=network,
        embodied_g=math.fsum(m.reserved_g for m in made.values() if m),
        unknown_j=total.unpriced_joules, known_g_per_j=total.grams / known,
        errors={
            "measured": a.measured_error, "modelled": a.modelled_error, "signal": a.signal_error, "embodied": a.embodied_error,
            "pue_low": a.pue_low, "pue_high": a.pue_high, "network": a.network_error,
        },
    )  # fmt: skip


def _notes(
    config: Config, state: RunState, total: AccountLine, made: dict[str, Embodied | None], tokens: TokensPaid,
    modelled: dict[str, float],
) -> Iterator[str]:  # fmt: skip
    """What the figures rest on and leave out, in words."""
    if state.state not in ("done", "interrupted"):
        yield f"the run is {state.state}: more may be booked"
    if config.run.clock == "scaled":
        yield "time is replayed, so all energy is modelled"
    elif total.measured_joules <= 0 < total.joules:
        yield "no site's power was measured: all energy is modelled"
    elif any(s >= 1.0 for s in modelled.values()):
        each = ", ".join(f"{name} {duration_text(s)}" for name, s in modelled.items() if s >= 1.0)
        yield f"what meters did not tell stayed modelled: {each}"
    yield f"energy of the network is assumed: {config.account.network_kwh_per_gb:g} kWh a GB of weights and work that moved"
    if total.corrected_joules:
        yield f"late measurements have corrected {total.corrected_joules / J_PER_KWH:+.3g} kWh"
    if total.unpriced_joules > 1.0 and _method(config) != "none":
        yield f"{total.unpriced_joules / J_PER_KWH:,.3g} kWh were used in hours without a reading, and are in no grams"
    without = [name for name, m in made.items() if m is None]
    if without:
        yield f"embodied emissions are not in it for {', '.join(without)}: [site.embodied] is not configured"
    if tokens.estimated:
        yield f"tokens trained at {', '.join(tokens.estimated)} are estimated from their energy: their own count is not here"
    if tokens.uncounted:
        yield f"{tokens.uncounted:,} tokens that were handed in are in no site's own count, so what was repeated is not known"
    if len(total.money) > 1:
        yield "costs are in several currencies, which are not added"
