"""Skipping ahead: the same decisions as asking every site at every tick."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulate.days import START, config
from windfall.energy.account import Interval
from windfall.grid.build import build_grid
from windfall.policy.base import Decision, FleetView
from windfall.simulate.backtest import span_of
from windfall.simulate.simulation import Simulation, SimulationResult

#: Windows, noise and long closed stretches, with holes (None).
SIGNAL = st.lists(
    st.tuples(st.sampled_from([0.0, 20.0, 60.0, 99.9, 100.0, 140.0, 260.0, 450.0, None]), st.integers(1, 12)),
    min_size=3,
    max_size=14,
).map(lambda runs: [50.0] + [v for v, n in runs for _ in range(n)])


class Told:
    """Notes every change of mind."""

    def __init__(self) -> None:
        self.changes: list[tuple[float, str, bool]] = []

    def decided(self, view: FleetView, decisions: Mapping[str, Decision]) -> None:
        self.changes += [(view.t, n, d.on) for n, d in decisions.items() if d.on != view.sites[n].on]

    def booked(self, entries: list[Interval]) -> None:
        return None


def result_of(
    folder: Path, one: list[float | None], two: list[float | None], policy: str, delay: float, skip: bool
) -> tuple[SimulationResult, Told]:
    n = min(len(one), len(two))
    c = config(folder, {"a": one[:n], "b": two[:n]})
    grid = build_grid(c)
    told = Told()
    return Simulation(c, grid, span_of(c, grid), "windfall", delay_s=delay, skip=skip).run(policy, recorder=told), told


@pytest.mark.parametrize("policy", ["breakeven", "threshold", "paper", "learned", "percentile", "always", "random_duty"])
@settings(max_examples=12)
@given(one=SIGNAL, two=SIGNAL, delay=st.sampled_from([0.0, 300.0, 420.0]))
def test_skipping_ahead_changes_no_decision(policy: str, one: list[float | None], two: list[float | None], delay: float) -> None:
    with tempfile.TemporaryDirectory() as folder:
        fast, told_fast = result_of(Path(folder), one, two, policy, delay, skip=True)
        slow, told_slow = result_of(Path(folder), one, two, policy, delay, skip=False)
    assert told_fast.changes == told_slow.changes
    assert fast == slow


def test_a_start_is_over_when_it_is_over_and_not_at_the_next_tick(tmp_path: Path) -> None:
    c = config(tmp_path, {"a": [0.0] * 12}, spin_up_s=340.0)
    grid = build_grid(c)
    lanes = Simulation(c, grid, span_of(c, grid), "windfall").run("threshold").lanes["a"]
    assert [(t0 - START, t1 - START, s) for t0, t1, s in lanes] == [(0.0, 340.0, "provisioning"), (340.0, 3600.0, "training")]


def test_the_budget_is_done_when_it_is_done(tmp_path: Path) -> None:
    c = config(tmp_path, {"a": [0.0] * 40}, backtest="site_hours = 0.51")
    grid = build_grid(c)
    found = Simulation(c, grid, span_of(c, grid), "windfall").run("threshold")
    assert found.done_at == pytest.approx(START + 600 + 0.51 * 3600, abs=1e-3)
    assert found.site_hours == pytest.approx(0.51)


@given(rates=st.lists(st.integers(100, 5000), min_size=1, max_size=3), tokens=st.integers(1, 10**9))
def test_every_budget_of_tokens_ends_in_a_finish(rates: list[int], tokens: int) -> None:
    """Unix seconds resolve less than a token: no remnant may keep a run from its end."""
    from windfall.fleet.machine import Patience, Site, State
    from windfall.simulate.work import SimulatedWork, TrainerModel

    work = SimulatedWork(TrainerModel("windfall", {}, 0.0, 648.0), {f"s{i}": float(r) for i, r in enumerate(rates)}, float(tokens))
    sites = {n: Site(n, Patience(0, 0, 0, 0, 0), state=State.TRAINING) for n in (f"s{i}" for i in range(len(rates)))}
    work.tick(START, START, sites)
    work.advance(work.finishes_at())
    assert work.complete()


@given(st.floats(0, 5000), st.floats(1, 5000))
def test_a_stall_is_the_last_part_of_every_cycle_for_progress_and_energy_alike(first: float, second: float) -> None:
    from windfall.fleet.machine import Patience, Site, State
    from windfall.simulate.work import SimulatedWork, TrainerModel

    work = SimulatedWork(TrainerModel("prototype", {}, 135.0, 648.0), {"a": 1.0, "b": 1.0}, 1e9)
    sites = {n: Site(n, Patience(0, 0, 0, 0, 0), state=State.TRAINING) for n in "ab"}
    work.tick(0.0, 0.0, sites)
    work.advance(first)
    work.advance(first + second)
    trained = sum(b - a for phase, a, b in work.phases("a", 0.0, first + second) if phase == "training")
    assert 1e9 - work.left() == pytest.approx(2 * trained, abs=1e-6)
    cycles, into = divmod(first + second, 648.0)
    assert trained == pytest.approx(cycles * 513.0 + min(into, 513.0), abs=1e-6)
