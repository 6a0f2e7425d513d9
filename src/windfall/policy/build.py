"""From `[policy]` to a policy."""

from __future__ import annotations

from windfall.config.schema import PolicyTable
from windfall.policy.base import PerSite, Policy
from windfall.policy.breakeven import Breakeven
from windfall.policy.threshold import Always, Threshold, paper


def build_policy(table: PolicyTable, name: str | None = None) -> Policy:
    """The policy called ``name`` (default: the table's own) with the table's parameters."""
    name = name or table.name
    if name == "always":
        return Always()
    if name == "paper":
        return PerSite(paper())
    if name == "threshold":
        return PerSite(Threshold(table.start_g_per_kwh, table.stop_g_per_kwh, table.confirm_s, table.off_delay_s, table.min_up_s))
    return PerSite(Breakeven(table.worth_g_per_kwh, table.a_on, table.a_off))
