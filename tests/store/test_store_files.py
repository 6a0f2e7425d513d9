"""Envelopes, buses and telemetry."""

from __future__ import annotations

import hashlib
import os
import sqlite3
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from windfall.errors import DataError, StoreError
from windfall.store.bus import Bus, FileBus, FileSiteBus, MemoryBus, SiteBus
from windfall.store.files import Envelope, write_atomic
from windfall.store.rundir import RunDir, RunLock
from windfall.store.telemetry import Telemetry


def test_an_envelope_comes_back_as_it_was() -> None:
    envelope = Envelope({"a": 1, "b": [1.5, None]}, {"x": b"123", "y": b""})
    assert Envelope.parse(b"".join(envelope.parts()), "test") == envelope


@given(st.data())
def test_a_damaged_envelope_is_an_error_and_never_something_else(data: st.DataObject) -> None:
    good = b"".join(Envelope({"n": 7}, {"x": b"payload" * 9}).parts())
    if data.draw(st.booleans()):
        bad = good[: data.draw(st.integers(0, len(good) - 1))]
    else:
        at = data.draw(st.integers(0, len(good) - 1))
        bad = good[:at] + bytes([good[at] ^ (1 << data.draw(st.integers(0, 7)))]) + good[at + 1 :]
    with pytest.raises(DataError):
        Envelope.parse(bad, "test")


def test_a_header_nested_without_end_is_an_error_and_no_crash() -> None:
    head = b'{"header": {"a": ' + b"[" * 200_000 + b"]" * 200_000 + b'}, "blobs": []}'
    data = b"WFENV2\n\0" + struct.pack("<Q", len(head)) + hashlib.sha256(head).digest() + head
    with pytest.raises(DataError, match="unreadable header"):
        Envelope.parse(data, "test")


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "f"
    write_atomic(path, [b"old"])

    def parts():  # type: ignore[no-untyped-def]
        yield b"half"
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        write_atomic(path, parts())
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


Ends = tuple[Bus, Callable[[int], SiteBus]]


@pytest.fixture(params=["memory", "files"])
def ends(request: pytest.FixtureRequest, tmp_path: Path) -> Ends:
    if request.param == "memory":
        bus = MemoryBus()
        return bus, lambda generation: bus.site("s", generation)
    return FileBus(tmp_path), lambda generation: FileSiteBus(tmp_path / "s", generation)


def test_commands_arrive_once_in_order_even_if_sent_before_the_site_listens(ends: Ends) -> None:
    bus, site = ends
    bus.send("s", {"kind": "drain", "generation": 1})
    bus.send("s", {"kind": "cut", "generation": 1})
    end = site(1)
    assert [c["kind"] for c in end.commands()] == ["drain", "cut"]
    assert end.commands() == []


def test_commands_of_another_generation_are_not_for_this_one(ends: Ends) -> None:
    bus, site = ends
    bus.send("s", {"kind": "drain", "generation": 1})
    assert site(2).commands() == []


def test_events_reach_the_coordinator_once_with_their_generation(ends: Ends) -> None:
    bus, site = ends
    assert bus.poll("s") == []
    end = site(3)
    end.emit({"kind": "step", "loss": 1.0})
    end.emit({"kind": "step", "loss": 2.0})
    assert [(e["loss"], e["generation"]) for e in bus.poll("s")] == [(1.0, 3), (2.0, 3)]
    assert bus.poll("s") == []


def test_registers_hold_the_newest_value(ends: Ends) -> None:
    bus, site = ends
    end = site(1)
    assert bus.get("s", "heartbeat") is None
    end.set("heartbeat", {"n": 1})
    end.set("heartbeat", {"n": 2})
    assert bus.get("s", "heartbeat") == {"n": 2, "generation": 1}
    bus.set("s", "clock", {"granted": 5})
    assert end.get("clock") == {"granted": 5}


