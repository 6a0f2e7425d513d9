"""How far an order goes: on a gated clock as far as its pace says, on a calendar until its cut, and nowhere past its validity."""

from __future__ import annotations

import math
from typing import Any

from windfall.site.leases import Leases, Segment
from windfall.site.pace import Pace
from windfall.wire.messages import RoundOrder

TOKENS = 32
ORDER: dict[str, Any] = {
    "fence": 1, "round": 3, "version": 2, "sha256": "", "model": "none", "inner": "own", "after": "continue", "cut_at": 100.0,
    "begins_at": 0.0, "valid_until": 1000.0, "blocks_before": 0, "step_blocks": 2, "tokens_per_s": float(TOKENS), "gated": True,
    "leases": [], "progress_start": 0.0, "progress_rate": 1.0, "codec": "fp32",
}  # fmt: skip


class Site:
    """A pace whose clocks stand where the test says."""

    def __init__(self, blocks: int = 1000) -> None:
        self.granted: Any = 0.0
        self.calendar = 0.0
        self.coming: RoundOrder | None = None
        self.leases = Leases()
        self.leases.replace([Segment(1, 0, blocks)], [])
        self.pace = Pace(
            self.leases, tokens_per_block=TOKENS, step_blocks=2, granted=lambda: self.granted, calendar=lambda: self.calendar,
            coming=lambda: self.coming,
        )  # fmt: skip

    def steps(self) -> int:
        """Steps that it may take now, taken."""
        taken = 0
        while self.pace.may_step():
            self.pace.stepped(sum(s.end - s.at for s in self.leases.take(2)))
            taken += 1
        return taken


def order(**other: Any) -> RoundOrder:
    return RoundOrder(**{**ORDER, **other})


def test_a_gated_clock_allows_whole_steps_up_to_what_it_has_granted_and_none_past_the_cut() -> None:
    site = Site()
    site.pace.begin(order(), 0)
    assert site.steps() == 0
    site.granted = 5.0  # a block a second, two a step
    assert site.steps() == 2
    assert (site.pace.at(), site.pace.covered()) == (4.0, (3, 5.0))
    site.granted = 200.0
    assert not site.pace.cut_is_due(), "steps are still owed up to it"
    assert site.steps() == 48
    assert site.pace.at() == 100.0
    assert site.pace.cut_is_due()


def test_without_a_word_from_the_clock_nothing_is_allowed() -> None:
    site = Site()
    site.pace.begin(order(), 0)
    for granted in (None, "soon", math.nan):
        site.granted = granted
        assert (site.pace.now(), site.steps(), site.pace.covered()) == (-math.inf, 0, None)


def test_blocks_that_an_orders_pace_pays_for_and_that_were_trained_before_it_count() -> None:
    site = Site()
    site.granted = 10.0
    site.pace.begin(order(), 4)
    assert site.steps() == 3
    site.pace.begin(order(blocks_before=10), 0)
    assert site.steps() == 0


def test_a_cut_is_brought_forward_in_its_own_round_only() -> None:
    site = Site()
    site.granted = 200.0
    site.pace.begin(order(), 0)
    site.pace.bring_forward(2, 10.0)
    assert site.pace.until() == 100.0
    site.pace.bring_forward(3, 50.0)
    assert site.pace.until() == 50.0
    site.pace.bring_forward(3, 500.0)
    assert site.pace.until() == 100.0, "and never put off"


def test_past_its_cut_a_site_trains_up_to_where_the_next_order_counts() -> None:
    site = Site()
    site.granted = 200.0
    site.pace.begin(order(), 0)
    site.steps()
    site.pace.cut_made = True
    assert site.steps() == 0, "nobody has said how far"
    site.coming = order(round=4, apply_at=110.0)
    assert site.steps() == 5
    assert site.pace.covered() == (4, 110.0)
    assert site.pace.may_go_on()


def test_the_last_blocks_of_a_lease_are_a_step_however_few_they_are() -> None:
    site = Site(blocks=3)
    site.granted = 200.0
    site.pace.begin(order(), 0)
    assert site.steps() == 2
    assert site.pace.cut_is_due()
    assert not site.pace.may_go_on()


def test_on_the_calendar_a_site_trains_until_its_cut_which_may_be_a_little_late_but_not_past_its_right_to_train() -> None:
    site = Site()
    site.pace.begin(order(gated=False, step_blocks=4), 7)
    assert site.pace.allowed() == 4
    assert site.pace.covered() is None
    site.calendar = 99.0
    assert not site.pace.cut_is_due()
    site.calendar = 101.0
    assert site.pace.cut_is_due()
    assert site.pace.may_cut_late()
    assert site.pace.may_go_on()
    site.calendar = 1000.0
    assert site.pace.cut_is_due()
    assert not site.pace.may_cut_late()
    assert not site.pace.may_go_on()
