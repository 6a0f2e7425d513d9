"""Which files of a folder are read: every one that is not has a name and a reason, and most of them is an error."""

from __future__ import annotations

import gzip
import json
import os
import socket
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from windfall.errors import DataError
from windfall.train.corpus import open_corpus

ROWS = "".join(json.dumps({"text": f"row {number} of the wind"}) + "\n" for number in range(40)).encode()
ARROW = b"ARROW1\0\0" + b"\xff\0" * 2000


def read(source: Path) -> list[str]:
    return [document.decode() for document in open_corpus(source).documents()]


def notes(source: Path) -> list[str]:
    return [note.removeprefix(f"{source}: ") for note in open_corpus(source).notes()]


def refused(source: Path) -> str:
    with pytest.raises(DataError) as caught:
        open_corpus(source)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"{source}: ")
    return str(caught.value)


def test_shards_of_compressed_rows_are_read_and_the_readme_beside_them_is_not(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"c4-train.{number:05d}-of-00003.json.gz").write_bytes(gzip.compress(ROWS.replace(b"row", b"%d" % number)))
    (tmp_path / "README.md").write_text("about C4\n" * 100)
    texts = read(tmp_path)
    assert len(texts) == 120
    assert texts[0] == "0 0 of the wind"
    assert texts[-1] == "2 39 of the wind"
    assert notes(tmp_path) == ["README.md left out: notes about the data"]


def test_an_arrow_folder_is_refused_by_name_and_never_its_metadata_a_corpus(tmp_path: Path) -> None:
    for number in range(2):
        (tmp_path / f"data-{number:05d}-of-00002.arrow").write_bytes(ARROW)
    (tmp_path / "state.json").write_text('{"_data_files": [{"filename": "data-00000-of-00002.arrow"}]}')
    (tmp_path / "dataset_info.json").write_text('{"features": {"text": {"dtype": "string"}}}')
    (tmp_path / "README.md").write_text("about\n" * 2000)
    said = refused(tmp_path)
    assert "data-00000-of-00002.arrow, data-00001-of-00002.arrow left out: Arrow, which is not read; write it as parquet" in said
    assert "README.md, dataset_info.json, state.json left out: notes about the data" in said
    # Beside less text it is most of the folder, beside more it is told.
    (tmp_path / "a.txt").write_text("wind " * 100)
    assert "most of it would be left out (8,016 of " in refused(tmp_path)
    (tmp_path / "a.txt").write_text("wind " * 2000)
    assert len(read(tmp_path)) == 4
    assert any("to_parquet" in note for note in notes(tmp_path))


def test_every_kind_that_is_not_read_is_left_out_by_name_past_ten_counted(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("wind " * 1000)
    for number in range(13):
        (tmp_path / f"{number:02d}.npy").write_bytes(b"\x93NUMPY")
    for name in (
        "b.pdf",
        "c.zip",
        "d.tar",
        "d.tar.gz",
        "e.xlsx",
        "f.docx",
        "g.sqlite",
        "h.7z",
        "i.lz4",
        "j.parquet.gz",
        "k.safetensors",
    ):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "l").write_bytes(b"no text \0")
    (tmp_path / "m.txt").write_bytes(b"no text \0")
    (tmp_path / "n.txt").write_bytes(gzip.compress(b"text"))
    (tmp_path / "picture.PNG").write_bytes(b"x" * 100_000)
    told = notes(tmp_path)
    assert (
        "00.npy, 01.npy, 02.npy, 03.npy, 04.npy, 05.npy, 06.npy, 07.npy, 08.npy, 09.npy and 4 more left out: numbers, not text;"
        " leave it elsewhere, or name prepared data as they are (data.source)"
    ) in told
    for names, reason in (
        ("b.pdf, f.docx", "a document"), ("c.zip, d.tar, d.tar.gz, h.7z", "an archive"), ("e.xlsx", "a spreadsheet"),
        ("g.sqlite", "a database"), ("i.lz4", "compressed in a way that is not read"), ("j.parquet.gz", "compressed parquet"),
        ("l, m.txt", "no text by its content"), ("n.txt", "compressed by its content (gzip); give its name the ending .gz"),
        ("picture.PNG", "pictures, sound or fonts"),
    ):  # fmt: skip
        assert sum(note.startswith(f"{names} left out: {reason}") for note in told) == 1, names
    assert read(tmp_path) == ["wind " * 1000]
    for name in ("b.pdf", "c.zip", "e.xlsx", "n.txt", "m.txt", "picture.PNG"):
        assert refused(tmp_path / name)


