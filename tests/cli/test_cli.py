"""Verbs with good input and bad, as a user types them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from ui_runs import empty_run, finished_run
from windfall.cli import main as cli
from windfall.store.telemetry import Telemetry

EXAMPLES = Path(__file__).parents[2] / "examples"


def windfall(capsys: pytest.CaptureFixture[str], *args: object) -> tuple[int, str, str]:
    """Exit code, standard output, standard error."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["windfall", *map(str, args)])
        try:
            cli.main()
            code = 0
        except SystemExit as e:
            code = int(e.code or 0)
    out, err = capsys.readouterr()
    return code, out, err


def test_help_shows_defaults_in_plain_brackets(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = windfall(capsys, "backtest", "--help")
    assert code == 0
    assert " [default: 1]" in out
    assert "\\" not in out


def test_help_lists_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = windfall(capsys, "--help")
    assert code == 0
    for verb in ("demo", "init", "check", "data", "run", "status", "events", "report", "hold", "release", "drain", "gc", "generate",
                 "backtest", "site"):  # fmt: skip
        assert f"\n  {verb} " in out


def test_what_init_writes_passes_check_and_is_not_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "new" / "folder" / "my.toml"  # which are made, as by every verb that writes
    assert windfall(capsys, "init", file)[0] == 0
    assert windfall(capsys, "check", file)[0] == 0
    code, _, err = windfall(capsys, "init", file)
    assert code == 2
    assert "--force" in err
    code, out, _ = windfall(capsys, "check", file, "--json")
    assert code == 0
    assert json.loads(out)["ok"] is True


@pytest.mark.parametrize("force", [[], ["--force"]])
def test_init_is_told_a_file_and_no_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str], force: list[str]) -> None:
    code, _, err = windfall(capsys, "init", *force, tmp_path)
    assert (code, err) == (2, f"windfall: {tmp_path}: is a folder; name a file in it, as in {tmp_path / 'windfall.toml'}\n")


@pytest.mark.parametrize(
    ("verb", "options", "work"),
    [
        ("backtest", ("--html", "file/x.html"), "cli.backtest.backtest"),
        ("backtest", ("--csv", "file"), "cli.backtest.backtest"),
        ("backtest", ("--starts", "2", "--figures", "file/x"), "cli.backtest.prepare"),
        ("economics", ("--csv", "file"), "cli.economics.economics_of"),
        ("economics", ("--rank-regions", "--csv", "file/deep/x"), "cli.economics.site_regions"),
        ("data prepare", ("--out", "file"), "train.prepare.prepare"),
        ("import-weights", ("--out", "file/x"), "train.nanochat.read_nanochat"),
    ],
)
def test_where_nothing_can_be_written_is_found_before_the_work(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    verb: str,
    options: tuple[str, ...],
    work: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("here")
    monkeypatch.setattr(f"windfall.{work}", lambda *_, **__: pytest.fail("it has begun to work"))
    code, _, err = windfall(capsys, *verb.split(), EXAMPLES / "demo.toml", *options)
    assert (code, len(err.splitlines())) == (1, 1)
    assert "windfall: file" in err
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_check_tells_every_problem_as_text_and_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "my.toml"
    windfall(capsys, "init", file)
    file.write_text(file.read_text().replace("spin_up_s = 340.0", "spin_up_min = 5").replace("depth = 2", "depth = 0"))
    code, _, err = windfall(capsys, "check", file)
    assert code == 2
    assert "did you mean `spin_up_s`" in err
    assert "model.depth" in err
    code, out, _ = windfall(capsys, "check", file, "--json")
    found = json.loads(out)
    assert code == 2
    assert {p["key"] for p in found["problems"]} >= {"model.depth", "site[0].spin_up_min", "site[1].spin_up_s"}
    assert all(p["line"] > 1 for p in found["problems"])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("CAISO_NORTH", "MARS"), "no usable row in column `g_per_kwh` for region = MARS"),
        (("2026-01-11T17:00Z", "2030-01-01T00:00Z"), "every trace has ended by"),
        (("bundled:paper_day", "gone.csv"), "no such file"),
    ],
)
def test_signals_that_cannot_serve_are_found_by_check_and_before_a_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: tuple[str, str], said: str
) -> None:
    file = tmp_path / "my.toml"
    windfall(capsys, "init", file)
    file.write_text(file.read_text().replace(*change))
    for args in (("check", file), ("run", file, "--run-dir", tmp_path / "run", "--quiet")):
        code, _, err = windfall(capsys, *args)
        assert code in (1, 2)
        assert said in err
        assert "Traceback" not in err
    assert not (tmp_path / "run").exists()


