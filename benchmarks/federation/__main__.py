"""What a federation costs its trainers, its links and its coordinator. One JSON line per figure, each with its mark.

    make bench-federation       (some ten minutes)
    make verify-federation      (besides: the study's model of 561M parameters, real trainers, all of messages and differences)
    python -m benchmarks.federation --only stall --rounds 5

| figure | what it is |
|---|---|
| `bytes` | of a joint round up and down, as shares of the model in float32: blobs as really sent in a whole run in this process |
| `coordinator` | its processor seconds for a joint round of 2, 8 and 32 sites; `growth`: from 8 to 32, over 4 times |
| `stall` | share of two-site rounds in which a trainer took no step, evaluation apart, by the trainers' own notes; over links of \
100 Mbit/s (network namespaces where this is root, else the product's own limit), 26.5M parameters; with overlap, without, and \
without and with a fresh process per message |
| `pace` | tokens/s in those rounds, evaluation apart, as a share of what the same trainers do side by side without a federation |
| `slow site` | the fast site's share without a step where the other one is 4 times slower |
| `size` | a model through the whole path on this machine: seconds of each part, memory, the loop's longest tick, and whether \
the sum is right after a coordinator was killed in a merge |

Stand-ins for trainers hold and move real parameters; their steps take a fixed time and no processor. Everything else is real.
The last line is the machine's load before and after. Exit code: 0 if every mark is met, 1 if not.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from benchmarks.federation import inside, links, size, stall
from benchmarks.federation.processes import ROOT, Plan

from windfall import clock

SITES = ("a", "b")
MBIT_S = 100.0
#: Of the bytes of a model in float32, by codec.
SHARES = {"int8": 0.26, "int4": 0.13, "int2": 0.07}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--all", action="store_true", help="what takes long too")
    parser.add_argument("--only", action="append", help="a figure, or several")
    parser.add_argument("--rounds", type=int, default=3, help="joint rounds that are measured")
    parser.add_argument("--depth", type=int, default=20, help="size: of the model; 20 is the study's, with 561M parameters")
    parser.add_argument("--folder", type=Path, help="where runs are kept for a while: some 40 GB for the study's model")
    args = parser.parse_args()
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background of a script it would be ignored
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that runs and links are cleared away
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        bench = Bench(Path(folder), args.rounds, args.depth)
        figures: dict[str, Callable[[], None]] = {
            "bytes": bench.bytes, "coordinator": bench.coordinator, "stall": bench.stall, "slow site": bench.slow_site,
        }  # fmt: skip
        if args.all:
            figures |= {"pace": bench.pace, "size": bench.size}
        figures |= {
            "messages": bench.others("messages.py", [] if args.all else ["--rounds", "4", "--starts", "2", "--beside-s", "8"])
        }
        figures |= {"differences": bench.others("differences.py", [] if args.all else ["--depth", "3"])}
        before = load()
        for name, figure in figures.items():
            if not args.only or name in args.only:
                figure()
        print(json.dumps({"figure": "load", "before": before, "after": load(), "processors": os.cpu_count()}), flush=True)
    return 0 if bench.all_met else 1


def load() -> list[float]:
    """The machine's, over 1, 5 and 15 minutes."""
    return [round(x, 1) for x in os.getloadavg()]


