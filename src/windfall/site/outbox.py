"""What a site keeps on its own disk: contributions nobody has acknowledged, what rounding left of them, the snapshot, the inner
optimizer state.

Everything is written whole, fsynced and checksummed. A file that is damaged all the same is offered no more and said so.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from windfall import faults
from windfall.errors import DataError, Refused
from windfall.store.blobs import Blob, FileBlob
from windfall.store.files import Envelope
from windfall.wire.messages import ContributionHeader, cut_of, name_of

#: Inner states up to this size are read into memory; a larger one stays in its file.
_IN_MEMORY = 2**20


@dataclass(frozen=True)
class InnerState:
    """A stored inner optimizer state, and after which step of which life of the site it was taken."""

    data: bytes | Blob
    tokens: float
    generation: int
    steps: int


@dataclass(frozen=True)
class SentInner:
    """An inner state (bf16) that was sent with a cut, after its life's step ``last_step``."""

    data: Blob
    generation: int
    cut: int
    last_step: int


class TrainedTokens:
    """How many tokens each life of the site has trained, lost or not: what goodput is measured against.

    One small file a life, written in place at every step: it is cheap, and a killed process has written it.
    """

    def __init__(self, folder: Path, generation: int) -> None:
        folder.mkdir(exist_ok=True)
        #: Whether the life before left its own word of where it ended, and the block if it was in a step.
        self.remembers, self.broke_at, self.broke_blocks = self._last(folder, generation)
        self._file = os.open(folder / f"{generation:06d}", os.O_WRONLY | os.O_CREAT, 0o644)
        self.write(0)

    def write(self, tokens: int) -> None:
        """Note this life's tokens; not durable (a figure, not a record)."""
        with contextlib.suppress(OSError):  # a full disk is told where work is lost by it
            os.pwrite(self._file, b"%020d\n" % tokens, 0)

    def at(self, block: int | None, blocks: int = 1) -> None:
        """Note the first block of the step that begins and its size, or that it is done: whoever dies in it has said where."""
        with contextlib.suppress(OSError):
            os.pwrite(self._file, b"%020d %019d\n" % (block, blocks) if block is not None else b" " * 40 + b"\n", 21)

    @staticmethod
    def _last(folder: Path, generation: int) -> tuple[bool, int | None, int]:
        before = max((f for f in folder.iterdir() if f.name < f"{generation:06d}"), default=None)
        said = before.read_bytes()[21:].split() if before else []
        if not said or not all(number.isdigit() for number in said):
            return before is not None, None, 1
        return True, int(said[0]), int(said[1]) if len(said) > 1 else 1

    @staticmethod
    def total(folder: Path) -> int:
        """Tokens of all lives of a site."""
        return sum(int(f.read_bytes()[:20] or b"0") for f in folder.iterdir()) if folder.is_dir() else 0


