"""`windfall trace show` as a user types it."""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path

import pytest

from windfall.cli import main

TEXT = "time_utc,zone,lbs_per_mwh\n" + "".join(
    f"2024-01-01T{m // 60:02}:{m % 60:02}Z,{zone},{value}\n"
    for m in [*range(0, 240, 30), *range(240, 600, 5)] if not 300 <= m < 420
    for zone, value in (("DE", 900), ("NO", 100 if m < 120 else 300))
)  # fmt: skip


def shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *options: str
) -> tuple[int, str, str]:
    (tmp_path / "t.csv").write_text(TEXT)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["windfall", "trace", "show", *(options if "--" not in options[:1] else options[1:])])
    with pytest.raises(SystemExit) as caught:
        main.main()
    out, err = capsys.readouterr()
    return int(caught.value.code or 0), out, err


def test_a_file_is_shown_with_what_reads_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, err = shown(tmp_path, capsys, monkeypatch, "t.csv", "--where", "zone=NO", "--threshold", "50")
    assert (code, err) == (0, "")
    for part in (
        "t.csv: CSV separated by commas, 112 rows",
        "zone         text, 2 values: DE, NO",
        "values      45.36 to 136.1, median 136.1 gCO2/kWh (the file names lbs/MWh; multiplied with 0.453592)",
        "resolution  30 min from 2024-01-01T00:00:00Z, 8 rows",
        "5 min from 2024-01-01T04:00:00Z, 48 rows",
        "holes       1 hole, 2 h 00 min in all",
        "2024-01-01T05:00:00Z to 2024-01-01T07:00:00Z, 2 h 00 min",
        "windows     1 under 50 gCO2/kWh, median 2 h 00 min",
        'where = { zone = "NO" }',
        'unit = "lbs/MWh"',
    ):
        assert part in out


def test_json_has_the_same_for_programs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, _ = shown(tmp_path, capsys, monkeypatch, "t.csv", "--json")
    assert code == 0
    result = json.loads(out)
    assert result["choices"] == {"zone": ["DE", "NO"]}
    assert result["table"]["where"] == {"zone": "DE"}
    assert [s["period_s"] for s in result["signal"]["resolution"]] == [1800.0, 300.0]
    assert result["signal"]["holes"] == [{"from": "2024-01-01T05:00:00Z", "to": "2024-01-01T07:00:00Z", "seconds": 7200.0}]
    assert result["signal"]["windows"]["count"] == 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("none.csv",), "no such trace file"),
        (("t.csv", "--where", "zone"), "write NAME=VALUE"),
        (("t.csv", "--type", "moon"), "type: Input should be 'marginal_co2'"),
        (("t.csv", "--unit", "EUR/MWh"), "no unit of marginal_co2; accepted are g/kWh"),
        (("t.csv", "--timezone", "Berlin"), "give a name as Europe/Berlin"),
        (("t.csv", "--column", "price"), "no column price; the file has time_utc, zone, lbs_per_mwh"),
        (("t.csv", "--where", "zone=SE"), "there are DE, NO"),
    ],
)
def test_what_is_wrong_is_one_message_and_wrong_usage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], said: str
) -> None:
    code, out, err = shown(tmp_path, capsys, monkeypatch, *options)
    assert code == 2
    assert said in out + err
    assert "Traceback" not in err


@pytest.mark.parametrize(("seconds", "said"), [(90, "90 s"), (180, "3 min"), (300, "5 min")])
def test_a_resolution_is_shown_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, seconds: int, said: str
) -> None:
    (tmp_path / "fine.csv").write_text("t,g\n" + "".join(f"{1704067200 + seconds * i},{100 + i}\n" for i in range(20)))
    code, out, _ = shown(tmp_path, capsys, monkeypatch, "fine.csv")
    assert code == 0
    assert f"resolution  {said} from 2024-01-01T00:00:00Z, 20 rows" in out
    assert f"period_s = {seconds}.0" in out
    assert "warning" not in out


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("h.csv", b"time,value\n", "there is no row below the header"),
        ("h.csv.gz", gzip.compress(b"time,value\n"), "there is no row below the header"),
        ("x.parquet", b"not a parquet file\nat all\n", "is no Parquet file, whatever its name says"),
        ("y.parquet", b"PAR1 and nothing else", "not a readable parquet file"),
        ("x.csv.gz", bytes(range(128, 256)) * 40, "it is no text"),
        ("y.csv.gz", gzip.compress(b"t,v\n1,2\n" * 500)[:-9], "is cut off, as its gzip data end too soon"),
        ("z.csv", b"some words\nand more of them\n", "has one column, 'some words', of text"),
    ],
)
def test_what_is_no_table_is_one_message_and_no_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str, data: bytes, said: str
) -> None:
    (tmp_path / name).write_bytes(data)
    code, out, err = shown(tmp_path, capsys, monkeypatch, name)
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert said in err


def test_how_long_a_single_row_counts_is_said_to_be_a_guess_until_somebody_says_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "one.csv").write_text("time,value\n2026-01-01T00:00Z,50\n")
    out = shown(tmp_path, capsys, monkeypatch, "one.csv")[1]
    assert "5 min (a guess) from" in out
    assert "period_s = 300.0  # a guess: a single row shows no pace" in out
    assert "warning: has a single row" in out
    assert json.loads(shown(tmp_path, capsys, monkeypatch, "one.csv", "--json")[1])["signal"]["resolution_guessed"]
    assert "guess" not in shown(tmp_path, capsys, monkeypatch, "one.csv", "--period-s", "3600")[1]
    assert "guess" not in shown(tmp_path, capsys, monkeypatch, "t.csv", "--where", "zone=NO")[1]
