"""Preparing a corpus: what ends up in the shards, what is held out, and every error in one clear line."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from patience import PATIENCE_S
from windfall.errors import ConfigError, DataError
from windfall.train.corpus import Unit, read_unit
from windfall.train.data import TrainData
from windfall.train.manifest import Manifest
from windfall.train.prepare import finished_pieces, prepare
from windfall.train.tokenizer import SPECIALS, BPETokenizer


def _stream(folder: Path, split: str) -> list[int]:
    """All tokens of a split, overlaps between shards removed."""
    manifest = Manifest.load(folder)
    tokens: list[int] = []
    for shard in manifest.of_split(split):
        part = np.fromfile(folder / shard.file, dtype="<u2").tolist()
        assert not tokens or tokens[-1] == part[0]
        tokens = [*tokens, *(part[1:] if tokens else part)]
    return tokens


def _documents(tokens: list[int]) -> list[bytes]:
    text, found = bytearray(), []
    for token in tokens:
        if token == 256:
            found.append(bytes(text))
            text = bytearray()
        else:
            text.append(token)
    return [*found, bytes(text)][1:]


def test_every_document_is_on_one_side_and_whole_but_for_each_splits_end(text_folder: Path, prepared: Path) -> None:
    manifest = Manifest.load(prepared)
    assert len(manifest.of_split("train")) > 1
    train, val = _documents(_stream(prepared, "train")), _documents(_stream(prepared, "val"))
    originals = {path.read_bytes() for path in text_folder.iterdir()}
    assert len(val) >= 2
    assert {*train[:-1], *val[:-1]} <= originals
    assert not set(train) & set(val)
    assert manifest.documents == 40
    # The ends, cut to whole sequences, lack less than one sequence each.
    lacking = sum(map(len, originals)) + 40 - len(_stream(prepared, "train")) - len(_stream(prepared, "val"))
    assert 0 <= lacking < 2 * 64


def test_counts_in_the_manifest_are_those_of_the_tokens(prepared: Path) -> None:
    manifest = Manifest.load(prepared)
    for split, sequences, byte_count in (
        ("train", manifest.train_sequences, manifest.train_bytes),
        ("val", manifest.val_sequences, manifest.val_bytes),
    ):
        tokens = _stream(prepared, split)
        assert len(tokens) == sequences * 64 + 1
        assert byte_count == sum(token != 256 for token in tokens[1:])
    assert manifest.tokenizer.vocab_size == 257


def test_equal_text_gives_an_equal_hash_and_another_seed_another(text_folder: Path, prepared: Path, tmp_path: Path) -> None:
    def hash_of(name: str, seed: int) -> str:
        return prepare(text_folder, tmp_path / name, sequence_length=64, held_out_fraction=0.1, seed=seed, shard_tokens=8_000).hash

    assert hash_of("same", 0) == Manifest.load(prepared).hash
    assert hash_of("other", 1) != Manifest.load(prepared).hash


def test_sources_of_every_kind_hold_the_same_text(tmp_path: Path) -> None:
    text = "".join(f"line {number}: wind over the grid\n" for number in range(2000))
    (tmp_path / "one.txt").write_text(text)
    rows = [json.dumps({"text": line, "id": 1}) for line in text.splitlines(keepends=True)]
    (tmp_path / "rows.jsonl").write_text("\n".join([*rows, "", json.dumps({"text": ""})]))
    folder = tmp_path / "folder"
    (folder / "sub").mkdir(parents=True)
    (folder / ".hidden").write_bytes(b"\xff")
    (folder / "picture.bin").write_bytes(b"\x89\0\0\xff")
    (folder / "sub" / "notes").write_text(text)
    for source in ("one.txt", "rows.jsonl", "folder"):
        out = tmp_path / f"out-{source}"
        manifest = prepare(tmp_path / source, out, sequence_length=32, held_out_fraction=0.0)
        assert manifest.val_sequences == 0
        joined = b"".join(_documents(_stream(out, "train")))
        assert text.encode().startswith(joined)
        assert len(text) - len(joined) <= 32


def test_a_long_line_is_never_cut_inside_a_character(tmp_path: Path) -> None:
    (tmp_path / "line.txt").write_text("aß" * 20_000, encoding="utf-8")
    prepare(tmp_path / "line.txt", tmp_path / "out", sequence_length=16)
    for split in ("train", "val"):
        for document in _documents(_stream(tmp_path / "out", split))[:-1]:
            document.decode("utf-8")


def test_a_small_corpus_still_holds_something_out(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": f"{n} " * 40}) + "\n" for n in range(30)))
    manifest = prepare(tmp_path / "a.jsonl", tmp_path / "out", sequence_length=64, held_out_fraction=0.0001)
    assert manifest.val_sequences >= 1
    assert manifest.train_sequences > 5 * manifest.val_sequences


def test_progress_ends_at_everything(text_folder: Path, tmp_path: Path) -> None:
    calls: list[tuple[str, int, int]] = []
    prepare(text_folder, tmp_path, sequence_length=64, progress=lambda stage, done, total: calls.append((stage, done, total)))
    for stage in ("encode", "write"):
        own = [call[1:] for call in calls if call[0] == stage]
        assert own[-1][0] == own[-1][1] > 0
        assert own == sorted(own)


def test_an_interrupted_preparation_leaves_no_manifest_and_the_next_one_works(text_folder: Path, tmp_path: Path) -> None:
    for at in ("encode", "write"):

        def interrupt(stage: str, done: int, total: int, at: str = at) -> None:
            if stage == at:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            prepare(text_folder, tmp_path, sequence_length=64, progress=interrupt)
        assert finished_pieces(tmp_path) == 1
        with pytest.raises(DataError, match="no manifest"):
            Manifest.load(tmp_path)
    manifest = prepare(text_folder, tmp_path, sequence_length=64)
    manifest.verify(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["manifest.json", "train-00000.bin", "val-00000.bin"]


def test_finished_data_is_replaced_only_by_what_is_finished_and_only_if_that_is_wanted(text_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    prepare(text_folder, out, sequence_length=64, tokenizer="bpe", vocab_size=300)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    small = tmp_path / "small.txt"
    small.write_text("wind")

    def fail(stage: str, done: int, total: int) -> None:
        if stage == "write":
            raise KeyboardInterrupt

    with pytest.raises(DataError, match=r"holds prepared data already; name another folder, or replace it \(--replace\)"):
        prepare(text_folder, out, sequence_length=32)
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "train-1.bin").write_text("mine")
    with pytest.raises(DataError, match=r"train-1\.bin: a file of that name would be overwritten"):
        prepare(text_folder, tmp_path / "own", sequence_length=32)
    with pytest.raises(DataError, match="too few"):
        prepare(small, out, replace=True)
    with pytest.raises(KeyboardInterrupt):
        prepare(text_folder, out, sequence_length=32, progress=fail, replace=True)
    after = {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}
    assert after == before
    assert prepare(text_folder, out, sequence_length=32, replace=True).sequence_length == 32
    assert sorted(path.name for path in out.iterdir()) == ["manifest.json", "train-00000.bin", "val-00000.bin"]


def test_one_preparation_of_a_folder_at_a_time(text_folder: Path, tmp_path: Path) -> None:
    def second(stage: str, done: int, total: int) -> None:
        if stage == "write":
            with pytest.raises(DataError, match="is being prepared by another process"):
                prepare(text_folder, tmp_path / "out", sequence_length=32, replace=True)

    manifest = prepare(text_folder, tmp_path / "out", sequence_length=64, progress=second)
    manifest.verify(tmp_path / "out")
    assert Manifest.load(tmp_path / "out").sequence_length == 64
    assert prepare(text_folder, tmp_path / "out", sequence_length=32, replace=True).sequence_length == 32


def test_a_disk_that_takes_no_note_of_what_was_checked_does_no_harm(text_folder: Path, tmp_path: Path) -> None:
    manifest = prepare(text_folder, tmp_path / "out", sequence_length=64)
    manifest.verify(tmp_path / "out", tmp_path / "nowhere" / "checked.json")


def test_texts_beside_parquet_are_left_out_and_that_is_said_and_other_data_files_are_not(tmp_path: Path) -> None:
    pyarrow.parquet.write_table(pyarrow.table({"text": ["wind " * 300] * 3}), tmp_path / "a.parquet")
    (tmp_path / "b.jsonl").write_text(json.dumps({"text": "sun " * 300}) + "\n")
    (tmp_path / "README.md").write_text("about")
    (tmp_path / "LICENSE.txt").write_text("yes")
    said: list[str] = []
    manifest = prepare(tmp_path, tmp_path / "out", sequence_length=64, held_out_fraction=0, tell=said.append)
    assert manifest.documents == 4
    assert [text.split(": ", 1)[1] for text in said] == [
        "LICENSE.txt, README.md left out: texts beside parquet files are taken for notes",
        "2 of 4 documents equal an earlier one (2 different ones); equal ones are all trained on, or all held out",
    ]


def test_text_that_changes_while_it_is_read_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "a.jsonl"
    source.write_text(json.dumps({"text": "wind " * 500}) + "\n")

    def read(unit: Unit, *more: Any) -> Iterator[bytes]:
        yield from read_unit(unit, *more)
        source.write_text(json.dumps({"text": "sun"}) + "\n")

    monkeypatch.setattr("windfall.train.pieces.read_unit", read)
    with pytest.raises(DataError, match=r"a\.jsonl: the text changed while it was read"):
        prepare(source, tmp_path / "out", sequence_length=64)
    assert not (tmp_path / "out").exists()


def _write(name: str, data: bytes) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path = folder / name
        path.write_bytes(data)
        return path

    return make


def _empty_folder(folder: Path) -> Path:
    (folder / "empty").mkdir()
    return folder / "empty"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: folder / "nowhere", "nowhere: no such file or folder"),
        (_empty_folder, "empty: the folder holds no text file"),
        (_write("a.txt", b""), "a.txt: the corpus is empty"),
        (_write("a.txt", b"short"), "a.txt: 6 tokens are too few for one sequence of 64"),
        (_write("a.txt", b"x" * 300), "a.txt: 1 documents of 301 tokens cannot be split"),
        (_write("a.txt", b"abc\xff" * 100), "a.txt: not UTF-8 at byte offset 3"),
        (_write("a.jsonl", b'{"text": "fine"}\n{"text": \n'), "a.jsonl: line 2 is not JSON"),
        (_write("a.jsonl", b'{"text": "fine"}\n\n{"body": "x"}\n'), 'a.jsonl: line 3 has no field "text"'),
        (_write("a.jsonl", b'["text"]'), 'a.jsonl: line 1 has no field "text"'),
        (_write("a.jsonl", b'{"text": 3}'), 'a.jsonl: line 1 has no field "text"'),
        (_write("a.jsonl", b'{"text": "\xff"}'), "a.jsonl: line 1 is not UTF-8"),
        (_write("a.jsonl", b'{"text": "\\ud800"}'), "a.jsonl: line 1 holds half a surrogate pair"),
    ],
)
def test_a_source_that_is_no_good_is_refused_in_one_line(make: Callable[[Path], Path], message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        prepare(make(tmp_path), tmp_path / "out", sequence_length=64)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    # Nothing that could be taken for data; what was encoded may stay, for another sequence length.
    assert not [path for path in tmp_path.glob("out/*") if path.name != ".preparing"]


def test_an_unreadable_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.txt"
    path.write_text("x" * 1000)

    def refuse(self: Path, *args: object) -> None:  # file modes do not stop root, under which CI may run
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(DataError, match=r"a\.txt: cannot be read"):
        prepare(path, tmp_path / "out")


def test_arguments_out_of_range_are_refused(text_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="sequence_length"):
        prepare(text_folder, tmp_path, sequence_length=0)
    with pytest.raises(ConfigError, match="held_out_fraction"):
        prepare(text_folder, tmp_path, held_out_fraction=1.0)
    with pytest.raises(ConfigError, match=r"packing is 'tight'; choose from stream, best_fit"):
        prepare(text_folder, tmp_path, packing="tight")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="workers is 0"):
        prepare(text_folder, tmp_path, workers=0)
    with pytest.raises(ConfigError, match="shard_tokens is 0"):
        prepare(text_folder, tmp_path, shard_tokens=0)
    with pytest.raises(ConfigError, match="vocab_size is for training a tokenizer, not for 'bytes'"):
        prepare(text_folder, tmp_path, vocab_size=1000)
    with pytest.raises(ConfigError, match="vocab_size is 3; give at least 265"):
        prepare(text_folder, tmp_path, tokenizer="bpe", vocab_size=3)
    with pytest.raises(ConfigError, match="is the corpus itself"):
        prepare(text_folder, text_folder)
    with pytest.raises(DataError, match=r"nowhere: the tokenizer cannot be read"):
        prepare(text_folder, tmp_path, tokenizer="nowhere")
    assert not list(tmp_path.iterdir())


def test_the_standard_library_is_a_corpus_without_tests(tmp_path: Path) -> None:
    manifest = prepare("stdlib", tmp_path)
    manifest.verify(tmp_path)
    assert manifest.train_bytes > 5_000_000
    assert 0.005 < manifest.val_bytes / manifest.train_bytes < 0.06


def test_shards_that_are_missing_truncated_or_changed_are_named(text_folder: Path, tmp_path: Path) -> None:
    manifest = prepare(text_folder, tmp_path, sequence_length=64)
    path = tmp_path / "train-00000.bin"
    whole = path.read_bytes()
    path.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
    with pytest.raises(DataError, match=r"train-00000\.bin: the checksum differs"):
        manifest.verify(tmp_path)
    path.write_bytes(whole[:-2])
    with pytest.raises(DataError, match=r"train-00000\.bin: .* truncated"):
        manifest.verify(tmp_path)
    path.unlink()
    with pytest.raises(DataError, match=r"train-00000\.bin: the shard is missing"):
        manifest.verify(tmp_path)


def test_a_shard_that_was_found_whole_is_read_again_only_if_it_was_touched(
    text_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = prepare(text_folder, tmp_path / "data", sequence_length=64)
    read: list[str] = []
    digest = hashlib.file_digest

    def counted(file: BinaryIO, kind: str) -> Any:
        read.append(Path(file.name).name)
        return digest(file, kind)  # type: ignore[arg-type]

    monkeypatch.setattr(hashlib, "file_digest", counted)
    marks = tmp_path / "marks.json"
    manifest.verify(tmp_path / "data", marks)
    everything = [shard.file for shard in manifest.shards]
    assert read == everything
    manifest.verify(tmp_path / "data", marks)
    assert read == everything
    path = tmp_path / "data" / everything[0]
    path.write_bytes(path.read_bytes())
    manifest.verify(tmp_path / "data", marks)
    assert read == [*everything, everything[0]]
    marks.write_text("not JSON")
    manifest.verify(tmp_path / "data", marks)
    assert read == [*everything, everything[0], *everything]


def test_a_manifest_that_was_edited_or_is_of_another_kind_is_refused(text_folder: Path, tmp_path: Path) -> None:
    prepare(text_folder, tmp_path, sequence_length=64)
    path = tmp_path / "manifest.json"
    whole = json.loads(path.read_text())
    broken: list[tuple[str, str]] = [
        (json.dumps({**whole, "documents": 1}), "do not match"),
        (json.dumps({**whole, "train_sequences": whole["train_sequences"] + 1}), "impossible"),
        (json.dumps({**whole, "val_sequences": str(whole["val_sequences"])}), "impossible"),
        (json.dumps({**whole, "shards": []}), "impossible"),
        (json.dumps({**whole, "version": 99}), "not a manifest of version"),
        (json.dumps({**whole, "surprise": 1}), "a field is missing, unknown"),
        (json.dumps({**whole, "shards": [{**whole["shards"][0], "file": "../x"}]}), "impossible"),
        ("[]", "not a manifest"),
        ("{", "not JSON"),
    ]
    for text, message in broken:
        path.write_text(text)
        with pytest.raises(DataError, match=message):
            Manifest.load(tmp_path)


def test_a_manifest_of_version_1_is_still_read_and_hashed_as_then(prepared: Path, tmp_path: Path) -> None:
    """Written by hand as version 1 wrote it: runs that began with it go on."""
    shutil.copytree(prepared, tmp_path, dirs_exist_ok=True)
    document = json.loads((prepared / "manifest.json").read_text())
    later = ("packing", "dtype", "empty_documents", "cropped_documents", "cropped_tokens", "dropped_tokens", "hash")
    old = {key: value for key, value in document.items() if key not in later} | {"version": 1}
    content = {key: value for key, value in old.items() if key != "source"}
    digest = hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
    (tmp_path / "manifest.json").write_text(json.dumps({**old, "hash": digest}))
    manifest = Manifest.load(tmp_path)
    assert manifest.hash == digest
    assert (manifest.packing, manifest.dtype) == ("stream", "uint16")
    manifest.verify(tmp_path)
    manifest.save(tmp_path)
    assert Manifest.load(tmp_path) == manifest


def test_empty_documents_are_left_out_and_counted(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": "wind " * (n % 3)}) + "\n" for n in range(300)))
    manifest = prepare(tmp_path / "a.jsonl", tmp_path / "out", sequence_length=16, held_out_fraction=0.0)
    assert (manifest.documents, manifest.empty_documents) == (200, 100)


def test_equal_documents_are_told_as_that(tmp_path: Path) -> None:
    row = json.dumps({"text": "wind over the grid " * 9}) + "\n"
    path = tmp_path / "a.jsonl"
    path.write_text(row * 800)
    said: list[str] = []
    with pytest.raises(
        DataError,
        match=r"a\.jsonl: 800 documents, all equal, of 137600 tokens cannot be split .* \(equal documents stay on one side\)",
    ):
        prepare(path, tmp_path / "out", sequence_length=64, tell=said.append)
    assert said == [f"{path}: all 800 documents are equal"]
    path.write_text(row * 60 + "".join(json.dumps({"text": f"{n} sun over the grid " * 9}) + "\n" for n in range(140)))
    manifest = prepare(path, tmp_path / "out", sequence_length=64, tell=said.append)
    assert said[1] == (
        f"{path}: 59 of 200 documents equal an earlier one (141 different ones); equal ones are all trained on, or all held out"
    )
    # Nothing of what is held out was trained on.
    train, val = ({*_documents(_stream(tmp_path / "out", split))[:-1]} for split in ("train", "val"))
    assert val
    assert not train & val
    assert manifest.documents == 200


def test_a_disk_that_fills_up_is_one_message_and_what_was_finished_is_used(tmp_path: Path) -> None:
    """In a process whose files may not grow: the system's own refusal, as a full disk's is."""
    rows = "".join(json.dumps({"text": f"{n} wind over the grid " * (n % 50)}) + "\n" for n in range(1000))
    (texts := tmp_path / "texts").mkdir()
    (texts / "a.jsonl").write_text("".join(rows.splitlines(keepends=True)[:60]))
    (texts / "b.jsonl").write_text(rows)
    code = (
        "import resource, sys\nfrom windfall.errors import DataError\nfrom windfall.train.prepare import prepare\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))\n"
        "try:\n    prepare(sys.argv[1], sys.argv[2], sequence_length=64, workers=int(sys.argv[3]))\n"
        "except DataError as error:\n    print(error)\n"
    )
    for workers in ("1", "2"):
        out = tmp_path / f"out{workers}"
        command = [sys.executable, "-c", code, str(texts), str(out), workers]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=PATIENCE_S)
        assert done.stderr == ""
        said = re.escape(str(out)) + r"(/\.preparing)?: cannot be written \(File too large\); check the disk and permissions, then"
        assert re.fullmatch(said + r" run the same again: what is finished is kept\n", done.stdout)
        assert finished_pieces(out) == 1
        kept = {path.name: path.stat().st_mtime_ns for path in (out / ".preparing").glob("*.tokens")}

        def still(stage: str, done: int, total: int, out: Path = out, kept: dict[str, int] = kept) -> None:
            for name, changed in kept.items():
                assert (out / ".preparing" / name).stat().st_mtime_ns == changed

        prepare(texts, out, sequence_length=64, progress=still).verify(out)
        shutil.rmtree(out)


@pytest.fixture(scope="module")
def bpe(text_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of texts with a tokenizer of its own."""
    out = tmp_path_factory.mktemp("bpe")
    prepare(text_folder, out, sequence_length=32, held_out_fraction=0.2, tokenizer="bpe", vocab_size=300)
    return out


