"""Preparing in several processes and after interruptions: always the same files, and nothing is done twice."""

from __future__ import annotations

import json
import random
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from windfall.cli import data as verb
from windfall.cli.output import Line
from windfall.errors import DataError
from windfall.train import encoders
from windfall.train.corpus import Unit
from windfall.train.manifest import Manifest
from windfall.train.prepare import finished_pieces, prepare


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A corpus of eight units."""
    monkeypatch.setattr("windfall.train.corpus.UNIT_BYTES", 2_000)
    draw = random.Random(1)
    words = ["wind", "sun", "grid", "surplus", "curtail", "größe", "watt"]
    lines = [json.dumps({"text": " ".join(draw.choices(words, k=draw.randint(1, 30)))}) for _ in range(120)]
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(lines))
    return path


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[Unit]:
    """Units that are really encoded in this process."""
    units: list[Unit] = []
    real = encoders.encode_unit

    def encode(unit: Unit, *args: object) -> None:
        real(unit, *args)  # type: ignore[arg-type]
        units.append(unit)

    monkeypatch.setattr(encoders, "encode_unit", encode)
    return units


def made(source: Path, out: Path, **more: object) -> dict[str, bytes]:
    """Files of a preparation."""
    options: dict[str, object] = {
        "sequence_length": 32,
        "held_out_fraction": 0.1,
        "tokenizer": "bpe",
        "vocab_size": 290,
        "workers": 1,
    }
    prepare(source, out, **{**options, **more})  # type: ignore[arg-type]
    Manifest.load(out).verify(out)
    return {path.name: path.read_bytes() for path in sorted(out.iterdir())}


def after(units: int) -> Callable[[str, int, int], None]:
    """Ctrl-C when so many units are encoded."""
    seen = 0

    def progress(stage: str, done: int, total: int) -> None:
        nonlocal seen
        seen += stage == "encode"
        if seen == units:
            raise KeyboardInterrupt

    return progress


@pytest.mark.parametrize("packing", ["stream", "best_fit"])
def test_the_number_of_processes_changes_nothing_in_the_files(source: Path, tmp_path: Path, packing: str) -> None:
    one, three = (made(source, tmp_path / f"{n}", workers=n, packing=packing) for n in (1, 3))
    assert one == three
    assert set(one) == {"manifest.json", "tokenizer.json", "train-00000.bin", "val-00000.bin"}


def test_an_interrupted_preparation_goes_on_where_it_was_and_ends_with_the_same_files(
    source: Path, tmp_path: Path, encoded: list[Unit]
) -> None:
    whole = made(source, tmp_path / "whole")
    count = len(encoded)
    assert count >= 6
    for units in (2, 3):
        encoded.clear()
        with pytest.raises(KeyboardInterrupt):
            made(source, tmp_path / "out", progress=after(units))
        assert len(encoded) == units
    assert finished_pieces(tmp_path / "out") == 5
    encoded.clear()
    assert made(source, tmp_path / "out") == whole
    assert len(encoded) == count - 5
    assert not (tmp_path / "out" / ".preparing").exists()


def test_a_finished_piece_that_was_damaged_or_belongs_to_another_text_is_made_again(
    source: Path, tmp_path: Path, encoded: list[Unit]
) -> None:
    with pytest.raises(KeyboardInterrupt):
        made(source, tmp_path / "out", progress=after(4))
    work = tmp_path / "out" / ".preparing"
    tokens = sorted(work.glob("*.tokens"))
    tokens[0].write_bytes(tokens[0].read_bytes()[:-2])
    tokens[1].unlink()
    sorted(work.glob("*.json"))[2].write_text("{")
    encoded.clear()
    whole = made(source, tmp_path / "out")
    assert len(encoded) == len(set(encoded))
    assert whole == made(source, tmp_path / "again")

    with pytest.raises(KeyboardInterrupt):
        made(source, tmp_path / "other", progress=after(4))
    source.write_text(source.read_text().replace("wind", "WIND"))
    changed = made(source, tmp_path / "other")
    assert changed == made(source, tmp_path / "changed")
    assert changed != whole


def test_pieces_serve_another_packing_too(source: Path, tmp_path: Path, encoded: list[Unit]) -> None:
    with pytest.raises(KeyboardInterrupt):
        made(source, tmp_path / "out", tokenizer="bytes", vocab_size=None, progress=after(4))
    encoded.clear()
    made(source, tmp_path / "out", tokenizer="bytes", vocab_size=None, packing="best_fit", sequence_length=50)
    first = len(encoded)
    encoded.clear()
    made(source, tmp_path / "new", tokenizer="bytes", vocab_size=None, packing="best_fit", sequence_length=50)
    assert len(encoded) == first + 4


def test_of_several_units_that_are_no_good_the_first_is_named(source: Path, tmp_path: Path) -> None:
    lines = source.read_text().splitlines()
    lines[50] = lines[110] = "{"
    source.write_text("\n".join(lines))
    for workers in (1, 3):
        with pytest.raises(DataError, match=r"a\.jsonl: line 51 is not JSON"):
            made(source, tmp_path / "out", tokenizer="bytes", vocab_size=None, workers=workers)
    assert finished_pieces(tmp_path / "out") > 0
    assert not list(tmp_path.glob("out/.preparing/*.log"))


def test_a_process_that_dies_is_an_error_that_says_what_to_do(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dying = tmp_path / "python"
    dying.write_text("#!/bin/sh\necho out of memory >&2\nexit 9\n")
    dying.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(dying))
    with pytest.raises(DataError, match=r"process that encoded it ended \(9\), last said 'out of memory'; run the same again"):
        made(source, tmp_path / "out", tokenizer="bytes", vocab_size=None, workers=2)


def test_ctrl_c_on_the_command_line_keeps_what_is_done_and_says_how_to_go_on(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verb, "_words", lambda *call: interrupt(*call) or "")
    interrupt = after(3)
    with pytest.raises(SystemExit) as ended:
        verb.prepare(str(source), tmp_path / "out", 32, 0.1, 0, False, workers=1)
    assert ended.value.code == 130
    assert "3 finished pieces are kept" in capsys.readouterr().err
    monkeypatch.undo()
    verb.prepare(str(source), tmp_path / "out", 32, 0.1, 0, False, workers=1)
    out, err = capsys.readouterr()
    assert "sequences to train on" in out
    assert err == ""


def test_the_line_of_progress_is_for_terminals_and_is_cleared(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    line = Line()
    line.show(verb._words("encode", 1, 2))
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    line = Line()
    line.show(verb._words("encode", 1_000_000, 2_000_000))
    line.show(verb._words("write", 2_000_000, 2_000_000))
    line.end()
    shown = capsys.readouterr().err
    assert "encoding:  50% of 2.0 MB" in shown
    assert "writing shards: 100% of 2.0 million tokens" in shown
    assert re.search(r"\r +\r$", shown)


def test_a_log_hears_of_progress_now_and_then(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("windfall.clock.monotonic", lambda: now[0])
    line = Line()
    for second in range(40):
        now[0] = 100.0 + second
        line.show(verb._words("encode", second, 40))
    line.end()
    assert capsys.readouterr().err.count("encoding: ") == 2


def test_much_held_out_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.txt").write_text("the wind turns and power flows where none is wanted\n" * 400)  # documents of 8 KiB: three
    verb.prepare(str(tmp_path / "a.txt"), tmp_path / "out", 32, 0.02, 0, False)
    assert re.search(
        r"\d\d% of the sequences are held out instead of 2%: less of 3 documents.*give more text", capsys.readouterr().err
    )


def test_much_cropping_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.txt").write_text("the wind turns and power flows where none is wanted\n" * 2_000)
    verb.prepare(str(tmp_path / "a.txt"), tmp_path / "out", 32, 0.1, 0, False, packing="best_fit")
    out, err = capsys.readouterr()
    assert "documents cropped" in out
    assert "choose --packing stream" in err
