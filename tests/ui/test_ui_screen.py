"""The live view's screen: whole in 80 columns and 24 rows, wide where there is room, and what a standing clock waits for."""

from __future__ import annotations

import io
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from ui_runs import START
from windfall import clock
from windfall.cli.demo import bundled
from windfall.config.load import load, loads
from windfall.simulate.sweep import SweepSummary
from windfall.store.rundir import RunDir
from windfall.store.telemetry import Telemetry
from windfall.ui.terminal.live import LiveView
from windfall.ui.terminal.screen import Picture, draw, sparkline
from windfall.ui.terminal.tables import print_status
from windfall.ui.terminal.tables_sweep import print_sweep
from windfall.view.state import run_state

LONG = (
    "start: 65 g is under worth 100 g and 18,684 of 17,000 g·s/kWh are reached; the forecast says that the reading stays under it "
    "until 19:40, which is longer than a restart costs"
)


def picture(run: RunDir, **changes: Any) -> Picture:
    found = run_state(run)
    sites = {name: replace(site, reason=LONG) for name, site in found.sites.items()}
    much = {"sites": sites, "tokens_budget": 10_000_000_000, "tokens_committed": 1_234_567_890, "state": "running"}
    found = replace(found, **{**much, **changes})
    emitted = "0.123 kg CO2, 4.56 kWh; 9.1 % of CAISO_NORTH always on"
    return Picture(load(run.config), found, emitted, 599.6, {"california": 43_714.0}, {"california": [65.0, 70.0]}, START)


def shown(p: Picture, width: int, height: int) -> list[str]:
    """As a terminal of that size shows it: rich wraps what does not fit."""
    console = Console(file=io.StringIO(), width=width, height=height, force_terminal=True, color_system=None)
    for line in draw(p, width, height):
        console.print(line)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def together(lines: list[str]) -> str:
    return " ".join(" ".join(lines).split())


@pytest.mark.parametrize(("width", "height"), [(80, 24), (109, 30), (110, 24), (200, 50), (60, 30)])
def test_nothing_is_wrapped_or_cut_where_there_is_room_for_it(small: RunDir, width: int, height: int) -> None:
    lines = shown(picture(small), width, height)
    assert max(map(len, lines)) <= width - 4  # what two Ctrl-C echo finds room behind every line
    assert len(lines) < height
    said = together(lines)
    assert "…" not in said
    for text in ("600 times real time", "1,234,567,890 of 10,000,000,000 version 2", "2.5000 (version 2), train loss 0.625",
                 "43,714 tokens/s", "9.1 % of CAISO_NORTH always on", "875/100"):  # fmt: skip
        assert text in said, text
    if width < 110:  # below its row, from one margin to the other
        assert said.count(LONG) == 2
    else:  # beside it, in a column of its own
        column = lines[next(i for i, line in enumerate(lines) if "last decision" in line)].index("last decision")
        assert together([line[column:] for line in lines if line[column : column + 1].strip()]).count(LONG) == 2


def test_a_low_terminal_shortens_reasons_first_and_names_what_it_leaves_out(small: RunDir) -> None:
    p = picture(small)
    rows = dict(p.state.sites)
    sites = {f"site_{i}": replace(rows["california"], state="training" if i == 0 else "off") for i in range(10)}
    p.state = replace(p.state, sites=sites)
    lines = shown(p, 80, 24)
    assert len(lines) <= 23
    assert all(any(line.startswith(f"{name} ") for line in lines) for name in sites)
    assert "start: 65 g is under worth 100 g" in together(lines)  # of the one that trains
    p.state = replace(p.state, sites={f"site_{i}": rows["california"] for i in range(40)})
    lines = shown(p, 80, 24)
    assert len(lines) == 23
    count = sum(line.startswith("site_") for line in lines)
    assert lines[-1] == f"and {40 - count} more sites: windfall status"
    assert len(shown(p, 80, 5)) == 4


def test_what_a_standing_clock_waits_for_is_told_with_the_time(small: RunDir) -> None:
    sites = {"california": ["training", 1, "x"]}
    now = {"t_run": START + 7200, "t_wall": clock.wall(), "mode": "local", "sites": sites, "pid": os.getpid()}
    waiting = {"for": "texas: its processes are starting", "since_wall": clock.wall() - 12.4}
    telemetry = Telemetry.open(small.telemetry)
    telemetry.put("INSERT OR REPLACE INTO meta VALUES ('now', ?)", json.dumps({**now, "waiting": waiting}))
    telemetry.flush()
    found = run_state(small).waiting
    assert found is not None
    assert found["for"] == "texas: its processes are starting"
    assert found["seconds"] >= 12.4
    later = replace(run_state(small), waiting={**waiting, "seconds": 12.4})
    for width in (80, 160):
        assert "waiting for texas: its processes are starting, 12 s" in together(
            shown(picture(small, waiting=later.waiting), width, 24)
        )
        console = Console(file=io.StringIO(), width=width, color_system=None)
        print_status(later, console)
        assert isinstance(console.file, io.StringIO)
        assert "waiting    for texas: its processes are starting, 12 s\n" in console.file.getvalue()
    piped = Console(file=io.StringIO(), width=80, force_terminal=False)
    view = LiveView(small, load(small.config), piped)
    telemetry.event(START + 7200, "resumed", version=2)
    telemetry.flush()
    view.update()
    view._told_at = float("-inf")  # nothing has been said for a while
    view.update()
    assert isinstance(piped.file, io.StringIO)
    assert "windfall: waiting for texas: its processes are starting, 1" in piped.file.getvalue()
    # A moment is not worth a word, and a run that has ended waits for nothing.
    assert "waiting" not in together(shown(picture(small, waiting={**waiting, "seconds": 0.5}), 80, 24))
    telemetry.put("INSERT OR REPLACE INTO meta VALUES ('now', ?)", json.dumps({**now, "pid": 2**22 + 1, "waiting": waiting}))
    telemetry.close()
    view.finish()
    assert run_state(small).waiting is None


