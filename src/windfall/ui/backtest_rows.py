"""A backtest's rows as text: what each is called, which columns there are, and which of them fit.

Terminal and page show the same columns; both leave out what no row has.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from windfall.simulate.backtest import Backtest, Row

#: Two finishes or deadlines (hours) that differ by less are one.
_SAME_H = 1e-6
#: Policies that a deadline is given to; the others are only judged by one.
_BOUND = ("budgeted", "oracle")
#: Policies that do not look at readings, so that it does not matter when these are known.
_BLIND = ("oracle", "always", "random_duty")


@dataclass(frozen=True, slots=True)
class ShownColumn:
    """One column: its head for the terminal (may have two lines), one cell a row, then one a reference."""

    head: str
    cells: list[str]
    #: The column of the highest number is the first to go where there is no room; 0 stays.
    spare: int
    left: bool = False

    @property
    def width(self) -> int:
        """Characters that it takes."""
        return max(len(part) for text in (self.head, *self.cells) for part in text.split("\n"))

    @property
    def title(self) -> str:
        """The head on one line."""
        return self.head.replace("\n", " ")


def labels(rows: Sequence[Row]) -> list[str]:
    """A name for each row that no other has: the policy, and what tells it from its other rows."""
    delays = {r.publication_delay_s for r in rows}
    by_policy: dict[str, set[float | None]] = {}
    for r in rows:
        by_policy.setdefault(r.policy, set()).add(r.deadline_h)
    found = []
    for r in rows:
        name = r.policy
        if r.policy in _BOUND and len(by_policy[r.policy]) > 1 and r.deadline_h is not None:
            name += f", {hours(r.deadline_h)} h"
        if len(delays) > 1 and r.publication_delay_s and r.policy not in _BLIND:
            name += f", {late(r.publication_delay_s)} late"
        found.append(name)
    return found


def deadlines(result: Backtest) -> list[float]:
    """The deadlines by which rows are judged, in hours from the start, each once."""
    found: list[float] = []
    for r in result.rows:
        if r.deadline_h is not None and all(abs(r.deadline_h - d) > _SAME_H for d in found):
            found.append(r.deadline_h)
    return sorted(found)


def columns(result: Backtest, *, details: bool = False) -> list[ShownColumn]:
    """What there is to show of a backtest's rows and references, without columns that no row has.

    One figure answers the backtest's question: of a budget the kg beside the least possible, without one the value beside the
    largest. ``details``: the other one too.
    """
    rows, notes = result.rows, footnotes(result)
    budget = result.target == "budget"
    names = [r.policy + "".join(f" ({notes.index(n) + 1})" for n in notes_of(r)) for r in rows]
    currencies = sorted({c for r in rows for c in r.money_by_currency})
    span = [_span(r, budget) for r in rows]
    found = [
        ShownColumn("policy", names, 0, left=True),
        ShownColumn("preset", [r.preset for r in rows], 0, left=True),
    ]
    if len({r.publication_delay_s for r in rows}) > 1:
        found.append(
            ShownColumn("readings\nlate by", ["-" if r.policy in _BLIND else late(r.publication_delay_s) for r in rows], 0)
        )
    if budget and len(deadlines(result)) > 1:
        found.append(ShownColumn("deadline\nh", [_deadline(r) for r in rows], 1))
    found += [
        ShownColumn("hours" if budget else "span h", span, 2),
        ShownColumn("site-h", [f"{r.site_hours:,.2f}" for r in rows], 5 if budget else 1),
        ShownColumn("kWh", [f"{r.energy_kwh:,.2f}" for r in rows], 4),
        *_powers(rows),
        ShownColumn("kg CO2", [figure(r.kg_co2, 3) for r in rows], 0),
    ]
    if currencies:
        found.append(ShownColumn(currencies[0] if len(currencies) == 1 else "money", [_money(r, currencies) for r in rows], 0))
    found += [
        ShownColumn("starts", [f"{r.starts:,}" for r in rows], 7),
        ShownColumn("idle h", [f"{r.idle_h:,.2f}" for r in rows], 8),
        ShownColumn("inside\n%", [share(r.share_inside) for r in rows], 6),
    ]
    by_kg = any(r.kg_over_oracle is not None for r in rows)
    if any(r.share_of_oracle is not None for r in rows) and (details or not by_kg):
        found.append(ShownColumn("% of\noracle", [share(r.share_of_oracle) for r in rows], 3 if by_kg else 0))
    if by_kg:
        found.append(ShownColumn("kg /\noracle", [figure(r.kg_over_oracle, 3) for r in rows], 0))
    if details and any(r.g_per_kwh_training is not None for r in rows):
        found.append(ShownColumn("g/kWh in\ntraining", [figure(r.g_per_kwh_training, 1) for r in rows], 9))
    if any(r.unknown_kwh > 0 for r in rows):
        found.append(ShownColumn("kWh\nunknown", [f"{r.unknown_kwh:,.2f}" for r in rows], 0))
    for reference in result.references:
        for column in found:
            column.cells.append(_of_reference(reference, column.title))
    return found


def _powers(rows: Sequence[Row]) -> list[ShownColumn]:
    """At what power sites with power levels trained, in the mean."""
    if all(r.training_power_w is None for r in rows):
        return []
    return [ShownColumn("W in\ntraining", [figure(r.training_power_w, 0) for r in rows], 9)]


def fitting(found: Sequence[ShownColumn], width: int) -> tuple[list[ShownColumn], list[str], int]:
    """The columns that fit into ``width`` characters, the titles of those left out, and the gap between columns."""
    kept = list(found)
    out: list[str] = []
    while True:
        least = sum(c.width for c in kept) + len(kept) - 1
        if least <= width or not any(c.spare for c in kept):
            return kept, out, 2 if least + len(kept) - 1 <= width else 1
        worst = max(kept, key=lambda c: c.spare)
        kept.remove(worst)
        out.append(worst.title)


def explained(result: Backtest, found: Sequence[ShownColumn]) -> str:
    """What a newcomer has to know of those of the columns that do not speak for themselves; empty if all do."""
    shown = {c.title for c in found}
    said = []
    if "% of oracle" in shown:
        said.append("% of oracle: value of the timing over the best possible in hindsight.")
        if "kg / oracle" in shown:
            said.append("The oracle of a budget seeks the least kg, so that it need not read 100 there.")
    if "kg / oracle" in shown:
        by = deadlines(result)
        when = f"by {hours(by[0])} h" if len(by) == 1 else "by the row's deadline"
        said.append(f"kg / oracle: emissions over the least possible for the same training {when}.")
    if "kWh unknown" in shown:
        said.append("kWh unknown: used in hours without a reading; part of kWh, of no kg and not of inside %.")
    return " ".join(said)


def footnotes(result: Backtest) -> list[str]:
    """What there is to say of single rows, each once."""
    return list(dict.fromkeys(n for r in result.rows for n in notes_of(r)))


def notes_of(r: Row) -> list[str]:
    """A row's notes; of a policy that draws, what other seeds brought too."""
    forms = (
        ("kg_co2", "kg CO2", "{:.3g}", 1.0),
        ("site_hours", "site-h", "{:.1f}", 1.0),
        ("share_of_oracle", "% of oracle", "{:.1f}", 100.0),
    )
    said = []
    for key, unit, form, factor in forms:
        if key in r.over_seeds:
            low, mid, high = (form.format(factor * v) for v in r.over_seeds[key])
            said.append(f"{mid} {unit}" if low == high else f"{mid} ({low}–{high}) {unit}")
    return (
        [*r.notes, f"median over {r.seeds} seeds, and the 10th to the 90th percentile: {', '.join(said)}"]
        if said
        else list(r.notes)
    )


