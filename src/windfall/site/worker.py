"""A site's end of the federation: orders in, steps, cuts, contributions out. It drives a long-lived trainer.

``pump`` does one unit of work and returns, so that a process can call it forever and a test can call it step by step.
What a site has trained is in its outbox (or its snapshot) on disk before anybody else hears of it, and stays there
until the coordinator says what became of it.

A site that overlaps trains on past its cut, under the same order and lease. The next order, which brings the version that
the cut became part of, is prepared beside the steps and taken in at a step boundary.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from windfall import clock, faults
from windfall.errors import DataError, Refused
from windfall.site.contact import Contact
from windfall.site.cuts import Frozen
from windfall.site.held import HeldVersion, Prepared
from windfall.site.inner import Inner
from windfall.site.leases import Leases, OpenWork, Segment
from windfall.site.liveness import BEAT_S, Liveness
from windfall.site.outbox import InnerState, Outbox, TrainedTokens
from windfall.site.pace import Pace
from windfall.site.parameters import OpenCut, Parameters
from windfall.site.power_cap import PowerCap
from windfall.store.background import Background
from windfall.store.bus import SiteBus
from windfall.store.files import Envelope
from windfall.wire.fields import Fields, finite, is_count
from windfall.wire.messages import PROTOCOL, ContributionHeader, Greeting, RoundOrder, inner_goes_along, refusal
from windfall.wire.transport import Mailbox

if TYPE_CHECKING:  # torch takes a while to import, and only a trainer needs it
    from windfall.train.trainer import Trainer

log = logging.getLogger("windfall")


@dataclass
class _Arrived:
    """An order that has come and does not count yet."""

    order: RoundOrder
    envelope: Envelope
    #: The version that it brings, once it is there; None: the one that is held.
    version: Prepared | None = None
    #: Why it cannot be had of what came.
    damaged: str = ""


class SiteWorker:
    """One generation of one site."""

    def __init__(
        self, *, site: str, generation: int, trainer: Trainer, mailbox: Mailbox, bus: SiteBus, folder: Path,
        snapshot_s: float, dead_man_s: float, calendar: Callable[[], float] = clock.wall,
        link: Callable[[], float] = lambda: -math.inf, own_window: Callable[[float], bool] | None = None,
        executor: Executor | None = None, liveness: Liveness | None = None, power: PowerCap | None = None,
    ) -> None:  # fmt: skip
        """``link`` says when (monotonic) the SuperLink was last reached; ``own_window`` whether the site's own signal
        says that its region is in a window at a run time. ``executor`` works cuts, snapshots and versions out and writes them
        while training goes on. ``liveness`` gives its signs of life; without one they come from ``pump`` itself.
        ``power`` holds its GPUs to the power of its level."""
        self.site = site
        self.generation = generation
        self._trainer = trainer
        self._mailbox = mailbox
        self._bus = bus
        self.liveness = liveness or Liveness(bus, folder, first_s=math.inf, least_s=math.inf)
        trainer.alive = self.liveness.part
        self._outbox = Outbox(folder)
        self._held = HeldVersion(folder)
        self._parameters = Parameters(trainer, self._held, self._outbox, generation, self._note)
        self._inner = Inner(trainer, self._outbox, generation, self._note, self._tell)
        #: Works on the outbox and on versions; everything else that uses them waits until it is idle.
        self._background = Background(executor)
        #: What is to be done once what is written in the background is written.
        self._when_written: Callable[[], None] | None = None
        self._trained = TrainedTokens(folder / "trained", generation)
        self._snapshot_s = snapshot_s
        self.contact = Contact(clock.monotonic(), dead_man_s, link=link, own_window=own_window)
        self._calendar = calendar
        self._power = power
        self._power_trouble = ""
        self._fence = 0
        self._cut = 0
        self._arrived: _Arrived | None = None
        #: Round and fence of the newest order that has been read.
        self._seen = (0, 0)
        #: The message to answer at the cut, if somebody still waits for it.
        self._message = ""
        self._leases = Leases()
        self._work = OpenWork()
        self._said = 0  # the cut that the last answer carried
        self._tokens_per_block = trainer.tokens_per_step // trainer.blocks_per_step
        self._pace = Pace(
            self._leases, tokens_per_block=self._tokens_per_block, step_blocks=trainer.blocks_per_step, calendar=calendar,
            granted=lambda: (bus.get("clock") or {}).get("granted"),
            coming=lambda: self._arrived.order if self._arrived is not None else None,
        )  # fmt: skip
        #: Blocks of a step, as the lineage of the next cut has it.
        self._size_noted = 0
        self._uncut_said = 0
        self._steps = 0
        self._tokens = 0
        self._lineage: list[list[Any]] = []
        self._progress_at_cut = 0.0
        self._progress_rate = 1.0
        self._progress = 0.0
        #: Round and fence of the cut that a site which joins is to have the inner state of.
        self._inner_for = (0, 0)
        #: Since when (monotonic) it has leave to train and has taken no step.
        self._no_step_since: float | None = None
        self._draining = False
        self._listened_at = -math.inf
        self._saved_at = clock.monotonic()
        self._reported: tuple[Any, ...] = ()
        #: Why the site has stopped by itself; empty while it has not.
        self.parked = ""

    @property
    def draining(self) -> bool:
        """Whether it hands in what it has, and trains on nothing more."""
        return self._draining

    def leave(self) -> None:
        """Hand in what it has, and train on nothing more."""
        self._draining = True

    @property
    def idle(self) -> bool:
        """Whether everything that it was asked for is done."""
        cut = self._pace.order is None or self._pace.cut_made
        return cut and not self._message and self._arrived is None and self._background.idle and self._when_written is None

    # -- one unit of work ------------------------------------------------------------------------------------

    def pump(self) -> bool:
        """Do one thing; False if there was nothing to do."""
        with self.liveness.doing("", quick=True):
            return self._pump()

    def _pump(self) -> bool:
        self._mind_what_is_written(self._background.look)
        self._listen()
        if self._background.idle:
            self._written()
            taken = self._mailbox.take()
            if taken:
                self.contact.message(clock.monotonic())
                with self.liveness.doing("a message", quick=True):
                    self._on_message(*taken)
                return True
            if self._arrived is not None and self._may_take_in():
                with self.liveness.doing("taking a version in", quick=True):
                    self._take_in(self._arrived)
                return True
        if self._pace.order is not None and not self._pace.cut_made:
            if self._should_cut() and not self._cut_waits():
                with self.liveness.doing("a cut", quick=True):
                    self._make_cut()
                return True
            return self._step_if_allowed()
        if self._arrived is not None and self._pace.order is None:
            return False  # nothing to train on before it is taken in
        if self._pace.may_go_on() and not self._draining:
            return self._step_if_allowed()
        return False

    def _listen(self) -> None:
        now = clock.monotonic()
        if now - self._listened_at >= BEAT_S:
            self._listened_at = now
            self.liveness.at(self._leases.at if self._leases else None)
            self._mind_the_coordinator(now)
        self.liveness.beat()
        for c in self._bus.commands():
            try:
                self._obey(Fields(c))
            except Refused as e:
                self._tell(f"a command on the bus is malformed and left alone: {e}")

    def _obey(self, command: Fields) -> None:
        """Do what a command says. Raises Refused if it is malformed; one of an unknown kind is a newer coordinator's."""
        kind = command.word("kind")
        if kind == "drain":
            self._draining = True
        elif kind == "cut":
            number, at, fence = command.count("round"), command.number("at"), command.count("fence")
            inner = command.flag("inner", False)
            if fence == self._fence:  # else an earlier coordinator's, whose rounds have the same numbers
                self._pace.bring_forward(number, at)
                self._inner_for = (number, fence) if inner else (0, 0)

    def _mind_the_coordinator(self, now: float) -> None:
        said = self._bus.get("clock") or {}
        self.contact.beat(now, said.get("beat"))
        self._hold_power(said)
        fence = said.get("fence")
        if is_count(fence) and fence > self._fence and self._message:
            # A new coordinator: whoever sent this message is gone, and the SuperNode can carry no other one before it
            # has been answered. The order stays in force until the new one speaks.
            self._answer(Envelope({"kind": "void"}))
        if not self.parked and (why := self.contact.lost(now, self._calendar)):
            self.park(why)

    def _hold_power(self, said: Mapping[str, Any]) -> None:
        """Take at most what the site's level is, as the coordinator last said."""
        if self._power is None or "gpu_power_w" not in said:
            return
        watts = finite(said["gpu_power_w"])
        why = self._power.hold(watts if watts is not None and watts > 0 else None)
        if why != self._power_trouble:
            self._power_trouble = why
            if why:
                self._bus.emit({"kind": "power_trouble", "reason": why})

    def park(self, why: str) -> None:
        """Cut, keep the work in the outbox, and take no further step."""
        self._draining = True
        with self.liveness.doing("a cut", quick=True):
            if self._work.steps:
                self._make_cut()
            self._background.wait()
            self._written()
        self.parked = why

    # -- messages --------------------------------------------------------------------------------------------

    def _on_message(self, message_id: str, envelope: Envelope) -> None:
        try:
            message = self._read(envelope)
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
        # So is that of an order which has come and was not taken in: what it said will be said again.
        self._arrived = None
        self._fence = message.fence
        if isinstance(message, Greeting):
            self._on_hello(message_id)
            return
        self._seen = message.round, message.fence
        if self.parked:
            # It takes no order any more; its work is offered by its next life.
            self._mailbox.answer(message_id, Envelope({"kind": "void"}))
            return
        self._message = message_id
        self._prepare(_Arrived(message, envelope))

    def _read(self, envelope: Envelope) -> Greeting | RoundOrder:
        """What a message says. Raises Refused if it cannot be read."""
        kind = envelope.header.get("kind")
        if kind == "hello":
            return Greeting.parse(envelope.header)
        if kind != "round":
            raise Refused(f"unknown message {str(kind)[:40]!r}")
        order = RoundOrder.parse(envelope.header, envelope.blobs)
        asks_for_work = bool(order.leases) or order.evaluate  # else only what it has is asked for
        if order.model == "none" and asks_for_work and self._held.number != order.version:
            raise Refused(f"it holds version {self._held.number}, and the message means version {order.version}")
        if order.model == "chain" and self._held.number != order.version - len(order.chain):
            raise Refused(f"it holds version {self._held.number}, from which {len(order.chain)} do not lead to {order.version}")
        return order

    def _on_hello(self, message_id: str) -> None:
        order = None if self._pace.cut_made else self._pace.order
        self._uncut_said = self._work.blocks
        header = {
            "kind": "hello", "protocol": PROTOCOL, "site": self.site, "generation": self.generation,
            "manifest": self._trainer.manifest, "inner_tokens": self._outbox.inner_tokens(), "cut": self._cut,
            # Where it stands, for a coordinator that did not send it there.
            "base": self._held.number, "base_sha256": self._held.sha256, "uncut_blocks": self._work.blocks,
            "round": order.round if order else 0, "order_fence": order.fence if order else 0,
            "seen_round": self._seen[0], "seen_fence": self._seen[1],
            # The block at which its last life ended in the middle of a step, if its disk still knows.
            "broke_at": self._trained.broke_at, "broke_blocks": self._trained.broke_blocks, "remembers": self._trained.remembers,
        }  # fmt: skip
        self._mailbox.answer(message_id, Envelope.of(header, self._outbox.all()))

    # -- orders ----------------------------------------------------------------------------------------------

    def _prepare(self, arrived: _Arrived) -> None:
        """Make the version that an order brings from what came with it, beside the steps."""
        self._arrived = arrived
        order, envelope = arrived.order, arrived.envelope
        if order.model == "none":
            return

        def make() -> None:
            try:
                arrived.version = self._parameters.prepare(order, envelope)
            except (DataError, Refused) as e:
                arrived.damaged = str(e)

        self._background.begin(make)

    def _may_take_in(self) -> bool:
        """Whether an order that has come counts from now on: at the first step boundary at or after its ``apply_at``."""
        assert self._arrived is not None
        order = self._arrived.order
        if not order.gated or not self._pace.cut_made or self._draining or not self._pace.may_go_on():
            return True
        return self._pace.now() >= order.apply_at and not self._pace.may_step()

    def _take_in(self, arrived: _Arrived) -> None:
        """An order counts from now on, and the version that it brings is the one that parameters are built on."""
        order, self._arrived = arrived.order, None
        if self._no_step_since is None and order.leases:
            self._no_step_since = clock.monotonic()
        if arrived.damaged:
            # Whatever is wrong, with a whole model it can be made good: the coordinator asks how things stand, and sends one.
            self._held.forget()
            why = f"{self.site} cannot make version {order.version} of what was sent: {arrived.damaged}"
            self._answer(Envelope(refusal(self.site, self.generation, why)))
            log.warning("%s", why)
            return
        self._parameters.take_in(order, arrived.version, self._said)
        self._inner.take_up(order, arrived.envelope, first=self._steps == 0)
        if arrived.version is not None and not order.gated:
            self._bus.emit({"kind": "took_in", "version": order.version})
        self._note("order", order.progress_start, order.progress_rate)
        # Work since the last cut, and cuts nobody has acknowledged, lie in these leases too: what they used is used.
        gone = [*self._work.consumed, *self._parameters.used()]
        self._leases.replace([Segment(x["epoch"], x["start"], x["end"]) for x in order.leases], gone)
        # Blocks between a hello, or a cut, and this order are blocks under this order: it counts those before.
        self._pace.begin(order, max(0, self._work.blocks - self._uncut_said))
        self._progress_at_cut, self._progress_rate = order.progress_start, order.progress_rate
        self._draining = self._draining or order.drain
        if order.evaluate:
            self._evaluate(order.version)

    def _tell(self, note: str) -> None:
        """Let people hear of something."""
        self._bus.emit({"kind": "note", "note": note})

    def _note(self, what: str, *values: Any) -> None:
        """Where parameters, inner state and progress come from: an entry of the lineage, with the step that it precedes."""
        self._lineage.append([self._work.steps, what, *values])

    # -- steps -----------------------------------------------------------------------------------------------

    def _should_cut(self) -> bool:
        return self._draining or self._pace.cut_is_due()

    def _cut_waits(self) -> bool:
        """Whether to train on past the cut, because a snapshot is being written. On a calendar a cut may be a little late."""
        return not (self._background.idle or self._draining) and self._pace.may_cut_late()

    def _step_if_allowed(self) -> bool:
        if not self._pace.may_step():
            self._report()
            return False
        begun = clock.monotonic()
        w = self._work
        if self._no_step_since is not None and not (self._pace.order is not None and self._pace.order.gated):
            w.stall_seconds += begun - self._no_step_since
        taken = self._leases.take(self._pace.step_blocks)
        blocks = [b for s in taken for b in range(s.at, s.end)]
        tokens = self._tokens_per_block * len(blocks)
        if len(blocks) != self._size_noted:
            self._size_noted = len(blocks)
            self._note("size", len(blocks))
        self._trained.at(blocks[0], len(blocks))
        with self.liveness.doing("a step"):
            loss = self._trainer.step(blocks, self._schedule_progress())
        skipped = self._trainer.skipped
        if not skipped and not math.isfinite(loss):
            # The blocks are recorded as those of an unfinished step, so that the next life knows where this one ended.
            raise DataError(f"the loss is {loss} at step {w.steps + 1} since the last cut; lower train.lr_scale")
        self._trained.at(None)
        self._pace.stepped(len(blocks))
        self._steps += 1
        self._tokens += 0 if skipped else tokens
        self._trained.write(self._tokens)
        faults.reach("mid-step")
        self._no_step_since = clock.monotonic()
        w.use(taken, skipped=bool(skipped))
        if skipped:
            w.skip(clock.monotonic() - begun)
            self._tell(f"a step was skipped: {skipped}")
            return True
        self._inner.step()
        w.add(tokens, loss, clock.monotonic() - begun)
        rate = tokens / max(1e-9, clock.monotonic() - begun)
        said = {
            "loss": loss,
            "tokens": round(self._progress),
            "t_run": self._pace.at(),
            "version": self._held.number or 0,
            "rate": round(rate),
        }
        self._bus.emit({"kind": "step", **said})
        if not self._pace.may_step():
            self._report()
        # Not right before a cut, which has all that a snapshot would have and would wait for it.
        due = clock.monotonic() - self._saved_at >= self._snapshot_s and self._background.idle
        if due and not (not self._pace.cut_made and self._should_cut()):
            with self.liveness.doing("a snapshot", quick=True):
                self._take_snapshot()
        return True

    def _schedule_progress(self) -> float:
        """Committed tokens plus what the fleet is expected to have in flight; never falls at one site."""
        self._progress = self._reached()
        return self._progress

    def _reached(self) -> float:
        """Progress after the last step, which is the one at which the next would be taken."""
        return max(self._progress, self._progress_at_cut + self._progress_rate * self._work.tokens)

    def _report(self) -> None:
        """Tell a gated clock how far this site has come."""
        covered = self._pace.covered()
        if covered is None:
            return
        key = (*covered, not self._leases)
        if key != self._reported:
            self._reported = key
            exhausted = not self._leases and not self._pace.cut_made
            self._bus.set("progress", {"round": covered[0], "covered": covered[1], "exhausted": exhausted})

    # -- cuts ------------------------------------------------------------------------------------------------

    def _answer(self, envelope: Envelope) -> None:
        self._mailbox.answer(self._message, envelope)
        self._message = ""

    def _make_cut(self) -> None:
        """Freeze the work since the last cut (which may be none), and begin anew. It is handed in when it has been written."""
        try:
            self._background.wait()
        except OSError as e:
            if not self._work.steps or self._when_written is not None:
                raise  # the cut before is not in the outbox, and this one would hand in its movement without its blocks
            self._tell(f"a snapshot could not be written, its work is cut instead: {e}")
        self._written()
        message = self._message
        self._pace.cut_made = True
        self._cut += 1
        # A large inner state must not keep the work waiting that it goes with: the coordinator asks for it after that.
        small = inner_goes_along(self._parameters.count)
        work_first = bool(self._work.steps) and bool(message) and not small
        header = self._header(drained=self._draining and not work_first)
        kept: dict[str, bytes] = {}
        more: dict[str, bytes] = {}
        order = self._pace.order
        asked = order is not None and self._inner_for == (order.round, order.fence) and small and bool(self._work.steps)
        if order is not None and order.average and self._work.steps and not (self._draining and work_first):
            # Kept with the work, so that it is a part of the mean whichever way the work comes.
            kept["inner"] = self._inner.for_the_mean(self._cut)
        elif (self._draining and not work_first and self._steps) or (asked and message):
            more["inner"] = self._trainer.inner()
        answer: list[Envelope] = []
        if self._work.steps:
            frozen = self._freeze(header)
            self._parameters.open[self._cut] = OpenCut(header)
            self._lineage.clear()
            self._size_noted = 0
            self._background.begin(lambda: answer.append(frozen.write(self._outbox, late=not message, kept=kept, more=more)))
        else:
            answer.append(Envelope.of(header.header(), more))
        self._saved_at = clock.monotonic()
        # The schedule goes on from what this cut will have added.
        self._progress_at_cut += self._progress_rate * self._work.tokens
        self._work = OpenWork()
        self._uncut_said = 0
        self._note("order", self._progress_at_cut, self._progress_rate)
        cut = self._cut

        def hand_in() -> None:
            if cut in self._parameters.open:
                self._parameters.open[cut].sent = answer[0].blob("delta")
            if message and message == self._message:
                self._said = cut
                late = self._outbox.take_late()
                self._answer(Envelope.of(answer[0].header, {**answer[0].all_blobs(), **late}))

        self._when_written = hand_in
        if self._background.idle:
            self._background.wait()
            self._written()

    def _written(self) -> None:
        """Do what was put off until the background's work was done."""
        what, self._when_written = self._when_written, None
        if what is not None:
            what()

    def _freeze(self, header: ContributionHeader) -> Frozen:
        on_its_way = self._parameters.on_its_way()
        return Frozen(header, self._trainer.snapshot(), self._held.tensors, on_its_way, self._inner_state(b""))

    def _header(self, *, drained: bool, codec: str | None = None) -> ContributionHeader:
        w, order = self._work, self._pace.order
        return ContributionHeader(
            site=self.site, generation=self.generation, cut=self._cut, round=order.round if order else 0,
            base_version=self._held.number or 0, tokens=w.tokens, consumed=list(w.consumed),
            codec=codec or (order.codec if order else "fp32"), inner_tokens=self._reached(),
            metrics=w.metrics(stalls=order is None or not order.gated),
            drained=drained,
            fence=self._fence, lineage=[list(op) for op in self._lineage], first_step=self._steps - w.steps, last_step=self._steps,
        )  # fmt: skip

    def _evaluate(self, version: int) -> None:
        """Evaluate the version held, which is the parameters only where nothing has been trained on them since."""
        faults.reach("during-evaluation")
        with self.liveness.doing("an evaluation"):
            begun = clock.monotonic()
            own = None if not self._work.steps and self._parameters.are_the_version else self._trainer.weights()
            if own is not None:
                self._trainer.load(self._held.tensors)
            result, sample = self._trainer.evaluate(), self._trainer.sample()
            if own is not None:
                self._trainer.load(own)
        took = clock.monotonic() - begun
        self._work.evaluation_seconds += took
        if self._no_step_since is not None:
            self._no_step_since += took
        self._bus.emit({
            "kind": "eval", "version": version, "val_bpb": result.bits_per_byte, "val_nats_per_byte": result.nats_per_byte,
            "sample": sample, "seconds": round(took, 3),
        })  # fmt: skip

    # -- what survives ---------------------------------------------------------------------------------------

    def _take_snapshot(self) -> None:
        """Keep the work since the last cut as if it were cut now, and the inner state: a crash loses at most this."""
        self._saved_at = clock.monotonic()
        self._mind_what_is_written(self._background.wait)  # what the trainer holds for the last one is used for this one
        self._written()  # else a cut that has just been worked out would count as work since the cut
        self._cut += 1  # the number that the next cut will have
        frozen = self._freeze(self._header(drained=False, codec="fp32"))
        self._cut -= 1
        self._background.begin(lambda: frozen.snapshot(self._outbox))

    def _mind_what_is_written(self, ask: Callable[[], None]) -> None:
        """Look at, or wait for, what is written in the background. If it could not be, the site ends.

        Its work is in a cut then. Where it is a cut that could not be written, its last snapshot is what is left.
        """
        try:
            ask()
        except OSError:
            if self._when_written is None:
                # A cut holds all that a snapshot would have, and may still fit; if not, this raises.
                self.park("what it keeps could not be written")
            raise

    def _inner_state(self, data: bytes) -> InnerState:
        return InnerState(data, self._reached(), self.generation, self._steps)
