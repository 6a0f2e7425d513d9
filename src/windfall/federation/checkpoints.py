"""Weights files: written whole, fsynced and renamed before the ledger names them; checked when read; kept in number."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

from windfall import faults
from windfall.errors import DataError, StoreError
from windfall.federation.merger import Stored, difference_name
from windfall.store.blobs import Blob, FileBlob
from windfall.store.files import Envelope, sha256
from windfall.store.ledger import Ledger
from windfall.store.records import Received, Version
from windfall.store.rundir import RunDir
from windfall.store.streams import Made
from windfall.store.tensors import Tensors, load_file, save_file, shapes_in

T = TypeVar("T")
#: A site so many versions behind is sent what made each of them; one that is further behind, a whole model.
_CHAIN = 3
#: Files up to this size are copied into the spooled contribution that they are a part of.
_INLINE = 2**20
#: In a spooled contribution's header: what lies beside it, each with its file, size, SHA-256 and place there.
_BESIDE = "beside"


class Checkpoints:
    """The files beside a ledger."""

    def __init__(self, run: RunDir, ledger: Ledger, *, keep: int, keep_every: int) -> None:
        self._run = run
        self._ledger = ledger
        self._keep = keep
        self._keep_every = keep_every
        self._shapes: dict[str, tuple[int, ...]] = {}
        #: By name: what differences' files were when they were written or read, and their SHA-256.
        self._digests: dict[str, tuple[tuple[int, int], str]] = {}

    @property
    def folder(self) -> Path:
        """Where weights are."""
        return self._run.checkpoints

    def weights(self, version: Version) -> Tensors:
        """The float32 weights of a version, in memory.

        Raises:
            DataError: the file is missing or damaged.
        """
        return load_file(self.path(version), version.sha256)

    def verify(self, version: Version) -> None:
        """Raise DataError if a version's file is missing or damaged."""
        path = self.path(version)
        try:
            whole = sha256(path) == version.sha256
        except FileNotFoundError:
            raise DataError(f"{path}: the weights file is missing") from None
        except OSError as e:
            raise DataError(f"{path}: the weights file cannot be read: {e.strerror}") from None
        if not whole:
            raise DataError(f"{path}: the weights file is damaged (its checksum is not the ledger's)")

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every tensor of the model, by its name. Raises DataError if the newest version cannot be read."""
        if not self._shapes:
            self._shapes = shapes_in(self.path(self._ledger.head()))
        return self._shapes

    def whole(self, version: Version) -> FileBlob:
        """A version's file as it is sent. Raises DataError if it is missing."""
        return _blob(self.path(version), version.sha256)

    def difference(self, version: Version) -> Blob | None:
        """What makes a version of the one before, if it is still there."""
        try:
            if version.alone is None:
                return self._hashed(self._run.checkpoints / difference_name(version.version))
            (made_of,) = self._ledger.contributions(version.version)
            return self.spooled(made_of).blob("delta")
        except (OSError, DataError, KeyError, ValueError):
            return None

    def made_difference(self, made: Made) -> None:
        """A difference that has just been written, and hashed on the way: whoever sends it need not read it for that."""
        stat = (self._run.checkpoints / made.name).stat()
        self._digests[made.name] = (stat.st_mtime_ns, stat.st_size), made.sha256

    def _hashed(self, path: Path) -> FileBlob:
        """A file that does not change under its name, which is read once at most."""
        stat = path.stat()
        known = self._digests.get(path.name)
        if known is None or known[0] != (stat.st_mtime_ns, stat.st_size):
            known = self._digests[path.name] = ((stat.st_mtime_ns, stat.st_size), sha256(path))
        return FileBlob(path, stat.st_size, known[1])

    def residual(self, version: Version) -> Stored | None:
        """What rounding has left out up to a version, if it has left anything and the file is there."""
        if version.residual is None:
            return None
        name, digest = version.residual
        path = self._run.checkpoints / name
        return Stored(path, digest) if path.is_file() else None

    def momentum(self, version: Version) -> Stored | None:
        """Outer momentum stored with a version; None if there is none (it then starts anew)."""
        if not version.outer_file or not version.outer_sha256:
            return None
        path = self._run.checkpoints / version.outer_file
        return Stored(path, version.outer_sha256) if path.is_file() else None

    def path(self, version: Version) -> Path:
        """Where a version's weights are."""
        return self._run.checkpoints / version.file

    def write(self, number: int, weights: Tensors) -> tuple[str, str]:
        """Write the weights of what will be version ``number``; file name and SHA-256."""
        name = f"v{number:06d}.safetensors"
        digest = _guard(lambda: save_file(self._run.checkpoints / name, weights, {"version": str(number)}))
        faults.reach("after-weights", self._run.checkpoints / name)
        return name, digest

    def committed(self, version: Version) -> None:
        """Let go of old files, once the new ones are there. Raises DataError if they are not."""
        if not self.path(version).is_file():
            raise DataError(f"{self.path(version)}: the weights file is missing")
        held = self._ledger.retained()
        for old in held[: -self._keep]:
            if old.version % self._keep_every:
                self._ledger.forget_weights(old.version)
                (self._run.checkpoints / old.file).unlink(missing_ok=True)
        for name in self._beside() - self._needed():
            (self._run.checkpoints / name).unlink(missing_ok=True)

    def _beside(self) -> set[str]:
        """Names of files that lie beside versions' weights: differences, and outer state."""
        found = {p.name for p in self._run.checkpoints.glob("*.diff")}
        kinds = ("outer", "residual", "mean")
        return found | {p.name for kind in kinds for p in self._run.checkpoints.glob(f"{kind}-v*.safetensors")}

    def _needed(self) -> set[str]:
        """Those that are still of use: differences for sites that are a version or two behind, and the outer state of the newest
        version, and of the one before, of which the newest is made again should its file be damaged."""
        last = self._ledger.last_versions(_CHAIN)
        kept = {difference_name(v.version) for v in last}
        for v in last[-2:]:
            kept |= {v.outer_file or "", v.residual[0] if v.residual else "", v.inner_mean.file if v.inner_mean else ""}
        return kept

    def spool(self, envelope: Envelope, site: str, generation: int, cut: int) -> str:
        """Keep a contribution on disk until it is committed. A large file gets a second name beside it, and is not copied."""
        name = f"{site}-{generation}-{cut}.env"
        inline: dict[str, bytes | Blob] = {}
        beside: dict[str, list[str | int]] = {}
        for what, blob in envelope.all_blobs().items():
            if isinstance(blob, FileBlob) and blob.size > _INLINE:
                path = self._run.spool / f"{name.removesuffix('.env')}.{len(beside)}.blob"
                kept = _guard(partial(blob.keep_whole, path))
                beside[what] = [path.name, kept.size, kept.sha256, kept.offset]
            else:
                inline[what] = blob
        header = {**envelope.header, _BESIDE: beside} if beside else envelope.header
        _guard(lambda: Envelope.of(header, inline).save(self._run.spool / name))
        faults.reach("after-send", self._run.spool / name)
        return name

    def spooled(self, contribution: Received) -> Envelope:
        """A contribution's envelope, whose blobs are not read. Raises DataError if it is missing or none, or a file beside it."""
        try:
            kept = Envelope.load(self._run.spool / contribution.file, in_memory_up_to=-1, check=False)
            beside = kept.header.get(_BESIDE, {})
            blobs: dict[str, bytes | Blob] = dict(kept.all_blobs())
            for what, (name, size, digest, offset) in beside.items():
                path = self._run.spool / name
                if path.stat().st_size < offset + size:
                    raise DataError(f"{name}: cut short")
                blobs[what] = FileBlob(path, size, digest, offset)
        except OSError as e:
            raise DataError(f"{contribution.file}: cannot be read: {e.strerror}") from None
        return Envelope.of({k: v for k, v in kept.header.items() if k != _BESIDE}, blobs)

    def unspool(self, names: Sequence[str]) -> None:
        """Remove contributions that are committed or refused."""
        for name in names:
            (self._run.spool / name).unlink(missing_ok=True)
        # After the envelope: without it nobody looks for what lies beside it.
        for path in self._run.spool.glob("*.blob"):
            if _envelope_of(path) in names:
                path.unlink(missing_ok=True)

    def write_inner(self, site: str, number: int, blob: Blob) -> tuple[str, str]:
        """Keep a site's inner optimizer state with version ``number``; file name and SHA-256."""
        # A name of its own: until the ledger names this file it must not take the place of one that it does name.
        name = f"inner-{site}-v{number:06d}-{secrets.token_hex(3)}.safetensors"
        path = self._run.checkpoints / name
        kept = _guard(lambda: blob.keep(path))
        stat = path.stat()
        self._digests[name] = ((stat.st_mtime_ns, stat.st_size), kept.sha256)  # whoever brought it has read it
        return name, kept.sha256

    def inner(self, name: str, digest: str) -> Blob | None:
        """A stored inner state, or a mean of some; None if it is gone or damaged (the site then does without, and says so)."""
        path: Path = self._run.checkpoints / name
        try:
            found = self._hashed(path)
        except OSError:
            return None
        return found if found.sha256 == digest else None

    def leftovers(self) -> list[Path]:
        """What a crash left between two steps: files that the ledger does not name."""
        head = self._ledger.head()
        held = self._ledger.retained()
        kept = {v.file for v in held} | self._needed()
        kept |= self._inner_files()
        spooled = {c.file for c in [*self._ledger.pending(), *self._ledger.contributions(head.version)]}
        gone = [p for kind in ("*.safetensors", "*.diff") for p in self._run.checkpoints.glob(kind) if p.name not in kept]
        gone += [p for p in self._run.spool.glob("*.env") if p.name not in spooled]
        gone += [p for p in self._run.spool.glob("*.blob") if _envelope_of(p) not in spooled]
        gone += [p for folder in (self._run.checkpoints, self._run.spool) for p in folder.glob(".*.tmp")]
        return gone

    def tidy(self) -> list[str]:
        """Remove what is left over. The names of what is gone."""
        gone = self.leftovers()
        for path in gone:
            path.unlink(missing_ok=True)
        return sorted(p.name for p in gone)

    def sweep_inner(self) -> None:
        """Remove inner states that the ledger no longer names."""
        kept = self._inner_files()
        for path in self._run.checkpoints.glob("inner-*.safetensors"):
            if path.name not in kept:
                path.unlink(missing_ok=True)

    def _inner_files(self) -> set[str]:
        return {state.file for state in self._ledger.inner_states().values()}


def _envelope_of(beside: Path) -> str:
    """Name of the spooled contribution beside which a file lies."""
    return beside.name.rsplit(".", 2)[0] + ".env"


def _blob(path: Path, digest: str) -> FileBlob:
    try:
        return FileBlob(path, path.stat().st_size, digest)
    except OSError as e:
        raise DataError(f"{path}: the weights file cannot be read: {e.strerror}") from None


def _guard(write: Callable[[], T]) -> T:
    try:
        return write()
    except OSError as e:
        raise StoreError(
            f"checkpoints cannot be written ({e.strerror}); the last version is intact. Make room, then "
            "`windfall run` again with the same run directory"
        ) from None
