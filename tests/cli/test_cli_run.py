"""What `windfall run` says before anything starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli.test_cli_check import GOOD, windfall, write
from ui_runs import START, empty_run, finished_run, now_row
from windfall.cli.run import _first_word, _started
from windfall.config.load import load, loads
from windfall.store.rundir import SUPERVISOR_LOCK, RunDir, RunLock
from windfall.store.telemetry import Telemetry


def test_a_resume_says_that_it_is_one_and_where_it_goes_on(tmp_path: Path) -> None:
    run = finished_run(tmp_path / "small")
    telemetry = Telemetry.open(run.telemetry)
    now_row(telemetry, START + 2.5 * 3600, {"california": ["off", 1, "x"]})
    telemetry.close()
    config = load(run.config)
    text = _first_word(config, run)
    assert text.startswith(
        f"resuming small-1 in {run.root} from version 2, at 100.0 % of its tokens; it stopped at Jan 11 19:30 UTC of run time (20"
    )
    assert _first_word(config, RunDir(tmp_path / "none")) == f"starting small in {tmp_path / 'none'}"
    assert "from its beginning" in _first_word(config, empty_run(tmp_path / "empty"))


def test_of_a_run_that_another_is_running_it_is_not_said_that_it_stopped(tmp_path: Path) -> None:
    run = finished_run(tmp_path / "small")
    lock = RunLock(run, SUPERVISOR_LOCK)
    lock.acquire()
    text = _first_word(load(run.config), run)
    lock.release()
    assert text == f"small-1 in {run.root} is being run now, and is at 100.0 % of its tokens"


def test_a_run_with_damaged_telemetry_begins_with_a_word_that_says_so(tmp_path: Path) -> None:
    run = finished_run(tmp_path / "small")
    run.telemetry.write_bytes(b"no database at all, and longer than a header of one" * 40)
    text = _first_word(load(run.config), run)
    assert text.startswith(f"resuming small in {run.root}; it cannot say where it stands")
    assert "let `windfall run` set it aside and begin anew" in text


def test_a_run_that_goes_on_keeps_the_start_that_it_took_from_its_traces(tmp_path: Path) -> None:
    run = finished_run(tmp_path / "small")
    without = loads(GOOD, "x.toml", tmp_path)
    assert _started(without, run).run.start == "2026-01-11T17:00Z"
    given = loads(GOOD.replace("tick_s", 'start = "2026-01-11T18:00Z"\ntick_s'), "x.toml", tmp_path)
    assert _started(given, run).run.start == "2026-01-11T18:00Z"
    run.config.unlink()
    assert _started(without, run) is without


def test_the_first_word_comes_before_anything_is_found_wrong_and_a_quiet_run_says_no_more(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("windfall.ui.terminal.progress._PATIENCE_S", 0.0)  # that it is still starting would be told at once
    monkeypatch.setattr("windfall.ui.terminal.progress._LOOK_S", 0.001)
    file = write(tmp_path, GOOD.replace("NEM_SA", "MARS"))
    code, _, err = windfall(capsys, "run", file, "--run-dir", tmp_path / "r", "--quiet")
    assert code == 2
    first, last = err.splitlines()
    assert first == f"windfall: starting windfall in {tmp_path / 'r'}"
    assert "no usable row in column `g_per_kwh`" in last
    assert not (tmp_path / "r").exists()
