"""What `windfall.backtest` returns: tables whose every column is explained, figures as files, and reprs that say something."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

import windfall
from backtests import result, row
from ui_runs import START
from windfall.cli.backtest import BacktestRequest, backtest_verb
from windfall.config.load import loads
from windfall.config.schema import Config
from windfall.errors import ConfigError, RunError
from windfall.store.rundir import RunDir
from windfall.ui.comparison import PolicyComparison
from windfall.view import dictionary
from windfall.view.backtest_frames import pairs_frame, summary_frame, sweep_frame
from windfall.view.frame import Frame

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """Two sites over three days of five-minute readings."""
    folder = tmp_path_factory.mktemp("days")
    values = [(300.0, 250.0)] * 48 + [(20.0, 300.0)] * 96 + [(350.0, 30.0)] * 144
    lines = [f"{START + 300 * i:.0f},{a},{b}" for i, (a, b) in enumerate(values * 3)]
    (folder / "trace.csv").write_text("time_utc,a,b\n" + "\n".join(lines) + "\n", encoding="utf-8")
    site = """
[[site]]
name = "{0}"
region = "{0}"
spin_up_s = 600
train_power_w = 1000
idle_power_w = 300
tokens_per_s = 1000
[site.signal]
path = "trace.csv"
column = "{0}"
"""
    text = '[run]\nname = "days"\nbudget_tokens = 1_000_000\nclock = "scaled"\n[model]\ndepth = 1\nsequence_length = 16\n'
    text += '[backtest]\ntarget = "none"\n' + site.format("a") + site.format("b")
    return loads(text, "days.toml", folder)


@pytest.fixture(scope="module")
def one(config: Config) -> PolicyComparison:
    return windfall.backtest(config, policies=["breakeven", "threshold", "random_duty", "oracle"])


@pytest.fixture(scope="module")
def many(config: Config) -> PolicyComparison:
    return windfall.backtest(
        config, policies=["threshold", "breakeven"], starts=7, span_days=0.25, sweeps={"worth_g_per_kwh": [80.0, 100.0]}
    )


def unexplained(tables: dict[str, Frame]) -> list[str]:
    return [f"{t}.{c}" for t, frame in tables.items() for c in frame.columns if dictionary.meaning(t, c) is None]


def test_every_column_of_a_backtest_is_explained(one: PolicyComparison, many: PolicyComparison) -> None:
    assert unexplained(one.tables) == []
    assert unexplained(many.tables) == []
    said = {(r["table"], r["column"]): (r["unit"], r["meaning"]) for r in many.columns}
    assert said["points", "kg_co2"][0] == "kg"
    assert said["summary", "kg_co2_p50"][0] == "kg"
    assert said["summary", "kg_co2_p50"][1].startswith("median over start dates: emissions of that energy")
    assert said["summary", "site_hours_p90"][0] == "h"
    assert said["points", "worth_g_per_kwh"][0] == "g/kWh"
    assert all(text for _, text in said.values())


def test_every_column_of_a_run_is_explained(small: RunDir, empty: RunDir) -> None:
    for run in (small, empty):
        assert unexplained(windfall.open_run(run.root).frames()) == []


def test_nothing_is_explained_that_no_table_has(one: PolicyComparison, many: PolicyComparison, small: RunDir) -> None:
    tables = {**one.tables, **many.tables, **windfall.open_run(small.root).frames()}
    assert set(dictionary.COLUMNS) == set(tables) == set(dictionary.TABLES)
    stale = [
        f"{t}.{c}" for t, known in dictionary.COLUMNS.items() for c in known if "*" not in c and c not in tables[t].columns
    ]  # fmt: skip
    assert stale == []


def test_the_page_of_columns_is_what_the_code_says() -> None:
    assert (ROOT / "docs" / "columns.md").read_text(encoding="utf-8") == dictionary.page()


def test_a_setting_that_a_figure_is_called_like_has_a_column_of_its_own() -> None:
    from windfall.simulate.sweep import SweepPoint, summarise

    points = [SweepPoint(START, (("deadline_h", 24.0),), row())]
    frame = sweep_frame(points)
    assert (frame["set_deadline_h"], frame["deadline_h"]) == ([24.0], [13.79])
    assert unexplained({"points": frame, "summary": summary_frame(summarise(points, with_budget=True))}) == []
    assert unexplained({"pairs": pairs_frame([])}) == []


def test_tables_and_figures_are_written_with_what_they_were_computed_with(one: PolicyComparison, tmp_path: Path) -> None:
    names = {p.name for p in one.write_tables(tmp_path / "t")}
    assert names == {p.name for p in (tmp_path / "t").iterdir()}
    assert {"rows.csv", "seeds.csv", "traces.csv", "columns.csv", "summary.json", "config.toml"} <= names
    said = json.loads((tmp_path / "t" / "summary.json").read_text(encoding="utf-8"))
    assert said["provenance"]["traces"][0]["sha256"] == one.provenance.traces[0].sha256
    assert said["provenance"]["windfall"]["version"] == windfall.__version__
    (again,) = windfall.backtest(tmp_path / "t" / "config.toml", ["breakeven"]).rows
    assert again["kg_co2"] == one.rows["kg_co2"][0]
    figures = {p.name: p.read_bytes() for p in one.write_figures(tmp_path / "f")}
    assert set(figures) == {"lanes.svg", "lanes.pdf", "emitted.svg", "emitted.pdf"}
    assert figures["lanes.pdf"].startswith(b"%PDF")
    assert b"/Type3" not in figures["lanes.pdf"]
    assert one.figures["lanes"].pdf() == figures["lanes.pdf"]
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"file/x: cannot be written: Not a directory"):
        one.write_tables(tmp_path / "file" / "x")
    with pytest.raises(RunError, match=r"file: cannot be written: it is a file, and a folder is wanted"):
        one.write_figures(tmp_path / "file")


def test_differences_are_from_the_default_policy(many: PolicyComparison) -> None:
    pairs = many.tables["pairs"]
    assert set(pairs["against"]) == {"breakeven"}
    assert set(pairs["worth_g_per_kwh"]) == {80.0, 100.0}
    assert set(many.figures) == {"spread", "paired"}
    assert "<svg" in many.figures["paired"].svg(440)


def test_reprs_say_what_is_there(one: PolicyComparison, many: PolicyComparison) -> None:
    text = repr(one)
    assert text.startswith("Backtest(2026-01-11T17:00:00Z to ")
    assert "breakeven" in text
    assert "kg_co2" in text
    assert "<table>" in one._repr_html_()
    assert repr(many).startswith("Compared(7 start dates, 28 outcomes: threshold, breakeven)")
    assert repr(one.figures["lanes"]) == "Figure(lanes: svg(), pdf())"
    assert "2 traces" in repr(one.provenance)
    assert repr(row()).startswith("Row(breakeven: 13.79 h, 17.86 site-h")
    assert repr(result(row())).startswith("Backtest(2026-01-11T17:00:00Z to 2026-01-12T11:00:00Z, 17.86 site-hours, 1 rows: ")
    long = repr(Frame({"n": "int", **{f"c{i}": "text" for i in range(20)}}, [[i, *["x" * 99] * 20] for i in range(12)]))
    assert "and 2 rows more" in long
    assert "and the columns c13, c14" in long
    assert max(map(len, long.splitlines())) < 600


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"start": "yesterday"}, "start='yesterday': not an instant"),
        ({"policies": "breakeven"}, r'policies: give a list, \["breakeven"\]'),
        ({"settings": {"spin_up": 1.0}}, "did you mean spin_up_s"),
        ({"jobs": 0}, "jobs=0: give a whole number, at least 1"),
        ({"jobs": 1.5}, "jobs=1.5: give a whole number"),
        ({"policies": ["brekeven"]}, "policies: 'brekeven' is none; there are breakeven, threshold"),
        ({"policies": 3}, "policies=3: give a list"),
        ({"start": float("nan")}, "start=nan: not an instant"),
        ({"until": 1.7e12}, "until=1700000000000.0: not an instant"),
        ({"start": True}, "start=True: not an instant"),
        ({"starts": 2.5}, "starts=2.5: give a whole number"),
        ({"starts": 10**7}, "at most 10,000"),
        ({"starts": 2, "span_days": float("nan")}, "span_days=nan: give a number of days above 0"),
        ({"starts": 2, "span_days": 0}, "span_days=0: give a number"),
        ({"sweeps": {"worth_g_per_kwh": 100.0}}, r"sweeps: worth_g_per_kwh=100.0: give a list of numbers, \[80, 100\]"),
        ({"sweeps": {"worth_g_per_kwh": []}}, "give a list of numbers"),
        ({"sweeps": ["worth_g_per_kwh"]}, "give a dictionary"),
        ({"settings": {"spin_up_s": "600"}}, "settings: spin_up_s='600': give a number"),
        ({"settings": {"worth_g_per_kwh": float("inf")}}, "give a number"),
        ({"config": {"run": {}}}, "config: give a file, or what windfall.load gives, not dict"),
    ],
)
def test_a_wrong_argument_is_told(config: Config, arguments: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        windfall.backtest(**{"config": config, **arguments})  # type: ignore[arg-type]


def test_what_was_asked_for_is_in_the_record_so_that_its_configuration_gives_the_same(config: Config, tmp_path: Path) -> None:
    begin = datetime.fromtimestamp(START + 86400, UTC)
    found = windfall.backtest(config, ["threshold"], start=begin, until=START + 1.5 * 86400)
    assert found.provenance.command == (
        "windfall.backtest(config, policies=['threshold'], start='2026-01-12T17:00:00+00:00', until=1768280400.0)"
    )
    found.write_tables(tmp_path)
    again = windfall.backtest(tmp_path / "config.toml")
    assert again.rows["policy"] == ["threshold"]
    for name in ("rows", "lanes", "traces"):
        assert list(again.tables[name]) == list(found.tables[name])
    assert again.provenance.config_sha256 == found.provenance.config_sha256
    many = windfall.backtest(config, ["threshold"], starts=3, span_days=0.25, settings={"spin_up_s": 300.0})
    assert many.provenance.command.endswith("starts=3, span_days=0.25, settings={'spin_up_s': 300.0})")
    assert many.provenance.config["backtest"]["policies"] == ["threshold"]


def test_the_verb_writes_the_same(config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from windfall.config.load import to_toml

    file = tmp_path / "days.toml"
    file.write_text(to_toml(config), encoding="utf-8")
    command = ["windfall", "backtest", "days.toml"]
    asked = BacktestRequest(["breakeven"], csv=tmp_path / "t", figures=tmp_path / "f", html=tmp_path / "p.html", command=command)
    backtest_verb(file, asked, as_json=True)
    said = json.loads(capsys.readouterr().out)
    assert said["provenance"]["command"] == "windfall backtest days.toml"
    assert json.loads((tmp_path / "t" / "summary.json").read_text(encoding="utf-8"))["rows"] == said["rows"]
    page = (tmp_path / "p.html").read_text(encoding="utf-8")
    for text in ("What this was computed with", "windfall backtest days.toml", said["provenance"]["traces"][0]["sha256"]):
        assert text in page
    assert (tmp_path / "f" / "lanes.pdf").exists()


@pytest.mark.slow
def test_the_notebook_runs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Cell by cell, the last expression of each shown as a notebook does."""
    pytest.importorskip("pandas")
    monkeypatch.chdir(ROOT / "examples")
    book = json.loads((ROOT / "examples" / "backtest.ipynb").read_text(encoding="utf-8"))
    assert book["nbformat"] == 4
    names: dict[str, object] = {"__name__": "__main__"}
    shown = []
    for cell in book["cells"]:
        if cell["cell_type"] != "code":
            continue
        assert cell["outputs"] == []
        tree = ast.parse("".join(cell["source"]))
        last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, "backtest.ipynb", "exec"), names)
        if last is not None:
            value = eval(compile(ast.Expression(last.value), "backtest.ipynb", "eval"), names)
            shown.append(repr(value))
            if hasattr(value, "_repr_svg_"):
                assert "<svg" in value._repr_svg_()
    assert any("g/kWh" in s for s in shown)
    assert "threshold less breakeven: " in capsys.readouterr().out
    assert any("paired.pdf" in s for s in shown)


def test_a_backtest_in_python_needs_no_torch() -> None:
    code = (
        f"import sys, windfall; found = windfall.backtest({str(ROOT / 'examples' / 'paper_day.toml')!r}, ['breakeven']);"
        "print(len(found.rows), *sorted({'torch', 'flwr', 'matplotlib', 'pandas'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["2"]
