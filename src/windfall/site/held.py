"""The version that a site's parameters are built on, whole and exact, in a file of the site's own.

A site that holds one is sent only what made the next one of it. What it has trained since is the difference between its
parameters and this file, so nothing else has to be remembered. The file is mapped: it takes no memory that the system cannot
take back. It need not outlive a crash: whoever has none, or a damaged one, is sent a whole model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from windfall.errors import DataError
from windfall.store.blobs import Blob, FileBlob
from windfall.store.files import read_json, sha256, write_json
from windfall.store.streams import DurableFile
from windfall.store.tensors import TensorFile, Tensors, TensorWriter
from windfall.wire.codec import DifferenceReader

_NOTE = "held.json"


@dataclass(frozen=True)
class Prepared:
    """A version that is ready to take the place of the one held."""

    number: int
    sha256: str
    path: Path
    tensors: Tensors


class HeldVersion:
    """One version at a time. ``prepare`` may be called by another thread; ``adopt`` is what makes a difference."""

    def __init__(self, folder: Path) -> None:
        """``folder`` is the site's; what an earlier life held there counts if it is whole."""
        self._folder = folder / "version"
        self._folder.mkdir(parents=True, exist_ok=True)
        self.number: int | None = None
        self.sha256 = ""
        #: By name, read-only.
        self.tensors: Tensors = {}
        self._path: Path | None = None
        self._find()
        for file in self._folder.iterdir():
            if file != self._path and file.name != _NOTE:
                file.unlink(missing_ok=True)  # an earlier life died while it wrote

    def prepare(
        self, number: int, digest: str, *, whole: Blob | None = None, differences: Iterable[Callable[[], DifferenceReader]] = ()
    ) -> Prepared:
        """Write version ``number``: ``whole``, or the one held and ``differences`` in their order.

        Raises:
            DataError: something of it is damaged, or what comes out is not the version whose SHA-256 is ``digest``.
            Refused: a difference of another model.
        """
        path = self._folder / f"v{number:06d}.safetensors"
        if whole is not None:
            if whole.sha256 != digest:
                raise DataError(f"version {number} came with another checksum than its own")
            whole.keep(path)
        else:
            made = self._add(path, number, [open_reader() for open_reader in differences])
            if made != digest:
                path.unlink(missing_ok=True)
                raise DataError(f"version {self.number} and what was sent do not make version {number}")
        with TensorFile(path) as file:
            return Prepared(number, digest, path, file.mapped())

    def adopt(self, prepared: Prepared) -> None:
        """From now on that one is held."""
        before = self._path
        self.number, self.sha256, self.tensors, self._path = prepared.number, prepared.sha256, prepared.tensors, prepared.path
        write_json(self._folder / _NOTE, {"number": prepared.number, "sha256": prepared.sha256})
        if before is not None and before != prepared.path:
            before.unlink(missing_ok=True)

    def forget(self) -> None:
        """Nothing is held any more, as far as anybody is told; parameters are still built on it."""
        self.number, self.sha256 = None, ""
        (self._folder / _NOTE).unlink(missing_ok=True)

    def read(self, name: str) -> np.ndarray:
        """A tensor of the version held."""
        return self.tensors[name]

    def _add(self, path: Path, number: int, differences: Sequence[DifferenceReader]) -> str:
        file = DurableFile(path, durable=False)
        try:
            writer = TensorWriter(file, {n: t.shape for n, t in self.tensors.items()}, {"version": str(number)})
            for name in writer.names:
                value = self.tensors[name]
                for difference in differences:
                    value = value + difference.get(name)
                writer.put(name, [value])
            made = file.finish()
            file.publish()
        finally:
            file.discard()
            for difference in differences:
                difference.close()
        return made.sha256

    def _find(self) -> None:
        said = read_json(self._folder / _NOTE)
        number, digest = (said.get("number"), said.get("sha256")) if isinstance(said, dict) else (None, None)
        if not isinstance(number, int) or not isinstance(digest, str):
            return
        path = self._folder / f"v{number:06d}.safetensors"
        try:
            if sha256(path) != digest:
                return
            with TensorFile(path) as file:
                self.number, self.sha256, self.tensors, self._path = number, digest, file.mapped(), path
        except (OSError, DataError):
            return


def reader_of(blob: Blob, like: Tensors) -> DifferenceReader:
    """A difference that lies in a blob. Raises DataError, or Refused if it is of another model than ``like``."""
    shapes = {name: value.shape for name, value in like.items()}
    if isinstance(blob, FileBlob):
        return DifferenceReader(blob.path, shapes, offset=blob.offset, size=blob.size)
    return DifferenceReader(blob.read(), shapes)
