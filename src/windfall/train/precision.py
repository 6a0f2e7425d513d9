"""Which number format the forward pass computes in."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

Precision = Literal["fp32", "bf16"]


def precision_on(device: torch.device | str, asked: str = "auto") -> Precision:
    """What a configuration's ``train.precision`` means on a device.

    auto: bf16 on an accelerator, fp32 on a CPU: without bfloat16 instructions a CPU is 8 to 15 times slower in it.
    """
    if asked == "auto":
        return "fp32" if str(device).partition(":")[0] == "cpu" else "bf16"
    return "bf16" if asked == "bf16" else "fp32"


def autocast(device: torch.device | str, precision: Precision) -> AbstractContextManager[object]:
    """Context for a forward pass: nothing for fp32, autocast to bfloat16 for bf16. Weights stay float32."""
    if precision == "fp32":
        return nullcontext()
    import torch

    return torch.autocast(torch.device(device).type, dtype=torch.bfloat16)