def test_a_tokenizer_of_ones_own_gives_the_text_back_and_twice_the_same_files(text_folder: Path, bpe: Path, tmp_path: Path) -> None:
    manifest = Manifest.load(bpe)
    assert manifest.tokenizer.kind == "bpe"
    assert manifest.tokenizer.vocab_size == 300
    bos = manifest.tokenizer.bos_id
    tokens = _stream(bpe, "train")
    assert tokens[0] == bos
    ends = [at for at, token in enumerate(tokens) if token == bos]
    texts = {manifest.tokenizer.decode(tokens[a + 1 : b]) for a, b in pairwise(ends)}
    assert texts <= {path.read_text(encoding="utf-8") for path in text_folder.iterdir()}
    assert len(texts) == len(ends) - 1
    counts = manifest.tokenizer.token_bytes()
    assert manifest.train_bytes == int(counts[tokens[1:]].sum())

    again = prepare(text_folder, tmp_path, sequence_length=32, held_out_fraction=0.2, tokenizer="bpe", vocab_size=300)
    assert again.hash == manifest.hash
    assert _files(tmp_path) == _files(bpe)


def test_a_tokenizer_may_be_taken_from_other_data(text_folder: Path, bpe: Path, tmp_path: Path) -> None:
    for given in (bpe, bpe / "tokenizer.json"):
        manifest = prepare(text_folder, tmp_path, sequence_length=32, held_out_fraction=0.2, tokenizer=given, replace=True)
        assert manifest.hash == Manifest.load(bpe).hash
    prepare(text_folder, tmp_path, sequence_length=32, replace=True)
    assert not (tmp_path / "tokenizer.json").exists()