def test_large_files_on_their_way_are_told_with_what_hinders_them(small: RunDir) -> None:
    down = {"direction": "down", "name": "weights", "done": 120_400_000, "of": 561_000_000, "since_wall": clock.wall() - 12.4}
    up = {**down, "direction": "up", "name": "delta", "trouble": "the coordinator's disk takes no more"}
    said = {"texas": [{**down, "trouble": ""}, up]}
    now = {"t_run": START + 7200, "t_wall": clock.wall(), "mode": "local", "sites": {}, "pid": os.getpid(), "transfers": said}
    telemetry = Telemetry.open(small.telemetry)
    telemetry.put("INSERT OR REPLACE INTO meta VALUES ('now', ?)", json.dumps(now))
    telemetry.flush()
    found = run_state(small).transfers
    assert [(x["site"], x["direction"], x["done"], x["seconds"] >= 12.4) for x in found] == [
        ("texas", "down", 120_400_000, True), ("texas", "up", 120_400_000, True),
    ]  # fmt: skip
    later = replace(run_state(small), transfers=[{**x, "seconds": 12.4} for x in found])
    lines = (
        "texas fetches weights, 120 of 561 MB, 12 s",
        "texas sends delta, 120 of 561 MB, 12 s (the coordinator's disk takes no",
    )
    console = Console(file=io.StringIO(), width=160, color_system=None)
    print_status(later, console)
    assert isinstance(console.file, io.StringIO)
    for line in lines:
        assert line in together(shown(picture(small, transfers=later.transfers), 160, 24))
        assert line in together(shown(picture(small, transfers=later.transfers), 80, 30))
        assert f"files      {line}" in console.file.getvalue()
    telemetry.put("INSERT OR REPLACE INTO meta VALUES ('now', ?)", json.dumps({**now, "pid": 2**22 + 1}))
    telemetry.close()
    assert run_state(small).transfers == []


def test_a_pipe_is_told_that_the_coordinator_starts_until_it_says_something(empty: RunDir) -> None:
    console = Console(file=io.StringIO(), width=80, force_terminal=False)
    view = LiveView(empty, load(empty.config), console)
    view._told_at = float("-inf")
    view.update()
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue().startswith("windfall: the coordinator is starting, ")


def test_a_word_stays_above_the_picture_and_the_picture_is_not_there_before_it_is_wanted(small: RunDir) -> None:
    console = Console(file=io.StringIO(), width=80, height=24, force_terminal=True)
    view = LiveView(small, load(small.config), console)
    assert not view.on_screen
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue() == ""
    view.update()
    assert view.on_screen
    view.say("windfall: stopping")
    text = console.file.getvalue()
    assert text.index("windfall: stopping") < text.rindex("learning")
    view.finish()
    assert not view.on_screen


def test_status_in_a_narrow_terminal_has_its_reasons_whole_below_the_table(small: RunDir) -> None:
    found = picture(small).state
    for width in (80, 109):
        console = Console(file=io.StringIO(), width=width, color_system=None)
        print_status(found, console)
        assert isinstance(console.file, io.StringIO)
        lines = console.file.getvalue().splitlines()
        assert max(map(len, lines)) <= width
        assert together(lines).count(LONG) == 2
        assert f"california: {LONG}" in together(lines)
    console = Console(file=io.StringIO(), width=100_000, color_system=None)
    print_status(found, console)
    assert isinstance(console.file, io.StringIO)
    assert sum(LONG in line for line in console.file.getvalue().splitlines()) == 2


def test_sparkline() -> None:
    assert sparkline([]) == ""
    assert sparkline([1, 1]) == "▁▁"
    assert sparkline([0, 100]) == "▁█"
    assert len(sparkline(range(100))) == 24
    assert sparkline([1, 2], 0) == ""


def test_a_sweep_in_a_narrow_terminal_is_not_cut() -> None:
    triple = (12.3, 45.6, 78.9)
    figures = dict.fromkeys(("finish_h", "site_hours", "kg_co2", "money", "kg_over_oracle"), triple)
    rows = [
        SweepSummary(p, (("spin_up_s", 300.0), ("worth_g_per_kwh", 80.0)), 300.0, None, 12, 11, figures)
        for p in ("breakeven", "paper")
    ]
    rows.append(replace(rows[0], publication_delay_s=0.0))
    config = loads(bundled("paper_day.toml"), "paper_day.toml", Path.cwd())
    for width in (80, 200):
        console = Console(file=io.StringIO(), width=width, color_system=None)
        print_sweep(rows, 36, 1.0, config, console)
        assert isinstance(console.file, io.StringIO)
        text = console.file.getvalue()
        assert "…" not in text
        assert max(map(len, text.splitlines())) <= width
