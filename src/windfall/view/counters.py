"""What is counted of a run, for those who keep counters: sums that never fall, and how sites and signals stand.

Of energy, grams and money only what lies behind the watermark is counted: what a model has stood in for, and a late measurement may
still correct, is left out until it is settled (``windfall.energy.books``). So a sum grows late rather than falls.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from windfall.config.load import load
from windfall.config.schema import Config
from windfall.energy.account import Interval
from windfall.energy.books import stood_in
from windfall.energy.embodied import embodied
from windfall.store.rundir import RunDir
from windfall.store.telemetry import Telemetry
from windfall.store.telemetry_energy import EnergyCounts
from windfall.store.telemetry_metrics import NETWORK_BYTES
from windfall.view.moment import Moment, one_moment

#: A booking says what a site takes now if it reaches this close to now (run time, s); a meter is waited for.
_RECENT_S = 300.0


@dataclass(frozen=True, slots=True)
class SignalSeen:
    """A signal of a site as the policy last saw it. None: nothing is known of it."""

    site: str
    label: str
    unit: str
    value: float | None
    age_s: float | None
    stale: bool


@dataclass(frozen=True, slots=True)
class RunCounters:
    """See the module. By site where not said otherwise; ``watermark``: the run time behind which nothing changes any more."""

    clock: str
    energy: tuple[EnergyCounts, ...]
    watermark: dict[str, float]
    #: Phase and power (W) of the newest booking, where that reaches up to now.
    power: dict[str, tuple[str, float]]
    signals: tuple[SignalSeen, ...]
    #: Grams by the share of reserved time; of sites whose hardware is described.
    embodied_g: dict[str, float]
    #: Sites whose grams are by marginal intensity (the others' are by the average one), and the currencies of prices.
    marginal: frozenset[str]
    currencies: dict[str, str]
    network_bytes: dict[str, float]
    failures: dict[str, int]


def run_counters(run: RunDir, at: Moment | None = None) -> RunCounters:
    """Count; ``at``: the moment to read (default: now).

    Raises:
        StoreError: there is no run, or its databases cannot be read.
        ConfigError: its configuration cannot be read.
    """
    path = run.open_existing().config
    config = _config(path, path.stat().st_mtime_ns if path.is_file() else 0)
    with one_moment(run, at) as now:
        return _count(config, now.telemetry)


@lru_cache(maxsize=64)
def _config(path: Path, _: int) -> Config:
    return load(path)


def _count(config: Config, t: Telemetry | None) -> RunCounters:
    now = t.now() if t else {}
    t_run = float(now.get("t_run") or 0.0)
    open_: dict[tuple[str, str], list[Interval]] = {}
    books = now.get("books", {})
    for e in stood_in(books):
        open_.setdefault((e.site, e.phase), []).append(e)
    energy = tuple(_less(c, open_.get((c.site, c.phase), [])) for c in (t.energy_counts() if t else []))
    borders = [(e.site, e.t0) for entries in open_.values() for e in entries]
    borders += [(site, float(t0)) for site, _, t0, _ in books.get("waiting", ())]
    names = [s.name for s in config.site]
    newest = {name: t.newest_entry(name) for name in names} if t else {}
    on = {name: sum(c.seconds for c in energy if c.site == name and c.phase != "off") for name in names}
    useful = {name: sum(c.seconds for c in energy if c.site == name and c.phase == "training") for name in names}
    made = {
        s.name: embodied(m.kg_co2, m.life_years, m.used_share, reserved_s=on[s.name], useful_s=useful[s.name]).reserved_g
        for s in config.site if (m := s.embodied) is not None
    }  # fmt: skip
    prices = {s.name: next((x.currency for x in s.all_signals if x.type == "price"), None) for s in config.site}
    return RunCounters(
        clock=config.run.clock,
        energy=energy,
        watermark={name: min([at for site, at in borders if site == name], default=t_run) for name in names},
        power={n: (r.phase, r.watts) for n, r in newest.items() if r is not None and r.t1 >= t_run - _RECENT_S},
        signals=tuple(x for s in config.site for x in _signals(t, s.name, [i.label for i in s.all_signals], t_run)) if t else (),
        embodied_g=made,
        marginal=frozenset(s.name for s in config.site if any(x.type == "marginal_co2" for x in s.all_signals)),
        currencies={name: c for name, c in prices.items() if c is not None},
        network_bytes=t.metric_totals(NETWORK_BYTES) if t else {},
        failures=t.failures() if t else {},
    )


def _less(c: EnergyCounts, entries: list[Interval]) -> EnergyCounts:
    """The sums without entries that may still be corrected."""
    for e in entries:
        average, money, grid = e.average_grams or 0.0, e.money or 0.0, e.joules - e.own_joules - e.stored_joules
        c = replace(
            c, joules=c.joules - e.joules, unpriced_joules=c.unpriced_joules - (grid if e.g_per_kwh is None else 0.0),
            grams=c.grams - max(0.0, e.grams), avoided_grams=c.avoided_grams - max(0.0, -e.grams),
            average_grams=c.average_grams - max(0.0, average),
            avoided_average_grams=c.avoided_average_grams - max(0.0, -average),
            money=c.money - max(0.0, money), earned=c.earned - max(0.0, -money),
        )  # fmt: skip
    return c


def _signals(t: Telemetry, site: str, labels: list[str], t_run: float) -> list[SignalSeen]:
    last = t.newest_decision(site)
    if last is None:
        return []
    given = last.given
    several = given.get("readings") or {}
    found = []
    for label in labels:
        row = several.get(label) if several else given.get("reading") if label == labels[0] else None
        if row is None:
            found.append(SignalSeen(site, label, "", None, None, True))
            continue
        value, unit, valid_from, known_at, _, stale_at = row[:6]
        age_s = max(0.0, t_run - min(float(valid_from), float(known_at)))
        found.append(SignalSeen(site, label, str(unit), float(value), age_s, t_run >= float(stale_at)))
    return found
