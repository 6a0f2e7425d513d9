"""What a run's emissions are measured against, as lines over run time: each region always on, other ways to train, the oracle.

It reads whole signals and solves a schedule, which takes seconds for a long run. So faces that have to stay quick ask a process
of its own: ``python -m windfall.view.against RUN`` prints it as JSON.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from windfall.errors import WindfallError
from windfall.store.files import to_json
from windfall.store.rundir import RunDir
from windfall.view.baselines import Counterfactual
from windfall.view.counterfactuals import run_counterfactuals
from windfall.view.curves import span_of
from windfall.view.moment import one_moment
from windfall.view.text import safe


@dataclass(frozen=True, slots=True)
class Other:
    """What the same tokens would have emitted otherwise: ``kg`` at run times ``t``. ``total_kg`` is None where ``why`` says why.

    ``kind``: region (one site there, always on), oracle or another of `view.counterfactuals`. With a microgrid only the sum of a
    simulated one is known: the oracle is then a level, and others have no line. ``own``: whether the run has a site there.
    ``headline``: whether the run is compared with this one first.
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
    """Every alternative of a run.

    Raises:
        StoreError: there is no run, or it cannot be read.
        ConfigError: its configuration cannot be read.
    """
    with one_moment(run) as at:
        found = run_counterfactuals(run, at)
        t0, t1 = span_of(at)
    best = found.headline
    return [_other(r, r is best, t0, t1) for r in found.rows]


def _other(r: Counterfactual, best: bool, t0: float, t1: float) -> Other:
    curve: Sequence[tuple[float, float]] = r.curve
    if r.kind == "oracle" and r.kg is not None and not curve:
        curve = ((t0, r.kg), (t1, r.kg))
    return Other(
        r.region or r.name, r.kind, r.own, best, r.kg, [round(t, 1) for t, _ in curve], [float(f"{kg:.6g}") for _, kg in curve],
        safe(r.why),
    )  # fmt: skip


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
