"""Copies of a device's tensors in the machine's memory, made quickly so that training goes on while the copies are used."""

from __future__ import annotations

import torch
from torch import Tensor


class Staging:
    """Copies from a GPU go to the same pinned memory each time, at the bus's speed. Copies from a CPU are new tensors each time."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._held: dict[str, Tensor] = {}

    def take(self, name: str, tensor: Tensor) -> Tensor:
        """A copy of ``tensor`` on the CPU, under a name of its own; whole after `wait`, and until the name is taken again."""
        if self._device.type != "cuda":
            return tensor.clone()
        held = self._held.get(name)
        if held is None or held.shape != tensor.shape:
            held = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            self._held[name] = held
        return held.copy_(tensor, non_blocking=True)

    def wait(self) -> None:
        """Wait until all copies are complete."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
