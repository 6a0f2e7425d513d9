"""Bad input: each is refused with an event that says why, the site is told and sheds it, the run goes on to its end.

And what is damaged on the coordinator's own disk: the newest checkpoint, whenever it happens.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from federation.fake import CountingTrainer
from federation.harness import BATCH, BLOCK, SEQ, MakeTrainer, Run
from federation.storm import Storm
from windfall import faults
from windfall.errors import DataError, StoreError
from windfall.store.files import Envelope
from windfall.store.tensors import load_file
from windfall.train.spec import TrainerSpec
from windfall.wire.codec import decode, encode
from windfall.wire.messages import name_of
from windfall.wire.transport import Reply

STEPS = 30
BLOCKS = STEPS * BATCH // BLOCK
ALONE = {"a": [(0.0, 100_000.0)]}
PAIR = {"a": [(0.0, 100_000.0)], "b": [(0.0, 100_000.0)]}


class Watched(Run):
    """A run whose trainers and acknowledgements can be looked at afterwards."""

    def __init__(self, root: Path, data: Path, windows: dict[str, list[tuple[float, float]]], **options: Any) -> None:
        self.trainers: dict[str, CountingTrainer] = {}
        self.acks: list[tuple[str, dict[str, Any]]] = []

        def make(spec: TrainerSpec, site: str) -> CountingTrainer:
            self.trainers[site] = CountingTrainer(BLOCKS)
            return self.trainers[site]

        super().__init__(
            root, data, windows, trainer=make, **{"steps": STEPS, "calendar": True, "steps_per_min": 3, "solo_min": 4, **options}
        )
        push = self.transport.push

        def noting(node: str, envelope: Envelope) -> str:
            self.acks += [(node.split("#")[0], a) for a in envelope.header.get("acks", [])]
            return push(node, envelope)

        self.transport.push = noting  # type: ignore[method-assign]

    def idle(self) -> None:
        super().idle()
        assert self.idles < 3000, "the run makes no progress"

    def shed(self, site: str) -> list[dict[str, Any]]:
        """What a site has taken out of its parameters again, by the lineages of what it has handed in since."""
        made_of = [c for v in self.ledger.versions() for c in self.ledger.contributions(v.version) if c.site == site]
        return [op[2] for c in made_of for op in c.header["lineage"] if op[1] == "shed"]

    def refusals(self) -> list[tuple[str | None, str]]:
        """Who was refused, and why."""
        return [(site, detail["reason"]) for _, _, site, detail in self.events("refused")]


def assert_exactly_once(run: Run, blocks: int = BLOCKS) -> None:
    """Every block was committed once, counted from the contributions and not from the table of spans."""
    times = np.zeros(blocks, int)
    for v in run.ledger.versions():
        for c in run.ledger.contributions(v.version):
            for used in c.header["consumed"]:
                times[used["start"] : used["end"]] += 1
    assert times.tolist() == [1] * blocks
    assert run.ledger.counts().committed == blocks
    assert run.ledger.head().tokens_total == blocks * BLOCK * SEQ


def header(e: Envelope, **changes: Any) -> Envelope:
    return replace(e, header={**e.header, **changes})


def delta(e: Envelope, change: Callable[[np.ndarray], np.ndarray]) -> Envelope:
    """Another delta, whole by its checksum."""
    return blob(e, encode({"count": change(decode(e.blobs["delta"], {"count": (BLOCKS,)})["count"])}, e.header["codec"]))


def raw(e: Envelope, change: Callable[[np.ndarray], np.ndarray]) -> Envelope:
    """Another delta, of values that nobody would encode."""
    values = change(decode(e.blobs["delta"], {"count": (BLOCKS,)})["count"]).tobytes()
    return blob(e, e.blobs["delta"][: -len(values) - 32] + values + hashlib.sha256(values).digest())


def blob(e: Envelope, data: bytes) -> Envelope:
    return replace(e, blobs={**e.blobs, "delta": data})


def poison(value: float) -> Callable[[np.ndarray], np.ndarray]:
    def change(count: np.ndarray) -> np.ndarray:
        count = count.copy()
        count[3] = value
        return count

    return change


def moved(e: Envelope, by: int) -> list[dict[str, Any]]:
    return [{**c, "start": c["start"] + by, "end": c["end"] + by} for c in e.header["consumed"]]


def claiming(e: Envelope, **changes: Callable[[dict[str, Any]], int]) -> Envelope:
    """Other blocks than those it was trained on."""
    return header(e, consumed=[{**c, **{k: f(c) for k, f in changes.items()}} for c in e.header["consumed"]])


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 0x40]) + data[at + 1 :]


#: What is done to one contribution on its way, and the words of its refusal.
ATTACKS: dict[str, tuple[Callable[[Envelope], Envelope], str]] = {
    "truncated delta": (lambda e: blob(e, e.blobs["delta"][:-7]), "cut short"),
    "empty delta": (lambda e: blob(e, b""), "its delta: cut short"),
    "bit flipped in the delta's mark": (lambda e: blob(e, flipped(e.blobs["delta"], 3)), "its delta: not a difference file"),
    "bit flipped in the delta's header": (lambda e: blob(e, flipped(e.blobs["delta"], 60)), "its header was changed on its way"),
    "bit flipped in the delta's values": (lambda e: blob(e, flipped(e.blobs["delta"], -40)), "count was changed on its way"),
    "no delta": (lambda e: replace(e, blobs={}), "has no delta"),
    "wrong shape": (
        lambda e: delta(e, lambda d: d[:-1]), f"count has shape [{BLOCKS - 1}], the model's is [{BLOCKS}]"),
    "another codec than it says": (
        lambda e: blob(e, encode({"count": np.zeros(BLOCKS, np.float32)}, "int8")), "its delta is int8, and it says fp32"),
    "another model's tensors": (
        lambda e: blob(e, encode({"weight": np.zeros(3, np.float32)}, "fp32")), "other tensors than the model (count and more)"),
    "NaN": (lambda e: raw(e, poison(float("nan"))), "count has values that are not finite"),
    "Inf": (lambda e: raw(e, poison(float("inf"))), "count has values that are not finite"),
    "a value beyond any": (lambda e: raw(e, poison(3e38)), "count has values up to 3e+38, too large for a difference"),
    "unknown codec": (lambda e: header(e, codec="zip"), "its delta is fp32, and it says zip"),
    "unknown site": (lambda e: header(e, site="zebra"), "comes from a and says that it is from zebra"),
    "another protocol": (
        lambda e: header(e, protocol=9), "it speaks protocol 9 and this coordinator 2: run the same version of Windfall"),
    "old lease epoch": (lambda e: claiming(e, epoch=lambda c: c["epoch"] - 1), "which it does not hold"),
    "blocks that were not lent": (lambda e: header(e, consumed=moved(e, BLOCKS)), "which it does not hold"),
    "blocks that are committed": (
        lambda e: header(e, consumed=moved(e, -e.header["consumed"][0]["start"])), "which it does not hold"),
    "the same blocks twice": (
        lambda e: header(e, consumed=e.header["consumed"] * 2, tokens=e.header["tokens"] * 2), "which it does not hold"),
    "blocks from end to start": (
        lambda e: claiming(e, start=lambda c: c["end"], end=lambda c: c["start"]), "blocks"),
    "negative tokens": (lambda e: header(e, tokens=-5), "its header is malformed: tokens is -5, not a count"),
    "too many tokens": (lambda e: header(e, tokens=e.header["tokens"] + 1), "tokens for blocks worth"),
    "no tokens": (lambda e: header(e, tokens=0), "claims 0 tokens for blocks worth"),
    "no blocks": (lambda e: header(e, consumed=[]), "blocks"),
    "base too old": (lambda e: header(e, base_version=0), "is based on version 0; head is 3"),
    "base of the future": (lambda e: header(e, base_version=9), "is based on version 9; head is 3"),
    "half a header": (lambda e: header(e, consumed=[{}]), "its header is malformed: consumed[0].epoch is missing"),
    "no header": (lambda e: replace(e, header={}), "protocol is missing"),
    "text for a number": (lambda e: header(e, cut="one"), "its header is malformed: cut is 'one', not a count"),
    "a number beyond any": (lambda e: header(e, inner_tokens=10**400), "inner_tokens is a number beyond any, not a finite number"),
    "a count beyond any": (lambda e: header(e, cut=10**30), "cut is a number beyond any, not a count"),
    "steps beyond any": (lambda e: header(e, last_step=10**30), "its header is malformed"),
    "tokens beyond any": (lambda e: header(e, tokens=10**400), "its header is malformed"),
    "metrics that are none": (
        lambda e: header(e, metrics={"loss": "x"}), "its header is malformed: metrics.loss is 'x', not a number"),
}  # fmt: skip


@pytest.mark.parametrize("attack", list(ATTACKS))
def test_what_is_wrong_with_a_contribution_is_said_and_the_site_sheds_it(
    tmp_path: Path, data: Path, runs: list[Run], attack: str
) -> None:
    run = Watched(tmp_path / "r", data, ALONE, solo_min=2)
    runs.append(run)
    change, words = ATTACKS[attack]
    struck: list[Envelope] = []

    def tamper(e: Envelope) -> list[Envelope]:
        if e.header.get("consumed") and not struck and run.ledger.head().version == 3:
            struck.append(e)
            return [change(e)]
        return [e]

    run.transport.tamper = tamper
    assert run.serve() == "done"
    (e,) = struck
    ((site, reason),) = run.refusals()
    assert site == "a"
    assert words in reason
    assert_exactly_once(run)
    # The site was told, took its own movement back, and went on from the version.
    (refused,) = [a for who, a in run.acks if who == "a" and not a["accepted"]]
    assert reason == refused["reason"]
    (shed,) = run.shed("a")
    assert shed["consumed"] == e.header["consumed"]
    assert run.weights()["count"].tolist() == [1.0] * BLOCKS
    assert run.trainers["a"].weights()["count"].tolist() == [1.0] * BLOCKS
    assert not list((run.dir.sites / "a" / "outbox").iterdir()), "nothing is offered again"
    assert [p.name for p in run.dir.spool.iterdir()] == [c.file for c in run.ledger.contributions(run.ledger.head().version)]


@pytest.mark.parametrize("attack", ["NaN", "old lease epoch", "negative tokens", "wrong shape"])
def test_in_a_joint_round_the_others_work_is_merged_and_the_refused_site_goes_on_from_the_version(
    tmp_path: Path, data: Path, runs: list[Run], attack: str
) -> None:
    run = Watched(tmp_path / "r", data, PAIR, calendar=False, steps_per_min=1, round_min=5)
    runs.append(run)
    change, words = ATTACKS[attack]
    struck: list[int] = []

    def tamper(e: Envelope) -> list[Envelope]:
        if e.header.get("site") == "b" and e.header.get("consumed") and not struck:
            struck.append(run.ledger.head().version)
            return [change(e)]
        return [e]

    run.transport.tamper = tamper
    assert run.serve() == "done"
    ((site, reason),) = run.refusals()
    assert site == "b"
    assert words in reason
    (made,) = [v for v in run.ledger.versions() if v.version == struck[0] + 1]
    assert made.sites.keys() == {"a"}
    assert len(run.shed("b")) == 1
    assert not run.shed("a")
    assert_exactly_once(run)


def test_blocks_lent_to_another_site_are_not_taken_from_it(tmp_path: Path, data: Path, runs: list[Run]) -> None:
    run = Watched(tmp_path / "r", data, PAIR, calendar=False, steps_per_min=1, round_min=5)
    runs.append(run)
    struck: list[int] = []

    def tamper(e: Envelope) -> list[Envelope]:
        if e.header.get("site") == "b" and e.header.get("consumed") and not struck:
            (theirs, *_) = run.ledger.live_leases("a")
            struck.append(theirs.epoch)
            n = sum(c["end"] - c["start"] for c in e.header["consumed"])
            claimed = {"epoch": theirs.epoch, "start": theirs.start, "end": theirs.start + n, "skipped": False}
            return [header(e, consumed=[claimed])]
        return [e]

    run.transport.tamper = tamper
    assert run.serve() == "done"
    ((site, reason),) = run.refusals()
    assert site == "b"
    assert f"under lease {struck[0]}, which it does not hold" in reason
    assert_exactly_once(run)


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (lambda data: data[:-9], "cut short in delta"),
        (lambda data: data[:11], "not a Windfall envelope, or cut short"),
        (lambda data: flipped(data, len(data) - 9), "delta was changed on its way (checksum)"),
        (lambda data: flipped(data, 2), "not a Windfall envelope, or cut short"),
        (lambda data: flipped(data, 14), "cut short in its header"),
        (lambda data: flipped(data, 80), "its header was changed on its way (checksum)"),
    ],
    ids=["end missing", "beginning only", "bit in the delta", "bit in the mark", "bit in the length", "bit in the header"],
)  # fmt: skip
def test_bytes_damaged_on_their_way_are_said_and_the_work_is_fetched_again(
    tmp_path: Path, data: Path, runs: list[Run], harm: Callable[[bytes], bytes], words: str
) -> None:
    run = Watched(tmp_path / "r", data, ALONE)
    runs.append(run)
    poll, struck = run.transport.poll, []

    def damaged() -> list[Reply]:
        """As ``FlowerTransport`` does it: what cannot be read is a reply without an envelope."""
        found = poll()
        for i, reply in enumerate(found):
            if reply.envelope and reply.envelope.header.get("consumed") and not struck:
                struck.append(reply.envelope.header["cut"])
                with pytest.raises(DataError) as e:
                    Envelope.parse(harm(b"".join(reply.envelope.parts())), "reply")
                found[i] = replace(reply, envelope=None, error=f"unreadable reply: {e.value}")
        return found

    run.transport.poll = damaged  # type: ignore[method-assign]
    assert run.serve() == "done"
    ((_, _, site, detail),) = run.events("message_failed")
    assert site == "a"
    assert words in detail["reason"]
    assert not run.refusals(), "the site still has the work, whole: nothing is lost"
    assert struck[0] in [d["cut"] for _, _, _, d in run.events("contribution")]
    assert not run.shed("a")
    assert run.weights()["count"].tolist() == [1.0] * BLOCKS
    assert_exactly_once(run)


@pytest.mark.parametrize(("action", "words"), [("truncate", "cut short"), ("corrupt", "checksum")])
def test_a_contribution_damaged_on_the_sites_own_disk_is_refused_by_its_name_and_shed(
    tmp_path: Path, data: Path, runs: list[Run], action: str, words: str
) -> None:
    run = Watched(tmp_path / "r", data, ALONE)
    runs.append(run)
    poll, lost = run.transport.poll, []

    def losing() -> list[Reply]:
        found = poll()
        for i, reply in enumerate(found):
            if reply.envelope and reply.envelope.header.get("consumed") and not lost:
                lost.append(reply.envelope.header)
                found[i] = replace(reply, envelope=None, error="lost")  # so it is read from the outbox
        return found

    run.transport.poll = losing  # type: ignore[method-assign]
    faults.arm("mid-send", action)
    assert run.serve() == "done"
    ((site, reason),) = run.refusals()
    assert site == "a"
    assert name_of(1, lost[0]["cut"]) in reason
    assert words in reason
    (refused,) = [a for _, a in run.acks if not a["accepted"]]
    assert (refused["generation"], refused["cut"]) == (1, lost[0]["cut"])
    assert len(run.shed("a")) == 1
    assert run.weights()["count"].tolist() == [1.0] * BLOCKS
    assert_exactly_once(run)


def test_a_contribution_that_comes_again_counts_once_and_is_acknowledged_as_what_it_became(
    tmp_path: Path, data: Path, runs: list[Run]
) -> None:
    """The same cut once more (its acknowledgement was lost): the site may let go of it and keeps its parameters."""
    run = Watched(tmp_path / "r", data, ALONE)
    runs.append(run)
    kept: dict[str, bytes] = {}
    again: list[str] = []

    def tamper(e: Envelope) -> list[Envelope]:
        if e.header.get("consumed"):
            if kept and not again:
                again.extend(kept)
                return [replace(e, blobs={**e.blobs, **kept})]
            kept.setdefault(name_of(e.header["generation"], e.header["cut"]), b"".join(e.parts()))
        return [e]

    run.transport.tamper = tamper
    assert run.serve() == "done"
    assert again
    assert not run.refusals()
    first = [a for _, a in run.acks if name_of(a["generation"], a["cut"]) == again[0]]
    assert {(a["accepted"], a["version"]) for a in first} == {(True, 1)}
    assert len(first) == 2, "told twice, as it came twice"
    assert not run.shed("a")
    assert run.weights()["count"].tolist() == [1.0] * BLOCKS
    assert_exactly_once(run)


def test_the_same_work_under_another_cuts_number_is_refused(tmp_path: Path, data: Path, runs: list[Run]) -> None:
    run = Watched(tmp_path / "r", data, ALONE)
    runs.append(run)
    copied: list[int] = []

    def tamper(e: Envelope) -> list[Envelope]:
        if e.header.get("consumed") and not copied:
            copied.append(900)
            copy = header(e, cut=900)
            return [replace(e, blobs={**e.blobs, name_of(1, 900): b"".join(copy.parts())})]
        return [e]

    run.transport.tamper = tamper
    assert run.serve() == "done"
    ((site, reason),) = run.refusals()
    assert site == "a"
    assert "a cut 1.900 claims blocks" in reason
    assert "which it does not hold" in reason
    assert run.weights()["count"].tolist() == [1.0] * BLOCKS
    assert_exactly_once(run)


def test_a_node_that_is_none_of_the_runs_sites_is_given_nothing_and_nothing_of_it_is_taken(
    tmp_path: Path, data: Path, runs: list[Run]
) -> None:
    run = Watched(tmp_path / "r", data, ALONE)
    runs.append(run)
    box = run.transport.connect("zebra#1")
    forged = Envelope({"kind": "contribution", "protocol": 2, "site": "zebra"}, {"delta": b"x"})
    hello = {"kind": "hello", "protocol": 2, "site": "zebra", "generation": 1, "manifest": "counting"}
    run.serve(until_min=3)
    (message, asked) = box.incoming.pop(0)
    assert asked.header["kind"] == "hello"
    box.answer(message, Envelope(hello, {name_of(1, 1): b"".join(forged.parts())}))
    box.answer(message, forged)
    assert run.serve() == "done"
    ((_, _, _, detail),) = run.events("stranger")
    assert detail["reason"] == "did not answer hello as one of this run's sites"
    assert not box.incoming, "it was lent nothing"
    assert {c.site for v in run.ledger.versions() for c in run.ledger.contributions(v.version)} == {"a"}
    assert_exactly_once(run)


def test_work_of_a_lease_that_has_expired_is_refused_when_its_site_comes_back_with_it(
    tmp_path: Path, data: Path, runs: list[Run]
) -> None:
    windows = {"a": [(0.0, 8.0), (60.0, 100_000.0)], "b": [(8.0, 100_000.0)]}
    run = Watched(
        tmp_path / "r", data, windows, calendar=False, steps_per_min={"a": 1.0, "b": 0.5}, solo_min=6, round_min=6, snapshot_s=0.0
    )
    runs.append(run)
    run.serve(until_min=7)
    run.kill("a")  # its window closes before it could come back
    assert run.serve() == "done"
    ended = [(t, s) for t, _, s, _ in run.events("lease_ended")]
    assert [s for _, s in ended] == ["a"]
    ((site, reason),) = run.refusals()
    assert site == "a"
    assert "a cut 1.1" in reason
    back = next(t for t, _, s, d in run.events("hello") if s == "a" and d["generation"] > 1)
    assert ended[0][0] < back
    told = [a for who, a in run.acks if who == "a" and a["generation"] == 1]
    assert [(a["cut"], a["accepted"]) for a in told] == [(1, False)]
    assert not list((run.dir.sites / "a" / "outbox").iterdir())
    assert_exactly_once(run)


@pytest.mark.parametrize(
    "entry",
    [
        {"kind": "eval", "val_bpb": float("nan"), "val_nats_per_byte": 1.0, "version": 2},
        {"kind": "eval", "val_bpb": 10**400, "val_nats_per_byte": 1.0, "version": 0},
        {"kind": "eval", "val_bpb": 1.0, "val_nats_per_byte": 1.0, "version": 10**30},
        {"kind": "step", "t_run": 0.0, "loss": float("nan"), "tokens": 1, "version": 0},
        {"kind": "step", "t_run": 0.0, "loss": 1.0, "tokens": 10**30, "version": 0},
        {"kind": "step", "t_run": 0.0, "loss": 1.0, "tokens": float("inf"), "version": 0},
        {"kind": "step", "t_run": 10**400, "loss": 1.0, "tokens": 1, "version": 0},
    ],
    ids=["nan", "huge float", "huge version", "nan loss", "huge tokens", "infinite tokens", "huge time"],
)
def test_no_number_on_the_bus_can_end_the_coordinator(tmp_path: Path, data: Path, runs: list[Run], entry: dict[str, Any]) -> None:
    run = Watched(tmp_path / "r", data, ALONE)
    runs.append(run)
    run.serve(until_min=3)
    run.workers["a"]._bus.emit(entry)
    assert run.serve() == "done"
    assert [site for site, _ in run.refusals()] == ["a"]
    assert run.telemetry.dropped == 0
    assert_exactly_once(run)


@pytest.mark.parametrize("value", [{"round": "x"}, {"round": 10**9}, {"covered": "x"}, {"covered": None}])
def test_rubbish_in_a_sites_report_of_its_pace_does_not_end_the_coordinator(
    tmp_path: Path, data: Path, runs: list[Run], value: dict[str, Any]
) -> None:
    run = Watched(tmp_path / "r", data, ALONE, calendar=False, steps_per_min=1)
    runs.append(run)
    run.serve(until_min=5)
    run.workers["a"]._bus.set("progress", {"covered": 0.0, "round": 1, "exhausted": False, **value})
    assert run.serve() == "done"
    assert_exactly_once(run)


# -- a block that breaks whoever trains on it --------------------------------------------------------------------


def deadly(block: int, blocks: int, *, loss: float | None = None) -> MakeTrainer:
    """Trainers that die at one block every time, or that find ``loss`` there."""

    class Deadly(CountingTrainer):
        def step(self, first_blocks: list[int], progress_tokens: float) -> float:
            if block in first_blocks:
                if loss is not None:
                    return loss
                raise faults.InjectedFault("this block is not to be trained on")
            return super().step(first_blocks, progress_tokens)

    return lambda spec, site: Deadly(blocks)


@pytest.mark.parametrize("calendar", [False, True])
@pytest.mark.parametrize(("block", "pace"), [(0, 1.0), (46, 1.0), (47, 1.0), (47, 0.1), (BLOCKS - 1, 1.0)])
def test_a_block_at_which_three_leases_break_is_quarantined_and_reported_and_the_run_finishes(
    tmp_path: Path, data: Path, block: int, pace: float, calendar: bool
) -> None:
    """``pace``: seconds of wall time to a step; heartbeats, which say where a site is, come once a second."""
    storm = Paced(
        tmp_path / "r", data, ALONE, steps=STEPS, trainer=deadly(block, BLOCKS), calendar=calendar, snapshot_s=3.0,
        steps_per_min=0.6 if calendar else 1.0, solo_min=6,
    )  # fmt: skip
    storm.pace = pace
    with storm.weather():
        storm.to_the_end()
    run = storm.run
    step = BATCH // BLOCK
    there = {b for start, end, state in run.ledger.spans() if state == "quarantined" for b in range(start, end)}
    assert block in there
    assert there <= set(range(block - step + 1, block + step)), "no more than the step it was in"
    told = [d["block"] for _, _, _, d in run.events("quarantined")]
    assert sorted(told) == sorted(there)
    assert all(d["reason"] == "three leases failed at its step" for _, _, _, d in run.events("quarantined"))
    counts = run.ledger.counts()
    assert (counts.committed, counts.quarantined) == (BLOCKS - len(there), len(there))
    expected = [0.0 if b in there else 1.0 for b in range(BLOCKS)]
    assert run.weights()["count"].tolist() == expected
    assert storm.worst <= 4, "the run would have given its site up (fleet.max_failures is 5)"
    storm.close()


class Paced(Storm):
    """A storm in which a unit of work takes a given time, and that notes how often in a row the site failed."""

    pace = 1.0
    worst = 0

    def wall_time(self) -> float:
        return self.now * self.pace

    def pass_time(self) -> None:
        super().pass_time()
        self.worst = max(self.worst, *(s.failures for s in self.run.loop.controller.sites.values()))


# -- damage on the coordinator's disk ----------------------------------------------------------------------------


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path) -> None:
    path.write_bytes(flipped(path.read_bytes(), path.stat().st_size - 5))


def empty(path: Path) -> None:
    path.write_bytes(b"")


HARM: dict[str, tuple[Callable[[Path], None], str]] = {
    "truncated": (truncate, "the weights file is damaged (its checksum is not the ledger's)"),
    "bit flipped": (flip, "the weights file is damaged (its checksum is not the ledger's)"),
    "empty": (empty, "the weights file is damaged (its checksum is not the ledger's)"),
    "missing": (Path.unlink, "the weights file is missing"),
}


def half_way(root: Path, data: Path, windows: dict[str, list[tuple[float, float]]], **options: Any) -> Watched:
    """A run that has made some versions; its coordinator has ended, and its sites have too unless on the calendar."""
    first = Watched(root, data, windows, **options)
    first.serve(until_min=15)
    assert first.ledger.head().version >= 3
    return first


@pytest.mark.parametrize(
    ("harm", "windows"), [*((harm, ALONE) for harm in HARM), ("truncated", PAIR)], ids=[*HARM, "truncated, two sites"]
)
def test_a_damaged_newest_checkpoint_is_made_again_bit_for_bit_from_its_contributions(
    tmp_path: Path, data: Path, runs: list[Run], harm: str, windows: dict[str, list[tuple[float, float]]]
) -> None:
    first = half_way(tmp_path / "r", data, windows, calendar=False, steps_per_min=0.5, solo_min=3, round_min=3)
    head = first.ledger.head()
    whole = (first.dir.checkpoints / head.file).read_bytes()
    first.close()
    change, words = HARM[harm]
    change(first.dir.checkpoints / head.file)
    second = Watched(tmp_path / "r", data, windows, calendar=False, steps_per_min=0.5, solo_min=3, round_min=3)
    runs.append(second)
    assert second.ledger.head() == head
    assert (second.dir.checkpoints / head.file).read_bytes() == whole
    ((_, _, _, detail),) = second.events("checkpoint_repaired")
    assert words in detail["reason"]
    assert "made again from its contributions" in detail["reason"]
    assert not second.events("checkpoint_damaged")
    assert second.serve() == "done"
    assert_exactly_once(second)


@pytest.mark.parametrize("alive", [False, True], ids=["sites gone", "sites living on"])
@pytest.mark.parametrize("harm", list(HARM))
def test_without_them_the_version_before_takes_its_place_and_its_blocks_are_trained_again(
    tmp_path: Path, data: Path, runs: list[Run], harm: str, alive: bool
) -> None:
    first = half_way(tmp_path / "r", data, ALONE, solo_min=3)
    head, before = first.ledger.versions()[-1], first.ledger.versions()[-2]
    change, words = HARM[harm]
    for c in first.ledger.contributions(head.version):
        change(first.dir.spool / c.file)
    first.crash() if alive else first.close()
    change(first.dir.checkpoints / head.file)
    second = Watched(tmp_path / "r", data, ALONE, solo_min=3, earlier=first if alive else None)
    runs.append(second)
    assert second.ledger.head() == before
    ((_, _, _, detail),) = second.events("checkpoint_damaged")
    assert words in detail["reason"]
    assert f"going back to version {before.version}, {head.tokens} tokens are trained again" in detail["reason"]
    assert not second.events("checkpoint_repaired")
    assert second.serve() == "done"
    assert_exactly_once(second)
    assert second.weights()["count"].tolist() == [1.0] * BLOCKS


def test_two_damaged_checkpoints_cost_two_versions_and_no_more(tmp_path: Path, data: Path, runs: list[Run]) -> None:
    first = half_way(tmp_path / "r", data, ALONE, solo_min=3)
    newest, second_newest = first.ledger.versions()[-1], first.ledger.versions()[-2]
    for c in first.ledger.contributions(newest.version):
        (first.dir.spool / c.file).unlink()
    first.close()
    for v in (newest, second_newest):
        truncate(first.dir.checkpoints / v.file)
    second = Watched(tmp_path / "r", data, ALONE, solo_min=3)
    runs.append(second)
    assert [d["reason"].split("; ")[1].split(",")[0] for _, _, _, d in second.events("checkpoint_damaged")] == [
        f"going back to version {second_newest.version}", f"going back to version {second_newest.version - 1}"
    ]  # fmt: skip
    assert second.serve() == "done"
    assert_exactly_once(second)
    assert second.weights()["count"].tolist() == [1.0] * BLOCKS


def test_if_no_version_is_left_whole_the_run_says_what_to_restore(tmp_path: Path, data: Path) -> None:
    first = half_way(tmp_path / "r", data, ALONE, solo_min=3)
    first.close()
    for path in [*first.dir.checkpoints.glob("v*.safetensors"), *first.dir.spool.iterdir()]:
        truncate(path)
    with pytest.raises(StoreError, match=r"version 0 cannot be taken back; restore v000000.safetensors from a copy"):
        Watched(tmp_path / "r", data, ALONE, solo_min=3)


@pytest.mark.parametrize("point", ["after-weights", "after-commit"])
@pytest.mark.parametrize("action", ["truncate", "corrupt"])
@pytest.mark.parametrize("nth", [1, 5])
def test_retention_lets_go_of_older_versions_only_once_a_newer_one_is_known_to_be_whole(
    tmp_path: Path, data: Path, runs: list[Run], point: str, action: str, nth: int
) -> None:
    run = Watched(tmp_path / "r", data, ALONE, solo_min=3)
    runs.append(run)
    run.serve(until_min=1)
    let_go: list[bool] = []
    forget = run.ledger.forget_weights

    def checked(version: int) -> None:
        # Not the newest, which can be made again from the one before it; that one the merge has read as a whole.
        known = run.ledger.last_versions(2)[0]
        load_file(run.dir.checkpoints / known.file, known.sha256)
        let_go.append(True)
        forget(version)

    run.ledger.forget_weights = checked  # type: ignore[method-assign]
    faults.arm(point, action, nth)
    assert run.serve() == "done"
    assert let_go
    for v in run.ledger.retained():
        load_file(run.dir.checkpoints / v.file, v.sha256)
    assert_exactly_once(run)


def test_a_damaged_contribution_that_waits_for_its_commit_is_given_up_and_its_blocks_are_trained_again(
    tmp_path: Path, data: Path, runs: list[Run]
) -> None:
    run = Watched(tmp_path / "r", data, PAIR, calendar=False, steps_per_min=1, round_min=5)
    runs.append(run)
    faults.arm("received", "raise")  # the first one is in the ledger, and its file is damaged before the commit
    with pytest.raises(faults.InjectedFault):
        run.serve()
    (waiting,) = run.ledger.pending()
    truncate(run.dir.spool / waiting.file)
    run.close()
    runs.remove(run)
    second = Watched(tmp_path / "r", data, PAIR, calendar=False, steps_per_min=1, round_min=5)
    runs.append(second)
    assert second.serve() == "done"
    ((_, _, site, detail),) = second.events("discarded")
    assert site == waiting.site
    assert "cut short" in detail["reason"]
    assert_exactly_once(second)


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_block_whose_loss_is_no_number_is_quarantined_too(tmp_path: Path, data: Path, loss: float) -> None:
    storm = Paced(tmp_path / "r", data, ALONE, steps=STEPS, trainer=deadly(46, BLOCKS, loss=loss), snapshot_s=3.0, solo_min=6)
    with storm.weather():
        storm.to_the_end()
    assert {d["block"] for _, _, _, d in storm.run.events("quarantined")} == {46, 47}
    assert storm.run.weights()["count"].tolist() == [0.0 if b in (46, 47) else 1.0 for b in range(BLOCKS)]
    storm.close()


def skipping(blocks: set[int]) -> MakeTrainer:
    """Trainers whose guard skips every step in which one of ``blocks`` is."""

    class Skipping(CountingTrainer):
        def step(self, first_blocks: list[int], progress_tokens: float) -> float:
            self.skipped = "the gradient's length is 9e9, 100 times the usual" if blocks & set(first_blocks) else ""
            return math.nan if self.skipped else super().step(first_blocks, progress_tokens)

    return lambda spec, site: Skipping(BLOCKS)


@pytest.mark.parametrize("bad", [{46}, {0, 1, 46}, set(range(BLOCKS // 2))])
def test_steps_that_a_guard_skips_are_used_up_counted_apart_and_told_and_the_run_finishes(
    tmp_path: Path, data: Path, bad: set[int]
) -> None:
    storm = Paced(tmp_path / "r", data, ALONE, steps=STEPS, trainer=skipping(bad), snapshot_s=3.0, solo_min=6)
    with storm.weather():
        storm.to_the_end()
    run = storm.run
    step = BATCH // BLOCK
    gone = {b for block in bad for b in range(block // step * step, block // step * step + step)}
    assert {b for start, end, state in run.ledger.spans() if state == "skipped" for b in range(start, end)} == gone
    counts = run.ledger.counts()
    assert (counts.skipped, counts.committed, counts.quarantined) == (len(gone), BLOCKS - len(gone), 0)
    assert run.ledger.head().tokens_total == (BLOCKS - len(gone)) * run.ledger.tokens_per_block
    assert run.weights()["count"].tolist() == [0.0 if b in gone else 1.0 for b in range(BLOCKS)]
    assert any("a step was skipped" in d["note"] for _, _, _, d in run.events("site_note"))
    storm.close()


@pytest.mark.parametrize("metrics", [{"site": 1.0}, {"t_run": 1.0, "kind": 2.0}, {"cut": 5.0}])
def test_figures_of_a_contribution_cannot_take_the_place_of_what_counts(
    tmp_path: Path, data: Path, runs: list[Run], metrics: dict[str, float]
) -> None:
    run = Watched(tmp_path / "r", data, ALONE)
    runs.append(run)
    run.transport.tamper = lambda e: [replace(e, header={**e.header, "metrics": metrics} if "metrics" in e.header else e.header)]
    assert run.serve() == "done"
    assert all(s == "a" for _, _, s, _ in run.events("contribution"))
    assert_exactly_once(run)


def test_a_complaint_that_is_no_text_does_not_end_the_coordinator(tmp_path: Path, data: Path, runs: list[Run]) -> None:
    run = Watched(tmp_path / "r", data, ALONE)
    runs.append(run)
    run.serve(until_min=3)
    run.workers["a"]._bus.emit({"kind": "fatal", "reason": "no such file: \udcff" + "x" * 10_000})
    assert run.serve() == "done"
    (failed,) = [d for _, _, _, d in run.events("state") if d["now"] == "failed"]
    assert failed["reason"].startswith("no such file: ?x")
    assert len(failed["reason"]) == 500
    assert run.telemetry.dropped == 0
    assert_exactly_once(run)