def test_notes_alone_are_no_corpus_but_a_note_that_is_named_is(tmp_path: Path) -> None:
    for name in ("README.md", "LICENSE", "dataset_infos.json", "_SUCCESS", "SHA256SUMS", ".gitattributes"):
        (tmp_path / name).write_text('{"text": 1}' if name.endswith("json") else "about")
    said = refused(tmp_path)
    assert "LICENSE, README.md, SHA256SUMS, _SUCCESS, dataset_infos.json left out: notes about the data" in said
    assert ".gitattributes left out: hidden" in said
    assert read(tmp_path / "README.md") == ["about"]
    # In a folder of text they are text, as ever.
    (tmp_path / "a.txt").write_text("text " * 20)
    assert read(tmp_path) == [*["about"] * 4, "text " * 20, '{"text": 1}']


def test_pointers_to_files_that_were_not_fetched_are_refused(tmp_path: Path) -> None:
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 123456789\n"
    for name in ("a.jsonl", "b.parquet", "c.json.gz"):
        (tmp_path / name).write_bytes(pointer)
    (tmp_path / "text.txt").write_text("wind " * 500)
    said = refused(tmp_path)
    assert "(370,370,367 of 370,372,867 bytes): a.jsonl, b.parquet, c.json.gz left out: only Git LFS's pointer" in said
    assert "git lfs pull" in refused(tmp_path / "b.parquet")
    (annexed := tmp_path / "annexed").mkdir()
    (annexed / "a.txt").write_text("wind " * 500)
    for number in range(2):
        (annexed / f"{number}.parquet").symlink_to(f"../.git/annex/{number}")
    assert "(2 of 3 files): 0.parquet, 1.parquet left out: a link to what is not there" in refused(annexed)
    (annexed / "1.parquet").unlink()
    assert notes(annexed) == ["0.parquet left out: a link to what is not there; fetch that, or remove the link"]


def test_links_are_followed_once_and_loops_are_seen(tmp_path: Path) -> None:
    corpus, elsewhere = tmp_path / "corpus", tmp_path / "elsewhere"
    (corpus / "real").mkdir(parents=True)
    (elsewhere / "sub").mkdir(parents=True)
    (corpus / "real" / "b.txt").write_text("b")
    (elsewhere / "sub" / "c.txt").write_text("c")
    (elsewhere / "back").symlink_to(corpus)
    (elsewhere / "self").symlink_to(".")
    (corpus / "aside").symlink_to(elsewhere)
    (corpus / "again").symlink_to("real")
    (corpus / "loop").symlink_to("..")
    (corpus / "real" / "loop").symlink_to(".")
    (corpus / "a.txt").symlink_to("real/b.txt")
    (corpus / "z.txt").symlink_to("../elsewhere/sub/c.txt")
    (tmp_path / "named").symlink_to(corpus)
    assert read(corpus) == read(tmp_path / "named") == ["c", "b"]
    assert notes(corpus) == [
        "aside/back/, loop/ left out: a link to a folder that this one lies in",
        "a.txt, again/, aside/self/, real/loop/, z.txt left out: a second name of what is read already",
    ]