def shares(result: Backtest) -> tuple[list[str], list[tuple[str, list[str], bool]]]:
    """Regions, and each row's and reference's emissions as % of each region always on (name, cells, whether a reference).

    Empty where no row has emissions or no region a baseline.
    """
    base = result.baselines
    whose = [(name, r.kg_co2, False) for name, r in zip(labels(result.rows), result.rows, strict=True)]
    whose += [(str(r["name"]), r.get("kg_co2"), True) for r in result.references]
    whose = [w for w in whose if w[1] is not None or not w[2]]
    if all(kg is None for _, kg, _ in whose) or not any(base.values()):
        return [], []
    rows = [(n, [share(kg / b if b and kg is not None else None) for b in base.values()], ref) for n, kg, ref in whose]
    return list(base), rows


def by_average(result: Backtest) -> bool:
    """Whether the kg are by average intensity, as no site has a marginal one."""
    return any("average" in r.kg_by_method and "marginal" not in r.kg_by_method for r in result.rows)


def share(value: float | None) -> str:
    """``89.4`` for 0.894; far below zero without decimals."""
    return "-" if value is None else f"{value * 100:,.{1 if abs(value) < 10 else 0}f}"


def figure(value: float | None, digits: int) -> str:
    """A number, or a dash where there is none."""
    return "-" if value is None else f"{value:,.{digits}f}"


def hours(value: float) -> str:
    """``24``, ``13.79``: hours without needless zeros."""
    return f"{value:,.2f}".rstrip("0").rstrip(".")


def late(delay_s: float | None) -> str:
    """How late readings are known: as the signals say, or so many seconds or minutes."""
    if delay_s is None:
        return "as given"
    return f"{delay_s:g} s" if delay_s % 60 or delay_s == 0 else f"{delay_s / 60:g} min"


def _own(r: Row) -> bool:
    return r.deadline_h is not None and r.finish_h is not None and abs(r.deadline_h - r.finish_h) <= _SAME_H


def _deadline(r: Row) -> str:
    # A row that keeps no deadline is judged by its own finish.
    return "-" if r.deadline_h is None else "its own" if _own(r) and r.policy not in _BOUND else hours(r.deadline_h)


def _span(r: Row, budget: bool) -> str:
    if not budget:
        return f"{r.span_h:,.2f}"
    return "not done" if r.finish_h is None else f"{r.finish_h:,.2f}"


def _money(r: Row, currencies: Sequence[str]) -> str:
    if len(currencies) == 1:
        return figure(r.money_by_currency.get(currencies[0]), 2)
    return " + ".join(f"{v:,.2f} {c}" for c, v in r.money_by_currency.items()) or "-"


def _of_reference(reference: Mapping[str, Any], title: str) -> str:
    """A figure from elsewhere, under a column's title."""
    r = reference
    match title:
        case "policy":
            return str(r["name"])
        case "preset":
            return str(r.get("preset", ""))
        case "hours" | "span h":
            return figure(r.get("finish_h"), 2)
        case "site-h":
            return figure(r.get("site_hours"), 2)
        case "kWh":
            return figure(r.get("energy_kwh"), 2)
        case "kg CO2":
            return figure(r.get("kg_co2"), 3)
        case "inside %":
            return share(r.get("share_inside"))
        case _:
            return ""
