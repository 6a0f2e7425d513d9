"""A site's side of the federation: orders in, steps, cuts, contributions out. It drives a long-lived trainer.

``pump`` does one unit of work and returns, so that a process can call it forever and a test can call it step by step.
What a site has trained is in its outbox (or its snapshot) on disk before anybody else hears of it, and stays there
until the coordinator says what became of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from windfall import clock
from windfall.errors import DataError, WindfallError
from windfall.federation.codec import encode
from windfall.federation.messages import PROTOCOL, ContributionHeader, RoundOrder
from windfall.federation.transport import Mailbox
from windfall.store.bus import SiteBus
from windfall.store.files import Envelope, read_json, write_json
from windfall.store.records import Consumed
from windfall.store.tensors import Tensors, from_bytes
from windfall.train.trainer import Trainer


@dataclass
class Segment:
    """What is left of a lease: blocks ``[at, end)`` under ``epoch``."""

    epoch: int
    at: int
    end: int


@dataclass
class _Work:
    """What has been trained since the last cut."""

    consumed: list[Consumed] = field(default_factory=list)
    steps: int = 0
    loss_sum: float = 0.0
    last_loss: float = 0.0
    seconds: float = 0.0


class SiteWorker:
    """One generation of one site."""

    def __init__(
        self, *, site: str, generation: int, trainer: Trainer, mailbox: Mailbox, bus: SiteBus, folder: Path,
        snapshot_s: float, dead_man_s: float, calendar: Callable[[], float] = clock.wall,
    ) -> None:  # fmt: skip
        self.site = site
        self.generation = generation
        self._trainer = trainer
        self._mailbox = mailbox
        self._bus = bus
        self._outbox = folder / "outbox"
        self._outbox.mkdir(parents=True, exist_ok=True)
        self._snapshot = folder / "snapshot.env"
        self._state = folder / "inner.json"
        self._inner = folder / "inner.safetensors"
        self._snapshot_s = snapshot_s
        self._dead_man_s = dead_man_s
        self._calendar = calendar
        self._fence = 0
        self._cut = 0
        self._base = 0
        self._order: RoundOrder | None = None
        self._message = ""
        self._leases: list[Segment] = []
        self._work = _Work()
        self._open: dict[int, Tensors] = {}  # cut -> what was sent and is not yet acknowledged
        self._since_order = 0
        self._progress_at_cut = 0.0
        self._progress_rate = 1.0
        self._progress = 0.0
        self._cut_by: dict[int, float] = {}
        self._draining = False
        self._beat = 0
        self._beat_at = -math.inf
        self._heard: tuple[Any, float] = (None, clock.monotonic())
        self._saved_at = clock.monotonic()
        self._reported: tuple[Any, ...] = ()
        #: The coordinator has been silent for too long: the site has parked itself.
        self.parked = False
        self._keep_snapshot()

    # -- one unit of work ------------------------------------------------------------------------------------

    def pump(self) -> bool:
        """Do one thing; False if there was nothing to do."""
        self._listen()
        taken = self._mailbox.take()
        if taken:
            self._on_message(*taken)
            return True
        if self._order is not None:
            if self._should_cut():
                self._make_cut(answer=True)
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
        if now - self._beat_at >= 1.0:
            self._beat_at = now
            self._beat += 1
            beat: dict[str, Any] = {"n": self._beat}
            if self._leases:
                beat["block"] = self._leases[0].at
            self._bus.set("heartbeat", beat)
            self._mind_the_coordinator(now)
        for c in self._bus.commands():
            if c.get("kind") == "drain":
                self._draining = True
            elif c.get("kind") == "cut":
                self._cut_by[int(c["round"])] = float(c["at"])

    def _mind_the_coordinator(self, now: float) -> None:
        beat = (self._bus.get("clock") or {}).get("beat")
        if beat != self._heard[0]:
            self._heard = (beat, now)
        elif now - self._heard[1] > self._dead_man_s and not self.parked:
            # Invariant 4: nobody can tell this site to stop any more, so it stops by itself, its work kept.
            self._draining = True
            if self._work.steps:
                self._make_cut(answer=self._order is not None)
            self._save_inner()
            self.parked = True

    # -- messages --------------------------------------------------------------------------------------------

    def _on_message(self, message_id: str, envelope: Envelope) -> None:
        kind = envelope.header.get("kind")
        if int(envelope.header.get("fence", 0)) < self._fence:
            self._mailbox.answer(message_id, Envelope({"kind": "error", "error": "order of an older coordinator"}))
            return
        self._fence = int(envelope.header.get("fence", 0))
        if kind == "hello":
            self._on_hello(message_id)
            return
        try:
            self._on_order(message_id, envelope)
        except WindfallError as e:
            self._mailbox.answer(message_id, Envelope({"kind": "error", "error": str(e)}))
            self._bus.emit({"kind": "fatal", "reason": str(e)})

    def _on_hello(self, message_id: str) -> None:
        blobs = {file.name: file.read_bytes() for file in sorted(self._outbox.glob("*.env"))}
        state = read_json(self._state) or {}
        header = {
            "kind": "hello", "protocol": PROTOCOL, "site": self.site, "generation": self.generation,
            "manifest": self._trainer.manifest, "inner_tokens": float(state.get("tokens", -1)) if self._inner.is_file() else -1.0,
        }  # fmt: skip
        self._mailbox.answer(message_id, Envelope(header, blobs))

    def _on_order(self, message_id: str, envelope: Envelope) -> None:
        fields = {k: v for k, v in envelope.header.items() if k not in ("protocol", "kind")}
        try:
            order = RoundOrder(**fields)
        except TypeError as e:
            raise DataError(f"the order is malformed: {e}") from None
        self._settle(order.acks)
        if order.model == "full":
            self._trainer.load(from_bytes(envelope.blobs["weights"], "weights"))
            self._open.clear()
            self._work = _Work()
        self._load_inner(order, envelope)
        self._message, self._order = message_id, order
        self._base = order.version
        # Work trained since the last cut (solo) lies in these leases too; what it used of them is used.
        used = {(c.epoch, b) for c in self._work.consumed for b in range(c.start, c.end)}
        self._leases = [s for x in order.leases for s in _without(Segment(x["epoch"], x["start"], x["end"]), used)]
        self._since_order = 0
        self._progress_at_cut, self._progress_rate = order.progress_start, order.progress_rate
        self._after, self._valid_until = order.after, order.valid_until
        self._draining = self._draining or order.drain
        if order.evaluate and not self._work.steps:
            self._evaluate(version=order.version)

    def _settle(self, acks: list[dict[str, Any]]) -> None:
        """Learn what became of earlier cuts. Refused work leaves the parameters; in solo accepted work needs nothing."""
        for a in acks:
            (self._outbox / f"{a['generation']:06d}-{a['cut']:06d}.env").unlink(missing_ok=True)
            if a["generation"] != self.generation:
                continue
            sent = self._open.pop(int(a["cut"]), None)
            if sent is not None and not a["accepted"]:
                self._trainer.correct(sent, -1.0)

    def _load_inner(self, order: RoundOrder, envelope: Envelope) -> None:
        if order.inner == "sent":
            try:
                self._trainer.load_inner(envelope.blobs["inner"])
            except DataError as e:
                self._trainer.reset_inner()
                self._bus.emit({"kind": "note", "note": f"stored inner state refused, reset: {e}"})
        elif order.inner == "reset":
            # Version 0 has nothing to warm up from: a new optimizer is already as reset as can be.
            if order.version > 0:
                self._trainer.reset_inner()
        elif self._cut == 0 and self._inner.is_file():
            try:
                self._trainer.load_inner(self._inner.read_bytes())
            except DataError as e:
                self._trainer.reset_inner()
                self._bus.emit({"kind": "note", "note": f"own inner state refused, reset: {e}"})

    # -- steps -----------------------------------------------------------------------------------------------

    def _now(self) -> float:
        """Run time as this site may use it: the calendar, or what a gated clock has granted."""
        if self._order is not None and self._order.gated:
            return float((self._bus.get("clock") or {}).get("granted", -math.inf))
        return self._calendar()

    def _cut_at(self) -> float:
        assert self._order is not None
        return min(self._order.cut_at, self._cut_by.get(self._order.round, math.inf))

    def _allowed(self) -> int:
        """Steps that a gated clock still allows now, under the present order."""
        order = self._order
        if order is None or not order.gated:
            return 1
        t = min(self._now(), self._cut_at())
        if t == -math.inf:
            return 0
        owed = order.tokens_per_s * (t - order.begins_at) / self._trainer.tokens_per_step
        return math.floor(owed + 1e-9) - order.steps_before - self._since_order

    def _should_cut(self) -> bool:
        if self._draining or not self._leases:
            return True
        if self._now() >= self._valid_until:
            return True
        return self._now() >= self._cut_at() and (not self._order or not self._order.gated or self._allowed() <= 0)

    def _step_if_allowed(self) -> bool:
        if not self._leases or self._allowed() <= 0:
            self._report(self._now())
            return False
        begun = clock.monotonic()
        blocks = self._next_blocks()
        loss = self._trainer.step(blocks, self._schedule_progress())
        tokens = self._trainer.tokens_per_step
        self._since_order += 1
        w = self._work
        w.steps += 1
        w.loss_sum += loss
        w.last_loss = loss
        w.seconds += clock.monotonic() - begun
        if not math.isfinite(loss):
            raise DataError(f"the loss is {loss} at step {w.steps} since the last cut; lower train.lr_scale")
        order = self._order
        t_run = (
            order.begins_at + (order.steps_before + self._since_order) * tokens / order.tokens_per_s
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
        if not self._leases or self._allowed() <= 0:
            self._report(self._now())
        if clock.monotonic() - self._saved_at >= self._snapshot_s:
            self._take_snapshot()
        return True

    def _next_blocks(self) -> list[int]:
        """The next blocks of the leases, one step's worth, noted as consumed."""
        blocks: list[int] = []
        while len(blocks) < self._trainer.blocks_per_step and self._leases:
            s = self._leases[0]
            take = min(self._trainer.blocks_per_step - len(blocks), s.end - s.at)
            blocks += range(s.at, s.at + take)
            last = self._work.consumed[-1] if self._work.consumed else None
            if last and last.epoch == s.epoch and last.end == s.at:
                self._work.consumed[-1] = Consumed(s.epoch, last.start, s.at + take)
            else:
                self._work.consumed.append(Consumed(s.epoch, s.at, s.at + take))
            s.at += take
            if s.at >= s.end:
                self._leases.pop(0)
        return blocks

    def _schedule_progress(self) -> float:
        """Committed tokens plus what the fleet is expected to have in flight; never falls at one site."""
        here = self._progress_at_cut + self._progress_rate * self._work.steps * self._trainer.tokens_per_step
        self._progress = max(self._progress, here)
        return self._progress

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

    def _make_cut(self, *, answer: bool) -> None:
        self._cut += 1
        w, order = self._work, self._order
        envelope = self._contribution(drained=self._draining, codec=order.codec if order else "fp32")
        if w.steps:
            envelope.save(self._outbox / f"{self.generation:06d}-{self._cut:06d}.env")
            self._open[self._cut] = self._trainer.delta()
            self._trainer.anchor()
        self._snapshot.unlink(missing_ok=True)
        self._saved_at = clock.monotonic()
        self._work = _Work()
        self._order = None
        if order is not None and answer:
            self._mailbox.answer(self._message, envelope)
        if self._draining:
            self._save_inner()
        elif order is not None and order.after == "continue" and w.steps and not order.gated:
            self._evaluate(cut=self._cut)
        # The schedule goes on from what this cut will have added.
        self._progress_at_cut += self._progress_rate * w.steps * self._trainer.tokens_per_step

    def _contribution(self, *, drained: bool, codec: str) -> Envelope:
        w = self._work
        tokens = w.steps * self._trainer.tokens_per_step
        metrics = {}
        if w.steps:
            metrics = {
                "loss_mean": w.loss_sum / w.steps, "loss_last": w.last_loss,
                "train_seconds": w.seconds, "tokens_per_s": tokens / max(w.seconds, 1e-9),
            }  # fmt: skip
        header = ContributionHeader(
            site=self.site, generation=self.generation, cut=self._cut, round=self._order.round if self._order else 0,
            base_version=self._base, tokens=tokens, consumed=list(w.consumed), codec=codec,
            inner_tokens=self._progress, metrics=metrics, drained=drained, fence=self._fence,
        )  # fmt: skip
        blobs = {"delta": encode(self._trainer.delta(), codec)} if w.steps else {}
        if drained and w.steps:
            blobs["inner"] = self._trainer.inner()
        return Envelope(header.header(), blobs)

    def _evaluate(self, *, version: int | None = None, cut: int | None = None) -> None:
        result = self._trainer.evaluate()
        self._bus.emit({
            "kind": "eval", "version": version, "cut": cut,
            "val_bpb": result.bits_per_byte, "val_nats_per_byte": result.nats_per_byte,
        })  # fmt: skip

    # -- what survives ---------------------------------------------------------------------------------------

    def _take_snapshot(self) -> None:
        """Keep the work since the last cut as if it were cut now, and the inner state: a crash loses at most this."""
        self._saved_at = clock.monotonic()
        self._cut += 1  # the number that the next cut will have
        envelope = self._contribution(drained=False, codec="fp32")
        self._cut -= 1
        envelope.save(self._snapshot)
        self._save_inner()

    def _keep_snapshot(self) -> None:
        """A snapshot that an earlier life left behind becomes a contribution to offer."""
        if not self._snapshot.is_file():
            return
        try:
            header = Envelope.load(self._snapshot).header
            name = f"{int(header['generation']):06d}-{int(header['cut']):06d}.env"
        except (DataError, KeyError, ValueError):
            self._snapshot.unlink(missing_ok=True)
            return
        if (self._outbox / name).exists():
            self._snapshot.unlink()  # the cut itself was made: it has all of this and more
        else:
            self._snapshot.rename(self._outbox / name)

    def _save_inner(self) -> None:
        temporary = self._inner.with_suffix(".tmp")
        temporary.write_bytes(self._trainer.inner())
        temporary.replace(self._inner)
        write_json(self._state, {"tokens": self._progress}, durable=True)


def _without(segment: Segment, used: set[tuple[int, int]]) -> list[Segment]:
    """A lease segment without blocks that have been used already."""
    result: list[Segment] = []
    for block in range(segment.at, segment.end):
        if (segment.epoch, block) in used:
            continue
        if result and result[-1].end == block:
            result[-1].end += 1
        else:
            result.append(Segment(segment.epoch, block, block + 1))
    return result
