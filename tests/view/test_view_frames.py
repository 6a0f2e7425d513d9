"""A run's series as tables: what is in them, whole and through pandas, CSV and Parquet."""

from __future__ import annotations

import csv
import importlib.util
import json
import sqlite3
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

import windfall
from backtests import result, row
from needs import missing
from ui_runs import START, finished_run
from windfall.cli.export import export
from windfall.errors import ConfigError, StoreError
from windfall.store.ledger import Ledger
from windfall.store.rundir import RunDir
from windfall.store.telemetry import Telemetry
from windfall.view.backtest_frames import backtest_frames
from windfall.view.frame import Frame
from windfall.view.frames import RunFrames
from windfall.view.state import summarise

EVERY = {
    "versions",
    "blocks",
    "events",
    "decisions",
    "readings",
    "forecasts",
    "metrics",
    "steps",
    "energy",
    "states",
    "modes",
    "counterfactuals",
}


@pytest.fixture
def packages() -> None:
    """What hands tables on to pandas and Parquet."""
    for name in ("pandas", "pyarrow"):
        if importlib.util.find_spec(name) is None:
            missing(name)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """A finished run of two hours, with a forecast."""
    run = finished_run(tmp_path_factory.mktemp("frames") / "small")
    t = Telemetry.open(run.telemetry)
    t.put(
        "INSERT INTO forecasts VALUES (?,?,?,?,?)",
        "california",
        START,
        json.dumps([START, START + 300]),
        "[65.4, 70.0]",
        START + 600,
    )
    t.close()
    return run


def test_the_account_adds_up_to_the_summary(run: RunDir) -> None:
    found = windfall.open_run(run.root)
    energy, summary = found.energy(), found.summary()
    assert sum(energy["joules"]) / 3.6e6 == pytest.approx(summary["energy_kwh"])
    assert sum(energy["grams"]) / 1000 == pytest.approx(summary["kg_co2"])
    assert energy["money"] == [None] * len(energy)
    assert summary == summarise(run)


def test_rows_are_what_happened(run: RunDir) -> None:
    found = RunFrames(run.root)
    versions = list(found.versions())
    assert [(v["version"], v["mode"], v["tokens"], v["val_bpb"]) for v in versions] == [
        (0, "initial", 0, 8.0), (1, "local", 4096, 4.0), (2, "federated", 4096, 2.5),
    ]  # fmt: skip
    assert versions[2]["tokens_adelaide"] == 4096
    assert versions[2]["tokens_california"] is None
    assert [tuple(b.values()) for b in found.blocks()] == [(0, 8, 8, "committed")]
    assert found.steps()["loss"] == [5.0 / (i + 1) for i in range(8)]
    assert found.metrics()["name"].count("val_bpb") == 3
    assert found.readings()["value"] == [875.4, 65.4]
    assert [(f["t"], f["value"]) for f in found.forecasts()] == [(START, 65.4), (START + 300, 70.0)]
    assert found.modes()["until"] == [START + 600, START + 3600, START + 7200, None]
    states = [s for s in found.states() if s["site"] == "california"]
    assert (states[0]["state"], states[0]["until"]) == ("provisioning", START + 600)
    assert states[-1]["until"] is None


def test_decisions_have_their_numbers_as_columns(run: RunDir) -> None:
    decisions = RunFrames(run.root).decisions()
    assert decisions["numbers_value"] == [875.4, 65.4]
    assert decisions["numbers_worth"] == [100.0, 100.0]
    assert decisions["wanted"] == [False, False]
    assert decisions["reason"] == ["off: 875 g", "off: 65 g"]


def test_times_are_seconds_and_instants(run: RunDir) -> None:
    energy = RunFrames(run.root).energy()
    assert energy["t0"][0] == START + 500
    assert energy["t0_utc"][0] == datetime(2026, 1, 11, 17, 8, 20, tzinfo=UTC)


def test_no_secret_is_handed_out(run: RunDir) -> None:
    events = RunFrames(run.root).events()
    text = " ".join(events["detail"]) + " ".join(events["what"])
    assert "hunter2" not in text
    assert "verysecret" not in text
    for detail in events["detail"]:
        json.loads(detail)


@pytest.mark.usefixtures("packages")
@pytest.mark.parametrize("name", sorted(EVERY))
def test_tables_are_the_same_through_pandas_and_parquet(run: RunDir, tmp_path: Path, name: str) -> None:
    import pandas
    import pyarrow.parquet

    frame = RunFrames(run.root).frames()[name]
    table = frame.to_pandas()
    assert list(table.columns) == frame.columns
    assert len(table) == len(frame)
    frame.to_parquet(tmp_path / "x.parquet")
    stored = pyarrow.parquet.read_table(tmp_path / "x.parquet").to_pydict()
    for column in frame.columns:
        kind, values = frame.kinds[column], frame[column]
        assert stored[column] == values
        assert [None if pandas.isna(v) else v for v in table[column]] == values
        assert str(table[column].dtype).startswith(
            {"time": "datetime64[us, UTC]", "int": "Int64", "float": "float64"}.get(kind, "")
        )


