"""Where a site is in its leases: what is left of them, and what it has trained since its last cut."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from windfall.store.records import Consumed


@dataclass
class Segment:
    """What is left of a lease: blocks ``[at, end)`` under ``epoch``."""

    epoch: int
    at: int
    end: int


@dataclass
class OpenWork:
    """What has been trained since the last cut."""

    consumed: list[Consumed] = field(default_factory=list)
    steps: int = 0
    #: Blocks of these steps.
    blocks: int = 0
    tokens: int = 0
    loss_sum: float = 0.0
    last_loss: float = 0.0
    seconds: float = 0.0
    #: Steps among ``steps`` that a numerical guard skipped.
    skipped: int = 0
    #: Wall time in which it had leave to train and took no step; evaluations are not part of it.
    stall_seconds: float = 0.0
    evaluation_seconds: float = 0.0

    def use(self, taken: Iterable[Segment], *, skipped: bool = False) -> None:
        """Note blocks as consumed; ``skipped``: without having been trained on."""
        for s in taken:
            self.blocks += s.end - s.at
            last = self.consumed[-1] if self.consumed else None
            if last and (last.epoch, last.end, last.skipped) == (s.epoch, s.at, skipped):
                self.consumed[-1] = Consumed(s.epoch, last.start, s.end, skipped)
            else:
                self.consumed.append(Consumed(s.epoch, s.at, s.end, skipped))

    def add(self, tokens: int, loss: float, seconds: float) -> None:
        """Note a step."""
        self.steps += 1
        self.tokens += tokens
        self.loss_sum += loss
        self.last_loss = loss
        self.seconds += seconds

    def skip(self, seconds: float) -> None:
        """Note a step that was not taken."""
        self.steps += 1
        self.skipped += 1
        self.seconds += seconds

    def metrics(self, *, stalls: bool = True) -> dict[str, float]:
        """What the contribution says of it; ``stalls``: also of the time without a step, which means nothing on a gated clock."""
        taken = self.steps - self.skipped
        if not taken:
            return {"skipped_steps": float(self.skipped)} if self.skipped else {}
        found = {
            "loss_mean": self.loss_sum / taken, "loss_last": self.last_loss,
            "train_seconds": self.seconds, "tokens_per_s": self.tokens / max(self.seconds, 1e-9),
        }  # fmt: skip
        if stalls:
            found |= {"stall_seconds": self.stall_seconds, "evaluation_seconds": self.evaluation_seconds}
        return {**found, "skipped_steps": float(self.skipped)} if self.skipped else found


class Leases:
    """The blocks that a site may train on, in order."""

    def __init__(self) -> None:
        self._segments: list[Segment] = []

    def __bool__(self) -> bool:
        return bool(self._segments)

    @property
    def at(self) -> int | None:
        """The next block, if there is one."""
        return self._segments[0].at if self._segments else None

    def left(self, most: int) -> int:
        """Blocks that are left, counted up to ``most``."""
        count = 0
        for s in self._segments:
            count += s.end - s.at
            if count >= most:
                return most
        return count

    def replace(self, segments: Iterable[Segment], gone: Iterable[Consumed]) -> None:
        """These are in force now. ``gone``: what is used already and not acknowledged, and so may be in them still."""
        used = {(c.epoch, b) for c in gone for b in range(c.start, c.end)}
        self._segments = [left for s in segments for left in _without(s, used)]

    def take(self, blocks: int) -> list[Segment]:
        """The next ``blocks`` blocks, fewer at the end of the leases, under the leases that they are of."""
        found: list[Segment] = []
        while blocks and self._segments:
            s = self._segments[0]
            end = min(s.at + blocks, s.end)
            found.append(Segment(s.epoch, s.at, end))
            blocks -= end - s.at
            s.at = end
            if s.at >= s.end:
                self._segments.pop(0)
        return found


def _without(segment: Segment, used: set[tuple[int, int]]) -> list[Segment]:
    """A lease segment without blocks that have been used already."""
    result: list[Segment] = []
    at = segment.at
    for block in [*sorted(b for epoch, b in used if epoch == segment.epoch and segment.at <= b < segment.end), segment.end]:
        if at < block:
            result.append(Segment(segment.epoch, at, block))
        at = block + 1
    return result