def test_the_tokenizer_beside_a_manifest_must_be_the_one_it_names(text_folder: Path, bpe: Path, tmp_path: Path) -> None:
    shutil.copytree(bpe, tmp_path, dirs_exist_ok=True)
    prepare(text_folder, tmp_path / "other", sequence_length=32, tokenizer="bpe", vocab_size=290)
    shutil.copy(tmp_path / "other" / "tokenizer.json", tmp_path)
    with pytest.raises(DataError, match=r"tokenizer\.json: not the tokenizer of this data"):
        Manifest.load(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(DataError, match=r"tokenizer\.json: the tokenizer cannot be read"):
        Manifest.load(tmp_path)


def test_another_programs_tokenizer_json_in_the_folder_is_left_alone(text_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text('{"added_tokens": []}')
    prepare(text_folder, tmp_path, sequence_length=64)
    assert (tmp_path / "tokenizer.json").read_text() == '{"added_tokens": []}'


def test_a_vocabulary_over_65536_is_stored_in_four_bytes(text_folder: Path, tmp_path: Path) -> None:
    singles = [bytes([i]) for i in range(256)]
    BPETokenizer((*singles, *(a + b for a in singles for b in singles))).save(tmp_path / "big.json")
    prepare(text_folder, tmp_path / "out", sequence_length=32, tokenizer=tmp_path / "big.json", packing="best_fit")
    manifest = Manifest.load(tmp_path / "out")
    assert manifest.tokenizer.vocab_size == 256 + 2**16 + len(SPECIALS)
    assert manifest.dtype == "uint32"
    manifest.verify(tmp_path / "out")
    rows, _ = TrainData(tmp_path / "out").batch(range(manifest.train_sequences))
    assert int((rows == manifest.tokenizer.bos_id).sum()) >= manifest.train_sequences
    assert int(rows.max()) == manifest.tokenizer.bos_id > 2**16
    document = json.loads((tmp_path / "out" / "manifest.json").read_text())
    wrong = replace(manifest, dtype="uint16")
    (tmp_path / "out" / "manifest.json").write_text(json.dumps({**document, "dtype": "uint16", "hash": wrong.hash}))
    with pytest.raises(DataError, match="65801 tokens do not fit uint16"):
        Manifest.load(tmp_path / "out")


def test_best_fit_rows_begin_with_a_document_and_all_tokens_are_accounted_for(text_folder: Path, tmp_path: Path) -> None:
    manifest = prepare(text_folder, tmp_path, sequence_length=1000, held_out_fraction=0.3, packing="best_fit", shard_tokens=5000)
    data = TrainData(tmp_path)
    rows, targets = data.batch(range(data.train_sequences))
    assert (rows[:, 0] == 256).all()
    assert (rows[:, 1:] == targets[:, :-1]).all()
    assert manifest.train_bytes == int((targets != 256).sum())
    total = sum(path.stat().st_size for path in text_folder.iterdir()) + 40
    assert total == manifest.tokens + manifest.cropped_tokens + manifest.dropped_tokens
    assert manifest.cropped_tokens > 0
    assert manifest.val_sequences >= 1
    assert manifest.hash != prepare(text_folder, tmp_path, sequence_length=1000, held_out_fraction=0.3, replace=True).hash


def _files(folder: Path) -> dict[str, bytes]:
    """Names and contents, but for the line of the manifest that says where the text came from."""
    found = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
    return {**found, "manifest.json": re.sub(rb'"source": ".*"', b"", found["manifest.json"])}