def test_backtest_prints_the_promised_object(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = windfall(capsys, "backtest", EXAMPLES / "paper_day.toml", "--policy", "breakeven", "--json")
    assert code == 0
    found = json.loads(out)
    assert found["elapsed_s"] > 0
    assert set(found["baselines"]) == {"CAISO_NORTH", "SPP_TX", "NEM_SA", "DE"}
    (row,) = found["rows"]
    keys = "policy preset finish_h site_hours energy_kwh kg_co2 starts idle_h share_inside share_of_oracle kg_over_oracle"
    for key in keys.split():
        assert row[key] is not None
    assert row["money"] is None  # the day has no prices
    assert [r["publication_delay_s"] for r in found["late_rows"]] == [300.0]


@pytest.mark.parametrize("more", [(), ("--sweep", "spin_up_s=200,400", "--jobs", "1"), ("--rank-regions", "--jobs", "1")])
def test_a_pipe_loses_no_column_and_is_never_told_to_widen_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, more: tuple[str, ...]
) -> None:
    policies = ("--policy", "breakeven") if more[:1] == ("--rank-regions",) else ("--policy", "breakeven", "--policy", "always")
    shown = []
    for columns in ("40", "300"):
        monkeypatch.setenv("COLUMNS", columns)
        code, out, _ = windfall(capsys, "backtest", EXAMPLES / "paper_day.toml", *policies, *more)
        assert code == 0
        shown.append([line for line in out.splitlines() if "simulated in" not in line])
    assert shown[0] == shown[1]  # whatever is said of a terminal's width
    text = "\n".join(shown[0])
    assert "…" not in text
    assert "widen" not in text
    if not more:
        for column in ("preset", "hours", "site-h", "kWh", "kg CO2", "starts", "idle h"):
            assert column in text, column
        assert "the study" in text


