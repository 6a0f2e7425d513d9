"""Lanes and curves: what is thinned keeps its extremes, and what is joined loses no time."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ui_runs import START, empty_run
from windfall.config.load import stored
from windfall.config.schema import Config
from windfall.store.rundir import RunDir
from windfall.store.telemetry import Telemetry
from windfall.store.telemetry_energy import EnergyRow
from windfall.view import curves
from windfall.view.lanes import BLOCKS, lanes, merged, painted
from windfall.view.moment import one_moment

H = 3600.0
SPANS = st.lists(
    st.tuples(st.floats(0, 100), st.floats(0, 30), st.integers(0, 4)).map(lambda x: (x[0], x[0] + x[1], x[2])), max_size=12
)


@given(SPANS)
def test_what_is_painted_is_the_highest_at_each_instant(layers: list[tuple[float, float, int]]) -> None:
    found = painted(layers, 10.0, 90.0)
    assert all(a < b for a, b, _ in found)
    assert all(x[1] <= y[0] for x, y in pairwise(found))
    for t in [10.0 + 80.0 * i / 37 for i in range(37)]:
        there = [w for a, b, w in layers if max(a, 10.0) <= t < min(b, 90.0)]
        shown = [w for a, b, w in found if a <= t < b]
        assert shown == ([max(there)] if there else [])


@given(SPANS, st.floats(0.01, 20))
def test_joined_blocks_cover_the_same_time_in_fewer_pieces(layers: list[tuple[float, float, int]], least: float) -> None:
    blocks = painted(layers, 0.0, 130.0)
    found = merged(blocks, least)
    assert len(found) <= len(blocks)
    assert all(x[1] <= y[0] for x, y in pairwise(found))
    for a, b, _ in blocks:
        assert any(x - 1e-9 <= a and b <= y + 1e-9 for x, y, _ in found)
    holes = [(x[1], y[0]) for x, y in pairwise(blocks) if y[0] - x[1] > 0]
    assert all(not any(x < b and y > a for x, y, _ in found) for a, b in holes), "time that nobody knows stays unknown"


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    """An empty run, with telemetry and nothing in it but a mode."""
    made = empty_run(tmp_path / "r")
    t = Telemetry.open(made.telemetry)
    t.mode(START, "paused")
    t.present({"t_run": START + 10 * H, "t_wall": 1.0, "mode": "paused", "sites": {}, "pid": 2**22 + 1})
    t.close()
    return made


def config_of(run: RunDir) -> Config:
    return stored(run.config.read_text(encoding="utf-8"))


def test_a_thinned_signal_keeps_its_extremes(run: RunDir) -> None:
    t = Telemetry.open(run.telemetry)
    for i in range(1200):
        value = 500.0 if i == 777 else -3.0 if i == 333 else 100.0 + i % 7
        t.reading(START, "california", value, "g", valid_from=START + i * 30, known_at=START, source="x", stale_at=None)
    t.close()
    with one_moment(run) as at:
        (lane,) = lanes(at, config_of(run), START, START + 10 * H, 50, ["california"])
    low = [v for v in lane.signal.low if v is not None]
    high = [v for v in lane.signal.high if v is not None]
    assert len(lane.signal.t) <= 53
    assert (min(low), max(high)) == (-3.0, 500.0)


def test_where_readings_are_stale_the_signal_has_a_hole_and_no_window_is_missed(run: RunDir) -> None:
    t = Telemetry.open(run.telemetry)
    for at, value in ((0.0, 50.0), (1 * H, 50.0), (4 * H, 300.0), (5 * H, 60.0)):
        t.reading(
            START + at,
            "california",
            value,
            "g",
            valid_from=START + at,
            known_at=START + at,
            source="x",
            stale_at=START + at + 1.5 * H,
        )
    t.close()
    with one_moment(run) as now:
        (lane,) = lanes(now, config_of(run), START, START + 10 * H, 500, ["california"])
    told = [(round((a - START) / H, 2), round((b - START) / H, 2), BLOCKS[w]) for a, b, w in lane.blocks]
    assert told == [(0.0, 2.5, "missed"), (2.5, 5.0, "off"), (5.0, 6.5, "missed"), (6.5, 10.0, "off")]
    at_hole = lane.signal.t.index(START + 2.5 * H)
    assert lane.signal.low[at_hole] is None


def test_a_site_that_is_held_is_shown_as_held_and_not_as_a_missed_window(run: RunDir) -> None:
    t = Telemetry.open(run.telemetry)
    t.reading(START, "california", 20.0, "g", valid_from=START, known_at=START, source="x", stale_at=None)
    t.event(START + H, "held", site="california", who="me")
    t.event(START + 3 * H, "released", site="california", who="me")
    t.close()
    with one_moment(run) as now:
        (lane,) = lanes(now, config_of(run), START, START + 10 * H, 500, ["california"])
    assert [BLOCKS[w] for _, _, w in lane.blocks] == ["missed", "held", "missed"]


def test_the_band_of_a_forecast_is_what_the_newest_ones_said_of_the_same_time(run: RunDir) -> None:
    t = Telemetry.open(run.telemetry)
    times = [START + i * H for i in range(4)]
    t.forecast("california", START - H, times, [100.0, 90.0, None, 40.0], times[-1])
    t.forecast("california", START, times, [110.0, 70.0, 60.0, None], times[-1])
    t.close()
    with one_moment(run) as now:
        (lane,) = lanes(now, config_of(run), START, START + 10 * H, 500, ["california"])
    assert lane.forecast is not None
    assert lane.forecast.value == [110.0, 70.0, 60.0, None]
    assert lane.forecast.low == [100.0, 70.0, 60.0, 40.0]
    assert lane.forecast.high == [110.0, 90.0, 60.0, 40.0]


@settings(max_examples=12, deadline=None)
@given(cuts=st.lists(st.tuples(st.floats(0, 9.9), st.integers(1, 5000)), min_size=1, max_size=20))
def test_throughput_has_every_token_that_was_handed_in(
    cuts: list[tuple[float, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    made = empty_run(tmp_path_factory.mktemp("rates") / "r")
    t = Telemetry.open(made.telemetry)
    t.book(EnergyRow("california", "training", START, START + 9.9 * H, 1.0, 1.0, 9.9 * H, 1.0, 1, None, None))
    for at, tokens in sorted(cuts):
        t.event(START + at * H, "contribution", site="california", tokens=tokens)
    t.close()
    with one_moment(made) as now:
        assert now.telemetry is not None
        bins = now.telemetry.energy_bins(START, START + 10 * H, 40)
        found = curves.rates(now, bins, ["california"], START, START + 10 * H, 20)
    total = math.fsum(found.sites[0].tokens_per_s) * found.width_s
    assert total == pytest.approx(sum(n for _, n in cuts), rel=2e-3)


def test_the_curve_of_losses_takes_the_same_room_however_long_it_gets_and_keeps_extremes(run: RunDir) -> None:
    t = Telemetry.open(run.telemetry)
    for i in range(6000):
        loss = 0.5 if i == 4321 else 9.0 if i == 1234 else 3.0
        t.metric(START + i, "california", "loss", loss, tokens=i * 10, version=0, detail={"mode": "local"})
    t.flush()
    curve = curves.LossCurve(60_000)
    assert curve.advance(t)
    points = curve.points()
    assert len(points) <= curves.PARTS
    assert (min(p.low for p in points), max(p.high for p in points)) == (0.5, 9.0)
    close = curve.within(t, 43_000, 43_400, 400)
    assert [p.low for p in close].count(0.5) == 1
    assert all(43_000 <= p.tokens <= 43_400 for p in close)
    assert curve.within(t, 0, 2**53, 10)
    t.metric(START + 7000, "california", "loss", 0.25, tokens=59_990, version=0, detail={"mode": "federated"})
    t.flush()
    assert curve.advance(t)
    assert min(p.low for p in curve.points()) == 0.25
    t.close()


def test_an_entry_that_takes_no_time_is_in_the_emissions_where_it_stands(run: RunDir) -> None:
    t = Telemetry.open(run.telemetry)
    t.book(EnergyRow("california", "training", START, START + H, 1000.0, 360.0, 3.6e6, 360.0, 0, None, None))
    t.book(EnergyRow("california", "network", START + 2 * H, START + 2 * H, 0.0, 100.0, 36000.0, 40.0, 0, None, None))
    t.flush()
    bins = t.energy_bins(START, START + 10 * H, 100)
    times, kg = curves.emitted(t, bins, START, START + 10 * H, 100)
    t.close()
    assert kg[-1] == pytest.approx(0.4)
    assert times[-1] == START + 2 * H
