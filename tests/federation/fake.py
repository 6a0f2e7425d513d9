"""A trainer that is cheap and exact: integer-valued parameters, so that what was trained can be read off a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from federation.sizes import BATCH, BLOCK, TOKENS_PER_STEP
from windfall.errors import DataError
from windfall.store.blobs import Blob
from windfall.store.tensors import Tensors, from_bytes, to_bytes

#: Gives a tensor by its name.
Read = Callable[[str], Any]


class Figures(NamedTuple):
    """What an evaluation gives (``train.evaluate.EvalResult`` would bring torch in)."""

    bits_per_byte: float = 1.0
    nats_per_byte: float = 1.0


class CountingTrainer:
    """Parameter i counts how often block i has been trained on (float32 counts are exact)."""

    manifest = "counting"
    skipped = ""
    tokens_per_step = TOKENS_PER_STEP
    blocks_per_step = BATCH // BLOCK

    def __init__(self, blocks: int) -> None:
        self._now: Tensors = {"count": np.zeros(blocks, np.float32)}
        self._steps = 0
        #: Moments of its inner state: what was trained here, and at sites whose states have been averaged in.
        self.moments = np.zeros(2, np.float32)

    def step(self, first_blocks: list[int], progress_tokens: float) -> float:
        for block in first_blocks:
            self._now["count"][block] += 1
        self._steps += 1
        self.moments += np.float32(len(first_blocks))
        return 1.0

    def weights(self) -> Tensors:
        return {n: v.copy() for n, v in self._now.items()}

    def rebase(self, old: Read, new: Read, moves: Sequence[tuple[float, Read]] = ()) -> None:
        for name in self._now:
            rest = self._now[name] - old(name)
            for sign, move in moves:
                rest += np.float32(sign) * move(name)
            self._now[name] = new(name) + rest

    def load(self, weights: Mapping[str, Any]) -> None:
        if weights["count"].shape != self._now["count"].shape:
            raise DataError("weights of another model")
        self._now = {n: np.array(v, np.float32) for n, v in weights.items()}

    def evaluate(self) -> Figures:
        return Figures()

    def sample(self) -> str:
        return f"{np.count_nonzero(self._now['count'])} blocks"

    def inner(self, *, exact: bool = False) -> bytes:
        return to_bytes({"steps": np.array([self._steps], np.float32), "moments": self.moments})

    def snapshot(self) -> Callable[[], tuple[Tensors, bytes]]:
        now = self.weights(), self.inner(exact=True)
        return lambda: now

    def load_inner(self, data: bytes | Blob) -> None:
        state = from_bytes(_bytes(data), "inner")
        self._steps, self.moments = int(state["steps"][0]), state["moments"].copy()

    def shift_inner(self, mean: bytes | Blob, mine: bytes | Blob, steps: int) -> None:
        # Nothing of a difference is forgotten here.
        self.moments = self.moments + from_bytes(_bytes(mean), "mean")["moments"] - from_bytes(_bytes(mine), "mine")["moments"]

    def reset_inner(self) -> None:
        self._steps = 0
        self.moments = np.zeros(2, np.float32)

    def close(self) -> None:
        return None


def _bytes(data: bytes | Blob) -> bytes:
    return data if isinstance(data, bytes) else data.read()


def counting(blocks: int) -> Any:
    """A ``MakeTrainer`` of such trainers."""
    return lambda spec, site: CountingTrainer(blocks)