class Outbox:
    """A site's files. ``late`` are cuts that no answer has carried yet."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "outbox"
        self._folder.mkdir(parents=True, exist_ok=True)
        self._snapshot = folder / "snapshot.env"
        self._inner = folder / "inner.env"
        self._inner_next = folder / "inner-next.env"
        self._averaged = folder / "averaged.env"
        self.late: set[str] = set()
        ours = (".snapshot.env.*.tmp", ".inner*.env.*.tmp", "outbox/.*.tmp", "outbox/.*.part")
        for half in (path for pattern in ours for path in folder.glob(pattern)):
            half.unlink(missing_ok=True)  # an earlier life died while it wrote
        self._keep_snapshot()
        self._keep_inner()

    @property
    def folder(self) -> Path:
        """Where contributions lie."""
        return self._folder

    # -- contributions ---------------------------------------------------------------------------------------

    def save(self, generation: int, cut: int, contribution: Envelope, inner: InnerState, *, rest: Path | None, late: bool) -> None:
        """Keep a cut's contribution until it is acknowledged, and the inner state at it. It replaces the snapshot.

        ``rest``: a file with what rounding left out of it, which becomes the outbox's; None: nothing.
        """
        faults.reach("before-send")
        name = name_of(generation, cut)
        self._write_inner(inner)
        if rest is not None:  # before its contribution: a cut without a rest is one that left none
            os.replace(rest, self._rest(generation, cut))
        contribution.save(self._folder / name)
        self._inner_next.replace(self._inner)
        self._snapshot.unlink(missing_ok=True)
        if late:
            self.late.add(name)
        faults.reach("mid-send", self._folder / name)

    def acknowledged(self, generation: int, cut: int) -> None:
        """The coordinator has said what became of it."""
        name = name_of(generation, cut)
        self._forget_rests(name)
        self.late.discard(name)
        path = self._folder / name
        if self._sent_inner(path) is not None:
            path.replace(self._averaged)  # a mean of which it is a part may come yet, and to a next life too
        path.unlink(missing_ok=True)

    def refused(self, generation: int, cut: int) -> None:
        """The coordinator will not have it: what rounding left of it goes with it, and what there was before counts again."""
        name = name_of(generation, cut)
        (self._folder / name).unlink(missing_ok=True)
        self._rest(generation, cut).unlink(missing_ok=True)
        self.late.discard(name)

    def sent(self, generation: int, cut: int) -> dict[str, Blob]:
        """What a contribution that is not acknowledged has sent, by name. Raises DataError if it is gone or damaged."""
        path = self._folder / name_of(generation, cut)
        try:
            return Envelope.load(path, in_memory_up_to=0, check=False).all_blobs()
        except OSError:
            raise DataError(f"{path}: what was sent is not there any more") from None

    def sent_inner(self, generation: int, cut: int) -> SentInner | None:
        """The inner state that was sent with a cut to be averaged, if it is kept: until the next such cut is acknowledged."""
        for path in (self._folder / name_of(generation, cut), self._averaged):
            found = self._sent_inner(path)
            if found is not None and (found.generation, found.cut) == (generation, cut):
                return found
        return None

    @staticmethod
    def _sent_inner(path: Path) -> SentInner | None:
        try:
            if not path.is_file():
                return None
            envelope = Envelope.load(path, in_memory_up_to=0, check=False)
            if "inner" not in envelope.blobs:
                return None
            h = envelope.header
            return SentInner(envelope.blob("inner"), int(h["generation"]), int(h["cut"]), int(h["last_step"]))
        except (DataError, OSError, KeyError, ValueError, TypeError):
            return None

    # -- what rounding left ----------------------------------------------------------------------------------

    # A cut's rest is kept while the cut, or the one after it, may still be refused, and beyond that if no cut came after it.

    def rest(self, generation: int, cut: int) -> FileBlob | None:
        """What rounding left out of a cut and everything before it, as a difference in float32; None: nothing."""
        path = self._rest(generation, cut)
        return FileBlob(path, path.stat().st_size, "") if path.is_file() else None

    def rest_before(self, generation: int, cut: int) -> tuple[int, int] | None:
        """The cut before this one whose rest is kept, if there is one and nothing was cut in between."""
        name = name_of(generation, cut)
        before = max((n for n in self._cuts() if n < name), default=None)
        found = cut_of(before) if before else None
        return found if found is not None and self._rest(*found).is_file() else None

    def last_rest(self) -> tuple[int, int] | None:
        """The newest cut, if rounding left something of it."""
        newest = max(self._cuts(), default=None)
        found = cut_of(newest) if newest else None
        return found if found is not None and self._rest(*found).is_file() else None

    def _rest(self, generation: int, cut: int) -> Path:
        return self._folder / name_of(generation, cut).replace(".env", ".rest")

    def _cuts(self) -> set[str]:
        """Names of cuts of which something is kept."""
        return {file.name.replace(".rest", ".env") for file in self._folder.iterdir() if file.suffix in (".env", ".rest")}

    def _forget_rests(self, settled: str) -> None:
        """Remove rests that nothing can need once ``settled`` is not open any more."""
        cuts = sorted(self._cuts())
        open_cuts = sorted(file.name for file in self._folder.glob("*.env") if file.name != settled)
        for name, after in pairwise(cuts):
            # The one after it is newer; it matters only while that one may be refused.
            if name not in open_cuts and after not in open_cuts:
                (self._folder / name.replace(".env", ".rest")).unlink(missing_ok=True)

    def header(self, generation: int, cut: int) -> ContributionHeader | None:
        """What an unacknowledged contribution says of itself; None if it is not there or damaged."""
        try:
            return ContributionHeader.parse(Envelope.header_of(self._folder / name_of(generation, cut)))
        except (DataError, Refused, OSError):
            return None

    def all(self) -> dict[str, Blob]:
        """Everything unacknowledged, by name, as it lies on disk."""
        self.late.clear()
        return {file.name: FileBlob.of(file) for file in sorted(self._folder.glob("*.env"))}

    def take_late(self) -> dict[str, Blob]:
        """The oldest cut that no answer has carried yet, if there is one: an answer carries one at a time."""
        for name in sorted(self.late):
            self.late.discard(name)
            file = self._folder / name
            if file.is_file():
                return {name: FileBlob.of(file)}
        return {}

    # -- snapshot --------------------------------------------------------------------------------------------

    def snapshot(self, contribution: Envelope, inner: InnerState) -> None:
        """Keep the work since the last cut as if it were cut now, and the inner state at this step."""
        faults.reach("before-snapshot")
        self._write_inner(inner)
        contribution.save(self._snapshot, point="during-snapshot")
        self._inner_next.replace(self._inner)

    def _keep_snapshot(self) -> None:
        """A snapshot that an earlier life left behind becomes a contribution to offer."""
        if not self._snapshot.is_file():
            return
        try:
            header = Envelope.load(self._snapshot, in_memory_up_to=0).header
            name = name_of(int(header["generation"]), int(header["cut"]))
        except (DataError, KeyError, ValueError, TypeError):
            self._snapshot.unlink(missing_ok=True)
            return
        if (self._folder / name).exists():
            self._snapshot.unlink()  # the cut itself was made: it has all of this and more
        else:
            self._snapshot.rename(self._folder / name)

    # -- inner state -----------------------------------------------------------------------------------------

    # The inner state goes with a contribution: it is written first, under a name of its own, and counts once the
    # contribution is there. So a site that dies in between does not go on with a state from work that is lost.

    def _write_inner(self, state: InnerState) -> None:
        label = {"tokens": state.tokens, "generation": state.generation, "steps": state.steps}
        Envelope.of(label, {"inner": state.data}).save(self._inner_next)

    def _keep_inner(self) -> None:
        """What an earlier life left between the two steps: it counts if its contribution is there."""
        if not self._inner_next.is_file():
            return
        state = _read_inner(self._inner_next)
        for file in sorted(self._folder.glob("*.env"), reverse=True):
            try:
                header = Envelope.header_of(file)
            except (DataError, OSError):
                continue
            if state and (header.get("generation"), header.get("last_step")) == (state.generation, state.steps):
                self._inner_next.replace(self._inner)
                return
        self._inner_next.unlink(missing_ok=True)

    def inner(self) -> InnerState | None:
        """The stored inner state, if there is a whole one."""
        return _read_inner(self._inner)

    def inner_tokens(self) -> float:
        """Progress at which the stored inner state was taken; -1 without one."""
        try:
            return float(Envelope.header_of(self._inner)["tokens"])
        except (DataError, OSError, KeyError, ValueError, TypeError):
            return -1.0


def _read_inner(path: Path) -> InnerState | None:
    try:
        envelope = Envelope.load(path, in_memory_up_to=_IN_MEMORY)
        h = envelope.header
        blob = envelope.blob("inner")
        data = blob if isinstance(blob, FileBlob) else blob.read()
        return InnerState(data, float(h["tokens"]), int(h["generation"]), int(h["steps"]))
    except (DataError, OSError, KeyError, ValueError, TypeError):
        return None
