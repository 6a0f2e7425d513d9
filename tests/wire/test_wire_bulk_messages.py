"""Messages with large blobs over a transport that never sees these: both wrappers, with a real server between them."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from windfall.errors import TransferError
from windfall.store import blobs
from windfall.store.blobs import FileBlob, MemoryBlob
from windfall.store.files import Envelope, write_secret
from windfall.wire import bulk_transport
from windfall.wire.bulk import MANIFEST, TOKEN_NAME, read_token
from windfall.wire.bulk_mailbox import BulkMailbox
from windfall.wire.bulk_transport import BulkTransport, clear_orphans, leftovers, sent_bytes_per_s, transfers
from windfall.wire.transport import MemoryMailbox, MemoryTransport, Reply
from wire.bulk_bench import TOKENS, Server, digest, running, some_bytes, until

LARGE = some_bytes(200_000)
LIMIT = 1000


class Wire:
    """A coordinator's end, and sites' ends with folders of their own."""

    def __init__(self, server: Server, tmp_path: Path) -> None:
        self.server, self.tmp_path = server, tmp_path
        self.memory = MemoryTransport()
        self.told: list[tuple[str, str]] = []
        self.transport = BulkTransport(
            self.memory, server.shelf, inline_limit_bytes=LIMIT, sites={"a", "b"}, tell=lambda *x: self.told.append(x)
        )
        self.boxes: dict[str, BulkMailbox] = {}
        self.plain: dict[str, MemoryMailbox] = {}

    def site(self, name: str, generation: int, *, bandwidth_mbit_s: float | None = None) -> BulkMailbox:
        """A site that has said hello."""
        node = f"node-{name}-{len(self.boxes)}"
        self.plain[name] = self.memory.connect(node)
        client = self.server.client(name, generation, bandwidth_mbit_s=bandwidth_mbit_s)
        box = BulkMailbox(self.plain[name], client, self.tmp_path / name, inline_limit_bytes=LIMIT)
        self.boxes[node] = box
        self.ask(name, Envelope({"kind": "hello?"}))
        message, _ = self.taken(box)
        box.answer(message, Envelope({"kind": "hello", "site": name}))
        assert self.replied().envelope.header["kind"] == "hello"  # type: ignore[union-attr]
        return box

    def ask(self, name: str, envelope: Envelope) -> str:
        node = next(n for n, box in self.boxes.items() if n.startswith(f"node-{name}"))
        return self.transport.push(node, envelope)

    def replied(self) -> Reply:
        found: list[Reply] = []

        def look() -> bool:
            for box in self.boxes.values():
                box._pass_on_answers()
            found.extend(self.transport.poll())
            return bool(found)

        until(look)
        return found[0]

    def taken(self, box: BulkMailbox) -> tuple[str, Envelope]:
        found: list[tuple[str, Envelope]] = []

        def look() -> bool:
            assert self.transport.poll() == []
            found.extend(x for x in [box.take()] if x)
            return bool(found)

        until(look)
        return found[0]


@pytest.fixture
def wire(tmp_path: Path) -> Iterator[Wire]:
    with running(tmp_path / "bulk") as server:
        made = Wire(server, tmp_path)
        yield made
        for box in made.boxes.values():
            box.close()
        made.transport.close()


def file_of(data: bytes, path: Path) -> FileBlob:
    path.write_bytes(data)
    return FileBlob.of(path)


def test_one_file_serves_all_sites_and_the_message_holds_only_its_name(wire: Wire, tmp_path: Path) -> None:
    a, b = wire.site("a", 2), wire.site("b", 1)
    version = file_of(LARGE, tmp_path / "v000001.safetensors")
    for name, box in (("a", a), ("b", b)):
        wire.ask(name, Envelope.of({"kind": "round"}, {"weights": version, "small": b"s"}))
        _, found = wire.taken(box)
        weights = found.blob("weights")
        assert (found.header, weights.read(), found.blobs["small"]) == ({"kind": "round"}, LARGE, b"s")
        assert isinstance(weights, FileBlob)
        assert weights.path == tmp_path / name / digest(LARGE)
        assert os.path.samefile(wire.server.shelf.offered(name) / digest(LARGE), version.path)


def test_what_was_offered_goes_when_it_is_answered_and_what_was_fetched_too(wire: Wire, tmp_path: Path) -> None:
    a = wire.site("a", 2)
    wire.server.shelf.offered("a").mkdir(parents=True)
    kept = file_of(some_bytes(5000, 1), wire.server.shelf.offered("a") / digest(some_bytes(5000, 1)))  # of an earlier coordinator
    wire.ask("a", Envelope({"kind": "round"}, {"weights": LARGE}))
    message, found = wire.taken(a)
    mine = found.blob("weights").keep(tmp_path / "theta")
    assert kept.path.exists()
    a.answer(message, Envelope({"kind": "contribution", "site": "a"}, {"delta": b"d"}))
    assert wire.replied().envelope is not None
    assert list(wire.server.shelf.offered("a").iterdir()) == []
    assert list((tmp_path / "a").iterdir()) == []
    assert mine.read() == LARGE


def test_an_answers_large_blob_comes_as_a_file_that_is_there_until_the_next_look(wire: Wire, tmp_path: Path) -> None:
    a = wire.site("a", 2)
    number = wire.ask("a", Envelope({"kind": "round"}))
    message, _ = wire.taken(a)
    delta = file_of(LARGE, tmp_path / "outbox")
    a.answer(message, Envelope.of({"kind": "contribution", "site": "a"}, {"delta": delta, "inner": b"i"}))
    reply = wire.replied()
    assert reply.envelope is not None
    found = reply.envelope.blob("delta")
    assert isinstance(found, FileBlob)
    assert (reply.message_id, found.read(), reply.envelope.blobs["inner"]) == (number, LARGE, b"i")
    assert MANIFEST not in reply.envelope.header
    assert found.path.parent == wire.server.shelf.sent("a")
    kept = found.keep(tmp_path / "spooled")
    wire.transport.poll()
    assert not found.path.exists()
    assert kept.read() == LARGE


def test_bytes_that_are_offered_to_two_sites_are_written_once(wire: Wire) -> None:
    wire.site("a", 2)
    wire.site("b", 1)
    for name in ("a", "b"):
        wire.ask(name, Envelope({"kind": "round"}, {"weights": LARGE}))
    files = [wire.server.shelf.offered(s) / digest(LARGE) for s in ("a", "b")]
    until(lambda: wire.transport.poll() == [] and all(f.exists() for f in files))
    assert os.path.samefile(*files)


def test_only_the_largest_blobs_are_taken_out_until_the_rest_is_small(wire: Wire) -> None:
    a = wire.site("a", 2)
    given = {"x": bytes(600), "y": bytes(900), "z": bytes(300), "w": b""}
    wire.ask("a", Envelope({"kind": "round"}, given))
    _, found = wire.taken(a)
    assert found.blobs == given
    assert {n for n in given if isinstance(found.blob(n), FileBlob)} == {"y"}


def test_a_node_that_has_not_said_that_it_fetches_files_has_everything_in_the_message(wire: Wire) -> None:
    box = wire.memory.connect("old")
    wire.transport.push("old", Envelope({"kind": "round"}, {"weights": LARGE}))
    assert box.take() == ("m1", Envelope({"kind": "round"}, {"weights": LARGE}))
    assert not wire.server.shelf.offered("a").exists()


def test_messages_of_a_node_keep_their_order_and_others_do_not_wait(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = wire.site("a", 2), wire.site("b", 1)
    full = [True]
    keep = MemoryBlob.keep

    def slow(self: MemoryBlob, path: Path) -> FileBlob:
        if full[0]:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return keep(self, path)

    monkeypatch.setattr(blobs.MemoryBlob, "keep", slow)
    monkeypatch.setattr(bulk_transport, "_AGAIN_S", 0.0)
    wire.ask("a", Envelope({"kind": "round", "n": 1}, {"weights": LARGE}))
    wire.ask("a", Envelope({"kind": "round", "n": 2}))
    wire.ask("b", Envelope({"kind": "round", "n": 3}))
    assert wire.taken(b)[1].header["n"] == 3
    until(lambda: wire.transport.poll() == [] and len(wire.told) > 2)
    assert wire.told[0] == ("a", "its files cannot be written (No space left on device): it waits for them; make room")
    assert wire.plain["a"].incoming == []
    full[0] = False
    until(lambda: wire.transport.poll() == [] and len(wire.plain["a"].incoming) == 2)
    assert wire.told[-1] == ("a", "")
    numbers = [e.header["n"] for _, e in wire.plain["a"].incoming]
    assert numbers == [1, 2]
    a.close()


def test_a_blob_whose_file_is_gone_is_not_sent_and_said_so(wire: Wire, tmp_path: Path) -> None:
    wire.site("a", 2)
    blob = file_of(LARGE, tmp_path / "v")
    blob.path.unlink()
    number = wire.ask("a", Envelope.of({"kind": "round"}, {"weights": blob}))
    reply = wire.replied()
    assert (reply.message_id, reply.envelope, reply.error) == (number, None, f"could not be sent: {blob.path} is gone")


def test_a_message_that_comes_meanwhile_takes_the_place_of_one_whose_files_are_under_way(wire: Wire, tmp_path: Path) -> None:
    a = wire.site("a", 2, bandwidth_mbit_s=0.5)
    wire.ask("a", Envelope({"kind": "round", "n": 1}, {"weights": LARGE}))
    until(lambda: wire.transport.poll() == [] and a.take() is None and any(t["done"] for t in a.transfers()))
    (under_way,) = a.transfers()
    assert (under_way["direction"], under_way["name"], under_way["of"]) == ("down", "weights", len(LARGE))
    wire.ask("a", Envelope({"kind": "hello?", "n": 2}))
    assert wire.taken(a)[1].header["n"] == 2
    assert a.transfers() == []
    assert a.take() is None


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ({"site": "a", MANIFEST: "x"}, "the list of its files is malformed"),
        ({"site": "c", MANIFEST: []}, "it names files and not whose they are"),
        ({MANIFEST: []}, "it names files and not whose they are"),
        ({"site": "b", MANIFEST: []}, "it names files and not whose they are"),
        ({"site": "a", MANIFEST: [{"blob": "delta", "file": "0" * 64, "sha256": "0" * 64, "size": 7}]}, "its delta is not here"),
        (
            {"site": "a", MANIFEST: [{"blob": "i", "file": digest(LARGE), "sha256": digest(LARGE), "size": 200_000}]},
            "a file as well",
        ),
    ],
)
def test_an_answer_whose_files_are_not_there_or_not_its_own_is_one_that_cannot_be_read(
    wire: Wire, header: dict[str, Any], said: str
) -> None:
    a = wire.site("a", 2)
    client = wire.server.client("a", 2)
    client.give(MemoryBlob(LARGE))
    client.close()
    wire.ask("a", Envelope({"kind": "round"}))
    message, _ = wire.taken(a)
    wire.plain["a"].answer(message, Envelope({"kind": "contribution", **header}, {"i": b"inline"}))
    reply = wire.replied()
    assert reply.envelope is None
    assert said in reply.error


def test_a_site_whose_token_is_over_answers_that_it_cannot_fetch(wire: Wire) -> None:
    a = wire.site("a", 1)
    wire.ask("a", Envelope({"kind": "round"}, {"weights": LARGE}))
    until(lambda: wire.transport.poll() == [] and a.take() is None and wire.plain["a"].outgoing)
    said = wire.plain["a"].outgoing[0][1].header["error"]
    assert said.startswith("its files cannot be fetched:")
    assert said.endswith("this token is of generation 1 of site a, which is over")
    assert TOKENS["a", 1] not in said


def test_a_site_whose_token_is_over_answers_that_it_cannot_send(wire: Wire) -> None:
    a = wire.site("a", 1)
    wire.ask("a", Envelope({"kind": "round"}))
    message, _ = wire.taken(a)
    a.answer(message, Envelope({"kind": "contribution", "site": "a"}, {"delta": LARGE}))
    assert a.busy()
    reply = wire.replied()
    assert reply.envelope is not None
    assert "generation 1 of site a, which is over" in reply.envelope.header["error"]
    assert not a.busy()


def test_what_is_under_way_is_told_now_and_then_and_once_when_it_is_over(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    a = wire.site("a", 2)
    under_way = [{"name": "weights"}]
    monkeypatch.setattr(a, "transfers", lambda: list(under_way))
    said: list[dict[str, Any]] = []
    look, seldom = a.telling(said.append, every_s=0.0), a.telling(said.append, every_s=1e9)
    look()
    seldom()
    seldom()
    under_way.clear()
    look()
    look()
    assert said == [{"transfers": [{"name": "weights"}]}, {"transfers": [{"name": "weights"}]}, {"transfers": []}]


def test_a_site_says_how_fast_its_answers_were_sent_and_nothing_of_what_was_there_already(wire: Wire) -> None:
    a = wire.site("a", 2, bandwidth_mbit_s=16.0)
    said: list[dict[str, Any]] = []
    look = a.telling(said.append, every_s=0.0)
    assert a.sent_bytes_per_s is None
    large = some_bytes(1_000_000)
    for time in ("first", "second"):
        wire.ask("a", Envelope({"kind": "round"}))
        message, _ = wire.taken(a)
        if time == "second":  # an earlier life has sent it
            (wire.server.shelf.sent("a") / digest(large)).write_bytes(large)
        a.answer(message, Envelope({"kind": "contribution", "site": "a"}, {"delta": large}))
        assert wire.replied().envelope is not None
        look()
    rates = {x["sent_bytes_per_s"] for x in said}
    assert len(rates) == 1, "the second time nothing was sent"
    # Half a second's worth of the limit passes at once; how much slower this machine is nobody knows.
    assert 0 < rates.pop() <= 2 * 2e6


def test_what_a_site_says_of_its_link_counts_only_where_it_is_a_speed_of_this_generation() -> None:
    assert sent_bytes_per_s({"generation": 2, "transfers": [], "sent_bytes_per_s": 5}, 2) == 5.0
    wrong: list[Any] = [None, {}, {"generation": 1, "sent_bytes_per_s": 5}, *({"generation": 2, "sent_bytes_per_s": x} for x in
                        (None, 0, -1, True, "fast", float("nan"), float("inf")))]  # fmt: skip
    assert {sent_bytes_per_s(x, 2) for x in wrong} == {None}


def test_of_what_a_site_says_of_its_transfers_only_what_is_well_formed_is_shown() -> None:
    good = {"direction": "up", "name": "delta", "done": 1, "of": 2, "since_wall": 3.0, "trouble": "x" * 1000}
    bad: list[Any] = [None, 7, {}, {**good, "done": -1}, {**good, "direction": "sideways"}, {**good, "since_wall": float("nan")}]
    said = {"generation": 2, "transfers": [*bad, good]}
    assert transfers(said, 2) == [{**good, "trouble": "x" * 300}]
    for wrong in (None, 7, {"generation": 2}, {"generation": 1, "transfers": [good]}, {"generation": 2, "transfers": "x"}):
        assert transfers(wrong, 2) == []


def test_orphans_go_when_a_coordinator_starts_and_what_a_transfer_needs_stays(wire: Wire) -> None:
    shelf = wire.server.shelf
    new, old = digest(b"new"), digest(b"old")
    for site in ("a", "b"):
        for folder in (shelf.offered(site), shelf.sent(site)):
            folder.mkdir(parents=True)
            for name in (new, f".{old}.5.part"):
                (folder / name).write_bytes(b"x")
            os.utime(folder / f".{old}.5.part", (1.0, 1.0))
    gone = clear_orphans(shelf, {"a"})
    assert sorted(str(p.relative_to(shelf.root)) for p in gone) == sorted(
        [f"to/b/{new}", f"to/b/.{old}.5.part", f"from/a/.{old}.5.part", f"from/b/.{old}.5.part"]
    )
    left = [f"from/a/{new}", f"from/b/{new}", f"to/a/.{old}.5.part", f"to/a/{new}"]
    assert sorted(str(p.relative_to(shelf.root)) for p in leftovers(shelf)) == sorted(left)


def test_a_token_can_be_read_by_its_site_alone_and_once(tmp_path: Path) -> None:
    path = tmp_path / TOKEN_NAME
    path.write_text("of an earlier life")
    write_secret(path, "secret")
    assert path.stat().st_mode & 0o777 == 0o600
    assert read_token(tmp_path) == "secret"
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(TransferError, match="start the site again"):
        read_token(tmp_path)


def test_a_reply_without_an_envelope_keeps_its_reason(wire: Wire) -> None:
    wire.site("a", 2)
    wire.memory.disconnect("node-a-0")
    number = wire.ask("a", Envelope({"kind": "round"}))
    reply = wire.replied()
    assert reply == replace(reply, message_id=number, envelope=None, error="the node is gone")
