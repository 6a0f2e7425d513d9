"""What comes over a network has types: what is wrong is refused by the field's name, and ends nobody."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from federation.fake import CountingTrainer, counting
from federation.harness import BATCH, BLOCK, T0, TOKENS_PER_STEP, Run
from windfall.errors import Refused
from windfall.site.worker import SiteWorker
from windfall.store.bus import MemoryBus
from windfall.store.files import Envelope
from windfall.store.records import Consumed
from windfall.store.tensors import to_bytes
from windfall.wire import messages
from windfall.wire.messages import ContributionHeader, Greeting, RoundOrder, Standing
from windfall.wire.transport import MemoryMailbox

STEPS = 40
BLOCKS = STEPS * BATCH // BLOCK
QUICK = settings(max_examples=60, suppress_health_check=list(HealthCheck), deadline=None)

#: Anything that JSON can carry, Python's own NaN and Infinity among it.
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
    | st.sampled_from([10**400, -1, 2**53 + 1, "1", "", [], {}, [{}], [[]], [None], {"a": float("nan")}, "\udcff"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3), max_leaves=6,
)  # fmt: skip

ORDER = RoundOrder(
    fence=1, round=1, version=0, sha256="", model="full", inner="own", after="continue", cut_at=T0 + 100, begins_at=T0,
    valid_until=T0 + 1000, blocks_before=0, step_blocks=2, tokens_per_s=float(TOKENS_PER_STEP), gated=False,
    leases=[{"epoch": 1, "start": 0, "end": 20}], progress_start=0.0, progress_rate=1.0,
    acks=[{"generation": 1, "cut": 1, "accepted": True, "version": 1, "reason": ""}],
).header()  # fmt: skip
CONTRIBUTION = ContributionHeader(
    site="a", generation=1, cut=1, round=1, base_version=0, tokens=TOKENS_PER_STEP, consumed=[Consumed(1, 0, 2)], codec="fp32",
    inner_tokens=0.0, metrics={"loss_mean": 1.0}, drained=False, fence=1, lineage=[[0, "load", 0]], first_step=0, last_step=1,
).header()  # fmt: skip
GREETING = Greeting(1).header()
HELLO = {
    "protocol": 2, "kind": "hello", "site": "a", "generation": 1, "manifest": "counting", "inner_tokens": -1.0, "cut": 0, "base": 0,
    "uncut_blocks": 0, "round": 0, "order_fence": 0, "broke_at": None, "remembers": False, "seen_round": 0, "seen_fence": 0,
}  # fmt: skip

READ: dict[str, tuple[dict[str, Any], Callable[[Mapping[str, Any]], Any]]] = {
    "order": (ORDER, lambda raw: RoundOrder.parse(raw, {"weights", "inner", "mean"})),
    "contribution": (CONTRIBUTION, ContributionHeader.parse),
    "greeting": (GREETING, Greeting.parse),
    "hello": (HELLO, Standing.parse),
}
FIELDS = [(what, name) for what, (good, _) in READ.items() for name in good]


def changed(what: str, name: str, value: Any) -> dict[str, Any]:
    return {**READ[what][0], name: value}


def refused(what: str, name: str, value: Any) -> str:
    """Why a message with this in the field is refused, or an empty string."""
    try:
        READ[what][1](changed(what, name, value))
    except Refused as e:
        return str(e)
    return ""


@pytest.mark.parametrize("what", READ)
def test_a_message_is_read_as_it_was_said_and_what_is_new_in_it_is_ignored(what: str) -> None:
    good, parse = READ[what]
    assert parse({**good, "invented": {"later": 1}}) == parse(good)
    if hasattr(parse(good), "header"):
        assert parse(good).header() == good


@QUICK
@given(field=st.sampled_from(FIELDS), value=ANYTHING)
def test_a_field_of_a_wrong_type_is_refused_by_its_name(field: tuple[str, str], value: Any) -> None:
    what, name = field
    why = refused(what, name, value)
    assert not why or name in why or (name == "leases" and "lease of blocks" in why)
    assert len(why) < 300


@pytest.mark.parametrize(("what", "name"), [f for f in FIELDS if f[0] in ("order", "contribution")])
def test_a_field_that_is_missing_is_refused_by_its_name(what: str, name: str) -> None:
    good, parse = READ[what]
    if (what, name) in (("contribution", "kind"), *(("order", n) for n in ("inner_from", "average", "mean_of"))):
        return  # by it the message was told from others; and what only some orders have
    with pytest.raises(Refused, match=f"{name} is missing"):
        parse({k: v for k, v in good.items() if k != name})


def test_a_mean_of_inner_states_comes_with_its_version_and_the_sites_cut_in_it() -> None:
    assert RoundOrder.parse(changed("order", "mean_of", [4, 1, 3]), {"weights", "mean"}).mean_of == [4, 1, 3]
    with pytest.raises(Refused, match="the blob mean is missing"):
        RoundOrder.parse(changed("order", "mean_of", [4, 1, 3]), {"weights"})
    for wrong in ([4, 1], [4, 1, -3], [4, 1, "3"], ["a"]):
        assert "mean_of is [" in refused("order", "mean_of", wrong)


def test_a_figure_that_is_not_finite_is_left_out_and_the_work_is_not_refused() -> None:
    read = ContributionHeader.parse(changed("contribution", "metrics", {"loss_mean": float("nan"), "loss_last": 2}))
    assert read.metrics == {"loss_last": 2.0}


# -- a site ------------------------------------------------------------------------------------------------------


class At:
    """A site's worker, its mailbox and its bus."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.bus, self.box = MemoryBus(), MemoryMailbox()
        self.trainer = CountingTrainer(BLOCKS)
        self.worker = SiteWorker(
            site="a", generation=1, trainer=self.trainer, mailbox=self.box, bus=self.bus.site("a", 1), folder=folder,
            snapshot_s=1e9, dead_man_s=1e9, calendar=lambda: T0,
        )  # fmt: skip

    def take(self, header: dict[str, Any], **blobs: bytes) -> list[dict[str, Any]]:
        """Give it a message; the headers of its answers."""
        if "weights" in blobs and header.get("sha256") == "":
            header = {**header, "sha256": hashlib.sha256(self.weights()).hexdigest()}
        self.box.incoming.append(("m", Envelope(header, blobs)))
        self.worker.pump()
        self.worker.pump()  # the first has prepared what came; this one takes it in
        found = [e.header for _, e in self.box.outgoing]
        self.box.outgoing.clear()
        return found

    def good(self) -> None:
        """It still takes an order and trains."""
        steps = self.worker._steps
        assert self.take({**ORDER, "fence": 10**6}, weights=self.weights()) in ([], [{"kind": "void"}])
        for _ in range(3):
            self.worker.pump()
        assert self.worker._steps > steps

    def weights(self) -> bytes:
        return to_bytes({"count": self.trainer.weights()["count"]})


