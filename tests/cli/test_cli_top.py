"""`windfall top`, `status --watch` and `run --jsonl`: a run followed from elsewhere, and by programs."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import sys
import termios
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from cli.test_cli import windfall
from cli.test_cli_check import GOOD, write
from ui_runs import NOBODY, START, empty_run, finished_run, now_row
from windfall import clock
from windfall.config.load import load
from windfall.store.rundir import RunDir, RunLock
from windfall.store.telemetry import Telemetry
from windfall.ui.terminal.keys import Keys
from windfall.ui.terminal.live import LiveView


def happens(run: RunDir, *then: Callable[[Telemetry], None]) -> Callable[[float], None]:
    """In place of a pause: one thing after the other happens in a run, and then it ends."""
    lock, left = RunLock(run), list(then)
    lock.acquire()

    def pause(_: float) -> None:
        if not left:
            lock.release()
            return
        telemetry = Telemetry.open(run.telemetry)
        left.pop(0)(telemetry)
        telemetry.close()

    return pause


def warns(text: str) -> Callable[[Telemetry], None]:
    return lambda t: t.event(START + 9000, "warning", reason=text)


def objects(out: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.splitlines()]


@pytest.mark.parametrize("words", [("top",), ("status", "--watch")])
def test_into_a_pipe_it_is_how_the_run_stands_and_a_line_for_each_thing_that_happens(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    run = finished_run(tmp_path / "run")
    code, once, err = windfall(capsys, *words, run.root)
    assert (code, err) == (0, "")
    assert once == windfall(capsys, "status", run.root)[1]
    monkeypatch.setattr(clock, "pause", happens(run, warns("a fuse"), warns("another")))
    code, out, err = windfall(capsys, *words, run.root)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert [x for x in lines if "fuse" in x or "another" in x] == [
        "2026-01-11 19:30:00  run  warning: a fuse", "2026-01-11 19:30:00  run  warning: another",
    ]  # fmt: skip
    assert "mode local -> federated" not in out, "what was before is history"


@pytest.mark.parametrize("words", [("top", "--jsonl"), ("status", "--watch", "--json")])
def test_as_json_each_line_is_an_object_with_its_type(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    run = finished_run(tmp_path / "run")
    verb, *options = words
    found = objects(windfall(capsys, verb, run.root, *options)[1])
    assert [x["type"] for x in found] == ["state", "end"]
    assert (found[0]["state"], found[0]["version"], found[0]["sites"]["california"]["state"]) == ("done", 2, "off")
    assert (found[1]["code"], found[1]["state"]["tokens_committed"]) == (None, 8192)
    monkeypatch.setattr(clock, "pause", happens(run, warns("password: hunter2hunter2"), warns("another")))
    found = objects(windfall(capsys, verb, run.root, *options)[1])
    events = [x for x in found if x["type"] == "event"]
    assert [e["kind"] for e in events] == ["warning", "warning"]
    assert set(events[0]) == {"type", "t_run", "t_wall", "kind", "site", "version", "detail", "text"}
    assert events[1]["text"] == "warning: another"
    assert found[-1]["type"] == "end"


def test_ctrl_c_ends_the_watching_and_says_how_it_stood(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = finished_run(tmp_path / "run")
    lock = RunLock(run)
    lock.acquire()

    def pause(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(clock, "pause", pause)
    code, out, err = windfall(capsys, "top", run.root, "--jsonl")
    lock.release()
    assert (code, err) == (130, "")
    assert objects(out)[-1]["type"] == "end"


@pytest.mark.parametrize("how", ["done", "crashed", "never begun"])
def test_on_a_terminal_a_run_that_does_not_run_says_how_it_stands(tmp_path: Path, how: str) -> None:
    run = empty_run(tmp_path / "run") if how == "never begun" else finished_run(tmp_path / "run")
    if how == "crashed":
        telemetry = Telemetry.open(run.telemetry)
        telemetry.event(START + 9000, "resumed", version=2, run_id="small-1", pid=NOBODY)
        now_row(telemetry, START + 9000, {"california": ["training", 1, "x"], "adelaide": ["off", 1, "x"]})
        telemetry.close()
    shutil.rmtree(tmp_path / "run" / "logs")
    console = Console(file=io.StringIO(), width=120, height=40, force_terminal=True)
    view = LiveView(run, load(run.config), console, joined=True)
    view.update()
    view.finish()
    assert isinstance(console.file, io.StringIO)
    drawn = console.file.getvalue()
    assert "is starting" not in drawn
    assert {"done": "done", "crashed": "stopped: its coordinator has ended without a word", "never begun": "stopped"}[how] in drawn


def test_what_cannot_be_watched_says_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = windfall(capsys, "top", tmp_path / "none")
    assert (code, len(err.splitlines())) == (2, 1)
    assert "no run here" in err
    run = finished_run(tmp_path / "run")
    run.ledger.write_bytes(b"no ledger" * 1000)
    code, _, err = windfall(capsys, "top", run.root)
    assert (code, len(err.splitlines())) == (1, 1)
    assert "not a database" in err


def test_a_run_as_lines_that_fails_says_so_in_its_last_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path, GOOD.replace("NEM_SA", "MARS"))
    code, out, err = windfall(capsys, "run", file, "--run-dir", tmp_path / "r", "--jsonl")
    assert code == 2
    assert len(err.splitlines()) == 1
    said, end = objects(out)
    assert (said["type"], end) == ("said", {"type": "end", "code": 2, "state": None})
    assert "no usable row in column `g_per_kwh`" in said["text"]
    code, _, err = windfall(capsys, "run", file, "--jsonl", "--json")
    assert (code, "give one" in err) == (2, True)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_ctrl_c_ends_what_follows_a_run_for_trackers_with_its_own_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, number: signal.Signals, code: int
) -> None:
    run = finished_run(tmp_path / "run")

    def follows(followers: object, ended: threading.Event, *, to_the_end: bool) -> None:
        signal.raise_signal(number)
        assert ended.is_set()

    monkeypatch.setattr("windfall.ui.trackers.follow.follow_all", follows)
    before = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        assert windfall(capsys, "track", run.root, "--to", "tensorboard", "--follow")[0] == code
    finally:
        for n, handler in before.items():
            signal.signal(n, handler)


def test_q_ends_the_watching_with_0_and_leaves_the_terminal_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = os.openpty()
    monkeypatch.setattr(os, "tcgetpgrp", lambda fd: os.getpgrp())  # a terminal that is not this session's own
    with open(theirs, encoding="utf-8") as terminal:
        monkeypatch.setattr(sys, "stdin", terminal)
        before = termios.tcgetattr(terminal)
        with Keys() as keys:
            assert termios.tcgetattr(terminal) != before
            assert keys.pressed(0.0) == ""
            os.write(ours, b"q")
            assert keys.pressed(60.0) == "q"
        assert termios.tcgetattr(terminal) == before
    os.close(ours)
