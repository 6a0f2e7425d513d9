"""What the terminal shows: the live view in a pipe and on a screen, the tables, the line of an event."""

from __future__ import annotations

import io
from pathlib import Path

from rich.console import Console
from ui_runs import START, empty_run, mode, state, tell

from windfall.config.load import load
from windfall.simulate.backtest import Backtest, Row
from windfall.store.rundir import RunDir
from windfall.store.telemetry import Event, Telemetry
from windfall.ui.events import TRANSITIONS
from windfall.ui.live import LiveView, sparkline
from windfall.ui.summary import summarise
from windfall.ui.tables import format_event, print_backtest, print_status


def piped() -> Console:
    return Console(file=io.StringIO(), width=120, force_terminal=False)


def lines(console: Console) -> list[str]:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def test_pipe_prints_each_transition_once(empty: RunDir) -> None:
    console = piped()
    view = LiveView(empty, load(empty.config), console)
    view.update()  # nothing is there yet
    assert lines(console) == []
    t = Telemetry.open(empty.telemetry)
    tell(t)
    t.flush()
    for _ in range(3):
        view.update()
    expected = [(e.kind, e.t_run) for _, e in t.events() if e.kind in TRANSITIONS]
    shown = lines(console)
    assert len(shown) == len(set(shown)) == len(expected)
    assert "2026-01-11 17:10:00  california  provisioning -> ready: answered hello" in shown
    state(t, START + 9000, "adelaide", "off", "provisioning", "start: 0 g")
    mode(t, START + 9100, "paused", "local")
    t.event(START + 9100, "round", version=2, round=3, mode="local", sites=["adelaide"], cut_at=START + 9700)
    t.flush()
    view.update()
    view.finish()
    view.finish()
    assert len(lines(console)) == len(shown) + 2
    t.close()


def test_history_is_not_repeated_on_resume(small: RunDir) -> None:
    console = piped()
    view = LiveView(small, load(small.config), console)
    view.update()
    assert lines(console) == []
    t = Telemetry.open(small.telemetry)
    t.event(START + 9000, "resumed", version=2, run_id="small-1")
    t.close()
    view.update()
    view.finish()
    assert lines(console) == ["2026-01-11 19:30:00  run  run small-1 resumed at version 2"]


def test_screen_has_fixed_rows(small: RunDir) -> None:
    console = Console(file=io.StringIO(), width=120, force_terminal=True)
    view = LiveView(small, load(small.config), console)
    view.update()
    view.finish()
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    for said in ("8,192 of 8,192", "2.5000 (version 2)", "california", "adelaide", "875/100", "always on", "time left"):
        assert said in text, said


def test_screen_before_the_run_exists(tmp_path: Path) -> None:
    config = load(empty_run(tmp_path / "other").config)
    console = Console(file=io.StringIO(), width=100, force_terminal=True)
    view = LiveView(RunDir(tmp_path / "none"), config, console)
    view.update()
    view.finish()
    assert isinstance(console.file, io.StringIO)
    assert "starting" in console.file.getvalue()


def test_sparkline() -> None:
    assert sparkline([]) == ""
    assert sparkline([1, 1]) == "▁▁"
    assert sparkline([0, 100]) == "▁█"
    assert len(sparkline(range(100))) == 24


def test_status(small: RunDir, empty: RunDir) -> None:
    console = piped()
    print_status(summarise(small), console)
    text = "\n".join(lines(console))
    assert "small-1: done" in text
    assert "8 committed" in text
    assert "off: 875 g" in text
    print_status(summarise(empty), console)
    assert "not evaluated yet" in "\n".join(lines(console))


def test_backtest_with_the_studys_row_only_on_its_day() -> None:
    row = Row("breakeven", "windfall", 13.79, 17.86, 36.2, 0.98, 5, 0.1, 0.998, {}, {})
    unfinished = Row("always", "windfall", None, 3.0, 6.0, 2.0, 3, 0.1, None, {}, {})
    base = {"CAISO_NORTH": 11.4, "SPP_TX": 14.5, "NEM_SA": None}
    console = piped()
    print_backtest(Backtest(START, 17.86, 17.78, base, [row, unfinished], 1.0, ["a trace has a [gap]"]), console)
    text = "\n".join(lines(console))
    assert "the study" in text
    assert "1.379" in text
    assert "8.6" in text
    assert "too short" in text
    assert "a [gap]" in text
    other = piped()
    print_backtest(Backtest(START + 60, 17.86, 17.78, base, [row], 1.0, []), other)
    assert "study" not in "\n".join(lines(other))


def test_event_lines() -> None:
    def line(kind: str, version: int | None = None, site: str | None = None, **detail: object) -> str:
        return format_event(Event(START, 0.0, kind, site, version, dict(detail)))

    assert line("mode", was="", now="paused") == "2026-01-11 17:00:00  run  mode new -> paused"
    assert "version 3 (local): 1,024 tokens from a 1,024; 9,000 in all" in line(
        "commit", 3, mode="local", tokens=1024, tokens_total=9000, sites={"a": 1024}
    )
    assert "quarantined: three leases failed at it (block 7)" in line(
        "quarantined", site="a", block=7, reason="three leases failed at it"
    )
    assert "hunter2" not in line("warning", reason="password: hunter2hunter2")
    assert "s3cret" not in line("warning", reason="see https://me:s3cret@host/x")