@QUICK
@given(field=st.sampled_from([f for f in FIELDS if f[0] in ("order", "greeting")]), value=ANYTHING)
def test_a_malformed_message_is_answered_with_what_is_wrong_and_ends_no_trainer(
    tmp_path_factory: pytest.TempPathFactory, field: tuple[str, str], value: Any
) -> None:
    what, name = field
    at = At(tmp_path_factory.mktemp("site"))
    before = at.worker._fence, at.worker._pace.order, at.worker._cut
    if not (why := refused(what, name, value)):
        return
    (answer,) = at.take(changed(what, name, value), weights=at.weights(), inner=at.trainer.inner())
    assert (answer["kind"], answer["refused"], answer["site"], answer["generation"]) == ("error", True, "a", 1)
    assert name == "kind" or why in answer["error"]
    assert (at.worker._fence, at.worker._pace.order, at.worker._cut) == before, "nothing of it was done"
    assert not at.bus.poll("a"), "nothing is said to have failed"
    at.good()


@pytest.mark.parametrize(
    ("blobs", "why"), [({}, "the blob weights is missing"), ({"weights": b"none"}, "version 0 came with another checksum")]
)
def test_an_order_whose_parameters_are_missing_or_unreadable_is_refused(tmp_path: Path, blobs: dict[str, bytes], why: str) -> None:
    at = At(tmp_path / "a")
    (answer,) = at.take(ORDER, **blobs)
    assert why in answer["error"]
    at.good()


