"""Rows of JSON however they are laid out, and rows that are no good."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from windfall.errors import DataError
from windfall.train.corpus import open_corpus
from windfall.train.prepare import prepare
from windfall.train.rows import Tally

TEXTS = [f"row {number}: größe of the wind\n" * (1 + number % 3) for number in range(60)]
OBJECTS = [{"id": number, "text": text} for number, text in enumerate(TEXTS)]


def lines(objects: list[dict[str, object]], between: str = "\n") -> bytes:
    return between.join(json.dumps(each) for each in objects).encode()


def read(path: Path, column: str = "text") -> list[str]:
    return [document.decode() for document in open_corpus(path, column).documents()]


LAYOUTS = {
    "one a line": lines(OBJECTS),
    "Windows lines and blank ones": lines(OBJECTS, "\r\n\r\n") + b"\r\n",
    "one list": json.dumps(OBJECTS, ensure_ascii=False).encode(),
    "a list on many lines": b"\xef\xbb\xbf\n" + json.dumps(OBJECTS, indent=2).encode() + b"\n",
    "objects on many lines": b"\n".join(json.dumps(each, indent=2).encode() for each in OBJECTS),
    "objects on one line": lines(OBJECTS, " "),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("unit_bytes", [2**23, 300])
def test_json_is_read_as_rows_however_it_is_laid_out(
    layout: str, unit_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("windfall.train.corpus.UNIT_BYTES", unit_bytes)
    # Values are read in steps of some characters, and never cut by them.
    monkeypatch.setattr("windfall.train.rows._FIRST_CHARACTERS", 41)
    (tmp_path / "a.json").write_bytes(LAYOUTS[layout])
    assert read(tmp_path / "a.json") == TEXTS
    assert read(tmp_path) == TEXTS


@pytest.mark.parametrize("name", ["a.ndjson", "A.JSONL", "a.Jsonl", "a.jsonlines", "a.JSON", "a.NDJSON"])
def test_whatever_the_ending_of_rows_their_texts_are_read_and_not_their_braces(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(lines(OBJECTS))
    assert read(tmp_path / name) == read(tmp_path) == TEXTS


@pytest.mark.parametrize("name", ["wiki_00", "part-00000", "part-00000.gz", "a.txt", "rows.jsonl.0", "a.jsonl.bak", "a.txt.gz"])
def test_rows_are_seen_by_how_a_file_begins_where_its_name_does_not_say_so(name: str, tmp_path: Path) -> None:
    (folder := tmp_path / "AA").mkdir()
    content = b"\xef\xbb\xbf" + lines(OBJECTS)
    (folder / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    (tmp_path / "README.md").write_text("about\n")
    assert read(folder / name) == read(tmp_path) == TEXTS
    assert open_corpus(tmp_path).notes() == [f"{tmp_path}: README.md left out: notes about the data"]
    # The key is the one that is asked for.
    (folder / name).write_bytes(gzip.compress(b'{"body": "x"}') if name.endswith(".gz") else b'{"body": "x"}')
    assert read(folder / name, "body") == ["x"]


@pytest.mark.parametrize(
    "text", ['{"text": "x"}\nis how a row looks\n', '{"text": "x"}\n{"id": 1}\n', '{\n"text": "x"}\n', '{"id": 1}\n', "{text}\n"]
)
def test_a_text_that_only_begins_like_a_row_stays_text(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(text)
    assert read(tmp_path / "a.txt") == [text]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            b'{"a": 1, "b": {"text": "x"}}',
            "JSON without a field 'text' that holds a string (it has 'a', 'b'); choose with --text-column",
        ),
        (b'{"content": "x"}\n{"content": "y"}\n', "without a field 'text' that holds a string (it has 'content'); choose with"),
        (b'[{"content": "x"}]', "without a field 'text' that holds a string (it has 'content'); choose with"),
        (b'{"text": 3}', "without a field 'text' that holds a string (it has 'text')"),
        (b'["x", "y"]', "JSON, but no objects with a field 'text'; write one in each line"),
        (b'{"text": ', "no JSON (Expecting value"),
        (b'[{"text": "x"}, {"text": "y"', "not JSON at character 16 (Expecting ',' delimiter); repair it, or fetch it again"),
        (b'[{"text": "x"}', "its list has no end; fetch it again"),
        (b'[{"text": "x"} {"text": "y"}]', "not JSON at character 15 (a comma is missing)"),
        (b'[{"text": "x"}] {}', "not JSON at character 16 (something follows the list)"),
        (b'[{"text": "x"}, {"body": "y"}]', "row 2 has no field \"text\" that holds a string (it has 'body'"),
        (b'{"text": "x"}\n{"text": ["y"]}', 'line 2 has no field "text" that holds a string (it holds a list'),
        (b'{"text": "x"}\n{"text": "\\udc00y"}', "line 2 holds half a surrogate pair at character 0"),
    ],
)
def test_json_that_is_no_rows_is_refused_with_the_keys_that_there_are(content: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert said in str(caught.value)
    # Nor is it text because a note lies beside it.
    (tmp_path / "README.md").write_text("about\n" * 50)
    with pytest.raises(DataError):
        read(tmp_path)


def test_json_beside_more_text_is_text_as_in_a_tree_of_sources(tmp_path: Path) -> None:
    (tmp_path / "package.json").write_text('{"name": "grid"}')
    (tmp_path / "main.py").write_text("wind = 'over the grid'\n")
    assert read(tmp_path) == ["wind = 'over the grid'\n", '{"name": "grid"}']


def test_a_byte_order_mark_is_no_text_wherever_a_file_line_or_row_begins(tmp_path: Path) -> None:
    mark = "\ufeff"
    (tmp_path / "a.txt").write_text(f"{mark}first\n{mark}{mark}second {mark}\n", encoding="utf-8")
    (tmp_path / "b.jsonl").write_text(f'{mark}{{"text": "third"}}\n{mark}{{"text": "{mark}fourth"}}\n', encoding="utf-8")
    (tmp_path / "c.json").write_text(f'{mark}[{{"text": "\\ufefffifth"}}]', encoding="utf-8")
    # Within a line it is a character like others.
    assert read(tmp_path) == [f"first\nsecond {mark}\n", "third", "fourth", "fifth"]
    assert read(tmp_path / "a.txt") == [f"first\nsecond {mark}\n"]
    pq.write_table(pa.table({"text": [f"{mark}sixth"]}), tmp_path / "d.parquet")
    assert read(tmp_path / "d.parquet") == ["sixth"]


def test_a_byte_order_mark_is_no_text_at_the_beginning_of_any_line_whatever_holds_and_ends_it(tmp_path: Path) -> None:
    text, clean = "\ufeffa\n\ufeffb\r\n\ufeff\ufeffc\r\ufeffd \ufeffe", "a\nb\r\nc\rd \ufeffe"
    (tmp_path / "a.txt").write_bytes(text.encode())
    (tmp_path / "b.jsonl").write_bytes(lines([{"text": text}]))
    (tmp_path / "c.json").write_text(json.dumps([{"text": text}]))
    pq.write_table(pa.table({"text": [text]}), tmp_path / "d.parquet")
    for name in ("a.txt", "b.jsonl", "c.json", "d.parquet"):
        assert read(tmp_path / name) == [clean], name


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.parquet"])
def test_null_text_counts_the_same_in_every_format_and_is_told(name: str, tmp_path: Path) -> None:
    texts: list[str | None] = [f"{number} wind over the grid " * 9 if number % 3 else None for number in range(45)]
    path = tmp_path / name
    if name == "a.parquet":
        pq.write_table(pa.table({"text": texts}), path, row_group_size=7)
    elif name == "a.json":
        path.write_text(json.dumps([{"text": text} for text in texts]))
    else:
        path.write_text("\n".join(json.dumps({"text": text}) for text in texts))
    said: list[str] = []
    manifest = prepare(path, tmp_path / "out", sequence_length=32, tell=said.append)
    assert (manifest.documents, manifest.empty_documents) == (30, 15)
    word = "line" if name == "a.jsonl" else "row"
    named = ", ".join(f"{path}: {word} {number}" for number in range(1, 31, 3))
    assert said == [f"{path}: 15 rows without text (null): {named} and 5 more"]
    # Nor does it matter where they are left out with the bad ones: the tokens are the same.
    again = prepare(path, tmp_path / "again", sequence_length=32, skip_bad_rows=True, tell=said.append)
    assert again.hash == manifest.hash
    assert said[0] == said[1]


def test_bad_rows_are_left_out_where_that_is_wanted_counted_and_named(tmp_path: Path) -> None:
    good = [{"text": f"{number} wind over the grid " * 9} for number in range(30)]
    bad = [b'{"id": 1}', b'{"text": 3}', b'{"text": "\\ud800"}', b"no", b'{"text": "\xff"}']
    (tmp_path / "good.jsonl").write_bytes(lines(good[:10]) + b"\n" + lines(good[10:]))
    path = tmp_path / "bad.jsonl"
    path.write_bytes(lines(good[:10]) + b"\n" + b"\n".join(bad) + b"\n" + lines(good[10:]))
    with pytest.raises(DataError, match=r"line 11 has no field \"text\" that holds a string \(it has 'id'"):
        prepare(path, tmp_path / "out", sequence_length=32)
    said: list[str] = []
    skipped = prepare(path, tmp_path / "out", sequence_length=32, skip_bad_rows=True, tell=said.append)
    assert skipped.hash == prepare(tmp_path / "good.jsonl", tmp_path / "out2", sequence_length=32).hash
    assert len(said) == 1
    assert said[0].startswith(f"{path}: 5 rows of 35 left out as bad: {path}: line 11 has no field")
    assert f"{path}: line 13 holds half a surrogate pair at character 0; " in said[0]
    assert said[0].endswith(f"{path}: line 15 is not UTF-8 at byte 10 of the line")
    path.write_bytes(b"\n".join([b'{"text": "fine"}', *bad]))
    with pytest.raises(DataError, match="most of it would be left out, 5 rows of 6 left out as bad"):
        prepare(path, tmp_path / "out3", sequence_length=32, skip_bad_rows=True)


def test_a_tally_names_ten_and_counts_the_rest() -> None:
    total = Tally()
    for part in range(3):
        one = Tally(skip=True)
        for row in range(8):
            one.no_text(lambda part=part, row=row: f"{part}.{row}")  # type: ignore[misc]
            one.no_good(lambda part=part, row=row: f"{part}.{row} is wrong; mend it")  # type: ignore[misc]
        total.add(one)
    assert (total.null, total.bad) == (24, 24)
    assert total.null_rows == [*(f"0.{row}" for row in range(8)), "1.0", "1.1"]
    assert total.bad_rows[-1] == "1.1 is wrong"


def test_columns_of_other_types_are_refused_with_those_that_hold_text(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": [["a"], ["b"]], "body": ["x", "y"], "n": [1, 2]}), path)
    with pytest.raises(DataError, match=r"column 'text' holds list<.*>, not text \(columns of text: body\); choose"):
        read(path)
    assert read(path, "body") == ["x", "y"]
    pq.write_table(pa.table({"text": [{"a": "x"}]}), path)
    with pytest.raises(DataError, match=r"column 'text' holds struct<a: string>, not text \(columns of text: none\)"):
        read(path)


def test_large_strings_views_dictionaries_and_empty_row_groups_are_text(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    for kind in (pa.large_string(), pa.string_view(), pa.binary(), pa.large_binary()):
        values = TEXTS if kind not in (pa.binary(), pa.large_binary()) else [text.encode() for text in TEXTS]
        pq.write_table(pa.table({"text": pa.array(values, kind)}), path)
        assert read(path) == TEXTS
    pq.write_table(pa.table({"text": pa.array(TEXTS, pa.large_string()).dictionary_encode()}), path)
    assert read(path) == TEXTS
    with pq.ParquetWriter(path, pa.schema([("text", pa.string())])) as file:
        for part in ([], TEXTS[:7], [], TEXTS[7:], []):
            file.write_table(pa.table({"text": pa.array(part, pa.string())}))
    assert read(path) == TEXTS
