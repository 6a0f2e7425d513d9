"""A trainer of several ranks: the leader acts for the site, and the others follow its commands.

Before each thing that all ranks do together the leader says what it is, as a few numbers on the control group. The others wait for
that word and for nothing else, so that all of them take, and skip, the same steps and stop together. Only the leader has
the site's files; who follows has the model, its part of the optimizer's state, and the data.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import IntEnum
from typing import Any, Protocol

import torch

from windfall.errors import DataError, RankError
from windfall.store.blobs import Blob
from windfall.train.evaluate import EvalResult
from windfall.train.optim import Differences
from windfall.train.ranks import Group
from windfall.train.trainer import Floats, LocalTrainer, Read, Tensors


class _Command(IntEnum):
    """What all ranks are to do next."""

    STEP = 0
    WEIGHTS = 1
    GATHER = 2
    INNER = 3
    RESET = 4
    EVALUATE = 5
    END = 6
    SHIFT = 7


#: How many numbers a command has, which limits the blocks of a step.
_ROOM = 4096


class OtherRanks(Protocol):
    """What the leader can learn of the other ranks' processes."""

    def lost(self) -> str:
        """Why one of them is gone, or an empty string."""
        ...

    def ending(self) -> str:
        """As ``lost``, after a connection was closed: it waits a moment for a process that may be about to end."""
        ...


class _OthersUnknown:
    """Knows nothing of the others' processes, so that only their connections show whether they live."""

    def lost(self) -> str:
        return ""

    def ending(self) -> str:
        return ""


class RankedTrainer:
    """The leader's end, a ``trainer.Trainer``."""

    def __init__(self, local: LocalTrainer, group: Group, others: OtherRanks | None = None) -> None:
        """``local`` is the leader's rank of the group, ``group.rank`` 0.

        Any call raises RankError once one of ``others`` is known to be gone, else RuntimeError once a connection is.
        """
        self._others = others or _OthersUnknown()
        self._local = local
        self._group = group
        self.blocks_per_step = local.blocks_per_step
        self.tokens_per_step = local.tokens_per_step
        self.manifest = local.manifest
        self._device = next(local.model.parameters()).device

    @property
    def skipped(self) -> str:
        """Why the last step was skipped, or an empty string."""
        return self._local.skipped

    @property
    def alive(self) -> Callable[[str], None]:
        """Called within a long step or evaluation: which part of it begins."""
        return self._local.alive

    @alive.setter
    def alive(self, call: Callable[[str], None]) -> None:
        self._local.alive = call

    def step(self, first_blocks: list[int], progress_tokens: float) -> float:
        with self._together():
            self._say(_Command.STEP, progress_tokens, *first_blocks)
            return self._local.step(first_blocks, progress_tokens)

    def rebase(self, old: Read, new: Read, moves: Sequence[tuple[float, Read]] = ()) -> None:
        self._local.rebase(old, new, moves)
        self._share_weights()

    def load(self, weights: Mapping[str, Floats]) -> None:
        self._local.load(weights)
        self._share_weights()

    def weights(self) -> Tensors:
        return self._local.weights()

    def evaluate(self) -> EvalResult:
        with self._together():
            self._say(_Command.EVALUATE)
            return self._local.evaluate()

    def sample(self) -> str:
        # The leader has the whole model. The others wait for its next command.
        return self._local.sample()

    def inner(self, *, exact: bool = False) -> bytes:
        with self._together():
            self._say(_Command.GATHER)
            return self._local.inner(exact=exact)

    def snapshot(self) -> Callable[[], tuple[Tensors, bytes | Blob]]:
        with self._together():
            self._say(_Command.GATHER)
            return self._local.snapshot()

    def load_inner(self, data: bytes | Blob) -> None:
        state, since, usual = self._local.read_inner(data)
        # All ranks take the state over, or none: one that does not fit is refused before the others hear of it.
        self._local.take_inner(state, since, usual)
        with self._together():
            self._say(_Command.INNER, since, usual)
            for name in self._local.state_shapes():
                self._group.broadcast(state[name].to(self._device))

    def shift_inner(self, mean: bytes | Blob, mine: bytes | Blob, steps: int) -> None:
        differences = self._local.read_differences(mean, mine)  # refused before the others hear of it, if it is

        def shared(name: str) -> torch.Tensor | None:
            found = differences(name)
            if found is not None:
                self._group.broadcast(found)
            return found

        with self._together():
            self._say(_Command.SHIFT, steps)
            self._local.shift(shared, steps)

    def reset_inner(self) -> None:
        with self._together():
            self._say(_Command.RESET)
            self._local.reset_inner()

    def close(self) -> None:
        """Tell the other ranks to end."""
        with self._together():
            self._say(_Command.END)
            self._group.close()

    def _share_weights(self) -> None:
        with self._together():
            self._say(_Command.WEIGHTS)
            for p in self._local.model.parameters():
                self._group.broadcast(p.data)

    @contextmanager
    def _together(self) -> Iterator[None]:
        """A context for what all ranks do together. If another rank is gone, an error in it becomes a RankError that says so."""
        if why := self._others.lost():
            raise RankError(why)
        try:
            yield
        except RuntimeError as e:
            if why := self._others.ending():
                raise RankError(why) from e
            raise

    def _say(self, what: _Command, *numbers: float) -> None:
        if len(numbers) > _ROOM - 2:
            raise DataError(f"a step of {len(numbers) - 1} blocks is more than {_ROOM - 3}; make blocks larger")
        word = torch.full((_ROOM,), math.nan, dtype=torch.float64)
        word[0], word[1] = float(what), float(len(numbers))
        word[2 : 2 + len(numbers)] = torch.tensor(numbers, dtype=torch.float64)
        self._group.tell(word)


def follow(local: LocalTrainer, group: Group) -> None:
    """The other ranks' side: do as the leader says until it says that it is over.

    Raises:
        RuntimeError: the leader, or another rank, is gone.
    """
    device = next(local.model.parameters()).device
    while True:
        what, numbers = _hear(group)
        match what:
            case _Command.STEP:
                local.step([int(b) for b in numbers[1:]], numbers[0])
            case _Command.WEIGHTS:
                for p in local.model.parameters():
                    group.broadcast(p.data)
            case _Command.GATHER:
                local.help_gather()
            case _Command.INNER:
                state = {}
                for name, shape in local.state_shapes().items():
                    state[name] = torch.empty(shape, device=device)
                    group.broadcast(state[name])
                local.take_inner(state, numbers[0], numbers[1])
            case _Command.SHIFT:
                local.shift(_received(local.state_shapes(), group, device), int(numbers[0]))
            case _Command.RESET:
                local.reset_inner()
            case _Command.EVALUATE:
                local.evaluate()
            case _Command.END:
                group.close()
                return


def _received(shapes: Mapping[str, torch.Size], group: Group, device: torch.device) -> Differences:
    """The leader's differences, as ``RankedTrainer.shift_inner`` sends them."""

    def difference(name: str) -> torch.Tensor | None:
        if shapes[name].numel() <= 1:
            return None
        found = torch.empty(shapes[name], device=device)
        group.broadcast(found)
        return found

    return difference


def _hear(group: Group) -> tuple[_Command, list[float]]:
    word = torch.empty(_ROOM, dtype=torch.float64)
    group.tell(word)
    numbers: list[Any] = word[2 : 2 + int(word[1])].tolist()
    return _Command(int(word[0])), numbers
