"""What joint rounds cost trainers: time without a step, and tokens."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.federation.links import Links
from benchmarks.federation.processes import Living, Plan, command, environment

#: Calls of a trainer that are an evaluation's.
_EVALUATION = ("evaluate", "sample", "weights", "load")


@contextmanager
def measured(root: Path, plan: Plan, rounds: int, over: Links | None = None) -> Iterator[dict[str, Any]]:
    """A run until so many joint rounds after the first one have begun and ended; what it showed. It still lives."""
    with Living(root, plan, over) as run:
        run.wait_for("joint round", lambda: len(run.joint_rounds()) >= 2)
        before = {site: over.counted(site) for site in plan.block_s} if over is not None else {}
        run.wait_for("joint rounds", lambda: len(run.joint_rounds()) >= 2 + rounds, within_s=600 + 6 * rounds * plan.round_s)
        after = {site: over.counted(site) for site in plan.block_s} if over is not None else {}
        found = shares(run, rounds)
        if over is not None:
            found["sent_mb_a_round"] = {
                site: [round((b - a) / rounds / 1e6, 1) for a, b in zip(before[site], after[site], strict=True)] for site in before
            }
        found["longest_tick_s"] = round(run.longest_tick_s(), 2)
        yield found


def shares(run: Living, rounds: int) -> dict[str, Any]:
    """Of the joint rounds after the first: by site the share of the time in which it took no step, evaluation apart."""
    began = [e.t_wall for e in run.joint_rounds()]
    t0, t1 = began[1], began[1 + rounds]
    by_site: dict[str, float] = {}
    lost: dict[str, dict[str, float]] = {}
    tokens: dict[str, float] = {}
    for site in run.plan.block_s:
        spent: dict[str, float] = {}
        blocks = 0.0
        for note in run.notes(site):
            inside = min(note["to"], t1) - max(note["from"], t0)
            if inside > 0:
                what = "evaluation" if note["what"] in _EVALUATION else note["what"]
                spent[what] = spent.get(what, 0.0) + inside
                blocks += note["blocks"] * inside / max(1e-9, note["to"] - note["from"])
        counted = t1 - t0 - spent.get("evaluation", 0.0)
        by_site[site] = round(1 - spent.get("step", 0.0) / counted, 4)
        lost[site] = {what: round(s / rounds, 3) for what, s in spent.items() if what != "step"}
        lost[site]["waiting"] = round((counted - sum(s for w, s in spent.items() if w != "evaluation")) / rounds, 3)
        tokens[site] = round(blocks * run.plan.sequence_length / counted, 2)
    return {
        "share": max(by_site.values()), "by_site": by_site, "lost_s_a_round": lost, "tokens_per_s": tokens, "rounds": rounds,
        "mean_round_s": round((t1 - t0) / rounds, 1),
    }  # fmt: skip


def pace(root: Path, rounds: int) -> dict[str, Any]:
    """Tokens per second of real trainers in joint rounds, and of the same ones side by side: run one after the other."""
    plan = Plan({"a": 0.2, "b": 0.2}, depth=4, real=True, round_s=60.0, blocks_per_step=4)
    with Living(root, plan) as run:
        run.wait_for("joint rounds", lambda: len(run.joint_rounds()) >= 2 + rounds, within_s=1200 + 6 * rounds * plan.round_s)
        found = shares(run, rounds)
        config, at = run.run.config, run.run.root
    together = sum(found["tokens_per_s"].values())
    side_by_side = alone(config, at, plan)
    return {"ratio": round(together / side_by_side, 4), "together": round(together), "side_by_side": round(side_by_side), **found}


def alone(config_file: Path, run: Path, plan: Plan) -> float:
    """Tokens per second of two processes that only train, on the run's data and with its steps."""
    children = [
        subprocess.Popen(
            [*command("alone"), str(config_file), str(run), site], stdout=subprocess.PIPE, text=True, env=environment()
        )
        for site in plan.block_s
    ]
    return sum(float(child.communicate()[0].split()[-1]) for child in children)
