"""Making a version from contributions, file to file, a tensor at a time: work for a thread beside the loop.

What becomes of version n and its contributions (float32 throughout)::

    mean      of the movements, weighted by tokens; where an outer optimizer is used, its step
    D(n)      = what the codec makes of mean + r(n)
    V(n+1)    = V(n) + D(n)
    r(n+1)    = mean + r(n) - D(n)

So every site that holds V(n) and is given D(n) holds V(n+1), bit for bit, and what rounding lost is in the next D. One
contribution alone is added as it was sent: D(n) is its own difference, and r stays as it is. In fp32 the result is that of
``merge.combine``, bit for bit. Where movements are clipped, each is multiplied by its scale first, and one alone whose scale is
not 1 is merged as several are.

Every file is read once (contributions twice where they are clipped: to be measured, and merged), front to back or tensor by tensor,
and checked as it is read. Memory: three arrays of the largest tensor's size, and one more where cuts of a life follow each other.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from windfall import faults
from windfall.errors import DataError, Refused, WindfallError
from windfall.federation.clipping import Clip, Weighed, scaled, squares, weigh
from windfall.federation.merge import Outer, chains
from windfall.store.files import telling_of_the_disk
from windfall.store.records import Received
from windfall.store.streams import DurableFile, Made
from windfall.store.tensors import TensorFile, TensorWriter
from windfall.wire.codec import DifferenceReader, DifferenceWriter
from windfall.wire.rounding import Floats


@dataclass(frozen=True)
class Stored:
    """A weights file that a version names, and what it must be."""

    path: Path
    sha256: str


@dataclass(frozen=True)
class Part:
    """One contribution's difference."""

    #: How the caller knows it.
    id: int
    site: str
    tokens: int
    #: A difference file, or the file in which it lies from ``offset``, ``size`` bytes long.
    source: bytes | Path
    offset: int = 0
    size: int | None = None
    #: Optimizer steps that it is the sum of.
    steps: int = 1


@dataclass(frozen=True)
class MergeJob:
    """What is to be merged, and how."""

    #: Of the version that is made.
    number: int
    weights: Stored
    #: r(n), if the codec has left one.
    residual: Stored | None
    #: Outer momentum, if the version has one and its sites are the same.
    momentum: Stored | None
    #: Parts of a movement add up; movements are averaged.
    movements: Sequence[Sequence[Part]]
    #: How D(n) is written.
    codec: str
    outer: Outer
    #: Where files are written.
    folder: Path
    #: What is done about movements that are too large.
    clip: Clip | None = None
    #: By id: what parts are multiplied by, where that has been decided before.
    scales: Mapping[int, float] | None = None

    @property
    def parts(self) -> list[Part]:
        """All parts."""
        return [part for movement in self.movements for part in movement]


@dataclass(frozen=True)
class Merged:
    """What has been made."""

    #: False: the weights would not be. No file has then been made.
    finite: bool
    #: One contribution was added as it was sent: its own difference makes the version of the one before, and r(n) still holds.
    alone: bool
    weights: Made | None = None
    difference: Made | None = None
    #: None, unless ``alone``: rounding left nothing.
    residual: Made | None = None
    momentum: Made | None = None
    #: By id: how much each part counts, where that was asked.
    weighed: Mapping[int, Weighed] = field(default_factory=dict)


class Damaged(WindfallError):
    """A file is not what it must be: do without it, and merge again. No file has been made."""

    def __init__(self, what: Part | Stored, reason: str) -> None:
        super().__init__(reason)
        self.what = what


class _NotFinite(Exception):
    pass


def movements(contributions: Sequence[Received], part: Callable[[Received], Part]) -> list[list[Part]]:
    """Parts of contributions by the movements that they belong to (``merge.chains``)."""
    return [[part(c) for c in chain] for chain in chains(contributions)]


def weights_name(number: int) -> str:
    """File name of version ``number``'s weights."""
    return f"v{number:06d}.safetensors"


def difference_name(number: int) -> str:
    """File name of what makes version ``number`` of the one before it."""
    return f"d{number:06d}.diff"


def residual_name(number: int) -> str:
    """File name of what version ``number``'s difference has left out."""
    return f"residual-v{number:06d}.safetensors"


