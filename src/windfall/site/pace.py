"""The order that a site trains under, and how far it goes: run time, the blocks that a gated clock allows, and when to cut."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from windfall.site.leases import Leases
from windfall.wire.fields import finite
from windfall.wire.messages import RoundOrder


class Pace:
    """Of one life of a site."""

    def __init__(
        self, leases: Leases, *, tokens_per_block: int, step_blocks: int, granted: Callable[[], Any], calendar: Callable[[], float],
        coming: Callable[[], RoundOrder | None],
    ) -> None:  # fmt: skip
        """``granted`` says up to which run time a gated clock lets sites work; ``coming`` the order that has come and does not
        count yet."""
        self._leases = leases
        self._tokens_per_block = tokens_per_block
        self._granted = granted
        self._calendar = calendar
        self._coming = coming
        #: What the site trains under; it stays in force when its message has no sender any more.
        self.order: RoundOrder | None = None
        #: Whether the order's cut has been made.
        self.cut_made = True
        self.step_blocks = step_blocks
        self._since_order = 0
        self._cut_by: dict[int, float] = {}

    def begin(self, order: RoundOrder, blocks: int) -> None:
        """An order counts from now on; ``blocks`` of those that its pace pays for have been trained since it was given."""
        self.order, self.cut_made = order, False
        self.step_blocks = order.step_blocks
        self._since_order = blocks if order.gated else 0

    def stepped(self, blocks: int) -> None:
        """A step of so many blocks has been taken."""
        self._since_order += blocks

    def bring_forward(self, number: int, at: float) -> None:
        """The cut of this round is at this run time, if it is not before that anyway."""
        self._cut_by = {number: at}

    # -- run time --------------------------------------------------------------------------------------------

    def now(self) -> float:
        """Run time as this site may use it: the calendar, or what a gated clock has granted."""
        order = self.order or self._coming()
        if order is not None and order.gated:
            granted = finite(self._granted())
            return -math.inf if granted is None else granted
        return self._calendar()

    def until(self) -> float:
        """Run time up to which the present order's pace goes: its cut, or past it until the next order counts."""
        assert self.order is not None
        if not self.cut_made:
            return min(self.order.cut_at, self._cut_by.get(self.order.round, math.inf))
        coming = self._coming()
        return coming.apply_at if coming is not None else -math.inf

    def at(self) -> float:
        """The run time of the last step."""
        order = self.order
        if order is None or not order.gated:
            return self._calendar()
        return order.begins_at + (order.blocks_before + self._since_order) * self._tokens_per_block / order.tokens_per_s

    def covered(self) -> tuple[int, float] | None:
        """Up to which run time all is done that a gated clock asks for, and in which round; None where there is no such clock."""
        order, t = self.order, self.now()
        if order is None or not order.gated or t == -math.inf:
            return None
        coming = self._coming()
        if self.cut_made and coming is not None:
            # Under the order before, up to where the one that has come begins to count.
            return coming.round, min(t, coming.apply_at)
        return order.round, t

    # -- what may be done ------------------------------------------------------------------------------------

    def allowed(self) -> int:
        """Blocks that a gated clock still allows now, under the present order; those of a step on a calendar."""
        order = self.order
        if order is None or not order.gated:
            return self.step_blocks
        t = min(self.now(), self.until())
        if t == -math.inf:
            return 0
        owed = order.tokens_per_s * (t - order.begins_at) / self._tokens_per_block
        return math.floor(owed + 1e-9) - order.blocks_before - self._since_order

    def may_step(self) -> bool:
        """Whether a gated clock allows a whole step, or the last one of the leases, now."""
        return bool(self._leases) and self.allowed() >= min(self.step_blocks, self._leases.left(self.step_blocks))

    def may_go_on(self) -> bool:
        """Whether the order lets the site train on past its cut."""
        # Past its order's validity a site has no right to train on, whoever is silent (invariant 4).
        order = self.order
        return order is not None and order.after == "continue" and bool(self._leases) and self.now() < order.valid_until

    def may_cut_late(self) -> bool:
        """Whether the cut may wait for a while: on a calendar, as long as the order is valid and there is something to train on."""
        order = self.order
        return order is not None and not order.gated and bool(self._leases) and self.now() < order.valid_until

    def cut_is_due(self) -> bool:
        """Whether it is time for the order's cut, or there is nothing left to train on under it."""
        order = self.order
        assert order is not None
        if not self._leases or self.now() >= order.valid_until:
            return True
        return self.now() >= self.until() and (not order.gated or not self.may_step())
