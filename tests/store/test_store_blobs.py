"""Blobs in files: read piece by piece, checked on the way, in envelopes of the one format."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from windfall.errors import DataError
from windfall.store import blobs
from windfall.store.blobs import FileBlob, MemoryBlob
from windfall.store.files import Envelope


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blobs, "CHUNK", 7)


def saved(path: Path, data: bytes) -> FileBlob:
    path.write_bytes(data)
    return FileBlob.of(path)


def test_an_envelope_of_files_is_byte_for_byte_that_of_bytes(tmp_path: Path) -> None:
    in_memory = Envelope({"n": 1}, {"large": b"x" * 100, "small": b"y"})
    of_files = Envelope.of({"n": 1}, {"large": saved(tmp_path / "f", b"x" * 100), "small": b"y"})
    assert b"".join(of_files.parts()) == b"".join(in_memory.parts())
    assert of_files == in_memory
    assert of_files.blobs["large"] == b"x" * 100  # who expects bytes has them


def test_large_blobs_of_an_envelope_stay_in_its_file(tmp_path: Path) -> None:
    Envelope({"n": 1}, {"a": b"x" * 100, "b": b"y", "c": b"z" * 50}).save(tmp_path / "e.env")
    found = Envelope.load(tmp_path / "e.env", in_memory_up_to=10)
    a, b, c = (found.blob(n) for n in "abc")
    assert isinstance(a, FileBlob)
    assert isinstance(b, MemoryBlob)
    assert isinstance(c, FileBlob)
    assert (a.path, a.size, c.read(), b.read()) == (tmp_path / "e.env", 100, b"z" * 50, b"y")
    assert Envelope.header_of(tmp_path / "e.env") == {"n": 1}
    found.save(tmp_path / "again.env")
    assert (tmp_path / "again.env").read_bytes() == (tmp_path / "e.env").read_bytes()


def test_an_envelope_within_a_blob_of_another_stays_in_that_file(tmp_path: Path) -> None:
    inner = b"".join(Envelope({"cut": 3}, {"delta": b"d" * 80}).parts())
    Envelope({"kind": "hello"}, {"000001-000003.env": inner}).save(tmp_path / "e.env")
    outer = Envelope.load(tmp_path / "e.env", in_memory_up_to=10)
    found = Envelope.within(outer.blob("000001-000003.env"), "offered", in_memory_up_to=10)
    delta = found.blob("delta")
    assert (found.header, delta.read(), delta.path) == ({"cut": 3}, b"d" * 80, tmp_path / "e.env")  # type: ignore[union-attr]
    assert Envelope.within(MemoryBlob(inner), "offered", in_memory_up_to=10) == found


@given(st.data())
def test_a_damaged_file_is_an_error_as_damaged_bytes_are(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    good = b"".join(Envelope({"n": 7}, {"x": b"payload" * 9, "y": b"small"}).parts())
    if data.draw(st.booleans()):
        bad = good[: data.draw(st.integers(0, len(good) - 1))]
    else:
        at = data.draw(st.integers(0, len(good) - 1))
        bad = good[:at] + bytes([good[at] ^ (1 << data.draw(st.integers(0, 7)))]) + good[at + 1 :]
    path = tmp_path_factory.getbasetemp() / "bad.env"
    path.write_bytes(bad)
    with pytest.raises(DataError):
        Envelope.load(path, in_memory_up_to=10)


def test_unchecked_a_blob_that_stays_in_its_file_is_checked_when_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "e.env"
    Envelope({}, {"x": b"payload" * 9}).save(path)
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    blob = Envelope.load(path, in_memory_up_to=10, check=False).blob("x")
    with pytest.raises(DataError, match="changed on its way"):
        blob.read()
    os.truncate(path, path.stat().st_size - 5)
    with pytest.raises(DataError, match="cut short"):
        blob.read()


def test_an_envelope_whose_file_has_changed_is_not_written(tmp_path: Path) -> None:
    blob = saved(tmp_path / "f", b"x" * 100)
    (tmp_path / "f").write_bytes(b"z" * 100)
    with pytest.raises(DataError, match="changed on its way"):
        Envelope.of({}, {"x": blob}).save(tmp_path / "e.env")
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


def test_a_reader_of_a_part_of_a_file_sees_that_part_alone(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"0123456789")
    blob = FileBlob(tmp_path / "f", 5, "", offset=3)
    with blob.open() as f:
        assert (f.read(2), f.read(), f.read(1)) == (b"34", b"567", b"")
        assert f.seek(-1, os.SEEK_END) == 4
        buffer = bytearray(4)
        assert (f.readinto(buffer), buffer[:1]) == (1, b"7")  # type: ignore[attr-defined]
        f.seek(1)
        assert f.read(100) == b"4567"


def test_keeping_a_whole_file_gives_it_a_second_name_and_copies_nothing(tmp_path: Path) -> None:
    blob = saved(tmp_path / "f", b"x" * 100)
    kept = blob.keep(tmp_path / "kept")
    assert os.path.samefile(tmp_path / "f", kept.path)
    assert blob.keep(tmp_path / "f") == blob  # its own name
    assert sorted(p.name for p in tmp_path.iterdir()) == ["f", "kept"]


@pytest.mark.parametrize("why", ["a part of a file", "no links"])
def test_what_cannot_have_a_second_name_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, why: str) -> None:
    blob = saved(tmp_path / "f", b"x" * 100)
    if why == "no links":

        def no(*_: object) -> None:
            raise OSError(errno.EPERM, "no links here")

        monkeypatch.setattr(os, "link", no)
        assert blob.keep(tmp_path / "kept").read() == b"x" * 100
    else:
        (tmp_path / "f").write_bytes(b"__" + b"x" * 100 + b"__")
        kept = FileBlob(tmp_path / "f", 100, blob.sha256, offset=2).keep(tmp_path / "kept")
        assert (kept.path.read_bytes(), kept.offset) == (b"x" * 100, 0)
    assert MemoryBlob(b"abc").keep(tmp_path / "m").read() == b"abc"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["f", "kept", "m"]


def test_a_copy_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def parts(self: MemoryBlob) -> Iterator[bytes]:
        yield b"half"
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(MemoryBlob, "parts", parts)
    with pytest.raises(OSError, match="No space"):
        MemoryBlob(b"x").keep(tmp_path / "kept")
    assert list(tmp_path.iterdir()) == []
