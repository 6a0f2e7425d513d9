"""Trainers that write down what they do and when, so that nothing about a stall has to be estimated.

``StandIn`` holds and moves real parameters, and its steps take a fixed wall time without using a processor. ``Noted`` is any other
trainer. Each writes one JSON line per call: what it was, from when to when (seconds on the calendar), how many blocks.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from windfall import clock
from windfall.errors import DataError
from windfall.store.blobs import Blob
from windfall.store.tensors import Tensors, to_bytes
from windfall.train.evaluate import EvalResult
from windfall.train.trainer import Read, rebased

#: In a site's folder.
NOTES = "steps.jsonl"
#: What a step adds to every parameter, per block.
MOVE = np.float32(2.0**-14)

Shapes = Mapping[str, tuple[int, ...]]


def study(depth: int, vocabulary: int = 65536) -> dict[str, tuple[int, ...]]:
    """Shapes of the study's model at a depth: 3 has 26.5M parameters, 6 has 61M, 20 has 561M."""
    width = 64 * depth
    shapes: dict[str, tuple[int, ...]] = {"embedding": (vocabulary, width), "head": (vocabulary, width), "scalars": (2 * depth,)}
    for layer in range(depth):
        shapes |= {f"{layer:02}.{name}": (width, width) for name in ("query", "key", "value", "output")}
        shapes |= {f"{layer:02}.up": (4 * width, width), f"{layer:02}.down": (width, 4 * width)}
    return shapes


def parameters(shapes: Shapes) -> int:
    """How many there are."""
    return sum(math.prod(shape) for shape in shapes.values())


def first_weights(shapes: Shapes) -> Tensors:
    """Normal values of the size that a model's have."""
    rng = np.random.default_rng(0)
    return {name: np.float32(0.02) * rng.standard_normal(shape, np.float32) for name, shape in shapes.items()}


def anonymous_bytes(pid: int | str = "self") -> int:
    """A process's memory that is no file's; 0 where the system does not say, or the process is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith("RssAnon:")) * 1024


class Notes:
    """Appends to a file what was done."""

    def __init__(self, path: Path) -> None:
        self._file = open(path, "a", encoding="utf-8", buffering=1)  # noqa: SIM115 - as long as the trainer lives

    @contextmanager
    def doing(self, what: str, blocks: int = 0) -> Iterator[None]:
        begun = clock.wall()
        yield
        self.add(what, begun, blocks=blocks)

    def add(self, what: str, begun: float, **more: int) -> None:
        """Something that ends now."""
        self._file.write(json.dumps({"what": what, "from": begun, "to": clock.wall(), **more}) + "\n")


class StandIn:
    """Implements ``train.trainer.Trainer``. A block takes ``block_s``, of which as much as need be goes into moving parameters."""

    skipped = ""
    manifest = "stand-in"

    def __init__(self, shapes: Shapes, *, block_s: float, eval_s: float, blocks_per_step: int, tokens_per_step: int) -> None:
        self._now = {name: np.ones(shape, np.float32) for name, shape in shapes.items()}
        self._block_s, self._eval_s = block_s, eval_s
        self.blocks_per_step, self.tokens_per_step = blocks_per_step, tokens_per_step
        self.alive: Callable[[str], None] = lambda part: None
        self._steps = 0

    def step(self, first_blocks: list[int], progress_tokens: float) -> float:
        until = clock.monotonic() + self._block_s * len(first_blocks)
        for value in self._now.values():
            value += MOVE * np.float32(len(first_blocks))
        self._steps += 1
        while (left := until - clock.monotonic()) > 0:
            self.alive("waiting")
            clock.pause(min(left, 0.5))
        return 1.0

    def weights(self) -> Tensors:
        return {n: v.copy() for n, v in self._now.items()}

    def load(self, weights: Mapping[str, Any]) -> None:
        if {n: v.shape for n, v in weights.items()} != {n: v.shape for n, v in self._now.items()}:
            raise DataError("weights of another model")
        for name, value in self._now.items():
            np.copyto(value, weights[name])

    def rebase(self, old: Read, new: Read, moves: Sequence[tuple[float, Read]] = ()) -> None:
        for name, value in self._now.items():
            np.copyto(value, rebased(value, name, old, new, moves))

    def evaluate(self) -> EvalResult:
        clock.pause(self._eval_s)
        return EvalResult(1.0, 1.0, 1, 1)

    def sample(self) -> str:
        return ""

    def inner(self, *, exact: bool = False) -> bytes:
        return to_bytes({"steps": np.array([self._steps], np.float32)})

    def snapshot(self) -> Callable[[], tuple[Tensors, bytes]]:
        now = self.weights(), self.inner(exact=True)
        return lambda: now

    def load_inner(self, data: bytes | Blob) -> None:
        return None

    def shift_inner(self, mean: bytes | Blob, mine: bytes | Blob, steps: int) -> None:
        return None

    def reset_inner(self) -> None:
        return None

    def close(self) -> None:
        return None


class Noted:
    """A trainer whose calls are written down."""

    def __init__(self, trainer: Any, notes: Notes) -> None:
        notes.add("built", clock.wall(), blocks=0, anonymous=anonymous_bytes())
        object.__setattr__(self, "_trainer", trainer)
        object.__setattr__(self, "_notes", notes)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._trainer, name)
        if name not in (
            "step",
            "weights",
            "load",
            "rebase",
            "evaluate",
            "sample",
            "inner",
            "snapshot",
            "load_inner",
            "reset_inner",
        ):
            return found

        def call(*args: Any, **named: Any) -> Any:
            with self._notes.doing(name, len(args[0]) if name == "step" else 0):
                return found(*args, **named)

        return call

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._trainer, name, value)
