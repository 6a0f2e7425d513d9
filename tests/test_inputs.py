"""What a user names to be read, or to be written, may be anything that has a name."""

from __future__ import annotations

import os
import socket
import threading
from pathlib import Path

import pytest

from windfall.inputs import read_bytes, require_file
from windfall.store.files import write_atomic


@pytest.fixture
def odd(tmp_path: Path) -> dict[str, Path]:
    pipe, folder, listening = tmp_path / "pipe", tmp_path / "folder", tmp_path / "socket"
    os.mkfifo(pipe)
    folder.mkdir()
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(listening))
    return {"pipe": pipe, "folder": folder, "socket": listening, "device": Path("/dev/zero"), "nothing": tmp_path / "nothing"}


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("pipe", "it is a pipe, and nothing comes out of it"),
        ("folder", "it is a folder"),
        ("socket", "it is a socket, no file"),
        ("device", "it is a device, no file"),
        ("nothing", "No such file or directory"),
    ],
)
def test_what_is_no_file_is_said_at_once_and_never_waited_for(odd: dict[str, Path], what: str, said: str) -> None:
    with pytest.raises(OSError, match=said):
        read_bytes(odd[what])
    with pytest.raises(OSError, match="more than once" if what == "pipe" else said):
        require_file(odd[what])


def test_what_somebody_writes_into_a_pipe_is_read_to_its_end(odd: dict[str, Path]) -> None:
    def write() -> None:
        with odd["pipe"].open("wb") as pipe:  # waits for the reader
            for _ in range(40):
                pipe.write(b"x" * 9000)
                pipe.flush()

    # Open for reading as well, so that the writer is there before the reader looks, however slow it is.
    held = os.open(odd["pipe"], os.O_RDWR)
    writer = threading.Thread(target=write)
    writer.start()
    reader: list[bytes] = []
    reading = threading.Thread(target=lambda: reader.append(read_bytes(odd["pipe"])))
    reading.start()
    writer.join()
    os.close(held)
    reading.join()
    assert reader == [b"x" * 360_000]


def test_what_is_too_large_to_be_what_is_wanted_is_not_read_to_its_end(tmp_path: Path) -> None:
    with (tmp_path / "large").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(OSError, match="more than 16 MB"):
        read_bytes(tmp_path / "large")


def test_a_pipe_that_nobody_reads_is_not_written_to_for_ever(odd: dict[str, Path]) -> None:
    with pytest.raises(OSError, match="a pipe that nobody reads"):
        write_atomic(odd["pipe"], [b"page"])
    reader = os.open(odd["pipe"], os.O_RDONLY | os.O_NONBLOCK)
    write_atomic(odd["pipe"], [b"page"])
    assert os.read(reader, 99) == b"page"
    os.close(reader)
