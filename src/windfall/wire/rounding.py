"""Float32 values as fewer bits, and back: the arithmetic of the codecs, chunk by chunk.

A *group* is 256 consecutive values with one float16 scale. A tensor has one factor, a power of two, by which its scales are
moved into float16's range, so that a tensor of any magnitude keeps its precision. Bits are the same on every device and with
every number of threads: largest values do not depend on an order, sums are folded in a fixed one, and whatever is worked
out once per group is worked out on the processor.

On the processor a chunk is so small that torch does not spread it over threads: at this size they would only wait for each
other, and the trainer beside has better use for them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from windfall.errors import Refused

if TYPE_CHECKING:
    import torch

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]

#: What each codec does to matrices. Tensors with fewer than two dimensions are float32 in all of them.
CODECS = ("fp32", "bf16", "int8", "int4", "int2")
#: Values that share a scale.
GROUP = 256
#: Bits of a value.
_BITS = {"fp32": 32, "bf16": 16, "int8": 8, "int4": 4, "int2": 2}
#: Largest multiple of the scale.
_TOP = {"int8": 127, "int4": 7}
#: The four levels that fit a normal distribution best (Lloyd-Max; J. Max 1960, table I), in units of its standard deviation.
_NEAR, _FAR = 0.4528, 1.510
_STEP = _FAR - _NEAR
_EDGE = (_NEAR + _FAR) / 2
#: Before the codes of a group codec: the tensor's factor, float32.
_FACTOR = 4
#: Scales are not smaller than float16's smallest number of full precision.
_SMALLEST = 2.0**-14
#: Next to this number, float32 knows only whole ones.
_UNIT = 1.5 * 2**23
#: Values beyond this are no differences, and would leave float32's range when they are rounded.
LARGEST = 2.0**120
#: Values in a chunk, by where they are. Torch spreads 32,768 values and more over threads.
_ON_CPU, _ON_GPU = 127 * GROUP, 2**16 * GROUP


def kind_of(shape: tuple[int, ...], codec: str) -> str:
    """How ``codec`` writes a tensor: as float32 where it has fewer than two dimensions, or where that takes no more bytes."""
    size = math.prod(shape)
    return "fp32" if len(shape) < 2 or payload_bytes(size, codec) >= 4 * size else codec


def payload_bytes(size: int, kind: str) -> int:
    """Bytes of ``size`` values."""
    if kind in ("fp32", "bf16"):
        return size * _BITS[kind] // 8
    groups = -(-size // GROUP)
    return _FACTOR + groups * (GROUP * _BITS[kind] // 8 + 2)


def pack(value: Any, kind: str, emit: Callable[[memoryview], None], sent: Floats) -> None:
    """Hand the payload of ``value`` to ``emit`` piece by piece, and what the receiver will make of it to ``sent``.

    Args:
        value: float32, one-dimensional: a numpy array (also a mapped or read-only one), or a torch tensor on any device.
        kind: one of ``CODECS``.
        sent: as long as ``value``; overwritten.

    Raises:
        Refused: a value is not finite, or larger than ``LARGEST``.
    """
    if kind in ("fp32", "bf16"):
        _pack_plain(value, kind, emit, sent)
        return
    import torch

    peaks = torch.empty(-(-len(value) // GROUP))
    at = 0
    for _, _, groups in _chunks(value):
        peaks[at : at + len(groups)] = torch.maximum(groups.amax(1), groups.amin(1).neg_())
        at += len(groups)
    peak = float(peaks.max()) if len(peaks) else 0.0
    _check(peak)
    # Scales of this tensor are below 2^14, which leaves those of int2, fitted below, the room that they may take.
    exponent = 14 - math.frexp(peak / _TOP.get(kind, 1))[1] if peak else 0
    up = 2.0 ** min(exponent, 100)
    emit(_view(np.array([1 / up], np.float32)))
    scales = torch.empty(len(peaks), dtype=torch.float16)
    if kind in _TOP:
        # Times the inverse: by a number torch divides in two ways, on the processor and on a GPU.
        scales.copy_((peaks * up * (1 / _TOP[kind])).clamp_min_(_SMALLEST))
    inverse = torch.empty(0) if kind == "int2" else scales.float().reciprocal_().mul_(up)
    at = 0
    for start, stop, groups in _chunks(value):
        end = at + len(groups)
        if kind == "int2":
            codes = _two_bits(groups * up, stop - start, scales[at:end])
        else:
            codes = _multiples(groups, inverse[at:end], kind)
        emit(_view(codes.numpy()))
        _unpack_groups(codes, scales[at:end].float().mul_(1 / up), kind, sent[start:stop])
        at = end
    emit(_view(scales.numpy()))


def unpack(payload: Bytes, kind: str, out: Floats) -> None:
    """The values of a payload, into ``out``.

    Args:
        payload: ``payload_bytes(len(out), kind)`` bytes, writable; of ``fp32`` it may be the memory of ``out``.
        kind: one of ``CODECS``.
        out: one-dimensional; overwritten.

    Raises:
        Refused: a value, or what they are made from, is not finite.
    """
    if kind == "fp32":
        if not np.shares_memory(payload, out):
            out[:] = payload.view(np.float32)
        for start in range(0, len(out), _ON_CPU):
            _check(_peak(out[start : start + _ON_CPU]))
        return
    import torch

    if kind == "bf16":
        halves = torch.from_numpy(payload.view(np.int16)).view(torch.bfloat16)
        for start in range(0, len(out), _ON_CPU):
            piece = out[start : start + _ON_CPU]
            torch.from_numpy(piece).copy_(halves[start : start + _ON_CPU])
            _check(_peak(piece))
        return
    groups = -(-len(out) // GROUP)
    width = GROUP * _BITS[kind] // 8
    down = float(payload[:_FACTOR].view(np.float32)[0])
    # Copied, because nothing says that they begin at an even address.
    scales = torch.from_numpy(payload[_FACTOR + groups * width :].copy().view(np.float16)).float()
    largest = float(scales.max()) if groups else 0.0
    if not (0 < down < math.inf and math.frexp(down)[0] == 0.5):
        raise Refused(f"a factor of {down:g} is no power of two")
    if groups and not (float(scales.min()) >= 0 and largest < math.inf):
        raise Refused("scales that are negative or not finite")
    if largest * down * 2 ** (_BITS[kind] - 1) > LARGEST * 16:
        raise Refused("values that are not finite, or far too large for differences")
    codes = torch.from_numpy(payload[_FACTOR : _FACTOR + groups * width]).view(groups, width)
    scales.mul_(down)
    step = _ON_CPU // GROUP
    for at in range(0, groups, step):
        _unpack_groups(codes[at : at + step], scales[at : at + step], kind, out[at * GROUP : (at + step) * GROUP])


def _pack_plain(value: Any, kind: str, emit: Callable[[memoryview], None], sent: Floats) -> None:
    step = _step(value)
    for start in range(0, len(value), step):
        piece, ours = value[start : start + step], sent[start : start + step]
        if isinstance(piece, np.ndarray):
            ours[:] = piece
        else:
            ours[:] = piece.cpu().numpy()
        _check(_peak(ours))
        if kind == "bf16":
            import torch

            half = torch.from_numpy(ours).to(torch.bfloat16)
            emit(_view(half.view(torch.int16).numpy()))
            torch.from_numpy(ours).copy_(half)
        else:
            emit(_view(ours))


def _step(value: Any) -> int:
    return _ON_CPU if isinstance(value, np.ndarray) or value.device.type == "cpu" else _ON_GPU


def _chunks(value: Any) -> Iterator[tuple[int, int, torch.Tensor]]:
    """``value`` in pieces (first, one past the last, values as rows of a group each, the last filled with zeros)."""
    import torch

    step = _step(value)
    for start in range(0, len(value), step):
        stop = min(start + step, len(value))
        piece = value[start:stop]
        if isinstance(piece, np.ndarray):
            # Torch wants memory that may be written to, which a mapped file's may not.
            piece = torch.from_numpy(piece if piece.flags.writeable and piece.dtype.isnative else np.array(piece, np.float32))
        over = -(stop - start) % GROUP
        yield start, stop, (torch.nn.functional.pad(piece, (0, over)) if over else piece).view(-1, GROUP)


def _multiples(groups: torch.Tensor, inverse: torch.Tensor, kind: str) -> torch.Tensor:
    """Values as multiples of their scales, rounded to nearest, half to even: a byte each, or two in a byte."""
    import torch

    # Adding and taking away a large number rounds to nearest, half to even; torch.round would spread any size over threads.
    whole = (groups * inverse.to(groups.device)[:, None]).add_(_UNIT).sub_(_UNIT)
    if kind == "int8":
        return whole.to(torch.int8).cpu()
    nibbles = whole.add_(8).to(torch.uint8)
    return (nibbles[:, : GROUP // 2] | (nibbles[:, GROUP // 2 :] << 4)).cpu()


def _two_bits(groups: torch.Tensor, count: int, scales: torch.Tensor) -> torch.Tensor:
    """Values as four levels, four values in a byte; fits ``scales``.

    The scale begins as the root mean square and is then fitted to the levels that this gives (least squares). Of normal values
    that is the same; of a group with a few large values among small ones it makes the error smaller than the values, which the
    root mean square does not, so that what feedback carries on cannot grow without end.
    """
    import torch

    size = groups.abs()
    valid = torch.full((len(groups),), GROUP)
    valid[-1] = (count - 1) % GROUP + 1
    squares = size * size
    far = (squares >= (_sums(squares) / valid * _EDGE**2).to(groups.device)[:, None]).float()
    many, all_of_it, beyond = _sums(far), _sums(size), _sums(size * far)
    fitted = (all_of_it * _NEAR + beyond * _STEP) / ((valid - many) * _NEAR**2 + many * _FAR**2)
    scales.copy_(torch.where(fitted >= _SMALLEST, fitted, 0.0))
    far = size >= (scales.float() * _EDGE).to(groups.device)[:, None]
    codes = far.to(torch.uint8).add_(groups < 0, alpha=2)
    quarter = GROUP // 4
    packed = codes[:, :quarter].clone()
    for i in range(1, 4):
        packed |= codes[:, i * quarter : (i + 1) * quarter] << (2 * i)
    return packed.cpu()


def _sums(groups: torch.Tensor) -> torch.Tensor:
    """Sum of each group, added up in one order wherever it is done; on the processor."""
    width = GROUP // 2
    while width >= 16:
        groups = groups[:, :width] + groups[:, width : 2 * width]
        width //= 2
    columns = groups.cpu().t().contiguous()
    while len(columns) > 1:
        half = len(columns) // 2
        columns = columns[:half] + columns[half:]
    return columns[0]


def _unpack_groups(codes: torch.Tensor, scales: torch.Tensor, kind: str, out: Floats) -> None:
    """Values of whole groups, into ``out``, which may end within the last of them. Codes and scales are on the processor."""
    import torch

    if len(codes) > _ON_CPU // GROUP:  # what came from a GPU in one piece
        step = _ON_CPU // GROUP
        for at in range(0, len(codes), step):
            _unpack_groups(codes[at : at + step], scales[at : at + step], kind, out[at * GROUP : (at + step) * GROUP])
        return
    fits = len(out) == len(codes) * GROUP
    into = torch.from_numpy(out).view(-1, GROUP) if fits else torch.empty(len(codes), GROUP)
    if kind == "int8":
        into.copy_(codes.view(torch.int8))
    elif kind == "int4":
        into[:, : GROUP // 2] = codes & 15
        into[:, GROUP // 2 :] = codes >> 4
        into.sub_(8)
    else:
        each = torch.cat([codes & 3, (codes >> 2) & 3, (codes >> 4) & 3, codes >> 6], 1)
        into.copy_(each & 1).mul_(_STEP).add_(_NEAR)
        into.mul_(1 - (each & 2).to(torch.int8))
    into.mul_(scales[:, None])
    if not fits:
        out[:] = into.view(-1)[: len(out)].numpy()


def _peak(values: Floats) -> float:
    """Largest absolute value; NaN where there is one."""
    return float(np.maximum(-values.min(), values.max())) if len(values) else 0.0


def _check(peak: float) -> None:
    if not peak <= LARGEST:
        raise Refused(
            "values that are not finite" if not math.isfinite(peak) else f"values up to {peak:g}, too large for a difference"
        )


def _view(array: npt.NDArray[Any]) -> memoryview:
    return memoryview(array.reshape(-1).view(np.uint8).data)