def momentum_name(number: int) -> str:
    """File name of outer momentum."""
    return f"outer-v{number:06d}.safetensors"


def merge(work: MergeJob, cancelled: Callable[[], bool] = lambda: False) -> Merged | None:
    """Do it. None if it was cancelled, which is asked between tensors; nothing has then been made.

    Raises:
        Damaged: an input, which is named.
        StoreError: a file cannot be written.
    """
    with telling_of_the_disk(work.folder), ExitStack() as stack:
        files = _Files(work, stack)
        try:
            if not _tensor_by_tensor(work, files, cancelled):
                return None
        except _NotFinite:
            return Merged(False, files.alone)
        return files.publish()


def _tensor_by_tensor(work: MergeJob, files: _Files, cancelled: Callable[[], bool]) -> bool:
    """False if cancelled."""
    shapes = files.weights.file.shapes
    largest = max((math.prod(shape) for shape in shapes.values()), default=0)
    rooms = [np.empty(largest, np.float32) for _ in range(2 if all(len(m) == 1 for m in work.movements) else 3)]
    for number, (name, shape) in enumerate(shapes.items()):
        if cancelled():
            return False
        if number == len(shapes) // 2:
            faults.reach("during-merge")
        size = math.prod(shape)
        moved, spare, *more = (room[:size].reshape(shape) for room in rooms)
        with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is found below
            if files.alone:
                files.read(work.parts[0], name, moved)
            else:
                _mean(work, files, name, moved, spare, more[0] if more else spare)
                if files.momentum_writer is not None:
                    files.momentum_writer.put(name, _outer_step(work.outer, files.momentum, name, moved))
                moved = _coded(files, name, moved, spare)
            files.weights_writer.put(name, _sums(files.weights, name, moved))
    files.check()
    return True


def _mean(work: MergeJob, files: _Files, name: str, mean: Floats, value: Floats, other: Floats) -> None:
    """Of the movements, as ``merge.weighted_mean`` does it, into ``mean``; the other arrays are overwritten."""
    mean.fill(0.0)
    total = 0
    for movement in work.movements:
        files.read(movement[0], name, value)
        for part in movement[1:]:
            value += files.read(part, name, other)
        tokens = sum(part.tokens for part in movement)
        total += tokens
        value -= mean
        value *= np.float32(tokens / total if total else 0.0)
        mean += value


def _outer_step(outer: Outer, momentum: _Read | None, name: str, moved: Floats) -> Iterator[Floats]:
    """Turn the mean into Nesterov's step, as ``merge.apply`` does; gives the new momentum in pieces."""
    beta, lr = np.float32(outer.momentum), np.float32(outer.lr)
    flat = moved.reshape(-1)
    for start, old in _pieces_of(flat) if momentum is None else momentum.pieces(name):
        here = flat[start : start + old.size]
        gradient = -here
        buffer = gradient if momentum is None else beta * old + gradient
        here[:] = -(lr * (gradient + beta * buffer))
        yield buffer


def _pieces_of(flat: Floats) -> Iterator[tuple[int, Floats]]:
    for start in range(0, flat.size, 2**20):
        yield start, flat[start : start + 2**20]


def _coded(files: _Files, name: str, moved: Floats, sent: Floats) -> Floats:
    """Write the difference, and what it leaves out; what it brings."""
    flat = moved.reshape(-1)
    if files.residual is not None:
        for start, rest in files.residual.pieces(name):
            flat[start : start + rest.size] += rest
    assert files.difference_writer is not None
    try:
        files.difference_writer.put(name, moved, sent)
    except Refused:  # contributions were finite each by itself
        raise _NotFinite from None
    if files.residual_writer is not None:
        moved -= sent
        files.residual_writer.put(name, [moved])
    return sent


def _sums(weights: _Read, name: str, moved: Floats) -> Iterator[Floats]:
    flat = moved.reshape(-1)
    for start, old in weights.pieces(name):
        old += flat[start : start + old.size]
        if not np.isfinite(old).all():
            raise _NotFinite
        yield old


