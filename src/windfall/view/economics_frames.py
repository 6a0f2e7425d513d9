"""Economics as tables, and what every column of them means."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from windfall.simulate.economics import Economics
from windfall.simulate.siting import SitedRegion
from windfall.view.frame import Frame, Kind

_UNIT = "currency a million tokens"
#: By table and column: kind, unit, meaning.
ECONOMICS_COLUMNS: dict[str, dict[str, tuple[Kind, str, str]]] = {
    "bills": {
        "name": ("text", "", "own or rented, in windows (by the policy) or always on"),
        "per_million_tokens": ("float", _UNIT, "all parts over the run's budget"),
        "total": ("float", "currency", "all parts, for the run's whole budget"),
        "hardware": ("float", "currency", "of the owned time, or of the useful share of its life; of rented sites the rent"),
        "energy": ("float", "currency", "energy of all phases at the hours' prices; 0 where it is in the rent"),
        "link": ("float", "currency", "rent of the sites' links"),
        "traffic": ("float", "currency", "what is paid by the GB"),
        "people": ("float", "currency", "their pay, for the time it takes"),
        "later_model": ("float", "currency", "what the owner asks for waiting for it"),
        "tokens": ("float", "", "the run's budget"),
        "days": ("float", "days", "from the start to the last token"),
        "owned_h": ("float", "site-hours", "hours for which sites are held"),
        "useful_h": ("float", "site-hours", "of these in training"),
        "duty": ("float", "share", "useful over owned hours"),
        "on_gpu_h": ("float", "GPU-hours", "in which sites are on, starts included: what a rent bills"),
        "kwh": ("float", "kWh", "energy of all phases"),
        "unknown_kwh": ("float", "kWh", "of it used while nothing was known of the price, and in no bill"),
        "kg": ("float", "kg", "emissions of running it, as in backtests; empty where unknown"),
        "embodied_kg": ("float", "kg", "emissions of making the hardware, by the owned time; empty where a site does not say"),
    },
    "sensitivity": {
        "figure": ("text", "", "what is taken to be off by vary_share"),
        "smaller": ("float", _UNIT, "cost in windows on own sites if it were smaller"),
        "larger": ("float", _UNIT, "the same if it were larger"),
    },
    "fleet": {
        "sites": ("int", "", "how many regions have a site, in building order"),
        "region": ("text", "", "the last of them"),
        "own_share": ("float", "share", "time in which that region alone is in a window"),
        "open_share": ("float", "share", "time in which any of them is"),
        "longest_closed_h": ("float", "h", "longest time in which none is"),
        "hardware_per_open_h": ("float", "currency", "hardware of an hour with at least one open site"),
    },
    "battery": {
        "hours": ("float", "h", "of the site's training power that it holds; 0: none"),
        "kwh_per_site": ("float", "kWh", "the same as energy"),
        "duty": ("float", "share", "useful over owned hours with it"),
        "from_battery": ("float", "share", "owned hours in which sites train from it"),
        "per_million_tokens": ("float", _UNIT, "cost in windows on own sites with it"),
        "kg_per_million_tokens": ("float", "kg a million tokens", "emissions with it, without those of making it"),
    },
}
SITING_COLUMNS: dict[str, tuple[Kind, str, str]] = {
    "region": ("text", "", "region of the grid"),
    "start_dates": ("int", "", "simulations"),
    "finished": ("int", "", "of these trained the budget before the signals ended; figures are of these"),
    "per_million_tokens": ("float", _UNIT, "cost on one own site under the policy"),
    "kg_per_million_tokens": ("float", "kg a million tokens", "emissions"),
    "years": ("float", "years", "until one site has trained the run's budget"),
    "duty": ("float", "share", "useful over owned hours"),
    "power_per_mwh": ("float", "currency/MWh", "mean price that was paid"),
    "total": ("float", "currency", "for the run's budget"),
    "kg": ("float", "kg", "the same of emissions"),
}


def economics_frames(e: Economics) -> dict[str, Frame]:
    """`bills`, `sensitivity`, `fleet`, `battery`."""
    rows: dict[str, Sequence[Any]] = {
        "bills": [b.as_json() for b in e.bills], "sensitivity": e.sensitivity, "fleet": e.fleet, "battery": e.battery,
    }  # fmt: skip
    found = {}
    for name, columns in ECONOMICS_COLUMNS.items():
        values = [[r[c] if isinstance(r, dict) else getattr(r, c) for c in columns] for r in rows[name]]
        found[name] = Frame({c: kind for c, (kind, _, _) in columns.items()}, values)
    return found


def siting_frame(found: Sequence[SitedRegion]) -> Frame:
    """A row for each region."""
    return Frame({c: kind for c, (kind, _, _) in SITING_COLUMNS.items()}, [[getattr(r, c) for c in SITING_COLUMNS] for r in found])


def columns_frame(tables: Sequence[str]) -> Frame:
    """What the columns of these tables mean."""
    known = {**ECONOMICS_COLUMNS, "regions": SITING_COLUMNS}
    rows = [[t, c, unit, meaning] for t in tables for c, (_, unit, meaning) in known[t].items()]
    return Frame({"table": "text", "column": "text", "unit": "text", "meaning": "text"}, rows)
