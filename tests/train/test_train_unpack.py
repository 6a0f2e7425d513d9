"""Compressed files: the same documents as from plain ones, and whatever is not whole is told by name."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from backports import zstd

from windfall.errors import DataError
from windfall.train.corpus import open_corpus

TEXTS = [f"row {number}: größe of the wind over the grid\n" * (1 + number % 4) for number in range(300)]
ROWS = "\n".join(json.dumps({"text": text}) for text in TEXTS).encode()
PACK: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress, "zst": zstd.compress,
}  # fmt: skip


def read(path: Path) -> list[str]:
    return [document.decode() for document in open_corpus(path).documents()]


@pytest.mark.parametrize("ending", PACK)
@pytest.mark.parametrize("unit_bytes", [2**23, 700])
def test_what_is_compressed_gives_the_documents_of_what_is_not(
    ending: str, unit_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("windfall.train.corpus.UNIT_BYTES", unit_bytes)
    text = "".join(TEXTS).encode()
    (tmp_path / "a.txt").write_bytes(text)
    pack = PACK[ending]
    for name, content in (("a.jsonl", ROWS), ("a.json", ROWS), ("b.TXT", text), ("c.md", text)):
        # Of two members, as pigz and `cat` make them.
        (tmp_path / f"{name}.{ending}").write_bytes(pack(content[:5000]) + pack(content[5000:]))
    assert read(tmp_path / f"a.jsonl.{ending}") == read(tmp_path / f"a.json.{ending}") == TEXTS
    for path in (tmp_path / f"b.TXT.{ending}", tmp_path / f"c.md.{ending}"):
        assert read(path) == read(tmp_path / "a.txt")
        assert len(read(path)) > 1
    corpus = open_corpus(tmp_path / f"a.jsonl.{ending}")
    assert len(corpus.units) == (1 if unit_bytes > 700 else 32)


def test_padding_and_frames_for_others_are_no_text(tmp_path: Path) -> None:
    frame = struct.pack("<II", 0x184D2A50, 5) + b"hello"
    (tmp_path / "a.jsonl.zst").write_bytes(frame + zstd.compress(ROWS[:900]) + frame + zstd.compress(ROWS[900:]) + frame)
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(ROWS) + b"\0" * 100_000)
    assert read(tmp_path / "a.jsonl.zst") == read(tmp_path / "b.jsonl.gz") == TEXTS


@pytest.mark.parametrize("ending", PACK)
@pytest.mark.parametrize("kind", ["jsonl", "txt"])
def test_a_compressed_file_that_is_not_whole_is_named_and_never_half_a_corpus(ending: str, kind: str, tmp_path: Path) -> None:
    whole = PACK[ending](ROWS)
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 0xFF
    path = tmp_path / f"a.{kind}.{ending}"
    for content, why in (
        (whole[:-9], "it ends too early"),
        (whole + whole[:-9], "it ends too early"),
        (bytes(flipped), "not a whole"),
        (whole + b"and something else", "not a whole"),
        (b"", "it is empty"),
        (ROWS, "but plain text; name it without its last ending"),
        (next(PACK[other](ROWS) for other in PACK if other != ending), "by its content; name it so"),
        (b"\x00\x01\x02 nothing of the kind", "it begins as something else"),
    ):
        path.write_bytes(content)
        with pytest.raises(DataError) as caught:
            read(path)
        assert str(caught.value).startswith(f"{path}: not a whole {ending.replace('gz', 'gzip').replace('bz2', 'bzip2')}"[:-4])
        assert why in str(caught.value)
        assert "\n" not in str(caught.value)
