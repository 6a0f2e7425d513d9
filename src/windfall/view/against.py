"""What a run's emissions are measured against, as curves over run time: each region always on, and the oracle.

It reads whole signals and simulates, which takes seconds for a long run. So faces that have to stay quick ask a process
of its own: ``python -m windfall.view.against RUN`` prints it as JSON.
"""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from windfall.errors import WindfallError
from windfall.store.files import to_json
from windfall.store.rundir import RunDir
from windfall.view.counterfactuals import run_counterfactuals
from windfall.view.text import safe

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
    found = run_counterfactuals(run)
    best = found.headline
    return [
        Other(r.name, r.kind, r.own, r is best, r.kg, *_thin([t for t, _ in r.curve], [k for _, k in r.curve]), safe(r.why))
        for r in found.rows
        if r.kind in ("region", "oracle")
    ]


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
