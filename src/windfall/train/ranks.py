"""Ranks of a site: one process a GPU (or, on CPUs, one a few cores), which take each optimizer step together.

``Alone`` is the null object of a site of one. ``Group`` is ``torch.distributed``: a data group (NCCL between GPUs, gloo between
CPUs) for gradients and weights, whose short time-out turns a rank that hangs into an error, and a control group (always gloo) on
which the others wait for the leader's next word, however long that takes. A rank whose process ends closes its sockets: the
others see it at once in gloo and at the leader's next word, in NCCL after the data group's time-out. Nothing but tensors of known
shape travels: nothing is pickled.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import Store  # type: ignore[attr-defined]

#: The leader may wait for a merge, or for nothing at all, this long, and the others for its word.
_LISTEN_TIMEOUT = timedelta(days=30)
_JOIN_TIMEOUT = timedelta(seconds=120)


class Ranks(Protocol):
    """What a trainer asks of the ranks that it is one of."""

    rank: int
    size: int

    def sum(self, tensors: Sequence[Tensor]) -> None:
        """Each tensor becomes the sum over all ranks, with the same bits at each."""
        ...

    def gather(self, own: Tensor) -> Tensor:
        """[n, ...] of every rank, one behind the other: [size * n, ...]. Equal shapes at all ranks."""
        ...

    def broadcast(self, tensor: Tensor) -> None:
        """The leader's values, in place."""
        ...


class Alone:
    """A site of one rank."""

    rank = 0
    size = 1

    def sum(self, tensors: Sequence[Tensor]) -> None:
        return None

    def gather(self, own: Tensor) -> Tensor:
        return own

    def broadcast(self, tensor: Tensor) -> None:
        return None


class Group:
    """One of several ranks. Raises RuntimeError from any call once another rank is gone or silent for too long."""

    def __init__(
        self, store: Store, rank: int, size: int, *, device: torch.device, timeout_s: float, word_timeout_s: float = 120.0
    ) -> None:
        """``timeout_s``: how long any one collective of a step may take. ``word_timeout_s``: how long the leader's word may take
        to be heard by all, who may still be building their model or finishing a step; a rank that hangs would keep it for ever.

        Raises:
            RuntimeError: the others did not come within two minutes.
        """
        self.rank = rank
        self.size = size
        backend = "nccl" if device.type == "cuda" else "gloo"
        step = timedelta(seconds=timeout_s)
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=max(step, _JOIN_TIMEOUT))
        self._data = dist.new_group(backend=backend, timeout=step)
        # Time-outs are each rank's own: the leader speaks, the others listen.
        word = _LISTEN_TIMEOUT if rank else timedelta(seconds=word_timeout_s)
        self._control = dist.new_group(backend="gloo", timeout=word)

    def sum(self, tensors: Sequence[Tensor]) -> None:
        # One flat buffer: a collective costs more than a copy.
        flat = torch.cat([t.reshape(-1) for t in tensors])
        dist.all_reduce(flat, group=self._data)
        at = 0
        for t in tensors:
            t.copy_(flat[at : at + t.numel()].view_as(t))
            at += t.numel()

    def gather(self, own: Tensor) -> Tensor:
        together = own.new_empty((self.size * own.size(0), *own.shape[1:]))
        dist.all_gather_single(together, own.contiguous(), group=self._data)
        return together

    def broadcast(self, tensor: Tensor) -> None:
        dist.broadcast(tensor, 0, group=self._data)

    def tell(self, word: Tensor) -> None:
        """From the leader to all, on the control group: ``word`` (on the CPU) is the leader's afterwards."""
        dist.broadcast(word, 0, group=self._control)

    def close(self) -> None:
        """Leave the group."""
        dist.destroy_process_group()


def slice_of(count: int, ranks: Ranks) -> tuple[int, int, int]:
    """Which of ``count`` things are this rank's: from, to, and how many every rank makes room for."""
    each = -(-count // ranks.size)
    first = min(count, ranks.rank * each)
    return first, min(count, first + each), each


def padded(own: Tensor, each: int) -> Tensor:
    """``own`` [n, ...] with zeros behind it up to [each, ...], so that all ranks gather equal shapes."""
    if own.size(0) == each:
        return own
    return torch.cat((own, own.new_zeros((each - own.size(0), *own.shape[1:]))))
