"""A site's side of the federation: orders in, steps, cuts, contributions out. It drives a long-lived trainer.

``pump`` does one unit of work and returns, so that a process can call it forever and a test can call it step by step.
What a site has trained is in its outbox (or its snapshot) on disk before anybody else hears of it, and stays there
until the coordinator says what became of it.
"""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from windfall import clock, faults
from windfall.errors import DataError, RankError, Refused, WindfallError
from windfall.site.background import Background
from windfall.site.leases import Leases, OpenWork, Segment
from windfall.site.outbox import InnerState, Outbox, TrainedTokens
from windfall.store.bus import SiteBus
from windfall.store.files import Envelope
from windfall.store.tensors import Tensors, from_bytes
from windfall.wire.codec import encode
from windfall.wire.fields import Fields, finite, is_count
from windfall.wire.messages import PROTOCOL, ContributionHeader, Greeting, RoundOrder, refusal
from windfall.wire.transport import BEAT_NAME, Mailbox

if TYPE_CHECKING:  # torch takes a while to import, and only a trainer needs it
    from windfall.train.trainer import Trainer

log = logging.getLogger("windfall")

#: Time between two heartbeats (wall time).
_BEAT_S = 1.0
#: Out of touch for longer than this, a site that watches its own signal obeys it (wall time).
_OWN_SIGNAL_S = 15.0