class Bench:
    """Measures and prints."""

    def __init__(self, folder: Path, rounds: int, depth: int) -> None:
        self._folder, self._rounds, self._depth = folder, rounds, depth
        self._runs = 0
        self.all_met = True

    def _root(self) -> Path:
        self._runs += 1
        return self._folder / str(self._runs)

    def _say(self, figure: str, met: bool | None, **what: Any) -> None:
        self.all_met = self.all_met and met is not False
        print(json.dumps({"figure": figure, "met": met, **what, "load": load()[0]}), flush=True)

    def bytes(self) -> None:
        for codec, mark in SHARES.items():
            found = inside.bytes_of(self._root(), codec)
            self._say("bytes", max(found["up"], found["down"]) <= mark, codec=codec, mark=mark, **found)

    def coordinator(self) -> None:
        seconds = {n: inside.coordinator_cpu(self._root(), n)["cpu_s_a_round"] for n in (2, 8, 32)}
        growth = seconds[32] / seconds[8] / 4
        self._say("coordinator", growth <= 1, mark=1, growth=round(growth, 3), cpu_s_a_round=seconds)

    def _over_links(self, plan: Plan, rounds: int) -> dict[str, Any]:
        with ExitStack() as stack:
            over = stack.enter_context(links.links(SITES, MBIT_S)) if links.possible() else None
            if over is None:
                plan.bandwidth_mbit_s = MBIT_S
                plan.federation += "\ninline_limit_mb = 1"
            found = stack.enter_context(stall.measured(self._root(), plan, rounds, over))
        return {"links": "namespaces" if over else "the product's own limit", **found}

    def stall(self) -> None:
        block_s, round_s = 0.1, 60.0
        plain = Plan(dict.fromkeys(SITES, block_s), round_s=round_s)
        side_by_side = plain.sequence_length / block_s
        ways = {
            "overlap": Plan(dict.fromkeys(SITES, block_s), round_s=round_s),
            "no overlap": Plan(dict.fromkeys(SITES, block_s), round_s=round_s, overlap=False),
            "no overlap, a process per message": Plan(dict.fromkeys(SITES, block_s), round_s=round_s, overlap=False, spawn=True),
        }
        for way, plan in ways.items():
            found = self._over_links(plan, self._rounds if way == "overlap" else min(2, self._rounds))
            judged = way == "overlap"
            self._say("stall", found["share"] <= 0.01 if judged else None, way=way, mark=0.01 if judged else None, **found)
            if judged:
                ratio = min(found["tokens_per_s"].values()) / side_by_side
                self._say("pace", ratio >= 0.97, way="stand-ins", mark=0.97, ratio=round(ratio, 4))

    def slow_site(self) -> None:
        found = self._over_links(Plan({"a": 0.1, "b": 0.4}, round_s=60.0, blocks_per_step=10), self._rounds)
        lost = found["by_site"]["a"]
        self._say("slow site", lost <= 0.02, mark=0.02, fast_site=lost, **found)

    def pace(self) -> None:
        """Of trainers that train, on processors that they share with the rest of the run."""
        found = stall.pace(self._root(), self._rounds)
        self._say("pace", found["ratio"] >= 0.97, way="trainers", mark=0.97, **found)

    def size(self) -> None:
        found = size.through(self._root(), self._depth, block_s=5.0, round_s=90.0, say=lambda text: print(text, file=sys.stderr))
        memory = {part: share for part, share in found["anonymous_over_model"].items() if part != "files"}
        met = {
            "seconds": found["merge_and_transfers_s"] <= 60, "memory": max(memory.values()) <= 1.5,
            "tick": max(found["longest_tick_s"], found["longest_tick_before_the_kill_s"]) <= 1,
            "sum": found["repeated_blocks"] == 0 and found["largest_error_of_last_movement"] < 0.02,
        }  # fmt: skip
        self._say("size", all(met.values()), marks={"seconds": 60, "memory": 1.5, "tick_s": 1}, met_by=met, **found)

    def others(self, script: str, arguments: list[str]) -> Callable[[], None]:
        """Another benchmark's lines, as they are."""

        def run() -> None:
            command = [sys.executable, str(ROOT / "benchmarks" / script), *arguments]
            done = subprocess.run(command, stdout=subprocess.PIPE, check=False, text=True)
            for line in done.stdout.splitlines():
                print(line, flush=True)
            self.all_met = self.all_met and done.returncode == 0

        return run


if __name__ == "__main__":
    begun = clock.monotonic()
    code = main()
    print(f"{clock.monotonic() - begun:.0f} s", file=sys.stderr)
    sys.exit(code)
