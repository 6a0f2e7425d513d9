"""Reading text: the same documents from every kind of source and however it is cut into units, and every error named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from backports import zstd

from windfall.errors import DataError
from windfall.train.corpus import open_corpus

TEXTS = [f"line {number}: größe of the wind over the grid\n" * (1 + number % 4) for number in range(300)]


def write_jsonl(path: Path, texts: list[str], field: str = "text") -> Path:
    data = "\n".join(json.dumps({"id": 1, field: text}) for text in texts).encode()
    path.write_bytes(zstd.compress(data[:5000]) + zstd.compress(data[5000:]) if path.suffix == ".zst" else data)
    return path


def write_parquet(path: Path, texts: list[str | None], column: str = "text", rows: int = 7) -> Path:
    pq.write_table(pa.table({"id": list(range(len(texts))), column: texts}), path, row_group_size=rows)
    return path


def write_text(path: Path, texts: list[str]) -> Path:
    path.write_text("".join(texts), encoding="utf-8")
    return path


def read(source: Path, column: str = "text") -> list[str]:
    return [document.decode() for document in open_corpus(source, column).documents()]


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.zst", "a.parquet", "a.txt"])
@pytest.mark.parametrize("unit_bytes", [2**23, 4096, 700, 1])
def test_however_a_file_is_cut_into_units_its_documents_are_the_same(
    name: str, unit_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = TEXTS[:40] if unit_bytes == 1 else TEXTS
    monkeypatch.setattr("windfall.train.corpus.UNIT_BYTES", unit_bytes)
    write = {"a.parquet": write_parquet, "a.txt": write_text}.get(name, write_jsonl)
    path = write(tmp_path / name, texts)  # type: ignore[operator]
    found = read(path)
    assert "".join(found) == "".join(texts)
    if name != "a.txt":
        assert found == texts
    # A text is cut between its documents of 8 KiB only.
    assert len(open_corpus(path).units) > (1 if unit_bytes < 5000 and (name, unit_bytes) != ("a.txt", 1) else 0)


def test_a_folder_of_files_is_read_in_order_with_every_kind_in_its_place(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    write_text(tmp_path / "a.md", ["first"])
    write_jsonl(tmp_path / "b.jsonl", ["second", "third"])
    write_jsonl(tmp_path / "c.jsonl.zst", ["fourth"])
    (tmp_path / "empty.txt").touch()
    write_text(tmp_path / "sub" / "z", ["fifth"])
    assert read(tmp_path) == ["first", "second", "third", "fourth", "fifth"]


def test_a_folder_with_parquet_files_is_a_data_set_and_its_readme_no_part_of_it(tmp_path: Path) -> None:
    write_parquet(tmp_path / "001.parquet", ["second"])
    write_parquet(tmp_path / "000.parquet", ["first"])
    write_text(tmp_path / "README.md", ["what this is"])
    assert read(tmp_path) == ["first", "second"]


def test_rows_without_text_are_empty_documents(tmp_path: Path) -> None:
    assert read(write_parquet(tmp_path / "a.parquet", ["x", None, "", "y"])) == ["x", "y"]


def test_another_column_may_hold_the_text_and_may_be_a_dictionary(tmp_path: Path) -> None:
    assert read(write_parquet(tmp_path / "a.parquet", ["x"], "content"), "content") == ["x"]
    assert read(write_jsonl(tmp_path / "a.jsonl", ["x"], "content"), "content") == ["x"]
    pq.write_table(pa.table({"text": pa.array(["x", "y", "x"]).dictionary_encode()}), tmp_path / "b.parquet")
    assert read(tmp_path / "b.parquet") == ["x", "y", "x"]
    pq.write_table(pa.table({"text": pa.array(["x"], pa.large_string())}), tmp_path / "c.parquet")
    assert read(tmp_path / "c.parquet") == ["x"]


def test_what_was_prepared_inside_the_corpus_is_no_part_of_it(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", ["text"])
    (tmp_path / "out").mkdir()
    write_text(tmp_path / "out" / "manifest.json", ["{}"])
    assert [d.decode() for d in open_corpus(tmp_path, leave_out=tmp_path / "out").documents()] == ["text"]


def _not_utf8_parquet(path: Path) -> Path:
    bad = pa.Array.from_buffers(pa.string(), 2, [None, pa.py_buffer(b"\0\0\0\0\2\0\0\0\4\0\0\0"), pa.py_buffer(b"okx\xff")])
    pq.write_table(pa.table({"text": bad}), path)
    return path


def _cut(path: Path) -> Path:
    write_jsonl(path, TEXTS)
    path.write_bytes(path.read_bytes()[:-20])
    return path


def _numbers(path: Path) -> Path:
    pq.write_table(pa.table({"text": [1, 2]}), path)
    return path


def _bytes(data: bytes) -> Callable[[Path], Path]:
    def write(path: Path) -> Path:
        path.write_bytes(data)
        return path

    return write


@pytest.mark.parametrize(
    ("name", "make", "message"),
    [
        ("a.parquet", lambda path: write_parquet(path, ["x"], "content"), "no column 'text'; the columns are id, content"),
        ("a.parquet", _numbers, "column 'text' holds int64, not text"),
        ("a.parquet", _bytes(b"PAR1 but no more"), "not a readable parquet file"),
        ("a.parquet", _not_utf8_parquet, "the text of row 2 is not UTF-8 at byte 1"),
        ("a.jsonl.zst", _bytes(b"no zstd"), "not a whole zstd file"),
        ("a.jsonl.zst", _cut, "not a whole zstd file"),
        (
            "a.jsonl",
            lambda path: write_jsonl(path, ["x"], "content"),
            "line 1 has no field \"text\" that holds a string (it has 'id'",
        ),
        ("a.jsonl", _bytes(b'{"text": "x"}\n' * 9 + b"{"), "line 10 is not JSON"),
        ("a.txt", _bytes(b"fine\n" * 500 + b"\xff\xfe"), "not UTF-8 at byte offset 2500"),
        ("a.txt", _bytes(b"\x80" * 40_000), "not UTF-8 at byte offset 0"),
    ],
)
def test_a_file_that_is_no_good_is_refused_in_one_line(
    name: str, make: Callable[[Path], Path], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("windfall.train.corpus.UNIT_BYTES", 50)
    path = make(tmp_path / name)
    with pytest.raises(DataError) as caught:
        read(path)
    assert str(caught.value).startswith(str(path))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