class SiteWorker:
    """One generation of one site."""

    def __init__(
        self, *, site: str, generation: int, trainer: Trainer, mailbox: Mailbox, bus: SiteBus, folder: Path,
        snapshot_s: float, dead_man_s: float, calendar: Callable[[], float] = clock.wall,
        link: Callable[[], float] = lambda: -math.inf, own_window: Callable[[float], bool] | None = None,
        executor: Executor | None = None,
    ) -> None:  # fmt: skip
        """``link`` says when (monotonic) the SuperLink was last reached; ``own_window`` whether the site's own signal
        says that its region is in a window at a run time. ``executor`` writes snapshots while training goes on."""
        self.site = site
        self.generation = generation
        self._trainer = trainer
        trainer.alive = self._still_here
        self._mailbox = mailbox
        self._bus = bus
        self._beat_file = folder / BEAT_NAME
        self._outbox = Outbox(folder)
        #: Writes to the outbox; everything else that uses the outbox waits for it.
        self._background = Background(executor)
        self._trained = TrainedTokens(folder / "trained", generation)
        self._snapshot_s = snapshot_s
        self._dead_man_s = dead_man_s
        self._calendar = calendar
        self._link = link
        self._own_window = own_window
        self._fence = 0
        self._cut = 0
        self._base = 0
        #: What the site trains under; it stays in force when its message has no sender any more.
        self._order: RoundOrder | None = None
        #: Round and fence of the newest order that has been read.
        self._seen = (0, 0)
        #: The message to answer at the cut, if somebody still waits for it.
        self._message = ""
        self._leases = Leases()
        self._work = OpenWork()
        self._open: dict[int, Tensors] = {}  # cut -> what was sent and is not yet acknowledged
        self._travelling: dict[int, ContributionHeader] = {}  # cut -> what was said of it
        self._said = 0  # the cut that the last answer carried
        self._since_order = 0
        self._tokens_per_block = trainer.tokens_per_step // trainer.blocks_per_step
        self._step_blocks = trainer.blocks_per_step
        #: Blocks of a step, as the lineage of the next cut has it.
        self._size_noted = 0
        self._uncut_said = 0
        self._steps = 0
        self._tokens = 0
        self._lineage: list[list[Any]] = []
        self._progress_at_cut = 0.0
        self._progress_rate = 1.0
        self._progress = 0.0
        self._cut_by: dict[int, float] = {}
        self._draining = False
        self._beat: dict[str, Any] = {"n": 0}
        self._beat_at = -math.inf
        self._heard: tuple[Any, float] = (None, clock.monotonic())
        self._saved_at = clock.monotonic()
        self._reported: tuple[Any, ...] = ()
        #: Why the site has stopped by itself; empty while it has not.
        self.parked = ""

    # -- one unit of work ------------------------------------------------------------------------------------

    def pump(self) -> bool:
        """Do one thing; False if there was nothing to do."""
        self._mind_the_snapshot(self._background.look)
        self._listen()
        taken = self._mailbox.take()
        if taken:
            self._heard = (self._heard[0], clock.monotonic())
            self._on_message(*taken)
            return True
        if self._order is not None:
            if self._should_cut():
                self._make_cut()
                return True
            return self._step_if_allowed()
        if self._continuing() and not self._draining:
            return self._step_if_allowed()
        return False

    def _continuing(self) -> bool:
        # Past its order's validity a site has no right to train on, whoever is silent (invariant 4).
        return self._after == "continue" and bool(self._leases) and self._now() < self._valid_until

    _after = "wait"
    _valid_until = math.inf

    def _listen(self) -> None:
        now = clock.monotonic()
        if now - self._beat_at >= _BEAT_S:
            at = {"block": self._leases.at} if self._leases else {}
            self._beat = {"n": self._beat["n"], **at}
            self._still_here()
            self._mind_the_coordinator(now)
        for c in self._bus.commands():
            try:
                self._obey(Fields(c))
            except Refused as e:
                self._bus.emit({"kind": "note", "note": f"a command on the bus is malformed and left alone: {e}"})

    def _obey(self, command: Fields) -> None:
        """Do what a command says. Raises Refused if it is malformed; one of an unknown kind is a newer coordinator's."""
        kind = command.word("kind")
        if kind == "drain":
            self._draining = True
        elif kind == "cut":
            number, at, fence = command.count("round"), command.number("at"), command.count("fence")
            if fence == self._fence:  # else an earlier coordinator's, whose rounds have the same numbers
                self._cut_by = {number: at}

    def _still_here(self) -> None:
        """A heartbeat, if it is time for one. Within a step it names the block at which that began: there it would have died."""
        now = clock.monotonic()
        if now - self._beat_at >= _BEAT_S:
            self._beat_at = now
            self._beat["n"] += 1
            self._bus.set("heartbeat", dict(self._beat))
            with contextlib.suppress(OSError):  # a full disk is told where work is lost by it
                self._beat_file.touch()

    def _mind_the_coordinator(self, now: float) -> None:
        said = self._bus.get("clock") or {}
        if said.get("beat") != self._heard[0]:
            self._heard = (said.get("beat"), now)
        fence = said.get("fence")
        if is_count(fence) and fence > self._fence and self._message:
            # A new coordinator: whoever sent this message is gone, and the SuperNode can carry no other one before it
            # has been answered. The order stays in force until the new one speaks.
            self._answer(Envelope({"kind": "void"}))
        silent = now - max(self._heard[1], self._link())
        if self.parked:
            return
        if silent > self._dead_man_s:
            # Invariant 4: nobody can tell this site to stop any more, so it stops by itself, its work kept.
            self.park(f"nothing heard from the coordinator for {silent:.0f} s")
            return
        # A SuperLink that answers can tell it nothing: a site with a signal of its own listens for the coordinator alone.
        unled = now - self._heard[1]
        if self._own_window and unled > min(_OWN_SIGNAL_S, self._dead_man_s) and not self._own_window(self._calendar()):
            self.park(f"its own signal has left the window, and nothing was heard from the coordinator for {unled:.0f} s")

    def park(self, why: str) -> None:
        """Cut, keep the work in the outbox, and take no further step."""
        self._draining = True
        if self._work.steps:
            self._make_cut()
        self.parked = why

    # -- messages --------------------------------------------------------------------------------------------

    def _on_message(self, message_id: str, envelope: Envelope) -> None:
        self._mind_the_snapshot(self._background.wait)
        try:
            message, weights = self._read(envelope)
        except Refused as e:
            # Nothing of it has been done, and nothing here has changed.
            why = f"{self.site} cannot read its message: {e}"
            self._mailbox.answer(message_id, Envelope(refusal(self.site, self.generation, why)))
            log.warning("%s", why)
            return
        if message.fence < self._fence:
            self._mailbox.answer(message_id, Envelope({"kind": "error", "error": "order of an older coordinator"}))
            return
        if self._message:
            self._answer(Envelope({"kind": "void"}))  # a SuperNode carries one message at a time: this one's is dead
        self._fence = message.fence
        if isinstance(message, Greeting):
            self._on_hello(message_id)
            return
        try:
            self._on_order(message_id, message, weights, envelope)
        except RankError as e:
            self._mailbox.answer(message_id, Envelope({"kind": "error", "error": str(e)}))
            raise  # nothing can be trained here any more
        except WindfallError as e:
            self._mailbox.answer(message_id, Envelope({"kind": "error", "error": str(e)}))
            self._bus.emit({"kind": "fatal", "reason": str(e)})

    def _read(self, envelope: Envelope) -> tuple[Greeting | RoundOrder, Tensors | None]:
        """A message as values, with the parameters that an order may bring. Raises Refused if it is none."""
        if envelope.header.get("kind") == "hello":
            return Greeting.parse(envelope.header), None
        order = RoundOrder.parse(envelope.header, envelope.blobs)
        if order.model != "full":
            return order, None
        try:
            return order, from_bytes(envelope.blobs["weights"], "weights")
        except DataError as e:
            raise Refused(str(e)) from None

    def _on_hello(self, message_id: str) -> None:
        order = self._order
        self._uncut_said = self._work.blocks
        header = {
            "kind": "hello", "protocol": PROTOCOL, "site": self.site, "generation": self.generation,
            "manifest": self._trainer.manifest, "inner_tokens": self._outbox.inner_tokens(), "cut": self._cut,
            # Where it stands, for a coordinator that did not send it there.
            "base": self._base, "uncut_blocks": self._work.blocks,
            "round": order.round if order else 0, "order_fence": order.fence if order else 0,
            "seen_round": self._seen[0], "seen_fence": self._seen[1],
            # The block at which its last life ended in the middle of a step, if its disk still knows.
            "broke_at": self._trained.broke_at, "broke_blocks": self._trained.broke_blocks, "remembers": self._trained.remembers,
        }  # fmt: skip
        self._mailbox.answer(message_id, Envelope(header, self._outbox.all()))

    def _on_order(self, message_id: str, order: RoundOrder, weights: Tensors | None, envelope: Envelope) -> None:
        self._settle(order.acks)
        if weights is not None:
            if self._work.steps:
                # Other parameters take the place of these: what they were trained with goes along with the next answer.
                self._keep_cut(late=True)
            self._trainer.load(weights)
            self._open.clear()
            self._note("load", order.version)
        self._load_inner(order, envelope)
        self._message, self._order = message_id, order
        self._seen = order.round, order.fence
        if order.leases or not self._work.steps:  # else it only asks for work done on the version before
            self._base = order.version
        self._note("order", order.progress_start, order.progress_rate)
        # OpenWork since the last cut, and cuts nobody has acknowledged, lie in these leases too: what they used is used.
        gone = [*self._work.consumed, *(c for sent in self._travelling.values() for c in sent.consumed)]
        self._leases.replace([Segment(x["epoch"], x["start"], x["end"]) for x in order.leases], gone)
        # Blocks between a hello and this order are blocks under this order: the hello counted those before it.
        self._since_order = max(0, self._work.blocks - self._uncut_said) if order.gated else 0
        self._step_blocks = order.step_blocks
        self._progress_at_cut, self._progress_rate = order.progress_start, order.progress_rate
        self._after, self._valid_until = order.after, order.valid_until
        self._draining = self._draining or order.drain
        if order.evaluate and self._work.steps:
            # These parameters are no version's any more. The coordinator asks again with its next version.
            self._bus.emit({"kind": "note", "note": f"version {order.version} is not evaluated here: it has been trained on"})
        elif order.evaluate:
            self._evaluate(version=order.version)

    def _settle(self, acks: list[dict[str, Any]]) -> None:
        """Learn what became of earlier cuts. Refused work leaves the parameters; in solo accepted work needs nothing."""
        for a in acks:
            generation, cut = a["generation"], a["cut"]
            if cut == 0:  # so garbled that the coordinator could not tell: it was the last answer
                generation, cut = self.generation, self._said
            refused = not a["accepted"]
            earlier = self._outbox.header(generation, cut) if refused and generation != self.generation else None
            self._outbox.acknowledged(generation, cut)
            record = earlier if generation != self.generation else self._travelling.pop(cut, None)
            sent = self._open.pop(cut, None) if generation == self.generation else None
            if not refused:
                continue
            if sent is not None:
                self._trainer.correct(sent, -1.0)
            if record is not None:
                # No ledger will know of this work; the inner state does, and a replay must.
                self._note("shed", sent is not None, record.replayable())

    def _note(self, what: str, *values: Any) -> None:
        """Where parameters, inner state and progress come from: an entry of the lineage, with the step that it precedes."""
        self._lineage.append([self._work.steps, what, *values])

    def _load_inner(self, order: RoundOrder, envelope: Envelope) -> None:
        state = None
        try:
            if order.inner == "sent":
                self._trainer.load_inner(envelope.blobs["inner"])
                self._note("inner", "sent", *order.inner_from)
                return
            if order.inner == "own":
                state = self._outbox.inner() if self._steps == 0 else None
                if state is not None:
                    self._trainer.load_inner(state.data)
                    self._note("inner", "own", state.generation, state.steps)
                return
        except DataError as e:
            self._bus.emit({"kind": "note", "note": f"{order.inner} inner state refused, reset: {e}"})
        # Version 0 has nothing to warm up from: a new optimizer is already as reset as can be.
        if order.version > 0:
            self._trainer.reset_inner()
            self._note("inner", "reset")

    # -- steps -----------------------------------------------------------------------------------------------

    def _now(self) -> float:
        """Run time as this site may use it: the calendar, or what a gated clock has granted."""
        if self._order is not None and self._order.gated:
            granted = finite((self._bus.get("clock") or {}).get("granted"))
            return -math.inf if granted is None else granted
        return self._calendar()

    def _cut_at(self) -> float:
        assert self._order is not None
        return min(self._order.cut_at, self._cut_by.get(self._order.round, math.inf))

    def _allowed(self) -> int:
        """Blocks that a gated clock still allows now, under the present order; those of a step on a calendar."""
        order = self._order
        if order is None or not order.gated:
            return self._step_blocks
        t = min(self._now(), self._cut_at())
        if t == -math.inf:
            return 0
        owed = order.tokens_per_s * (t - order.begins_at) / self._tokens_per_block
        return math.floor(owed + 1e-9) - order.blocks_before - self._since_order

    def _may_step(self) -> bool:
        """Whether a gated clock allows a whole step, or the last one of the leases, now."""
        return self._allowed() >= min(self._step_blocks, self._leases.left(self._step_blocks))

    def _should_cut(self) -> bool:
        if self._draining or not self._leases:
            return True
        if self._now() >= self._valid_until:
            return True
        return self._now() >= self._cut_at() and (not self._order or not self._order.gated or not self._may_step())

    def _step_if_allowed(self) -> bool:
        if not self._leases or not self._may_step():
            self._report(self._now())
            return False
        begun = clock.monotonic()
        w = self._work
        taken = self._leases.take(self._step_blocks)
        blocks = [b for s in taken for b in range(s.at, s.end)]
        tokens = self._tokens_per_block * len(blocks)
        if len(blocks) != self._size_noted:
            self._size_noted = len(blocks)
            self._note("size", len(blocks))
        self._trained.at(blocks[0], len(blocks))
        loss = self._trainer.step(blocks, self._schedule_progress())
        skipped = self._trainer.skipped
        if not skipped and not math.isfinite(loss):
            # Said before the step is noted as done (as what a trainer raises is): it is these blocks at which this life ends.
            raise DataError(f"the loss is {loss} at step {w.steps + 1} since the last cut; lower train.lr_scale")
        self._trained.at(None)
        self._since_order += len(blocks)
        self._steps += 1
        self._tokens += 0 if skipped else tokens
        self._trained.write(self._tokens)
        faults.reach("mid-step")
        w.use(taken, skipped=bool(skipped))
        if skipped:
            w.skip(clock.monotonic() - begun)
            self._bus.emit({"kind": "note", "note": f"a step was skipped: {skipped}"})
            return True
        w.add(tokens, loss, clock.monotonic() - begun)
        order = self._order
        t_run = (
            order.begins_at + (order.blocks_before + self._since_order) * self._tokens_per_block / order.tokens_per_s
            if order and order.gated
            else self._calendar()
        )
        rate = tokens / max(1e-9, clock.monotonic() - begun)
        self._bus.emit(
            {
                "kind": "step",
                "loss": loss,
                "tokens": round(self._progress),
                "t_run": t_run,
                "version": self._base,
                "rate": round(rate),
            }
        )
        if not self._leases or not self._may_step():
            self._report(self._now())
        if clock.monotonic() - self._saved_at >= self._snapshot_s:
            self._take_snapshot()
        return True

    def _schedule_progress(self) -> float:
        """Committed tokens plus what the fleet is expected to have in flight; never falls at one site."""
        self._progress = self._reached()
        return self._progress

    def _reached(self) -> float:
        """Progress after the last step, which is the one at which the next would be taken."""
        return max(self._progress, self._progress_at_cut + self._progress_rate * self._work.tokens)

    def _report(self, t: float) -> None:
        """Tell a gated clock how far this site has come."""
        order = self._order
        if order is None or not order.gated or t == -math.inf:
            return
        key = (order.round, t, not self._leases)
        if key != self._reported:
            self._reported = key
            self._bus.set("progress", {"round": order.round, "covered": t, "exhausted": not self._leases})

    # -- cuts ------------------------------------------------------------------------------------------------

    def _answer(self, envelope: Envelope) -> None:
        self._mailbox.answer(self._message, envelope)
        self._message = ""

    def _make_cut(self) -> None:
        order, worked = self._order, bool(self._work.steps)
        self._order = None
        contribution = self._keep_cut(late=not self._message, order=order)
        if self._message:
            late = self._outbox.take_late()
            self._said = self._cut
            self._answer(Envelope(contribution.header, {**contribution.blobs, **late}))
        if not self._draining and order is not None and order.after == "continue" and worked and not order.gated:
            self._evaluate(cut=self._cut)

    def _keep_cut(self, *, late: bool, order: RoundOrder | None = None) -> Envelope:
        """Freeze the work since the last cut as a contribution, and begin anew. Without work it is an empty one."""
        self._still_here()
        try:
            self._background.wait()
        except OSError as e:
            if not self._work.steps:
                raise
            self._bus.emit({"kind": "note", "note": f"a snapshot could not be written, its work is cut instead: {e}"})
        self._still_here()  # each of what follows may take as long as a heartbeat may
        self._cut += 1
        w = self._work
        header = self._header(drained=self._draining, order=order)
        blobs: dict[str, bytes] = {}
        if w.steps:
            delta = self._trainer.cut()
            blobs["delta"] = encode(delta, header.codec)
        if self._draining and self._steps:
            blobs["inner"] = self._trainer.inner()
        self._still_here()
        contribution = Envelope(header.header(), blobs)
        if w.steps:
            self._outbox.save(
                self.generation, self._cut, contribution, self._inner_state(self._trainer.inner(exact=True)), late=late
            )
            self._open[self._cut] = delta
            self._travelling[self._cut] = header
            self._lineage.clear()
            self._size_noted = 0
        self._saved_at = clock.monotonic()
        self._work = OpenWork()
        self._uncut_said = 0
        # The schedule goes on from what this cut will have added.
        self._progress_at_cut += self._progress_rate * w.tokens
        self._note("order", self._progress_at_cut, self._progress_rate)
        return contribution

    def _header(self, *, drained: bool, order: RoundOrder | None) -> ContributionHeader:
        w = self._work
        codec = order.codec if order else "fp32"
        return ContributionHeader(
            site=self.site, generation=self.generation, cut=self._cut, round=order.round if order else 0,
            base_version=self._base, tokens=w.tokens, consumed=list(w.consumed), codec=codec,
            inner_tokens=self._reached(), metrics=w.metrics(), drained=drained, fence=self._fence,
            lineage=[list(op) for op in self._lineage], first_step=self._steps - w.steps, last_step=self._steps,
        )  # fmt: skip

    def _evaluate(self, *, version: int | None = None, cut: int | None = None) -> None:
        faults.reach("during-evaluation")
        result = self._trainer.evaluate()
        self._bus.emit({
            "kind": "eval", "version": version, "cut": cut,
            "val_bpb": result.bits_per_byte, "val_nats_per_byte": result.nats_per_byte, "sample": self._trainer.sample(),
        })  # fmt: skip

    # -- what survives ---------------------------------------------------------------------------------------

    def _take_snapshot(self) -> None:
        """Keep the work since the last cut as if it were cut now, and the inner state: a crash loses at most this."""
        self._saved_at = clock.monotonic()
        self._mind_the_snapshot(self._background.wait)  # what the trainer holds for the last one is used for this one
        later = self._trainer.snapshot()
        self._cut += 1  # the number that the next cut will have
        header = self._header(drained=False, order=None).header()
        self._cut -= 1
        about = self._inner_state(b"")

        def write() -> None:
            delta, inner = later()
            self._outbox.snapshot(Envelope(header, {"delta": encode(delta, "fp32")}), replace(about, data=inner))

        self._background.begin(write)

    def _mind_the_snapshot(self, ask: Callable[[], None]) -> None:
        """Look at, or wait for, the snapshot under way. If it could not be written the site ends, its work in a cut."""
        try:
            ask()
        except OSError:
            # A cut holds all that the snapshot would have, and may still fit; if not, this raises.
            self.park("a snapshot could not be written")
            raise

    def _inner_state(self, data: bytes) -> InnerState:
        return InnerState(data, self._reached(), self.generation, self._steps)
