"""A backtest's page stands by itself, and its curves end where its rows do."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from test_ui_report import Page

from backtests import STUDY, result, row
from ui_runs import START
from windfall.config.load import load, loads
from windfall.config.schema import Config
from windfall.errors import StoreError
from windfall.grid.build import build_grid
from windfall.simulate.backtest import Backtest, backtest
from windfall.simulate.curves import activities, emissions, seconds_training
from windfall.simulate.many import Compared
from windfall.simulate.provenance import provenance
from windfall.simulate.spread import SpreadPoint
from windfall.simulate.sweep import SweepPoint, summarise
from windfall.ui import backtest_figures
from windfall.ui.backtest_page import write_backtest_page
from windfall.ui.backtest_spread import spread
from windfall.ui.sweep_page import write_sweep_page

DAY = Path(__file__).parents[2] / "examples" / "paper_day.toml"
POLICIES = ["paper", "threshold", "breakeven", "always", "random_duty"]


def of_the_day(**changed: object) -> Config:
    config = load(DAY)
    table = config.backtest.model_copy(update={"publication_delays_s": [], "deadlines_h": [], **changed})
    return config.model_copy(update={"backtest": table})


@pytest.fixture(scope="module")
def day() -> tuple[Config, Backtest]:
    config = of_the_day()
    return config, backtest(config, [*POLICIES, "oracle"])


@pytest.fixture(scope="module")
def page(day: tuple[Config, Backtest], tmp_path_factory: pytest.TempPathFactory) -> str:
    """Written once, as drawing takes its time."""
    config, found = day
    found = Backtest(**{**vars(found), "references": [STUDY], "warnings": ["a <gap>"]})
    path = tmp_path_factory.mktemp("page") / "new" / "backtest.html"
    write_backtest_page(path, found, config)
    return path.read_text(encoding="utf-8")


def test_the_page_stands_by_itself(page: str) -> None:
    parsed = Page(page)
    assert parsed.loads == []
    assert len(parsed.ids) == len(set(parsed.ids))
    assert "http:" not in page
    assert "https:" not in page
    for reference in re.findall(r"url\(#([^)]+)\)", page):
        assert reference in parsed.ids


def test_figures_come_wide_and_narrow_in_the_colours_of_the_page(page: str) -> None:
    figures = re.findall(r"<svg.*?</svg>", page, flags=re.S)
    assert len(figures) == 4
    assert sum('class="narrow"' in f for f in figures) == 2
    for f in figures:
        assert not re.findall(r"(?:fill|stroke): #(?!000000)[0-9a-f]{6}", f)


def test_the_page_says_what_came_out(page: str, day: tuple[Config, Backtest]) -> None:
    _, found = day
    best = min(r.kg_co2 or 0.0 for r in found.rows if r.policy in ("paper", "threshold", "breakeven"))
    assert f"{best:.3f} <small>kg CO2" in page
    for said in (
        "Nothing was trained", "135 s of every 648 s", "2,024 W", "bundled:paper_day", "the&nbsp;study", "12.1", "a &lt;gap&gt;",
        "kg / oracle",
    ):  # fmt: skip
        assert said in page, said


@pytest.mark.parametrize("preset", ["windfall", "prototype"])
def test_curves_end_at_the_rows_kilograms(preset: str) -> None:
    config = of_the_day()
    config = of_the_day(trainer=config.backtest.trainer.model_copy(update={"preset": preset}), paper_preset=preset)
    grid = build_grid(config)
    for r in backtest(config, POLICIES).rows:
        curve = emissions(r, config, grid)
        assert curve is not None
        assert curve.values[-1] == pytest.approx(r.kg_co2, rel=1e-9)
        assert (np.diff(curve.values) >= 0).all()
        hours = sum(float(seconds_training(own).values[-1]) for own in activities(r, config).values()) / 3600
        assert hours == pytest.approx(r.site_hours, rel=1e-9)
        doing = {s.what for own in activities(r, config).values() for s in own}
        assert doing >= {"provisioning", "idle", "federated"}


def test_stretches_of_a_site_neither_overlap_nor_leave_the_lane(day: tuple[Config, Backtest]) -> None:
    config, found = day
    for r in found.rows:
        for site, own in activities(r, config).items():
            assert all(a.t1 <= b.t0 for a, b in pairwise(own))
            assert sum(s.t1 - s.t0 for s in own) == pytest.approx(
                sum(t1 - t0 for t0, t1, state in r.lanes[site] if state != "off"), abs=1e-3
            )


def test_prices_alone_have_no_emissions_and_a_page_all_the_same(tmp_path: Path) -> None:
    text = DAY.read_text(encoding="utf-8").replace("[site.signal]", '[site.signal]\ntype = "price"')
    config = loads(text, "prices.toml", tmp_path)
    table = config.backtest.model_copy(update={"publication_delays_s": [], "deadlines_h": []})
    config = config.model_copy(update={"backtest": table})
    found = backtest(config, ["always"])
    assert emissions(found.rows[0], config, build_grid(config)) is None
    write_backtest_page(tmp_path / "p.html", found, config)
    page = (tmp_path / "p.html").read_text(encoding="utf-8")
    assert "No site has a signal of emissions" in page
    assert "0 USD/MWh" in page


def test_long_spans_are_drawn_by_the_day() -> None:
    config = of_the_day()
    grid = build_grid(config)
    lanes = {"california": [(START + d * 86400, START + d * 86400 + 43200, "training") for d in range(20)]}
    found = result(row(lanes=lanes, span_h=480.0, finish_h=480.0), end=START + 20 * 86400)
    drawn = backtest_figures.prepare(found, config, grid)
    figure = backtest_figures.lanes(found, config, grid, drawn)(10.0)
    assert figure.legends[0].get_texts()[0].get_text() == "share of the day inside a window"
    strips = figure.axes[0].patches
    duty = next(p for p in strips if p.get_data().baseline == pytest.approx(0.14))
    assert duty.get_data().values == pytest.approx(0.14 + 0.72 * 0.5)


def test_the_spread_counts_starts_that_did_not_finish_and_keeps_deadlines_apart() -> None:
    points = [SpreadPoint("paper", START + i, row("paper", finish_h=None if i == 2 else 14.0)) for i in range(3)]
    points += [SpreadPoint("oracle", START + i, row("oracle", deadline_h=d)) for i in range(2) for d in (14.0, 24.0)]
    points.append(SpreadPoint("breakeven, spin_up_s = 600", START, row(share_of_oracle=-90.0)))
    by_kg = spread(points)
    assert by_kg is not None
    assert [a.get_title(loc="left") for a in by_kg(10.0).axes] == ["kg CO2", "hours to the end", "kg / oracle"]
    points = [replace(p, row=replace(p.row, kg_over_oracle=None)) for p in points]
    draw = spread(points)
    assert draw is not None
    figure = draw(10.0)
    names = [t.get_text() for t in figure.axes[0].get_yticklabels()]
    assert names == ["paper (2 of 3 done)", "oracle, 14 h", "oracle, 24 h", "breakeven, spin_up_s = 600"]
    assert [a.get_title(loc="left") for a in figure.axes] == ["kg CO2", "hours to the end", "% of oracle"]
    assert "◂ -9,000" in [t.get_text() for t in figure.axes[2].texts]
    assert spread([]) is None


def test_a_place_that_cannot_be_written_is_told(day: tuple[Config, Backtest], tmp_path: Path) -> None:
    config, _ = day
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="the page cannot be written"):
        write_backtest_page(tmp_path / "file" / "page.html", result(row()), config)


def test_the_page_of_a_sweep_is_of_the_sweep_alone(tmp_path: Path) -> None:
    config = of_the_day()
    points = [
        SweepPoint(START + i * 3600, (("spin_up_s", s),), row("paper", kg_co2=1.0 + i + s / 1000))
        for i in range(3)
        for s in (300.0, 600.0)
    ]
    summaries = summarise(points, with_budget=True)
    made = Compared(points, summaries, [], 6, 0.5, ["a <gap>"], provenance(config, build_grid(config), ["windfall", "backtest"]))
    write_sweep_page(tmp_path / "page.html", made, config)
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    parsed = Page(text)
    assert parsed.loads == []
    assert len(re.findall(r"<svg.*?</svg>", text, flags=re.S)) == 2
    for said in ("6 outcomes compared", "3 start dates", "start dates", "spin_up_s", "2.3", "2.6", "a &lt;gap&gt;"):
        assert said in text, said
    assert "What each policy did" not in text