class _Read:
    """A weights file, read front to back and hashed on the way."""

    def __init__(self, stored: Stored, stack: ExitStack) -> None:
        self.stored = stored
        try:
            self.file = stack.enter_context(TensorFile(stored.path))
        except DataError as e:
            raise Damaged(stored, str(e)) from None
        self._digest = hashlib.sha256(self.file.head)

    def pieces(self, name: str) -> Iterator[tuple[int, Floats]]:
        try:
            for start, piece in self.file.pieces(name):
                self._digest.update(piece.view(np.uint8).data)
                yield start, piece
        except DataError as e:
            raise Damaged(self.stored, str(e)) from None

    def check(self) -> None:
        if self._digest.hexdigest() != self.stored.sha256:
            raise Damaged(self.stored, f"{self.stored.path}: the file is damaged (its checksum is not the ledger's)")


class _Files:
    """All that is read and written. What is written is removed at the end, unless it was published."""

    def __init__(self, work: MergeJob, stack: ExitStack) -> None:
        self._stack = stack
        self._work = work
        self.weights = _Read(work.weights, stack)
        shapes = self.weights.file.shapes
        if list(shapes) != sorted(shapes):
            raise Damaged(work.weights, f"{work.weights.path}: its tensors are not in the order of their names")
        self._readers: dict[int, DifferenceReader] = {}
        for part in work.parts:
            try:
                reader = DifferenceReader(part.source, shapes, offset=part.offset, size=part.size)
            except (DataError, Refused) as e:
                raise Damaged(part, str(e)) from None
            self._readers[part.id] = stack.enter_context(reader)
        self.weighed = weigh({p.id: self._norm(p) for p in work.parts}, work.clip) if work.clip is not None else {}
        self._scales = work.scales or {number: w.scale for number, w in self.weighed.items()}
        #: There is one contribution, which is added as it was sent.
        self.alone = alone = len(work.parts) == 1 and self._scales.get(work.parts[0].id, 1.0) == 1.0
        nesterov = work.outer.kind != "average" and len({part.site for part in work.parts}) >= 2
        self.residual = self._beside(work.residual) if not alone else None
        self.momentum = self._beside(work.momentum) if nesterov else None
        self._made: dict[str, DurableFile] = {}
        number = str(work.number)
        self.weights_writer = TensorWriter(self._open("weights", weights_name(work.number)), shapes, {"version": number})
        self.difference_writer: DifferenceWriter | None = None
        self.residual_writer: TensorWriter | None = None
        self.momentum_writer: TensorWriter | None = None
        if not alone:
            self.difference_writer = DifferenceWriter(self._open("difference", difference_name(work.number)), shapes, work.codec)
            if work.codec != "fp32":
                self.residual_writer = TensorWriter(self._open("residual", residual_name(work.number)), shapes)
        if nesterov:
            self.momentum_writer = TensorWriter(self._open("momentum", momentum_name(work.number)), shapes)

    def read(self, part: Part, name: str, out: Floats) -> Floats:
        """A part's tensor as it counts, into ``out``."""
        try:
            return scaled(self._readers[part.id].get(name, out), self._scales.get(part.id, 1.0))
        except (DataError, Refused) as e:
            raise Damaged(part, str(e)) from None

    def _norm(self, part: Part) -> float:
        """A part's norm for each of its steps."""
        try:
            return math.sqrt(squares(values for _, values in self._readers[part.id])) / max(1, part.steps)
        except (DataError, Refused) as e:
            raise Damaged(part, str(e)) from None

    def check(self) -> None:
        """Raise Damaged where a weights file is not what it must be."""
        for file in (self.weights, self.residual, self.momentum):
            if file is not None:
                file.check()

    def publish(self) -> Merged:
        """Bring everything to the disk, then give the files their names."""
        made = {what: file.finish() for what, file in self._made.items()}
        for what in reversed(self._made):  # the weights last
            self._made[what].publish()
        faults.reach("after-weights", self._work.folder / made["weights"].name)
        return Merged(
            True, self.alone, made["weights"], made.get("difference"), made.get("residual"), made.get("momentum"), self.weighed
        )  # fmt: skip

    def _beside(self, stored: Stored | None) -> _Read | None:
        if stored is None:
            return None
        found = _Read(stored, self._stack)
        if found.file.shapes != self.weights.file.shapes:
            raise Damaged(stored, f"{stored.path}: other tensors than the model")
        return found

    def _open(self, what: str, name: str) -> DurableFile:
        file = DurableFile(self._work.folder / name)
        self._stack.callback(file.discard)
        self._made[what] = file
        return file
