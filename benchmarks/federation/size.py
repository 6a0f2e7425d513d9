"""A model of some size through the whole path: real Flower, files, merger, ledger, and a coordinator that is killed in a merge."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.federation.processes import Living, Plan
from benchmarks.federation.trainers import MOVE, anonymous_bytes, parameters, study

from windfall import clock
from windfall.store.ledger import Ledger
from windfall.store.tensors import TensorFile

_LOOK_S = 0.05
_FIND_S = 2.0
#: By what is done: where a file grows meanwhile, below the run directory.
_GROWING = {
    "encode": "sites/*/outbox/.*", "up": "bulk/from/*/.*.part", "merge": "checkpoints/.v*.tmp", "down": "sites/*/bulk/.*.part",
    "prepare": "sites/*/version/.v*.tmp",
}  # fmt: skip


class Watch:
    """Looks from outside at which files grow, and at how much memory that is no file's processes have."""

    def __init__(self, run: Living) -> None:
        self._run = run
        #: What, which file, from when to when.
        self.grew: list[tuple[str, str, float, float]] = []
        #: By part and site: the most that it had.
        self.most: dict[str, int] = {}
        self._open: dict[tuple[str, str], tuple[float, float, int]] = {}
        self._pids: dict[str, list[int]] = {}
        self._found_at = float("-inf")
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look_on, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._done.set()
        self._thread.join()

    def merging(self, share: float, size: int) -> bool:
        """Whether a merge has written this share of the weights."""
        return any(what == "merge" and seen[2] > share * size for (what, _), seen in list(self._open.items()))

    def _look_on(self) -> None:
        while not self._done.wait(_LOOK_S):
            self._files()
            self._memory()

    def _files(self) -> None:
        now, seen = clock.wall(), set()
        for what, pattern in _GROWING.items():
            for path in self._run.run.root.glob(pattern):
                try:
                    size = path.stat().st_size
                except FileNotFoundError:
                    continue
                key = (what, str(path))
                seen.add(key)
                began, grown, before = self._open.get(key, (now, now, -1))
                self._open[key] = (began, now if size != before else grown, size)
        for key in self._open.keys() - seen:
            began, _, _ = self._open.pop(key)
            self.grew.append((*key, began, now))

    def _memory(self) -> None:
        now = clock.monotonic()
        if now - self._found_at > _FIND_S:
            self._found_at = now
            self._pids = {
                "coordinator": self._run.processes("processes coordinator"),
                "files": self._run.processes("processes files"),
            }
            self._pids |= {site: self._run.processes("processes trainer", site) for site in self._run.plan.block_s}
        for part, pids in self._pids.items():
            for pid in pids:
                self.most[part] = max(self.most.get(part, 0), anonymous_bytes(pid))

    def seconds(self, what: str, t0: float, t1: float) -> float:
        """From the first beginning to the last end of what grew between two instants."""
        spans = [(max(a, t0), min(b, t1)) for w, _, a, b in self.grew if w == what and b > t0 and a < t1]
        return round(max(b for _, b in spans) - min(a for a, _ in spans), 1) if spans else 0.0


def through(root: Path, depth: int, *, block_s: float, round_s: float, say: Callable[[str], None]) -> dict[str, Any]:
    """Two sites; joint rounds, a killed merge, and what they showed."""
    plan = Plan(
        {"a": block_s, "b": block_s}, depth=depth, round_s=round_s, blocks_per_step=2, eval_s=0.5,
        federation="snapshot_s = 100000",
    )  # fmt: skip
    size = 4 * parameters(study(depth))
    with Living(root, plan) as run:
        watch = Watch(run)
        try:
            found = _rounds(run, watch, size, say)
        finally:
            watch.stop()
        built = {s: next(n["anonymous"] for n in run.notes(s) if n["what"] == "built") for s in plan.block_s}
        found["anonymous_over_model"] = {
            "coordinator": round(watch.most["coordinator"] / size, 2), "files": round(watch.most["files"] / size, 2),
            **{f"site {s}, beyond its trainer": round((watch.most[s] - built[s]) / size, 2) for s in plan.block_s},
        }  # fmt: skip
        found["longest_tick_s"] = round(run.longest_tick_s(), 2)
        run.stop(300)
    found |= _right(run)
    return {"parameters": size // 4, **found}


def _rounds(run: Living, watch: Watch, size: int, say: Callable[[str], None]) -> dict[str, Any]:
    run.wait_for("joint round", lambda: len(run.joint_rounds()) >= 2, within_s=1800)
    say("joint rounds")
    run.wait_for("joint rounds", lambda: len(run.joint_rounds()) >= 4, within_s=1800)
    second, third, fourth = (e.t_wall for e in run.joint_rounds()[1:4])
    longest = run.longest_tick_s()
    say("kill -9 of the coordinator in its next merge")
    run.wait_for("merge", lambda: watch.merging(0.3, size), 0.02, within_s=1800)
    killed = clock.wall()
    for pid in run.processes("processes coordinator"):
        os.kill(pid, signal.SIGKILL)
    before = run.events("commit")[-1].version or 0
    run.wait_for("commit", lambda: (run.events("commit")[-1].version or 0) > before, within_s=1800)
    back = clock.wall()
    joint = len(run.joint_rounds())
    run.wait_for("joint round", lambda: len(run.joint_rounds()) >= joint + 2, within_s=1800)
    # Between the beginnings of two rounds lie one cut, its way up, its merge; after the second, the way down of what was made.
    seconds = {what: watch.seconds(what, second, third) for what in ("encode", "up", "merge")}
    seconds |= {what: watch.seconds(what, third, fourth) for what in ("down", "prepare")}
    trainers = {
        what: round(max((n["to"] - n["from"] for s in run.plan.block_s for n in run.notes(s) if n["what"] == what), default=0.0), 1)
        for what in ("snapshot", "rebase", "load")
    }
    first = watch.seconds("down", 0, second)
    return {
        "seconds": seconds, "merge_and_transfers_s": round(seconds["up"] + seconds["merge"] + seconds["down"], 1),
        "trainers_longest_s": trainers, "first_model_s": first, "committed_after_kill_s": round(back - killed, 1),
        "longest_tick_before_the_kill_s": round(longest, 2),
    }  # fmt: skip


def _right(run: Living) -> dict[str, Any]:
    """Whether the newest version is what its contributions add up to, and no block is there twice."""
    ledger = Ledger.open(run.run.ledger, read_only=True)
    head, moved, last, blocks = ledger.head(), 0.0, 0.0, list[int]()
    for number in range(1, head.version + 1):
        lives: dict[tuple[str, int], int] = {}
        for c in ledger.contributions(number):
            lives[c.site, c.generation] = lives.get((c.site, c.generation), 0) + c.tokens
            blocks += [b for span in c.header["consumed"] for b in range(span["start"], span["end"])]
        last = float(MOVE) / run.plan.sequence_length * sum(t * t for t in lives.values()) / sum(lives.values())
        moved += last
    ledger.close()
    worst = 0.0
    folder = run.run.checkpoints
    with TensorFile(folder / "v000000.safetensors") as old, TensorFile(folder / head.file) as new:
        for name in new.shapes:
            for (_, a), (_, b) in zip(old.pieces(name), new.pieces(name), strict=True):
                worst = max(worst, float(np.abs(b - a - np.float32(moved)).max()))
    return {
        "versions": head.version, "repeated_blocks": len(blocks) - len(set(blocks)),
        "largest_error_of_last_movement": round(worst / last, 4) if last else None,
    }  # fmt: skip
