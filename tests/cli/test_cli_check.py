"""`windfall check`: five of five planted mistakes at once, where one hides another too; how long the run will take; no torch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from patience import PATIENCE_S
from windfall.cli import main as cli
from windfall.config.load import load
from windfall.grid.build import build_grid, run_start, with_start
from windfall.run.speeds import Speed, cache_file, keep_run, keep_speed
from windfall.units import parse_utc


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def windfall(capsys: pytest.CaptureFixture[str], *args: object) -> tuple[int, str, str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["windfall", *map(str, args)])
        try:
            cli.main()
            code = 0
        except SystemExit as e:
            code = int(e.code or 0)
    out, err = capsys.readouterr()
    return code, out, err


def site(name: str, region: str, signal: str, **changes: object) -> str:
    keys: dict[str, object] = {
        "spin_up_s": 340.0, "load_s": 100.0, "train_power_w": 2024.0, "idle_power_w": 468.0, "tokens_per_s": 12.0, **changes,
    }  # fmt: skip
    lines = "\n".join(f"{k} = {json.dumps(v)}" for k, v in keys.items())
    return f'[[site]]\nname = "{name}"\nregion = "{region}"\n{lines}\n[site.signal]\n{signal}\n'


DAY = 'path = "bundled:paper_day"\ntime_column = "from_utc"\ncolumn = "g_per_kwh"\nregion_column = "region"\nperiod_s = 0\n'
ENDS = 'until = "2026-01-12T11:00Z"\n'
TWO = site("california", "CAISO_NORTH", DAY + ENDS) + site("adelaide", "NEM_SA", DAY + ENDS)
RUN = '[run]\nclock = "scaled"\nspeed = 600\ntick_s = 60\nbudget_tokens = 200_000\n'
GOOD = f"{RUN}[model]\ndepth = 2\nwidth = 64\nsequence_length = 128\n{TWO}"


def write(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "w.toml"
    file.write_text(text)
    return file


def told(capsys: pytest.CaptureFixture[str], file: Path) -> list[dict[str, object]]:
    code, out, _ = windfall(capsys, "check", file, "--json")
    assert code == 2
    found: list[dict[str, object]] = json.loads(out)["problems"]
    return found


SURPLUS = 'path = "sun.csv"\ncolumn = "w"\ntype = "surplus_power"\n'


@pytest.mark.parametrize(
    ("clock", "levels", "said"),
    [
        ("scaled", "{ power_w = 800 }, { power_w = 2024 }",
         [("power_levels[0].tokens_per_s", "the level of 800 W has no tokens_per_s, and nothing measures it in replayed time")]),
        ("real", "{ power_w = 800 }, { power_w = 2024 }",
         [("device", "levels are held by its GPUs (NVML)"),
          ("power_levels[0].gpu_power_w", "nothing holds the site to its level of 800 W")]),
    ],
)  # fmt: skip
def test_what_levels_lack_on_the_runs_clock_is_told_before_it_begins(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], clock: str, levels: str, said: list[tuple[str, str]]
) -> None:
    (tmp_path / "sun.csv").write_text("time_utc,w\n2026-01-01T00:00Z,1000\n2026-01-01T00:05Z,900\n")
    text = site("farm", "F", SURPLUS).replace("[site.signal]", f"power_levels = [{levels}]\n[site.signal]")
    run = f"[run]\nclock = {clock!r}\nbudget_tokens = 200_000\n[model]\ndepth = 2\nwidth = 64\nsequence_length = 128\n"
    file = write(tmp_path, run + text)
    found = told(capsys, file)
    assert [(p["key"], str(p["message"])[: len(words)]) for p, (_, words) in zip(found, said, strict=True)] == [
        (f"site[0].{key}", words) for key, words in said
    ]


def test_five_planted_mistakes_are_told_with_line_site_and_fix(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (
        RUN + 'start = "2030-01-01T00:00Z"\n[data]\nsource = "corpus"\n[federation]\nround_s = "600"\n'
        + site("california", "CAISO_NORTH", 'path = "no.csv"\ncolumn = "g"')
        + site("adelaide", "NEM_SA", DAY + ENDS, trigger="price <")
    )  # fmt: skip
    file = write(tmp_path, text)
    found = told(capsys, file)
    assert [(p["line"], p["key"], p["site"]) for p in found] == [
        (6, "run.start", None), (8, "data.source", None), (10, "federation.round_s", None),
        (20, "site[0].signal.path", "california"), (30, "site[1].trigger", "adelaide"),
    ]  # fmt: skip
    said = [str(p["message"]) for p in found]
    assert said[0] == (
        "2030-01-01T00:00:00Z, and every trace has ended by 2026-01-12T11:00:00Z; all of them have readings from "
        "2026-01-11T17:00:00Z to 2026-01-12T11:00:00Z: leave run.start out to begin there, or give longer traces"
    )
    assert "corpus: no such file or folder" in said[1]
    assert said[2].startswith("got '600', which is text: leave the quotes out; accepted: seconds, above 0")
    assert said[3].startswith(f"no such file: {tmp_path}/no.csv; put it there, or correct the path")
    assert said[4].startswith("trigger 'price <': a number is missing before the end")
    code, _, err = windfall(capsys, "check", file)
    assert code == 2
    assert f"{file}:20: site[0].signal.path (site california): no such file: " in err
    assert err.endswith("5 problems\n")


@pytest.mark.parametrize(
    ("change", "key", "said"),
    [
        (("NEM_SA", "MARS"), "site[1].signal", "no usable row in column `g_per_kwh` for region"),
        (('"g_per_kwh"', '"g"'), "site[0].signal", "g"),
        (("depth = 2", "depth = 2\nhead_dim = 48"), "model.depth", "heads of 48"),
        (("[model]", '[policy]\nname = "budgeted"\n[model]'), "policy.name", "deadline"),
        (("tick_s", 'start = "2019-01-01T00:00Z"\ntick_s'), "run.start", "before the first row of every trace; all of them have"),
        (("[model]", "[data]\nvocab_size = 300\n[model]"), "data.vocab_size", "is for tokenizer"),
    ],
)
def test_what_only_other_files_or_numbers_show_is_told_beside_a_wrong_type(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: tuple[str, str], key: str, said: str
) -> None:
    text = GOOD.replace(*change) + '[federation]\nround_s = "600"\n'
    found = {str(p["key"]): str(p["message"]) for p in told(capsys, write(tmp_path, text))}
    assert set(found) >= {key, "federation.round_s"}
    assert said in found[key]
    del found["federation.round_s"]
    assert all("accepted" not in message for message in found.values())


def test_a_start_outside_one_sites_trace_is_a_warning_that_names_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "t.csv").write_text("t,g\n2026-01-11T19:00Z,50\n2026-01-11T20:00Z,50\n")
    late = site("texas", "SPP", 'path = "t.csv"\ntime_column = "t"\ncolumn = "g"\nperiod_s = 3600\n')
    text = GOOD.replace("tick_s", 'start = "2026-01-11T17:00Z"\ntick_s')
    code, out, err = windfall(capsys, "check", write(tmp_path, text + late))
    assert code == 0, err
    assert (
        "run.start 2026-01-11T17:00:00Z is outside the trace of site texas (from 2026-01-11T19:00:00Z to 2026-01-11T21:00:00Z)"
        in out
    )


def test_without_a_start_replayed_time_begins_where_all_traces_have(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "t.csv").write_text("t,g\n2026-01-11T19:00Z,50\n2026-01-11T20:00Z,50\n")
    late = site("texas", "SPP", 'path = "t.csv"\ntime_column = "t"\ncolumn = "g"\nperiod_s = 3600\n')
    file = write(tmp_path, GOOD + late)
    assert windfall(capsys, "check", file)[0] == 0
    config = load(file)
    resolved = with_start(config, build_grid(config))
    assert resolved.run.start == "2026-01-11T19:00:00Z"
    assert run_start(resolved) == parse_utc("2026-01-11T19:00Z")
    assert with_start(resolved, build_grid(resolved)) is resolved
    (tmp_path / "t.csv").write_text("t,g\n2027-01-11T19:00Z,50\n")
    (problem,) = told(capsys, file)
    assert problem["key"] == "run.start"
    assert "there is no instant that all traces have" in str(problem["message"])


def test_how_long_it_takes_is_unknown_until_this_machine_has_shown_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path, GOOD)
    _, out, _ = windfall(capsys, "check", file)
    assert "how long it takes: unknown for this model on this machine; `check --measure` takes a few steps and says" in out
    config = load(file)
    for s in config.site:
        assert keep_speed(config, s, 257, Speed(1e9, 1_767_225_600.0, 0.0, 0.0), cache_file())
    _, out, _ = windfall(capsys, "check", file, "--json")
    expected = json.loads(out)["expected"]
    # So fast a machine is held back by the clock alone: at most 600 times real time.
    took = parse_utc(expected["done_at"]) - parse_utc("2026-01-11T17:00Z")
    assert expected["wall_s"] == pytest.approx(took / 600, rel=1e-3)
    assert "at most 600 times real time (1,000,000,000 tokens/s a site, measured on 2026-01-01)" in expected["text"]
    # A slow one by its steps: 12 tokens of run time's second at 100 a second, one site at a time.
    for s in config.site:
        keep_speed(config, s, 257, Speed(100.0, 1_767_225_600.0, 0.0, 0.0), cache_file())
    _, out, _ = windfall(capsys, "check", file, "--json")
    slow = json.loads(out)["expected"]
    assert slow["done_at"] == expected["done_at"]
    assert slow["wall_s"] == pytest.approx(200_000 / 100, rel=0.2)
    assert keep_run(config, 93.0, cache_file())
    _, out, _ = windfall(capsys, "check", file)
    assert "how long it takes: about 2 min here: so long it took on " in out
    # Another model, or step, is another thing.
    _, out, _ = windfall(capsys, "check", write(tmp_path, GOOD.replace("depth = 2", "depth = 3")))
    assert "unknown for this model" in out


def test_a_budget_that_the_traces_are_too_short_for_is_warned_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path, GOOD.replace("budget_tokens = 200_000", "budget_tokens = 20_000_000_000"))
    code, out, _ = windfall(capsys, "check", file)
    assert code == 0
    assert "warning: the traces end before the budget is trained: by then learned has trained some " in out
    assert "how long it takes: its traces end before it does" in out
    assert "the traces end" not in windfall(capsys, "check", write(tmp_path, GOOD))[1]


def test_check_takes_a_few_steps_where_asked_to_and_keeps_what_it_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = GOOD.replace("depth = 2", "depth = 1").replace("width = 64", "width = 32").replace("128", "16")
    file = write(tmp_path, small)
    code, out, _ = windfall(capsys, "check", file, "--measure", "--json")
    assert code == 0
    rate = json.loads(out)["expected"]["tokens_per_s"]
    assert rate > 0
    assert json.loads(windfall(capsys, "check", file, "--json")[1])["expected"]["tokens_per_s"] == rate
    # A home that cannot be written changes nothing but that.
    (tmp_path / "cache" / "windfall" / "speeds.json").unlink()
    (tmp_path / "cache" / "windfall").rmdir()
    (tmp_path / "cache" / "windfall").write_text("in the way")
    code, out, err = windfall(capsys, "check", file, "--measure")
    assert code == 0
    assert "unknown for this model" in out
    assert "cannot be written, so this is not kept" in err


def test_check_needs_no_torch_and_neither_does_the_first_word_of_run(tmp_path: Path) -> None:
    file = write(tmp_path, GOOD)
    script = (
        "import sys\n"
        "from windfall.cli.check import check\n"
        f"code = check(__import__('pathlib').Path({str(file)!r}), False)\n"
        "import windfall.cli.run, windfall.cli.plan, windfall.cli.backtest\n"
        "heavy = [m for m in ('torch', 'flwr', 'matplotlib') if m in sys.modules]\n"
        "sys.exit(f'imported: {heavy}' if heavy else code)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.returncode == 0, done.stderr
    assert "w.toml: good. 2 sites" in done.stdout


def test_a_last_reading_that_holds_for_ever_has_no_end_to_be_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = GOOD.replace(ENDS, "").replace("tick_s", 'start = "2019-01-01T00:00Z"\ntick_s')
    (problem,) = told(capsys, write(tmp_path, text))
    assert "all of them have readings from 2026-01-11T17:00:00Z on: leave run.start out" in str(problem["message"])
    file = write(tmp_path, text.replace("2019", "2030"))
    config = load(file)
    for s in config.site:
        keep_speed(config, s, 257, Speed(1e9, 0.0), cache_file())
    assert windfall(capsys, "check", file)[0] == 0


def test_a_trigger_that_names_no_signal_is_told_beside_other_mistakes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = GOOD.replace('region = "CAISO_NORTH"', 'region = "CAISO_NORTH"\ntrigger = "marginal_co2 < 5 or prce < 5"', 1)
    file = write(tmp_path, text.replace("tick_s = 60", 'tick_s = "60"') if "tick_s = 60" in text else text)
    problems = told(capsys, file)
    assert any("trigger names prce" in str(p["message"]) and "marginal_co2" in str(p["message"]) for p in problems)


def test_a_tracker_whose_server_nobody_names_is_warned_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(tmp_path, GOOD + '\n[[tracker]]\nkind = "mlflow"\n')
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    code, out, _ = windfall(capsys, "check", file)
    assert (code, "warning: mlflow: no server is named, so nothing is sent; give url" in out) == (0, True)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    assert "no server is named" not in windfall(capsys, "check", file)[1]


@pytest.mark.parametrize("data", [bytes(range(256)) * 40, b"\x1f\x8b\x08" + b"\x00\x01\xfe" * 900])
def test_a_binary_file_is_one_mistake(tmp_path: Path, capsys: pytest.CaptureFixture[str], data: bytes) -> None:
    (tmp_path / "w.toml").write_bytes(data)
    [problem] = told(capsys, tmp_path / "w.toml")
    assert "no text but a binary file" in str(problem["message"])


def test_a_file_in_another_encoding_is_not_a_mistake_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "w.toml").write_bytes("# Zürich\n".encode("cp1252") * 300 + GOOD.encode())
    problems = told(capsys, tmp_path / "w.toml")
    assert [p["line"] for p in problems] == [1, 2, 3, 4]
    assert "296 other lines" in str(problems[-1]["message"])


def test_a_problem_is_one_line_whatever_a_value_holds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path, GOOD.replace('name = "california"', 'name = "cali\\nfornia\\r"'))
    code, _, err = windfall(capsys, "check", file)
    assert code == 2
    lines = err.splitlines()
    assert lines[-1] == f"{len(lines) - 1} problem{'s' if len(lines) > 2 else ''}"
    assert all(line.startswith(f"{file}:") for line in lines[:-1]), err
