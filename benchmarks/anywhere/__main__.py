"""What sites on other machines cost in time, and what a cut link costs. One JSON line per figure, each with its mark.

    make bench-anywhere                                   (some ten minutes, root; Slurm for its line)
    python -m benchmarks.anywhere --only kubernetes       (that driver, beside `local`)
    python -m benchmarks.anywhere --only cut

| figure | what it is | mark |
|---|---|---|
| `first step` | from a decision to the end of a site's first step, by driver: without the platform's own time (from being asked \
until it runs our program) and without what the local driver takes in the same run | 5 s |
| `released` | from a decision until the site is off, its drained work handed in: the same | 5 s |
| `after SIGKILL` | from a SIGKILL of a site's agent to its next life's first step, the platform's time and all | 75 s |
| `cut in mid-bulk` | a link of 50 Mbit/s that is cut when half of a file is there, up and down, healed after 1 s and 60 s: what \
is sent again | 10 % of it |

Trainers are real and tiny. Slurm is a real one on this machine; Kubernetes and exalsius are the tests' doubles, with 5 s for an
image, 15 s for a node to join and 8 s to leave. Exit code: 0 if every mark is met, 1 if not.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.anywhere.cut import cuts
from benchmarks.anywhere.lives import lives
from benchmarks.federation.links import possible

from windfall import clock

MARKS = {"first step": 5.0, "released": 5.0, "after SIGKILL": 75.0}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", default=[], help="a driver, or `cut`; or several")
    only = parser.parse_args().only
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    met = True
    local: dict[tuple[str, int], float] = {}
    with tempfile.TemporaryDirectory(prefix="windfall-anywhere-") as folder:
        if not only or any(name != "cut" for name in only):
            for line in lives(Path(folder) / "lives", [name for name in only if name != "cut"]):
                met = _say(judged(line, local)) and met
        if (not only or "cut" in only) and possible():
            for line in cuts(Path(folder) / "cut"):
                met = _say(line) and met
        elif not possible():
            print(json.dumps({"figure": "cut in mid-bulk", "met": None, "why": "network namespaces take root"}), flush=True)
    return 0 if met else 1


def judged(line: dict[str, Any], local: dict[tuple[str, int], float]) -> dict[str, Any]:
    """A line with its mark. ``local``: by figure and life, what the local driver took in this run."""
    figure = line["figure"]
    mark = MARKS[figure]
    if figure == "after SIGKILL":
        return {**line, "mark": mark, "met": line["kill_to_first_step_s"] <= mark}
    key = figure, line["life"]
    if line["driver"] == "local":
        local[key] = line["ours_s"]
        return {**line, "met": None}
    over = round(line["ours_s"] - local[key], 2)
    return {**line, "over_local_s": over, "mark": mark, "met": over <= mark}


def _say(line: dict[str, Any]) -> bool:
    print(json.dumps({**line, "load": round(os.getloadavg()[0], 1)}), flush=True)
    return line["met"] is not False


if __name__ == "__main__":
    begun = clock.monotonic()
    code = main()
    print(f"{clock.monotonic() - begun:.0f} s", file=sys.stderr)
    sys.exit(code)
