"""What a site's parameters are made of: the version that it holds, what was sent and is not settled, what rounding left, open work.

All that changes them besides steps passes through here, and each change is noted, so that a replay can make it again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from windfall.errors import DataError
from windfall.site.held import HeldVersion, Prepared, reader_of
from windfall.site.outbox import Outbox
from windfall.store.blobs import Blob
from windfall.store.files import Envelope
from windfall.store.records import Consumed
from windfall.wire.codec import DifferenceReader
from windfall.wire.messages import ContributionHeader, RoundOrder, difference_blob

if TYPE_CHECKING:  # torch takes a while to import, and only a trainer needs it
    from windfall.train.trainer import Read, Trainer


@dataclass
class OpenCut:
    """A cut whose work is in no version that the site holds."""

    header: ContributionHeader
    #: What was really sent, encoded; None until it has been worked out.
    sent: Blob | None = None


class Parameters:
    """Those of one life of a site."""

    def __init__(self, trainer: Trainer, held: HeldVersion, outbox: Outbox, generation: int, note: Callable[..., None]) -> None:
        """``note`` takes what is done to the parameters, as the lineage of the next cut has it."""
        self._trainer = trainer
        self._held = held
        self._outbox = outbox
        self._generation = generation
        self._note = note
        #: Whether they have been loaded in this life: they are those of the version held, and what was trained since.
        self.loaded = False
        #: Cuts of this life that are not settled.
        self.open: dict[int, OpenCut] = {}

    @property
    def count(self) -> int:
        """Numbers in the model."""
        return sum(value.size for value in self._held.tensors.values())

    @property
    def are_the_version(self) -> bool:
        """Whether they are the version held and nothing else, where there is no open work."""
        return not self.open and self._outbox.last_rest() is None

    def on_its_way(self) -> list[Blob]:
        """What was sent and is not settled, oldest first."""
        return [cut.sent for _, cut in sorted(self.open.items()) if cut.sent is not None]

    def used(self) -> Iterator[Consumed]:
        """The blocks of cuts that are not settled."""
        return (c for cut in self.open.values() for c in cut.header.consumed)

    def prepare(self, order: RoundOrder, envelope: Envelope) -> Prepared:
        """The version that an order brings, made of what came with it; for any thread. Raises DataError or Refused."""
        whole = envelope.blob("weights") if order.model == "full" else None
        opened = [partial(self._difference, link, envelope) for link in order.chain]
        return self._held.prepare(order.version, order.sha256, whole=whole, differences=opened)

    def take_in(self, order: RoundOrder, version: Prepared | None, last_answered: int) -> None:
        """Learn what became of earlier cuts, and put what was trained since the version held on ``version``, if there is another.

        ``last_answered``: the cut that the last answer carried.
        """
        self._rebase(order, version, self._settle(order.acks, last_answered))

    def _difference(self, link: dict[str, int], envelope: Envelope) -> DifferenceReader:
        """What makes a version of the one before it. Raises DataError, or Refused if it is of another model."""
        own = self.open.get(link["cut"]) if link["cut"] else None
        if link["cut"] and (own is None or own.sent is None):
            raise DataError(f"it has no cut {link['cut']} that is not settled")
        blob = own.sent if own is not None and own.sent is not None else envelope.blob(difference_blob(link["version"]))
        return reader_of(blob, self._held.tensors)

    def _rebase(self, order: RoundOrder, version: Prepared | None, moves: list[tuple[float, Read]]) -> None:
        """Put what was trained since the version held on the one that an order brings."""
        held = self._held
        if not self.loaded:
            if version is not None:
                held.adopt(version)
            if not held.tensors:
                return  # nothing has been trained, and nothing is to be
            self._trainer.load(held.tensors)
            self.loaded = True
            self._note("load", order.version)
            left = self._outbox.last_rest()
            if left is not None:
                # What rounding left of an earlier life's work is in no other site's.
                moves = [*moves, self._rest(1.0, *left)]
            if moves:
                self._trainer.rebase(held.read, held.read, moves)
                self._note("version", order.version)
            return
        if version is None and not moves:
            return
        before = held.tensors
        if version is not None:
            held.adopt(version)
        self._trainer.rebase(before.__getitem__, held.read, moves)
        self._note("version", order.version)

    def _settle(self, acks: list[dict[str, Any]], last_answered: int) -> list[tuple[float, Read]]:
        """Learn what became of earlier cuts: what has to be added to the parameters besides what the new version changes.

        What was sent is taken away: accepted, it is in the version; refused, it is in none. Refused work also takes with it what
        rounding made of it, so that what is left to hand in is what there was before.
        """
        moves: list[tuple[float, Read]] = []
        for a in acks:
            generation, cut = a["generation"], a["cut"]
            if cut == 0:  # so garbled that the coordinator could not tell: it was the last answer
                generation, cut = self._generation, last_answered
            if a["accepted"] and a["version"] is None:
                continue  # taken in, and part of no version yet
            ours = generation == self._generation
            open_cut = self.open.pop(cut, None) if ours else None
            record = open_cut.header if open_cut else self._outbox.header(generation, cut)
            if record is None or (ours and open_cut is None):
                self._outbox.acknowledged(generation, cut)
                continue
            if open_cut is not None and open_cut.sent is not None:
                moves.append(self._move(-1.0, "sent", generation, cut, open_cut.sent))
            if a["accepted"]:
                self._outbox.acknowledged(generation, cut)
                continue
            # No ledger will know of this work; the inner state does, and a replay must.
            self._note("shed", record.replayable())
            if self.loaded and self._outbox.rest(generation, cut) is not None:
                moves.append(self._rest(-1.0, generation, cut))
            before = self._outbox.rest_before(generation, cut)
            if self.loaded and before is not None:
                moves.append(self._rest(1.0, *before))
            self._outbox.refused(generation, cut)
        return moves

    def _rest(self, sign: float, generation: int, cut: int) -> tuple[float, Read]:
        """What rounding left of a cut, to be added to the parameters."""
        blob = self._outbox.rest(generation, cut)
        assert blob is not None
        return self._move(sign, "rest", generation, cut, blob)

    def _move(self, sign: float, what: str, generation: int, cut: int, blob: Blob) -> tuple[float, Read]:
        """Something to add to the parameters. It stays readable when its file has been removed."""
        self._note("move", sign, what, generation, cut)
        return sign, reader_of(blob, self._held.tensors).get