def test_a_sweeps_files_are_the_sweeps_alone(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, out, _ = windfall(
        capsys, "backtest", EXAMPLES / "paper_day.toml", "--policy", "breakeven", "--sweep", "spin_up_s=300,900",
        "--csv", tmp_path / "tables", "--html", tmp_path / "page.html", "--jobs", "1",
    )  # fmt: skip
    assert code == 0
    assert sorted(p.name for p in (tmp_path / "tables").iterdir()) == sorted(
        [*(f"{n}.csv" for n in ("points", "summary", "pairs", "traces", "columns")), "config.toml", "summary.json"]
    )
    assert "start dates" in out
    heads = (tmp_path / "tables" / "summary.csv").read_text(encoding="utf-8").splitlines()[0].split(",")
    assert {"policy", "spin_up_s", "start_dates", "starts_p50", "kg_co2_p50"} <= set(heads)
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "spin_up_s" in page
    assert "What each policy did" not in page


@pytest.mark.slow
def test_the_papers_day_is_shown_beside_the_study_budgets_and_the_oracle(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = windfall(capsys, "backtest", EXAMPLES / "paper_day.toml", "--json")
    assert code == 0
    found = json.loads(out)
    kg = {(r["policy"], r["deadline_h"] if r["policy"] in ("budgeted", "oracle") else None): r["kg_co2"] for r in found["rows"]}
    assert kg["paper", None] == pytest.approx(1.356, rel=0.01)
    assert kg["breakeven", None] <= 1.00
    assert 0.66 <= kg["oracle", 14.65] <= 0.68
    assert kg["oracle", 18.0] <= 0.40
    assert kg["budgeted", 14.65] <= 0.70
    assert kg["budgeted", 18.0] <= 0.42
    (study,) = found["references"]
    shares = {region: round(100 * study["kg_co2"] / base, 1) for region, base in found["baselines"].items()}
    assert shares == {"CAISO_NORTH": 12.1, "SPP_TX": 9.5, "NEM_SA": 11.2, "DE": 5.1}


@pytest.mark.slow
def test_many_simulations_regions_and_pages_come_from_one_verb(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = EXAMPLES / "paper_day.toml"
    code, out, _ = windfall(
        capsys, "backtest", file, "--policy", "breakeven", "--sweep", "spin_up_s=200,400", "--json", "--jobs", 1
    )
    assert code == 0
    assert [s["settings"]["spin_up_s"] for s in json.loads(out)["sweep"]][:2] == [200, 200]
    code, out, _ = windfall(capsys, "backtest", file, "--rank-regions", "--json", "--jobs", 1)
    assert code == 0
    assert {r["region"] for r in json.loads(out)["regions"]} == {"CAISO_NORTH", "SPP_TX", "NEM_SA", "DE"}
    page, tables = tmp_path / "page.html", tmp_path / "tables"
    code, out, err = windfall(
        capsys, "backtest", file, "--policy", "breakeven", "--from", "2026-01-11T18:00Z", "--to", "2026-01-12T10:00Z",
        "--html", page, "--csv", tables,
    )  # fmt: skip
    assert code == 0, err
    assert "<svg" in page.read_text(encoding="utf-8")
    assert {p.name for p in tables.iterdir()} == {
        *(f"{n}.csv" for n in ("rows", "lanes", "baselines", "seeds", "traces", "columns")), "config.toml", "summary.json",
    }  # fmt: skip


def test_the_studys_model_has_its_parameters_and_flops(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = windfall(capsys, "model", "--depth", 20, "--json")
    assert code == 0
    found = json.loads(out)
    assert found["parameters"] == 560_988_200
    assert found["flops_per_token"] == pytest.approx(3.492e9, rel=1e-3)
    assert found["memory_bytes"] > 9e9
    code, out, _ = windfall(capsys, "model", "--depth", 20)
    assert "560,988,200" in out


@pytest.mark.slow
def test_a_plan_without_a_past_and_one_with(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = windfall(capsys, "plan", EXAMPLES / "california_year.toml")
    assert (code, "at least 2 days of readings" in err) == (1, True)
    code, out, _ = windfall(capsys, "plan", EXAMPLES / "california_year.toml", "--at", "2021-04-10T00:00Z", "--draws", 5, "--json")
    assert code == 0
    assert json.loads(out)["finish"].keys() == {"p10", "p50", "p90"}


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (("backtest", EXAMPLES / "paper_day.toml", "--policy", "guess"), 2, "no such policy; there are"),
        (("demo", "--run-dir", EXAMPLES / "demo.toml"), 2, "is no folder; name another --run-dir"),
        (("dashboard", EXAMPLES.parent, "--port", "0", "--token-file", EXAMPLES / "demo.toml"), 2, "is one word of ASCII"),
        (("backtest", EXAMPLES / "paper_day.toml", "--from", "soon"), 2, "--from soon: not an instant"),
        (("backtest", EXAMPLES / "paper_day.toml", "--from", "2026-01-12", "--to", "2026-01-11"), 2, "is not after --from"),
        (("backtest", EXAMPLES / "paper_day.toml", "--from", "2030-01-01"), 1, "nothing to simulate"),
        (("backtest", EXAMPLES / "paper_day.toml", "--sweep", "spin=3"), 2, "not a number that can be set"),
        (("backtest", EXAMPLES / "paper_day.toml", "--sweep", "spin_up_s"), 2, "write KEY=VALUE"),
        (("backtest", EXAMPLES / "paper_day.toml", "--starts", "0"), 2, "at least 1"),
        (("backtest", EXAMPLES / "demo.toml", "--policy", "budgeted"), 2, "needs a deadline"),
        (("backtest", "--replay", "nowhere"), 2, "no run here"),
        (("backtest",), 2, "give a configuration, or --replay RUN"),
        (("plan", "nowhere.toml"), 2, "windfall init"),
        (("plan", EXAMPLES / "california_year.toml", "--at", "soon"), 2, "not an instant"),
        (("export", "nowhere", "--out", "out"), 2, "no run here"),
        (("eval", "nowhere"), 2, "no run here"),
        (("export-weights", "nowhere", "--out", "out"), 2, "no run here"),
        (("import-weights", "nowhere.pt", "--out", "out"), 2, "nowhere"),
        (("run", EXAMPLES / "demo.toml", "--speed", "-1"), 2, "above 0"),
        (("check", "nowhere.toml"), 2, "windfall init"),
        (("status", "nowhere"), 2, "no run here"),
        (("events", "nowhere"), 2, "no run here"),
        (("report", "nowhere"), 2, "no run here"),
        (("generate", "nowhere", "--prompt", "x"), 2, "no run here"),
        (("hold", "nowhere", "a"), 2, "no run here"),
        (("release", "nowhere", "a"), 2, "no run here"),
        (("drain", "nowhere", "a"), 2, "no run here"),
        (("gc", "nowhere"), 2, "no run here"),
        (("hold", "nowhere"), 2, "Missing argument"),
        (("release", "nowhere", "a", "--for", "2h"), 2, "No such option"),
        (("data", "prepare", "nowhere", "--out", "out"), 2, "no such file or folder"),
        (("data", "prepare", "", "--out", "out"), 2, "no source is named"),
        (("model", "--depth", "100000"), 2, "depth is 100,000; give at most 512"),
        (("model", "--depth", "9" * 30), 2, "give at most 512"),
        (("model", "--depth", "4", "--width", "1000000000"), 2, "width is 1,000,000,000; give at most 131,072"),
        (("model", "--depth", "4", "--head-dim", "512"), 2, "head_dim 512 is more than the width 256"),
        (("run",), 2, "Missing argument"),
        (("run", EXAMPLES / "demo.toml", "--extend", "twice"), 2, "'warmdown', 'hold'"),
        (("run", EXAMPLES / "demo.toml", "--extend", "hold", "--quiet"), 2, "--extend hold: there is no run in runs"),
        (("frobnicate",), 2, "No such command"),
    ],
)
def test_bad_arguments_are_one_message_and_the_right_exit_code(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    args: tuple[object, ...],
    code: int,
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    got, _, err = windfall(capsys, *args)
    assert got == code
    assert said in err
    assert "Traceback" not in err


def test_a_folder_that_holds_no_ledger_but_rubbish_is_told_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "ledger.db").write_text("hello")
    for verb in (("status",), ("report",), ("events",)):
        code, _, err = windfall(capsys, *verb, tmp_path)
        assert code == 1
        assert err.startswith("windfall: ")
        assert "Traceback" not in err


def test_data_prepare_tells_what_it_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.txt").write_text("the wind turns and power flows where none is wanted\n" * 400)
    code, out, _ = windfall(
        capsys, "data", "prepare", tmp_path / "a.txt", "--out", tmp_path / "d", "--sequence-length", 64, "--json"
    )
    assert code == 0
    facts = json.loads(out)
    assert facts["train_sequences"] > 50
    assert (tmp_path / "d" / "manifest.json").is_file()
    code, _, err = windfall(capsys, "data", "prepare", tmp_path / "a.txt", "--out", tmp_path / "a.txt")
    assert code == 1
    assert "is a file" in err
    code, _, err = windfall(capsys, "data", "prepare", tmp_path / "a.txt", "--out", tmp_path / "d", "--sequence-length", 32)
    assert code == 1
    assert "--replace" in err
    code, out, err = windfall(
        capsys, "data", "prepare", tmp_path / "a.txt", "--out", tmp_path / "d", "--replace", "--sequence-length", 4000,
        "--tokenizer", "bpe", "--vocab-size", 60000,
    )  # fmt: skip
    assert code == 1
    assert "cannot be split" in err
    assert (tmp_path / "d" / "manifest.json").is_file()
    code, out, err = windfall(
        capsys, "data", "prepare", tmp_path / "a.txt", "--out", tmp_path / "d", "--replace", "--sequence-length", 64,
        "--tokenizer", "bpe", "--vocab-size", 60000,
    )  # fmt: skip
    assert code == 0
    assert re.search(r"the text has no more to merge: \d+ tokens instead of 60,000", err)


def test_what_a_run_has_not_is_not_said_of_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = windfall(capsys, "account", finished_run(tmp_path / "done").root)
    assert code == 0
    assert "kg CO2 (" in out, "the range, without embodied emissions that nobody has configured"
    assert "with embodied" not in out
    run = empty_run(tmp_path / "new")
    Telemetry.open(run.telemetry).close()
    code, out, _ = windfall(capsys, "backtest", "--replay", run.root)
    assert (code, out) == (0, "the run has recorded no decision yet: there is none to make again\n")
