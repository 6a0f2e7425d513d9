"""The inner optimizer state of a life of a site: with which one it begins, and the mean that it is put on."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from windfall.errors import DataError
from windfall.site.outbox import InnerState, Outbox
from windfall.store.blobs import FileBlob
from windfall.store.files import Envelope
from windfall.wire.messages import RoundOrder

if TYPE_CHECKING:  # torch takes a while to import, and only a trainer needs it
    from windfall.train.trainer import Trainer


class Inner:
    """Does to the trainer's inner state what orders say."""

    def __init__(
        self, trainer: Trainer, outbox: Outbox, generation: int, note: Callable[..., None], tell: Callable[[str], None]
    ) -> None:
        """``note`` takes what is done, as the lineage of the next cut has it; ``tell`` what people should hear of."""
        self._trainer = trainer
        self._outbox = outbox
        self._generation = generation
        self._note = note
        self._tell = tell
        #: Steps that changed it, in all; and by cut whose state may be averaged, when it was made.
        self._taken = 0
        self._taken_by: dict[int, int] = {}

    def step(self) -> None:
        """A step has changed it."""
        self._taken += 1

    def for_the_mean(self, cut: int) -> bytes:
        """The state that goes with a cut, to be a part of a mean."""
        self._taken_by = {cut: self._taken}
        return self._trainer.inner()

    def take_up(self, order: RoundOrder, envelope: Envelope, *, first: bool) -> None:
        """Go on with the state that an order says; ``first``: the life has taken no step. Then put it on the order's mean."""
        own = self._load(order, envelope, first=first)
        self._take_mean(order, envelope, own)

    def _load(self, order: RoundOrder, envelope: Envelope, *, first: bool) -> InnerState | None:
        """The site's own state, if an earlier life's is taken up."""
        state = None
        try:
            if order.inner == "sent":
                sent = envelope.blob("inner")
                self._trainer.load_inner(sent if isinstance(sent, FileBlob) else sent.read())
                self._note("inner", "sent", *order.inner_from)
                return None
            if order.inner == "own":
                state = self._outbox.inner() if first else None
                if state is not None:
                    self._trainer.load_inner(state.data)
                    self._note("inner", "own", state.generation, state.steps)
                return state
        except DataError as e:
            self._tell(f"{order.inner} inner state refused, reset: {e}")
        # Version 0 has nothing to warm up from: a new optimizer is already as reset as can be.
        if order.version > 0:
            self._trainer.reset_inner()
            self._note("inner", "reset")
        return None

    def _take_mean(self, order: RoundOrder, envelope: Envelope, own: InnerState | None) -> None:
        """Put the inner state on the mean that an order brings, of which a state is a part that this site has sent.

        ``own``: the state of an earlier life that has just been taken up. If that is the one which was sent, it is put on the mean
        too: a site that is killed begins its round again as it began it.
        """
        if not order.mean_of:
            return
        version, generation, cut = order.mean_of
        mine = self._outbox.sent_inner(generation, cut)
        if mine is None:
            return
        if generation == self._generation:
            at = self._taken_by.pop(cut, None)  # once only, however often it is sent
            steps = self._taken - at if at is not None else None
        else:
            again = own is not None and (own.generation, own.steps) == (mine.generation, mine.last_step)
            steps = 0 if again else None
        if steps is None:
            return
        try:
            self._trainer.shift_inner(envelope.blob("mean"), mine.data, steps)
        except DataError as e:
            self._tell(f"the mean of inner states is left alone: {e}")
            return
        self._note("inner", "mean", version, generation, cut, steps)
