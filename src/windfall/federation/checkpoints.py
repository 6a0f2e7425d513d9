"""Weights files: written whole, fsynced and renamed before the ledger names them; checked when read; kept in number."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from windfall import faults
from windfall.errors import DataError, StoreError
from windfall.store.files import Envelope, sha256, write_atomic
from windfall.store.ledger import Ledger
from windfall.store.records import Received, Version
from windfall.store.rundir import RunDir
from windfall.store.tensors import Tensors, load_file, save_file

T = TypeVar("T")


class Checkpoints:
    """The files beside a ledger."""

    def __init__(self, run: RunDir, ledger: Ledger, *, keep: int, keep_every: int) -> None:
        self._run = run
        self._ledger = ledger
        self._keep = keep
        self._keep_every = keep_every
        self._cache: tuple[int, Tensors] | None = None

    def weights(self, version: Version) -> Tensors:
        """The float32 weights of a version.

        Raises:
            DataError: the file is missing or damaged.
        """
        if self._cache is None or self._cache[0] != version.version:
            tensors = load_file(self._run.checkpoints / version.file, version.sha256)
            self._cache = (version.version, {k: v.astype(np.float32, copy=False) for k, v in tensors.items()})
        return self._cache[1]

    def path(self, version: Version) -> Path:
        """Where a version's weights are."""
        return self._run.checkpoints / version.file

    def write(self, number: int, weights: Tensors) -> tuple[str, str]:
        """Write the weights of what will be version ``number``; file name and SHA-256."""
        name = f"v{number:06d}.safetensors"
        digest = _guard(lambda: save_file(self._run.checkpoints / name, weights, {"version": str(number)}))
        faults.reach("after-weights", self._run.checkpoints / name)
        return name, digest

    def committed(self, version: Version, weights: Tensors) -> None:
        """Keep the newest weights at hand, and let go of old files, once the new one is known to be whole."""
        self._cache = (version.version, weights)
        path = self.path(version)
        if not path.is_file() or sha256(path) != version.sha256:
            self.write(version.version, weights)
        held = self._ledger.retained()
        for old in held[: -self._keep]:
            if old.version % self._keep_every:
                self._ledger.forget_weights(old.version)
                (self._run.checkpoints / old.file).unlink(missing_ok=True)

    def write_outer(self, number: int, momentum: Tensors | None) -> str | None:
        """Write outer momentum for version ``number``, if there is any."""
        if momentum is None:
            return None
        name = f"outer-v{number:06d}.safetensors"
        _guard(lambda: save_file(self._run.checkpoints / name, momentum))
        return name

    def outer(self, version: Version) -> Tensors | None:
        """Outer momentum stored with a version; None if there is none, or it is damaged (it then starts anew)."""
        try:
            return load_file(self._run.checkpoints / version.outer_file) if version.outer_file else None
        except DataError:
            return None

    def spool(self, envelope: Envelope, site: str, generation: int, cut: int) -> str:
        """Keep a contribution on disk until it is committed."""
        name = f"{site}-{generation}-{cut}.env"
        _guard(lambda: write_atomic(self._run.spool / name, envelope.parts()))
        faults.reach("after-send", self._run.spool / name)
        return name

    def spooled(self, contribution: Received) -> Envelope:
        """A contribution's envelope. Raises DataError if it is missing or damaged."""
        try:
            return Envelope.load(self._run.spool / contribution.file)
        except OSError as e:
            raise DataError(f"{contribution.file}: cannot be read: {e.strerror}") from None

    def unspool(self, names: Sequence[str]) -> None:
        """Remove contributions that are committed or refused."""
        for name in names:
            (self._run.spool / name).unlink(missing_ok=True)

    def write_inner(self, site: str, number: int, blob: bytes) -> tuple[str, str]:
        """Keep a drained site's inner optimizer state with version ``number``."""
        # A name of its own: until the ledger names this file it must not take the place of one that it does name.
        name = f"inner-{site}-v{number:06d}-{secrets.token_hex(3)}.safetensors"
        path = self._run.checkpoints / name
        _guard(lambda: write_atomic(path, [blob]))
        return name, sha256(path)

    def inner(self, name: str, digest: str) -> bytes | None:
        """A stored inner state, or None if it is gone or damaged (the site then resets, and says so)."""
        path: Path = self._run.checkpoints / name
        if not path.is_file() or sha256(path) != digest:
            return None
        return path.read_bytes()

    def leftovers(self) -> list[Path]:
        """What a crash left between two steps: files that the ledger does not name."""
        head = self._ledger.head()
        held = self._ledger.retained()
        # The outer state before the newest is what the newest is made again from, should its file be damaged.
        kept = {v.file for v in held} | {v.outer_file for v in held[-2:]} | {head.outer_file}
        kept |= {file for _, file, _ in self._ledger.inner_states().values()}
        spooled = {c.file for c in [*self._ledger.pending(), *self._ledger.contributions(head.version)]}
        gone = [p for p in self._run.checkpoints.glob("*.safetensors") if p.name not in kept]
        gone += [p for p in self._run.spool.glob("*.env") if p.name not in spooled]
        gone += [p for folder in (self._run.checkpoints, self._run.spool) for p in folder.glob(".*.tmp")]
        return gone

    def tidy(self) -> list[str]:
        """Remove what is left over. The names of what is gone."""
        gone = self.leftovers()
        for path in gone:
            path.unlink(missing_ok=True)
        return sorted(p.name for p in gone)

    def sweep_inner(self, names: set[str]) -> None:
        """Remove inner states that the ledger no longer names."""
        for path in self._run.checkpoints.glob("inner-*.safetensors"):
            if path.name not in names:
                path.unlink(missing_ok=True)


def _guard(write: Callable[[], T]) -> T:
    try:
        return write()
    except OSError as e:
        raise StoreError(
            f"checkpoints cannot be written ({e.strerror}); the last version is intact. Make room, then "
            "`windfall run` again with the same run directory"
        ) from None
