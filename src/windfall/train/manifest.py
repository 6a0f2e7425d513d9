"""The manifest of a prepared corpus: what the shards hold, and one hash that names it all.

Sites compare that hash: equal hashes mean equal tokens in equal order, so a block number means the same everywhere.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from windfall.errors import DataError
from windfall.store.files import write_atomic

MANIFEST_NAME = "manifest.json"
FORMAT_VERSION = 1
TOKEN_BYTES = 2


@dataclass(frozen=True)
class ByteTokenizer:
    """One token per byte, and one that separates documents."""

    kind: str = "bytes"
    vocab_size: int = 257
    bos_id: int = 256

    def encode(self, text: str) -> list[int]:
        """UTF-8 bytes of `text` as token ids, no separator. Lone surrogates become "?"."""
        return list(text.encode("utf-8", errors="replace"))

    def decode(self, tokens: list[int]) -> str:
        """Text of `tokens`; separators vanish, invalid UTF-8 becomes U+FFFD."""
        return bytes(token for token in tokens if token < self.bos_id).decode("utf-8", errors="replace")


@dataclass(frozen=True)
class Shard:
    """A file of little-endian uint16 tokens; `split` is "train" or "val"."""

    file: str
    split: str
    tokens: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """Everything that fixes the data of a run.

    `train_bytes` and `val_bytes` count the targets of all sequences that are bytes of text, not separators.
    A shard of n tokens holds (n - 1) // sequence_length sequences.
    """

    sequence_length: int
    seed: int
    held_out_fraction: float
    train_sequences: int
    val_sequences: int
    train_bytes: int
    val_bytes: int
    documents: int
    shards: tuple[Shard, ...]
    source: str = ""
    tokenizer: ByteTokenizer = ByteTokenizer()
    version: int = FORMAT_VERSION

    @property
    def hash(self) -> str:
        """sha256 over the canonical JSON of all fields but `source`, which says only where the text came from."""
        content = {key: value for key, value in asdict(self).items() if key != "source"}
        return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()

    def of_split(self, split: str) -> tuple[Shard, ...]:
        """Shards of "train" or "val", in order."""
        return tuple(shard for shard in self.shards if shard.split == split)

    def save(self, folder: Path) -> None:
        """Write manifest.json so that it is there whole or not at all."""
        text = json.dumps({**asdict(self), "hash": self.hash}, indent=2, sort_keys=True) + "\n"
        write_atomic(folder / MANIFEST_NAME, [text.encode()])

    @staticmethod
    def load(folder: str | Path) -> Manifest:
        """Read and check folder/manifest.json. Raises DataError where it is missing, malformed or edited."""
        path = Path(folder) / MANIFEST_NAME
        try:
            document = json.loads(path.read_bytes())
        except FileNotFoundError as error:
            raise DataError(
                f"{path}: no manifest; the data is not prepared, or preparing it was interrupted: run `windfall data prepare`"
            ) from error
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror}); check its permissions") from error
        except ValueError as error:
            raise DataError(f"{path}: not JSON ({error}); prepare the data again") from error
        if not isinstance(document, Mapping) or document.get("version") != FORMAT_VERSION:
            raise DataError(f"{path}: not a manifest of version {FORMAT_VERSION}; prepare the data again")
        manifest = _from_json(path, document)
        if document.get("hash") != manifest.hash:
            raise DataError(f"{path}: the contents do not match the manifest's own hash; prepare the data again")
        return manifest

    def verify(self, folder: str | Path) -> None:
        """Read every shard and compare sizes and checksums. Raises DataError naming the first that differs."""
        for shard in self.shards:
            path = shard_path(folder, shard)
            try:
                with path.open("rb") as file:
                    found = hashlib.file_digest(file, "sha256").hexdigest()
            except OSError as error:
                raise DataError(f"{path}: cannot be read ({error.strerror}); prepare the data again") from error
            if found != shard.sha256:
                raise DataError(f"{path}: the checksum differs, the shard was changed; prepare the data again")


def _from_json(path: Path, document: Mapping[str, Any]) -> Manifest:
    fields = {key: value for key, value in document.items() if key not in ("hash", "shards", "tokenizer")}
    try:
        manifest = Manifest(
            **fields,
            shards=tuple(Shard(**shard) for shard in document["shards"]),
            tokenizer=ByteTokenizer(**document["tokenizer"]),
        )
        # Hashing and reading rely on these being what they should be.
        sound = manifest.sequence_length >= 1 and all(
            shard.tokens >= 1 and Path(shard.file).name == shard.file for shard in manifest.shards
        )
    except (TypeError, KeyError) as error:
        raise DataError(f"{path}: a field is missing, unknown or of a wrong type ({error}); prepare again") from error
    if not sound:
        raise DataError(f"{path}: a sequence length, shard size or file name is impossible; prepare the data again")
    return manifest


def shard_path(folder: str | Path, shard: Shard) -> Path:
    """Path of a shard whose size is right. Raises DataError where it is missing or truncated."""
    path = Path(folder) / shard.file
    try:
        size = path.stat().st_size
    except OSError as error:
        raise DataError(
            f"{path}: the shard is missing ({error.strerror}); prepare the data again or copy the shard here"
        ) from error
    if size != shard.tokens * TOKEN_BYTES:
        raise DataError(
            f"{path}: {size} bytes instead of {shard.tokens * TOKEN_BYTES}; the shard is truncated or changed:"
            " prepare the data again"
        )
    return path