def test_csv_has_empty_cells_where_there_is_nothing(run: RunDir, tmp_path: Path) -> None:
    RunFrames(run.root).energy().to_csv(tmp_path / "energy.csv")
    with open(tmp_path / "energy.csv", encoding="utf-8", newline="") as f:
        rows = list(csv.DictReader(f))
    assert rows[0]["t0_utc"] == "2026-01-11T17:08:20Z"
    assert rows[0]["inside"] == "true"
    assert rows[0]["money"] == ""
    assert float(rows[0]["joules"]) == 40000.0


@pytest.mark.usefixtures("packages")
def test_a_run_without_telemetry_has_empty_tables(empty: RunDir) -> None:
    found = RunFrames(empty.root).frames()
    assert set(found) == EVERY
    assert {n for n, f in found.items() if len(f)} == {"blocks", "counterfactuals"}
    assert "joules" in found["energy"].columns
    assert len(found["energy"].to_pandas()) == 0


def test_a_telemetry_of_an_older_schema_is_read_with_gaps(tmp_path: Path) -> None:
    run = finished_run(tmp_path / "old")
    db = sqlite3.connect(run.telemetry)
    for column in ("average_grams", "money"):
        db.execute(f"ALTER TABLE energy DROP COLUMN {column}")
    db.executescript("DROP TABLE forecasts; UPDATE meta SET value = '1' WHERE key = 'schema';")
    db.close()
    found = RunFrames(run.root).frames()
    assert len(found["energy"]) == 3
    assert set(found["energy"]["money"]) == {None}
    assert len(found["forecasts"]) == 0
    assert found["forecasts"].columns[0] == "site"


def test_a_live_run_is_read_while_it_is_written(tmp_path: Path) -> None:
    run = finished_run(tmp_path / "live")
    writer, ledger = Telemetry.open(run.telemetry), Ledger.open(run.ledger)
    found = RunFrames(run.root)
    before = len(found.events())
    writer.event(START + 9000, "resumed", version=2)
    writer.flush()
    assert len(found.events()) == before + 1
    writer.close()
    ledger.close()


def test_no_run_is_an_error_that_says_so(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no run here"):
        windfall.open_run(tmp_path)


@pytest.mark.parametrize(("package", "method"), [("pandas", "to_pandas"), ("pyarrow", "to_parquet")])
def test_a_missing_package_is_named_with_its_extra(
    package: str, method: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    frame = Frame({"a": "int"}, [[1]])
    with pytest.raises(ConfigError, match=rf"{package}, which is not installed; run: pip install 'windfall\[analysis\]'"):
        getattr(frame, method)(*([tmp_path / "x"] if method == "to_parquet" else []))


def test_importing_windfall_imports_nothing_else() -> None:
    code = (
        "import sys; before = set(sys.modules); import windfall; "
        "print(*sorted(m for m in set(sys.modules) - before if not m.startswith('windfall')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) <= {"__future__"}


def test_tables_need_no_pandas_to_be_read(run: RunDir) -> None:
    code = f"import sys, windfall; windfall.open_run({str(run.root)!r}).frames(); print('pandas' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"]


@pytest.mark.usefixtures("packages")
def test_a_backtest_as_tables() -> None:
    rows = [row(money_by_currency={"USD": 1.5}, notes=["one", "two"]), row("oracle", kg_co2=None, finish_h=None)]
    found = backtest_frames(result(*rows))
    table, lanes = found["rows"], found["lanes"]
    assert table["policy"] == ["breakeven", "oracle"]
    assert table["kg_co2"] == [0.983, None]
    assert table["money_USD"] == [1.5, None]
    assert table["site_hours_california"] == [17.86, 17.86]
    assert table["notes"] == ["one; two", ""]
    assert table["starts"] == [5, 5]
    assert len(lanes) == 6
    assert lanes["row"] == [0, 0, 0, 1, 1, 1]
    assert found["baselines"]["region"][0] == "CAISO_NORTH"
    assert len(backtest_frames(result())["rows"]) == 0
    for frame in found.values():
        assert len(frame.to_pandas()) == len(frame)


@pytest.mark.usefixtures("packages")
@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_export_writes_a_file_for_each_table(run: RunDir, tmp_path: Path, form: str, capsys: pytest.CaptureFixture[str]) -> None:
    export(run.root, tmp_path / "out", form, True)
    said = json.loads(capsys.readouterr().out)
    assert said["rows"]["energy"] == 3
    assert {p.name for p in (tmp_path / "out").iterdir()} == {f"{n}.{form}" for n in (*EVERY, "columns")} | {"summary.json"}
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["run_id"] == "small-1"


def test_export_says_what_is_wrong(run: RunDir, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such format; there are csv, parquet"):
        export(run.root, tmp_path, "xlsx", False)
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be written"):
        export(run.root, tmp_path / "file", "csv", False)
