"""How a trainer's process ends: its last answer gets out while it moves, and nothing keeps a site on that moves nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from windfall import clock
from windfall.site.trainer_process import hand_out
from windfall.store.files import Envelope
from windfall.wire.bulk import MANIFEST
from windfall.wire.bulk_mailbox import BulkMailbox
from windfall.wire.transport import MemoryMailbox, MemoryTransport
from wire.bulk_bench import Server, running, some_bytes

LARGE = some_bytes(400_000)


def sending(server: Server, folder: Path, *, bandwidth_mbit_s: float | None = None) -> tuple[BulkMailbox, MemoryMailbox]:
    """A site's end whose last answer, with a large file, is on its way."""
    plain = MemoryTransport().connect("node")
    client = server.client("a", 2, bandwidth_mbit_s=bandwidth_mbit_s)
    files = BulkMailbox(plain, client, folder, inline_limit_bytes=1000)
    files.answer("m-1", Envelope({"kind": "contribution"}, {"delta": LARGE}))
    assert files.busy()
    return files, plain


def test_an_end_that_answers_no_more_holds_a_site_no_longer_than_its_dead_man(tmp_path: Path) -> None:
    with running(tmp_path / "bulk") as server:
        server.stop()
        files, _ = sending(server, tmp_path / "a")
        hand_out(files, lambda: None, [], since=clock.monotonic(), patience_s=0.1)
        assert files.busy(), "it was given up, not sent"
        files.close()
        server.again()


def test_a_site_that_stops_because_nobody_is_heard_has_waited_already(tmp_path: Path) -> None:
    with running(tmp_path / "bulk") as server:
        server.stop()
        files, _ = sending(server, tmp_path / "a")
        looked: list[int] = []
        hand_out(files, lambda: looked.append(1), [], since=clock.monotonic() - 40.0, patience_s=40.0)
        assert not looked
        files.close()
        server.again()


def test_what_moves_gets_out_however_long_it_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with running(tmp_path / "bulk") as server:
        files, plain = sending(server, tmp_path / "a", bandwidth_mbit_s=8.0)
        answered: list[Envelope] = []
        monkeypatch.setattr(plain, "answer", lambda _, envelope: answered.append(envelope))
        hand_out(files, lambda: None, [], since=clock.monotonic(), patience_s=30.0)
        assert not files.busy()
        assert [MANIFEST in e.header for e in answered] == [True]
        files.close()


def test_a_second_word_to_end_is_obeyed_at_once(tmp_path: Path) -> None:
    with running(tmp_path / "bulk") as server:
        server.stop()
        files, _ = sending(server, tmp_path / "a")
        hand_out(files, lambda: None, [15], since=clock.monotonic(), patience_s=1e9)
        assert files.busy()
        files.close()
        server.again()
