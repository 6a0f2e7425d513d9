"""What a run's emissions are measured against, as curves over run time: each region always on, and the oracle.

It reads whole signals and solves a schedule, which takes seconds for a long run. So faces that have to stay quick ask a process
of its own: ``python -m windfall.view.against RUN`` prints it as JSON.
"""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from windfall.config.load import stored
from windfall.config.schema import Config
from windfall.errors import StoreError, WindfallError
from windfall.grid.build import Grid, recorded
from windfall.policy.criterion import intensity
from windfall.simulate.oracle import BudgetOracle
from windfall.simulate.work import TrainerModel
from windfall.store.files import to_json
from windfall.store.rundir import RunDir
from windfall.units import J_PER_KWH
from windfall.view.baselines import baselines, headline, load_grid
from windfall.view.moment import one_moment
from windfall.view.state import RunState, run_state

#: Points of a curve.
_POINTS = 300


@dataclass(frozen=True, slots=True)
class Other:
    """What the same tokens would have emitted otherwise: ``kg`` at run times ``t``. ``total_kg`` is None where ``why`` says why.

    ``kind``: region (one site there, always on) or oracle. ``own``: whether the run has a site there. ``headline``: whether the run
    is compared with this one first.
    """

    name: str
    kind: str
    own: bool
    headline: bool
    total_kg: float | None
    t: list[float]
    kg: list[float]
    why: str


def against(run: RunDir) -> list[Other]:
    """Every region of the configuration always on, cleanest first, and the oracle.

    Raises:
        StoreError: there is no run, or it cannot be read.
        ConfigError: its configuration cannot be read.
    """
    config = stored(_text(run.open_existing().config))
    with one_moment(run) as at:
        state = run_state(run, at)
        grid, why = load_grid(config, run, at)
    found = baselines(config, state, grid, why)
    best = headline(found)
    others = [
        Other(b.region, "region", b.own, b is best, b.kg, *_thin([t for t, _ in b.curve], [k for _, k in b.curve]), b.why)
        for b in found
    ]
    return [*others, _oracle(config, state, grid, why)]


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as e:
        raise StoreError(f"{path}: cannot be read ({e})") from None


def _oracle(config: Config, state: RunState, grid: Grid | None, why: str) -> Other:
    """The least that the tokens committed so far could have cost in the time that the run took."""

    def without(reason: str) -> Other:
        return Other("oracle", "oracle", False, False, None, [], [], reason)

    start = state.started_run
    if start is None or state.tokens_committed <= 0 or state.run_hours <= 0:
        return without("nothing has been trained yet")
    if grid is None:
        return without(why)
    if not all(intensity(s.signal.type) for s in config.site):
        return without("a site's first signal is no intensity of emissions")
    signals = {s.name: recorded(grid.by_site[s.name]) for s in config.site}
    rates = {s.name: s.tokens_per_s for s in config.site}
    made = BudgetOracle(
        config, signals, TrainerModel.of(config, "windfall"), start, rates, float(state.tokens_committed)
    ).schedule(state.run_hours)  # fmt: skip
    if made is None:
        return without("signals of several kinds cannot be summed, or nothing is known of them in this time")
    if not made.reachable:
        return without("the sites' configured speeds do not reach these tokens in this time")
    times: list[float] = [start]
    steps: list[float] = [0.0]
    for s in config.site:
        for on in made.on_periods.get(s.name, []):
            c = signals[s.name].between(on.start, on.stop)
            times += c.ends.tolist()
            steps += (np.nan_to_num(c.values) * (c.ends - c.starts) * s.train_power_w).tolist()
    order = np.argsort(times, kind="stable")
    kg = np.cumsum(np.array(steps)[order]) / J_PER_KWH / 1000.0
    total = made.cost / 3.6e6
    if kg[-1] > 0:  # a start takes less power than training: the schedule's own cost counts
        kg *= total / kg[-1]
    return Other("oracle", "oracle", False, False, total, *_thin(np.array(times)[order].tolist(), kg.tolist()), "")


def _thin(times: list[float], kg: list[float]) -> tuple[list[float], list[float]]:
    step = max(1, -(-len(times) // _POINTS))
    kept = sorted({*range(0, len(times), step), len(times) - 1} - {-1})
    return [round(times[i], 1) for i in kept], [float(f"{kg[i]:.6g}") for i in kept]


def main(argv: list[str] | None = None) -> int:
    """Print it as JSON; one sentence of why not, and 1, where it cannot be had."""
    root = (argv if argv is not None else sys.argv[1:])[0]
    try:
        print(to_json([asdict(x) for x in against(RunDir(Path(root)))]))
    except WindfallError as e:
        print(e, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