@QUICK
@given(
    command=st.dictionaries(st.sampled_from(["kind", "round", "at", "fence", "generation", "x"]), ANYTHING),
    base=st.sampled_from([{"kind": "cut", "round": 1, "at": T0, "fence": 1, "generation": 1}, {"kind": "drain", "generation": 1}]),
    clock=st.dictionaries(st.sampled_from(["granted", "beat", "fence"]), ANYTHING),
)
def test_nothing_on_the_bus_ends_a_trainer(
    tmp_path_factory: pytest.TempPathFactory, command: dict[str, Any], base: dict[str, Any], clock: dict[str, Any]
) -> None:
    at = At(tmp_path_factory.mktemp("site"))
    at.take({**ORDER, "gated": True}, weights=at.weights())
    at.bus.send("a", {**base, "generation": 1, **command})
    at.bus.set("a", "clock", clock)
    at.worker._listened_at = -1e9
    for _ in range(3):
        at.worker.pump()


def test_a_site_refuses_another_protocol_in_one_sentence(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    at = At(tmp_path / "a")
    with caplog.at_level(logging.WARNING, "windfall"):
        (answer,) = at.take({**GREETING, "protocol": 3})
    said = "a cannot read its message: it speaks protocol 3 and this site 2: run the same version of Windfall at both ends"
    assert answer["error"] == said
    assert [r.getMessage() for r in caplog.records] == [said]


# -- the coordinator -----------------------------------------------------------------------------------------------


def run_of(tmp_path: Path, data: Path, runs: list[Run], **options: Any) -> Run:
    run = Run(tmp_path / "r", data, {"a": [(0.0, 1e5)]}, trainer=counting(BLOCKS), steps=STEPS, solo_min=5, **options)
    runs.append(run)
    return run


@pytest.mark.parametrize("name", ["fence", "leases", "tokens_per_s"])
def test_an_order_that_was_changed_on_its_way_is_sent_again_and_the_trainer_lives(
    tmp_path: Path, data: Path, runs: list[Run], name: str
) -> None:
    run = run_of(tmp_path, data, runs)
    push, struck = run.transport.push, []

    def strike(node: str, envelope: Envelope) -> str:
        if envelope.header.get("kind") == "round" and envelope.header["round"] >= 2 and len(struck) < 2:
            struck.append(envelope.header["round"])
            envelope = replace(envelope, header={**envelope.header, name: "x"})
        return push(node, envelope)

    run.transport.push = strike  # type: ignore[method-assign]
    assert run.serve() == "done"
    assert struck == [2, 2]
    told = [d["reason"] for _, _, _, d in run.events("message_failed")]
    assert told == [f"a cannot read its message: {name} is 'x', not {what}" for what in [WORDS[name]] * 2]
    assert run.ledger.generations() == {"a": 1}, "its only life"
    assert [t for t, _, _, _ in run.events("commit")] == [7.0 + 5 * i for i in range(8)]
    assert run.weights()["count"].tolist() == [1.0] * BLOCKS


WORDS = {"fence": "a count", "leases": "a list of plain values", "tokens_per_s": "a finite number above 0"}


def test_a_site_that_can_read_no_order_at_all_is_given_up_with_the_reason(tmp_path: Path, data: Path, runs: list[Run]) -> None:
    run = run_of(tmp_path, data, runs)
    push = run.transport.push

    def strike(node: str, envelope: Envelope) -> str:
        if node == "a#1" and envelope.header.get("kind") == "round":
            envelope = replace(envelope, header={**envelope.header, "fence": None})
        return push(node, envelope)

    run.transport.push = strike  # type: ignore[method-assign]
    assert run.serve() == "done"
    (failed,) = [d for _, _, _, d in run.events("state") if d["now"] == "failed"]
    assert failed["reason"] == "its message failed: a cannot read its message: fence is None, not a count"


def test_a_site_of_another_protocol_fails_at_once_and_says_why(
    tmp_path: Path, data: Path, runs: list[Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Older(Run):
        def pump(self, name: str, worker: SiteWorker) -> None:
            generation = worker.generation
            with monkeypatch.context() as older:
                if generation == 1:  # upgraded afterwards
                    older.setattr(messages, "PROTOCOL", 0)
                worker.pump()

    run = Older(tmp_path / "r", data, {"a": [(0.0, 1e5)]}, trainer=counting(BLOCKS), steps=STEPS, solo_min=5)
    runs.append(run)
    assert run.serve() == "done"
    failed, *others = [d["reason"] for _, _, _, d in run.events("state") if d["now"] == "failed"]
    assert failed.endswith("it speaks protocol 2 and this site 0: run the same version of Windfall at both ends")
    assert not others


def test_figures_that_are_none_reach_no_record(tmp_path: Path, data: Path, runs: list[Run]) -> None:
    run = run_of(tmp_path, data, runs)
    struck: list[int] = []

    def strike(e: Envelope) -> list[Envelope]:
        if e.header.get("consumed") and not struck:
            struck.append(e.header["cut"])
            wrong = {"loss_mean": float("nan"), "tokens_per_s": float("inf"), "loss_last": 1.5}
            e = replace(e, header={**e.header, "metrics": wrong, "invented": float("nan")})
        return [e]

    run.transport.tamper = strike
    assert run.serve() == "done"
    assert struck
    run.telemetry.flush()
    (header,) = run.ledger._db.execute("SELECT header FROM contributions WHERE cut = ?", struck).fetchone()
    (detail,) = run.telemetry.rows("SELECT detail FROM events WHERE kind = 'contribution' ORDER BY id LIMIT 1")[0]
    for text in (header, detail):
        assert not {"NaN", "Infinity"} & set(re.findall("NaN|Infinity", text))
    assert json.loads(header)["metrics"] == {"loss_last": 1.5}
    assert "invented" not in header
    assert json.loads(detail)["loss_last"] == 1.5


@QUICK
@given(
    entry=st.dictionaries(
        st.sampled_from(["t_run", "loss", "tokens", "version", "rate", "cut", "val_bpb", "val_nats_per_byte", "sample", "reason",
                         "note", "generation"]), ANYTHING, max_size=6),
    kind=st.sampled_from(["step", "eval", "note", "invented"]) | ANYTHING,
    beat=st.dictionaries(st.sampled_from(["n", "block", "generation"]), ANYTHING),
    progress=st.dictionaries(st.sampled_from(["round", "covered", "exhausted", "generation"]), ANYTHING),
)  # fmt: skip
def test_nothing_on_the_bus_ends_the_coordinator(
    shared: Run, entry: dict[str, Any], kind: Any, beat: dict[str, Any], progress: dict[str, Any]
) -> None:
    bus = shared.bus
    bus._events.setdefault("a", []).append({"generation": 1, **entry, "kind": kind})
    bus._registers[("a", "site", "heartbeat")] = {"generation": 1, **beat}
    kept = bus._registers.get(("a", "site", "progress"))
    bus._registers[("a", "site", "progress")] = {"generation": 1, **progress}
    shared.federation.behind(shared.clock.now(), {"a"})
    shared.federation.poll(shared.loop.controller.sites)
    if kept is not None:
        bus._registers[("a", "site", "progress")] = kept
    shared.federation.members.fatal.pop("a", None)
    shared.telemetry.flush()
    assert shared.telemetry.dropped == 0, "and what is kept of it can be stored"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Any:
    """A run in the middle of a round."""
    run = Run(tmp_path_factory.mktemp("shared") / "r", data, {"a": [(0.0, 1e5)]}, trainer=counting(BLOCKS), steps=STEPS)
    run.serve(until_min=4)
    yield run
    run.close()
