"""The report's figures: no two texts in one lie over each other, however wide it is and however long the run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations

import matplotlib
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from ui_runs import START, finished_run
from windfall.store.rundir import RunDir
from windfall.ui.page import bars, figures
from windfall.ui.page.figures import Draw
from windfall.ui.page.lanes import LaneCriterion, lanes
from windfall.view.baselines import Counterfactual
from windfall.view.counterfactuals import Counterfactuals
from windfall.view.series import LaneSpan, RunSeries, run_series
from windfall.view.state import RunState, run_state
from windfall.view.windows import HeldSpan, MissedWindow, SiteWindows

WIDTHS = (1040 / 96, 440 / 96)


def overlaps(draw: Draw, inches: float) -> list[tuple[str, str]]:
    """Pairs of texts of a figure whose boxes cover each other."""
    with matplotlib.rc_context(figures._RC):
        figure = draw(inches)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        boxes = [(x.get_text(), x.get_window_extent(canvas.get_renderer()).padded(-1.0)) for x in drawn(figure)]
    assert boxes
    return [(a, b) for (a, one), (b, two) in combinations(boxes, 2) if one.overlaps(two)]


def drawn(figure: Figure) -> Iterator[Text]:
    """Every text that is drawn; ticks outside of their axis' limits are not."""
    for ax in figure.axes:
        found = [ax.title, ax._left_title, ax._right_title, *ax.texts]
        for axis in (ax.xaxis, ax.yaxis):
            if not axis.get_visible():
                continue
            low, high = sorted(axis.get_view_interval())
            found += [axis.label, axis.offsetText]
            ticks = [*axis.get_major_ticks(), *axis.get_minor_ticks()]
            found += [x for tick in ticks if low <= tick.get_loc() <= high for x in (tick.label1, tick.label2)]
        yield from (x for x in found if x.get_visible() and x.get_text().strip())
    for legend in figure.legends:
        yield from legend.get_texts()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    return finished_run(tmp_path_factory.mktemp("figures") / "small")


def stretched(run: RunDir, hours: float) -> tuple[RunSeries, RunState]:
    """The run's series over another length, with names that are long."""
    s, state = run_series(run), run_state(run)
    factor = hours * 3600 / (s.end - s.start)

    def t(at: float) -> float:
        return s.start + (at - s.start) * factor

    s.modes = [(t(a), t(b), m) for a, b, m in s.modes]
    s.lanes = {n: [LaneSpan(t(x.t0), t(x.t1), x.what) for x in lane] for n, lane in s.lanes.items()}
    s.versions = [replace(v, t_run=t(v.t_run)) for v in s.versions]
    s.steps = [replace(x, t_run=t(x.t_run)) for x in s.steps]
    s.emissions = [(t(a), kg) for a, kg in s.emissions]
    s.end = t(s.end)
    names = {"california": "a_site_with_quite_a_long_name_in_california", "adelaide": "adelaide"}
    s.lanes = {names[n]: lane for n, lane in s.lanes.items()}
    s.readings = {names[n]: r for n, r in s.readings.items()}
    return s, replace(state, sites={names[n]: x for n, x in state.sites.items()})


@pytest.mark.parametrize("hours", [1.5, 71.0, 24 * 40.0])
@pytest.mark.parametrize("inches", WIDTHS)
def test_lanes_and_learning(run: RunDir, hours: float, inches: float) -> None:
    s, state = stretched(run, hours)
    criteria = {n: LaneCriterion(100.0, "gCO2/kWh") for n in state.sites}
    missed = [SiteWindows("adelaide", 1, 3600.0, 0.0, 0.0, 3600.0, (MissedWindow(s.start, s.start + 900.0, "off", "policy"),))]
    holds = [HeldSpan("adelaide", s.start, s.start + 1800.0, "held by anna")]
    assert overlaps(lanes(s, state.sites, criteria, missed, holds), inches) == []
    assert overlaps(figures.loss(s), inches) == []


def found(kgs: list[float], kg: float) -> Counterfactuals:
    rows = [
        Counterfactual(f"REGION_{i}", "region", x, kg / x if x else None, 1.0, region=f"REGION_{i}", own=i < 2,
                       curve=((START, 0.0), (START + 3600.0 * (5 + 0.01 * i), x)))
        for i, x in enumerate(kgs)
    ]  # fmt: skip
    at_random = Counterfactual(
        "the same duty at random times", "random", max(kgs), 0.1, 1.0, kg_low=0.5 * max(kgs), kg_high=1.3 * max(kgs)
    )
    return Counterfactuals(1, kg, 1.0, {}, 1.0, 1.0, 0.0, "marginal", (*rows, at_random), ())


@pytest.mark.parametrize("inches", WIDTHS)
@pytest.mark.parametrize(
    ("kgs", "kg"),
    [
        ([11.4, 12.3, 14.5, 27.1], 0.98),
        ([11.4, 11.41, 11.42, 11.43, 11.44], 11.4),
        ([-3.0, 2.0, 0.001], -1.0),
        ([1234.5, 98765.4], 3.2),
    ],
)
def test_bars_and_curves(run: RunDir, kgs: list[float], kg: float, inches: float) -> None:
    s = RunSeries(start=START, end=START + 5 * 3600, emissions=[(START, 0.0), (START + 5 * 3600, kg)])
    c = found(kgs, kg)
    assert overlaps(bars.counterfactuals(c), inches) == []
    assert overlaps(figures.emissions(s, c.regions), inches) == []


def test_with_nothing_to_compare_the_bars_say_so() -> None:
    nothing = Counterfactuals(0, None, 0.0, {}, 0.0, 0.0, 0.0, "marginal", (), ())
    assert "nothing to compare yet" in figures.svg(bars.counterfactuals(nothing), 440)


def test_where_nothing_says_what_was_emitted_bars_are_costs() -> None:
    paid = Counterfactual("W", "region", None, None, 1.0, {"EUR": 4.5}, region="W")
    written = figures.svg(
        bars.counterfactuals(Counterfactuals(1, None, 1.0, {"EUR": 1.25}, 1.0, 1.0, 0.0, "none", (paid,), ())), 1040
    )
    assert "EUR" in written
    assert "4.500" in written
    assert "kg CO2" not in written
