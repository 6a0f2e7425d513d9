"""What sites made of their regions' windows: trained, started, missed, and why."""

from __future__ import annotations

from pathlib import Path

import pytest

from ui_runs import START
from ways import H, config, trace, trained_run
from windfall.store.rundir import RunDir
from windfall.store.telemetry import Telemetry
from windfall.ui.page.report import write_report
from windfall.view.moment import one_moment
from windfall.view.recorded import configuration, load_grid
from windfall.view.windows import HeldSpan, SiteWindows, held_spans, site_windows


@pytest.fixture
def held(tmp_path: Path) -> RunDir:
    """The east was held for half an hour of its first window, failed for a quarter, and its policy let the rest go."""
    trace(tmp_path)
    run = trained_run(tmp_path, config(tmp_path))
    t = Telemetry.open(run.telemetry)
    t.decision(
        START, "east", False, "off: 10 g is under worth 100 g; start pays later", numbers={}, until=None, given={}, memory={}
    )
    t.event(START + 0.25 * H, "held", site="east", who="anna", reason="maintenance", until=None)
    t.event(START + 0.75 * H, "released", site="east", who="anna", reason="done with it")
    t.state(START + 0.75 * H, "east", "failed", "its start was refused")
    t.state(START + H, "east", "off", "its window is over")
    t.event(START + 5.5 * H, "held", site="west", who="ben", reason="no reason given", until=None)
    t.close()
    return run


def seen(run: RunDir) -> tuple[dict[str, SiteWindows], list[HeldSpan]]:
    with one_moment(run) as at:
        assert at.telemetry is not None
        end = START + 6 * H
        holds = held_spans([e for _, e in at.telemetry.events()], end)
        c = configuration(run)
        found = site_windows(c, load_grid(c, run, at).grid, at.telemetry, holds, START, end)
    return {w.site: w for w in found}, holds


def test_windows_are_trained_in_or_missed_and_a_missed_part_says_why(held: RunDir) -> None:
    found, holds = seen(held)
    west, east = found["west"], found["east"]
    assert (west.windows, west.inside_s, west.trained_s, west.missed_s) == (2, 3 * H, pytest.approx(2.8 * H), 0.0)
    assert west.on_s == pytest.approx(0.2 * H)
    assert (east.windows, east.missed_s) == (2, H)
    assert east.inside_s == pytest.approx(east.trained_s + east.on_s + east.missed_s)
    assert [(m.t0 - START, m.t1 - START, m.by, m.why) for m in east.missed] == [
        (0.0, 0.25 * H, "policy", "off: 10 g is under worth 100 g; start pays later"),
        (0.25 * H, 0.75 * H, "hold", "held by anna: maintenance"),
        (0.75 * H, H, "failed", "its start was refused"),
    ]
    assert [(h.site, h.t0 - START, h.t1 - START, h.words) for h in holds] == [
        ("east", 0.25 * H, 0.75 * H, "held by anna: maintenance"), ("west", 5.5 * H, 6 * H, "held by ben"),
    ]  # fmt: skip


def test_the_report_marks_missed_windows_and_holds_and_says_why(held: RunDir) -> None:
    page = write_report(held).read_text(encoding="utf-8")
    for said in ("window missed", "held by an operator", "held by anna: maintenance", "its start was refused", "start pays later"):
        assert said in page, said
    assert "<pattern" in (held.report / "lanes.svg").read_text(), "missed parts are hatched"


def test_without_signals_or_telemetry_there_are_no_windows(tmp_path: Path) -> None:
    trace(tmp_path)
    run = trained_run(tmp_path, config(tmp_path))
    assert site_windows(configuration(run), None, None, [], START, START + H) == []
