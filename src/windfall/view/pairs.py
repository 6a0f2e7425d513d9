"""Which differences between policies are shown, and what they are called."""

from __future__ import annotations

from collections.abc import Sequence

from windfall.simulate.paired import REFERENCE, PairedDifference

#: Figures of pairs that are drawn: title and factor.
PAIRED = {
    "kg_co2": ("kg CO2", 1.0), "kg_over_oracle": ("kg / oracle", 1.0), "share_of_oracle": ("% of oracle", 100.0),
    "site_hours": ("site-hours", 1.0),
}  # fmt: skip


def shown_pairs(pairs: Sequence[PairedDifference]) -> tuple[str, list[PairedDifference]]:
    """The policy that others are compared with on a page, and the differences from it of figures that are shown."""
    if not pairs:
        return "", []
    against = next((d.against for d in pairs if d.against == REFERENCE), pairs[0].against)
    figures = [f for f in PAIRED if any(d.figure == f for d in pairs)]
    # Of a budget the kg beside the least possible; without one the share of the value, and how much was trained.
    figures = [f for f in figures if f not in (("share_of_oracle", "site_hours") if "kg_over_oracle" in figures else ())]
    return against, [d for d in pairs if d.against == against and d.figure in figures]


def pair_name(d: PairedDifference) -> str:
    """The policy, and what else tells its pairs apart."""
    late = f"{d.publication_delay_s:g} s late" if d.publication_delay_s else ""
    by = f"by {d.deadline_h:g} h" if d.deadline_h is not None else ""
    return ", ".join(filter(None, [d.policy, *(f"{k}={v:g}" for k, v in d.settings), by, late]))