def test_two_names_of_one_file_are_two_documents_unless_one_is_a_link(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    os.link(tmp_path / "a.txt", tmp_path / "b.txt")  # a copy of the folder would hold two files
    assert read(tmp_path) == ["a", "a"]
    (tmp_path / "0.txt").symlink_to("a.txt")
    assert read(tmp_path) == ["a", "a"]
    assert notes(tmp_path) == ["0.txt left out: a second name of what is read already"]


def test_tables_are_left_out_by_name_and_refused_where_they_are_most(tmp_path: Path) -> None:
    reason = "a table, which is not read; write the column of text as .txt, .jsonl or parquet"
    (tmp_path / "a.csv").write_text("id,text\n1,wind\n" * 50)
    (tmp_path / "b.TSV.gz").write_bytes(gzip.compress(b"id\ttext\n1\twind\n"))
    (tmp_path / "c.txt").write_text("wind " * 1000)
    assert read(tmp_path) == ["wind " * 1000]
    assert notes(tmp_path) == [f"a.csv, b.TSV.gz left out: {reason}"]
    (tmp_path / "c.txt").write_text("wind")
    assert "most of it would be left out (" in refused(tmp_path)
    for name in ("a.csv", "b.TSV.gz"):
        assert refused(tmp_path / name).endswith(reason)


def test_of_a_cache_of_nameless_files_the_links_that_say_what_they_are_are_read(tmp_path: Path) -> None:
    (tmp_path / "blobs").mkdir()
    (tmp_path / "snapshots" / "0a").mkdir(parents=True)
    for name, content in (("rows.jsonl", ROWS), ("more.jsonl.gz", gzip.compress(ROWS)), ("LICENSE", b"as you like " * 9)):
        blob = tmp_path / "blobs" / f"{len(name):064d}"
        blob.write_bytes(content)
        (tmp_path / "snapshots" / "0a" / name).symlink_to(f"../../blobs/{blob.name}")
    assert len(read(tmp_path)) == 80
    assert notes(tmp_path) == [
        f"blobs/{7:064d}, blobs/{10:064d}, blobs/{13:064d} left out: a second name of what is read already",
        "snapshots/0a/LICENSE left out: notes about the data",
    ]


def test_links_that_lead_back_to_themselves_are_named_like_those_to_nothing(tmp_path: Path) -> None:
    for name, aim in (("a.txt", "a.txt"), ("b.jsonl", "c.jsonl"), ("c.jsonl", "b.jsonl"), ("d.txt", "w0.txt/x")):
        (tmp_path / name).symlink_to(aim)
    for number in range(4):
        (tmp_path / f"w{number}.txt").write_text("wind")
    assert read(tmp_path) == ["wind"] * 4
    assert notes(tmp_path) == [
        "a.txt, b.jsonl, c.jsonl left out: a link that leads back to itself; remove it, or lead it to a file",
        "d.txt left out: a link to what is not there; fetch that, or remove the link",
    ]
    assert "leads back to itself" in refused(tmp_path / "b.jsonl")


def test_pipes_and_sockets_are_named_and_nobody_waits_for_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "pipe.txt")
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as one:
        one.bind("socket.jsonl")
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "b.txt").write_text("b")
    assert read(tmp_path) == ["a", "b"]
    assert [note.partition(";")[0] for note in notes(tmp_path)] == [
        "pipe.txt, socket.jsonl left out: no regular file but a pipe, socket or device, which cannot be read twice"
    ]
    assert "which cannot be read twice; write what comes out of it to a file" in refused(tmp_path / "pipe.txt")


def test_hidden_files_and_caches_are_named_and_odd_names_stay_on_their_line(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "config").write_text("x")
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / ".env").write_text("x")
    (tmp_path / 'it\'s $HOME "b"\n%.txt').write_text("odd")
    (tmp_path / "x\ny.bin").write_bytes(b"\0")
    with open(os.fsencode(tmp_path) + b"/z\xff.txt", "w") as file:
        file.write("bytes")
    assert read(tmp_path) == ["odd", "bytes"]
    assert notes(tmp_path) == [
        ".env, .git/, __pycache__/ left out: hidden, or a cache",
        "x\\ny.bin left out: numbers, not text; leave it elsewhere, or name prepared data as they are (data.source)",
    ]


def test_text_in_another_encoding_is_told_and_not_guessed(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    text = "größe of the wind\n" * 600
    for encoding, said in (
        ("utf-16", "not UTF-8 but UTF-16; convert it (iconv -f UTF-16 -t UTF-8) or leave it out"),
        ("utf-16-le", "not UTF-8 but UTF-16LE"),
        ("utf-16-be", "not UTF-8 but UTF-16BE"),
        ("utf-32", "not UTF-8 but UTF-32"),
        ("latin-1", "not UTF-8 at byte offset 2 (invalid start byte); convert the file (if it is Latin-1: iconv -f LATIN1"),
    ):
        path.write_bytes(text.encode(encoding))
        for source in (path, tmp_path):
            with pytest.raises(DataError) as caught:
                read(source)
            assert str(caught.value).startswith(f"{path}: {said}")
    path.write_bytes(b"wind " * 2000 + b"\0" * 4096)  # what a crash leaves of a log
    with pytest.raises(DataError, match=r"a\.txt: a zero byte at byte offset 10000, which no text holds"):
        read(path)


def test_prepared_data_and_texts_that_outweigh_parquet_are_refused(tmp_path: Path) -> None:
    (tmp_path / "train-00000.bin").write_bytes(b"\0" * 99)
    (tmp_path / "manifest.json").write_text("{}")
    assert "prepared data, not text; name it as data.source" in refused(tmp_path)
    (folder := tmp_path / "mixed").mkdir()
    pq.write_table(pa.table({"text": ["x"]}), folder / "index.parquet")
    (folder / "book.txt").write_text("wind " * 5000)
    assert "most of it would be left out (25,000 of " in refused(folder)
    assert "book.txt left out: texts beside parquet files are taken for notes" in refused(folder)