def test_a_torn_line_on_the_file_bus_is_skipped(tmp_path: Path) -> None:
    bus = FileBus(tmp_path)
    assert bus.poll("s") == []
    FileSiteBus(tmp_path / "s", 1).emit({"kind": "one"})
    with open(tmp_path / "s" / "bus" / "events.jsonl", "ab") as f:
        f.write(b'{"kind": "to\n')
    FileSiteBus(tmp_path / "s", 1).emit({"kind": "two"})
    assert [e["kind"] for e in bus.poll("s")] == ["one", "two"]


def test_a_full_telemetry_drops_rows_and_goes_on(tmp_path: Path) -> None:
    telemetry = Telemetry.open(tmp_path / "t.db")
    telemetry.event(1.0, "first")
    telemetry.flush()
    pages = int(telemetry._db.execute("PRAGMA page_count").fetchone()[0])
    telemetry._db.execute(f"PRAGMA max_page_count = {pages}")
    for _ in range(2000):
        telemetry.event(2.0, "too much", text="x" * 200)
    telemetry.flush()
    assert telemetry.dropped == 2000
    telemetry._db.execute("PRAGMA max_page_count = 100000")
    telemetry.event(3.0, "last")
    telemetry.flush()
    assert [e.kind for _, e in telemetry.events()] == ["first", "last"]
    telemetry.close()


def test_telemetry_of_a_newer_schema_is_refused(tmp_path: Path) -> None:
    Telemetry.open(tmp_path / "t.db").close()
    db = sqlite3.connect(tmp_path / "t.db")
    db.execute("UPDATE meta SET value = '9' WHERE key = 'schema'")
    db.commit()
    db.close()
    with pytest.raises(StoreError, match="newer Windfall"):
        Telemetry.open(tmp_path / "t.db")


def test_a_folder_of_something_else_is_no_run_directory(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(StoreError, match=r"not empty and not a run directory \(it has thesis\.tex\)"):
        RunDir(tmp_path).make()
    (tmp_path / "thesis.tex").unlink()
    (tmp_path / "ledger.new-wal").write_text("")  # of a start that was killed
    RunDir(tmp_path).make()
    with pytest.raises(StoreError, match="no run here"):
        RunDir(tmp_path).open_existing()


def test_one_coordinator_at_a_time(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "r")
    run.make()
    first = RunLock(run)
    first.acquire()
    with pytest.raises(StoreError, match="another coordinator"):
        RunLock(run).acquire()
    first.release()
    second = RunLock(run)
    second.acquire()
    second.release()


def test_a_link_stays_one_and_what_is_no_file_is_written_to(tmp_path: Path) -> None:
    """A page written to /dev/stdout or a pipe replaced it by a file."""
    (tmp_path / "page").write_text("old")
    (tmp_path / "link").symlink_to("page")
    write_atomic(tmp_path / "link", [b"new"], durable=False)
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "page").read_text() == "new"
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    try:
        write_atomic(tmp_path / "pipe", [b"a", b"b"])
        assert os.read(reader, 10) == b"ab"
        assert (tmp_path / "pipe").is_fifo()
    finally:
        os.close(reader)
    (tmp_path / "null").symlink_to("/dev/null")
    write_atomic(tmp_path / "null", [b"gone"])
    assert (tmp_path / "null").is_symlink()
    assert not Path("/dev/null").is_file()


def test_what_standard_output_leads_to_is_written_where_it_is_open(tmp_path: Path) -> None:
    code = "from pathlib import Path; from windfall.store.files import write_atomic; write_atomic(Path('/dev/stdout'), [b'page'])"
    with open(tmp_path / "out", "wb") as out:
        subprocess.run([sys.executable, "-c", code], stdout=out, check=True)
    assert (tmp_path / "out").read_bytes() == b"page"


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="this machine has no /dev/shm")
def test_a_run_directory_in_shared_memory_has_whole_files_as_anywhere() -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        path = Path(folder) / "state.json"
        write_atomic(path, [b"old"])
        before = path.stat().st_ino
        write_atomic(path, [b"new"])
        assert path.read_bytes() == b"new"
        assert path.stat().st_ino != before, "readers have the old file or the new one, whole"
