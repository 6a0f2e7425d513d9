"""What `make study` is made of: its scenarios, forecasts with mistakes, outcomes and their marks."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from benchmarks.study.emissions import DayRow, Mistaken, day
from benchmarks.study.page import Result, write
from benchmarks.study.runs import in_process, perplexity, uninterrupted
from benchmarks.study.scenarios import SCENARIOS, demo, paper_day, scenario, write_full

from windfall.config.load import load
from windfall.errors import ConfigError
from windfall.grid.build import build_grid
from windfall.grid.signal import StepSignal
from windfall.units import parse_utc

START, END = parse_utc("2026-01-11T17:00Z"), parse_utc("2026-01-12T11:00Z")


def test_scenarios_have_the_same_tokens_and_seed_and_their_own_sites_and_policies() -> None:
    made = {name: scenario(demo(), name, 7) for name in SCENARIOS}
    assert {c.run.budget_tokens for c in made.values()} == {520_000}
    assert {c.run.seed for c in made.values()} == {7}
    assert {n: (len(c.site), c.policy.name) for n, c in made.items()} == {
        "single": (1, "always"), "federated": (2, "always"), "aware": (3, "breakeven"),
    }  # fmt: skip
    assert made["single"].model_copy(update={"run": demo().run, "policy": demo().policy, "site": demo().site}) == demo()


def test_the_configuration_for_gpus_is_written_once_then_checked(tmp_path: Path) -> None:
    file = tmp_path / "d20.toml"
    made = write_full(file)
    assert [p.name for p in made] == ["d20.toml", "study-single.toml", "study-aware.toml", "study-federated.toml"]
    aware = load(tmp_path / "study-aware.toml")
    assert (aware.model.depth, aware.run.budget_tokens, aware.site[0].device) == (20, 12_800_000_000, "cuda")
    file.write_text(file.read_text(encoding="utf-8").replace("seed = 0", "seed = 5", 1), encoding="utf-8")
    write_full(file)
    assert load(tmp_path / "study-single.toml").run.seed == 5
    file.write_text(file.read_text(encoding="utf-8").split("[[site]]")[0], encoding="utf-8")
    with pytest.raises(ConfigError, match="site"):
        write_full(file)


def test_a_mistaken_forecast_sees_what_holds_and_moves_or_misses_what_comes() -> None:
    truth = build_grid(paper_day()).by_site["california"]
    assert isinstance(truth, StepSignal)
    foreseen, edges = set[bool](), set[float]()
    for seed in range(30):
        told = Mistaken(truth, 100.0, START, END, seed)
        now = told.forecast(START + 4000.0, 1e6)
        assert now is not None
        assert now.values[0] == truth.between(START + 4000.0, START + 4001.0).values[0]
        assert np.all(np.diff(now.times) > 0)
        later = told.forecast(START, 1e6)
        assert later is not None
        foreseen.add(bool((later.values < 100.0).any()))
        edges.add(float(later.times[np.argmin(later.values)]))
        # What really holds is as it was.
        assert np.array_equal(told.between(START, END).values, truth.between(START, END).values)
    assert True in foreseen
    assert len(edges) > 10


def test_perplexity_is_of_a_moving_mean_over_steps_without_bias_at_its_beginning() -> None:
    assert perplexity([(i * 10, 2.0) for i in range(5)], 10) == pytest.approx((math.exp(2), math.exp(2)))
    steps = [(i * 10, 1.0 if i < 300 else 3.0) for i in range(600)]
    least, last = perplexity(steps, 10)
    assert least == pytest.approx(math.e)
    assert last > 15
    # Two sites that share each step have two losses at its place, which are one step.
    shared = [(t, x + d) for t, x in steps for d in (0.5, -0.5)]
    assert perplexity(shared, 10) == pytest.approx((least, last))


def outcome(scenario: str, seed: int, loss: float, kwh: dict[str, float]) -> dict[str, object]:
    return {
        "scenario": scenario, "seed": seed, "how": "in process", "tokens": 1000, "val_last": loss, "val_best": loss,
        "perplexity_last": 5.0, "perplexity_least": 4.0, "runtime_h": 14.0, "site_hours": 17.9, "versions": 3,
        "share_federated": 0.5, "kwh": kwh, "kg": {}, "share_inside": 0.9, "curve": [(0.0, 5.0), (1000.0, loss)],
        "wall_s": 1.0, "root": None,
    }  # fmt: skip


def some() -> Result:
    outcomes = [outcome("single", s, 2.0, {"training": 36.0} | ({"provisioning": 0.9} if s == 0 else {})) for s in (0, 1)]
    outcomes += [outcome("aware", s, 2.0 + 0.01 * s, {"training": 36.0, "idle": 0.9 * s, "provisioning": 1.8}) for s in (0, 1)]
    rows = [DayRow("good", 0.9, 0.08, 14.0, 36.0, 0.9, 0.087), DayRow("bad", 1.1, 0.099, 14.0, 36.0, 0.9, 0.098)]
    return Result(outcomes, rows, {"DE": 27.0})


def test_marks_are_judged_and_what_was_not_run_says_so() -> None:
    said = {f["figure"]: (f["value"], f["met"]) for f in some().figures()}
    assert said["validation loss, curtailment-aware / centralised"] == (1.0025, True)
    assert said["energy / centralised, the phases of the study"] == (1.0125, False)
    assert said["energy / centralised, all phases"] == (1.0244, None)  # of seed 0: the other's baseline has no phases
    assert said["emissions / cleanest region always on: good"] == (0.08, True)
    assert said["emissions / cleanest region always on: bad"] == (0.099, False)
    assert said["validation loss at 561M parameters"] == ("not run", None)


@pytest.mark.slow
def test_the_page_and_its_figures_are_written(tmp_path: Path) -> None:
    page = write(tmp_path, some()).read_text(encoding="utf-8")
    assert "not run" in page
    assert "14.64 / 15.05" in page  # the study's, beside ours
    assert {"study.json", "loss.svg", "loss.pdf", "energy.svg", "emissions.pdf"} <= {p.name for p in tmp_path.iterdir()}


@pytest.mark.slow
def test_a_small_study_trains_elastically_what_it_trains_alone() -> None:
    base = demo()
    tokens = 20_480
    small = base.model_copy(update={
        "run": base.run.model_copy(update={"budget_tokens": tokens}),
        "model": base.model.model_copy(update={"depth": 1, "width": 32, "sequence_length": 64}),
        "data": base.data.model_copy(update={"eval_every_tokens": 5_120}),
        "site": [s.model_copy(update={"tokens_per_s": tokens / 17.86 / 3600}) for s in base.site],
    })  # fmt: skip
    alone, elastic = uninterrupted(scenario(small, "single", 0)), in_process(scenario(small, "aware", 0), "aware")
    assert alone.tokens == elastic.tokens == tokens
    assert elastic.val_last == pytest.approx(alone.val_last, rel=0.05)
    assert 0.2 < elastic.share_federated < 0.9
    assert elastic.study_kwh() == pytest.approx(17.86 * 2.024, rel=0.06)
    assert sum(elastic.kwh.values()) > elastic.study_kwh()
    assert elastic.share_inside is not None
    assert elastic.share_inside > 0.95


@pytest.mark.slow
def test_the_days_emissions_keep_their_marks() -> None:
    rows, baselines = day()
    assert min(baselines, key=lambda r: baselines[r]) == "CAISO_NORTH"
    assert [r.rule for r in rows if r.mark is not None and r.share > r.mark] == []
    assert all(r.finish_h is not None and r.finish_h <= 14.66 for r in rows)
