"""The study by one command: its scenarios with real training at CPU scale, its day at its own size, its figures and ours.

    make study                                     (25 minutes on two quiet cores)
    python -m benchmarks.study --out runs/study    (what is there already is kept, so that it goes on where it was stopped)
    python -m benchmarks.study --only day          (the emissions alone, in seconds)
    python -m benchmarks.study --full d20.toml     (the configurations for real GPUs: written or checked, not run)

One seed is trained with all processes on the scaled clock, the others in this process with the same loop, ledger, sites and
trainers. A page, JSON and figures (SVG, PDF) are written to --out. Exit code: 0 if every mark is met, 1 if not.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from benchmarks.study.scenarios import SCENARIOS, demo, write_full

from windfall.errors import WindfallError
from windfall.store.files import read_json, write_json


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/study"), help="where page, JSON, figures and runs go")
    parser.add_argument("--seeds", type=int, default=3, help="of which the first is trained with all processes")
    parser.add_argument("--threads", type=int, default=2, help="of torch, in this process")
    parser.add_argument("--in-process", action="store_true", help="the first seed too: quicker, and without processes")
    parser.add_argument("--only", choices=["day", "training"], help="one part: the day's emissions, or training")
    parser.add_argument("--full", type=Path, metavar="FILE", help="instead: configurations for real GPUs, written or checked")
    given = parser.parse_args()
    try:
        if given.full is not None:
            for path in write_full(given.full):
                print(path)
            print("not run: start each with `windfall run`, at sites with GPUs")
            return 0
        return study(given)
    except WindfallError as e:
        print(f"study: {e}", file=sys.stderr)
        return e.exit_code


def study(given: argparse.Namespace) -> int:
    """Whatever is not there yet, then the page."""
    given.out.mkdir(parents=True, exist_ok=True)
    outcomes: list[dict[str, Any]] = []
    if given.only != "day":
        from benchmarks.study.runs import trained

        for seed, name in itertools.product(range(given.seeds), SCENARIOS):
            kept = given.out / f"seed-{seed}-{name}.json"
            found = read_json(kept)
            if found is None:
                folder = given.out if seed == 0 and not given.in_process else None
                found = trained(demo(), name, seed, folder, given.threads).as_json()
                write_json(kept, found)
            outcomes.append(found)
    from benchmarks.study.emissions import day
    from benchmarks.study.page import Result, write

    rows, baselines = day() if given.only != "training" else ([], {})
    result = Result(outcomes, rows, baselines)
    for figure in result.figures():
        print(json.dumps(figure), flush=True)
    print(f"wrote {write(given.out, result)}")
    return 0 if all(f["met"] is not False for f in result.figures()) else 1


if __name__ == "__main__":
    raise SystemExit(main())
