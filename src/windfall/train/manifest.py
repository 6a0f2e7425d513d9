"""The manifest of a prepared corpus: what the shards hold, and one hash that names it all.

Sites compare that hash: equal hashes mean equal tokens in equal order, so a block number means the same everywhere.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from windfall.errors import DataError
from windfall.store.files import read_json, write_atomic, write_json
from windfall.train.tokenizer import TOKENIZER_NAME, ByteTokenizer, Tokenizer, load_tokenizer

MANIFEST_NAME = "manifest.json"
FORMAT_VERSION = 2
#: The format before there were other tokenizers and packings. It is still read, and hashed as it was then.
_VERSION_1 = frozenset(
    {
        "sequence_length", "seed", "held_out_fraction", "train_sequences", "val_sequences", "train_bytes", "val_bytes",
        "documents", "shards", "source", "tokenizer", "version",
    }
)  # fmt: skip
_TYPES = {"uint16": 2, "uint32": 4}
_COUNTS = ("sequence_length", "train_sequences", "val_sequences", "train_bytes", "val_bytes", "documents")


@dataclass(frozen=True)
class Shard:
    """A file of little-endian tokens; `split` is "train" or "val"."""

    file: str
    split: str
    tokens: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """Everything that fixes the data of a run.

    `train_bytes` and `val_bytes` count the bytes of text that the targets of all sequences stand for. packing: see
    `windfall.train.packing`; "stream" shards of n tokens hold (n - 1) // sequence_length sequences, "best_fit" ones
    n // (sequence_length + 1). dtype: of the tokens in the shards, "uint16" or "uint32". Of the corpus's non-empty
    `documents`, `cropped_documents` lost their ends to best-fit packing, `cropped_tokens` in all; `dropped_tokens` at the
    ends of the splits did not make a sequence. Nothing is padded.
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
    tokenizer: Tokenizer = field(default_factory=ByteTokenizer)
    packing: str = "stream"
    dtype: str = "uint16"
    empty_documents: int = 0
    cropped_documents: int = 0
    cropped_tokens: int = 0
    dropped_tokens: int = 0
    version: int = FORMAT_VERSION

    @property
    def hash(self) -> str:
        """sha256 over the canonical JSON of all fields but `source`, which says only where the text came from."""
        content = {key: value for key, value in self._content().items() if key != "source"}
        return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()

    @property
    def tokens(self) -> int:
        """Tokens in all shards."""
        return sum(shard.tokens for shard in self.shards)

    @property
    def numpy_dtype(self) -> str:
        """The shards' type as numpy writes it: "<u2" or "<u4"."""
        return f"<u{_TYPES[self.dtype]}"

    def of_split(self, split: str) -> tuple[Shard, ...]:
        """Shards of "train" or "val", in order."""
        return tuple(shard for shard in self.shards if shard.split == split)

    def sequences(self, shard: Shard) -> int:
        """Sequences in a shard."""
        return sequences_in(shard.tokens, self.sequence_length, self.packing)

    def save(self, folder: Path) -> None:
        """Write manifest.json so that it is there whole or not at all."""
        text = json.dumps({**self._content(), "hash": self.hash}, indent=2, sort_keys=True) + "\n"
        write_atomic(folder / MANIFEST_NAME, [text.encode()])

    @staticmethod
    def load(folder: str | Path) -> Manifest:
        """Read and check folder/manifest.json, and the tokenizer beside it.

        Raises DataError where one is missing, malformed or edited, or the tokenizer is another than the data's.
        """
        path = Path(folder) / MANIFEST_NAME
        try:
            document = json.loads(path.read_bytes())
        except FileNotFoundError as error:
            raise DataError(
                f"{path}: no manifest; the data is not prepared, or preparing it was interrupted: run `windfall data prepare`"
            ) from error
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror}); check its permissions") from error
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}: not JSON ({error}); prepare the data again") from error
        if not isinstance(document, Mapping) or document.get("version") not in (1, FORMAT_VERSION):
            raise DataError(f"{path}: not a manifest of version 1 or {FORMAT_VERSION}; prepare the data again")
        manifest = _from_json(path, document)
        if document.get("hash") != manifest.hash:
            raise DataError(f"{path}: the contents do not match the manifest's own hash; prepare the data again")
        return manifest

    def shard_path(self, folder: str | Path, shard: Shard) -> Path:
        """Path of a shard whose size is right. Raises DataError where it is missing or truncated."""
        path = Path(folder) / shard.file
        expected = shard.tokens * _TYPES[self.dtype]
        try:
            size = path.stat().st_size
        except OSError as error:
            raise DataError(
                f"{path}: the shard is missing ({error.strerror}); prepare the data again or copy the shard here"
            ) from error
        if size != expected:
            raise DataError(f"{path}: {size} bytes instead of {expected}; the shard is truncated or changed: prepare again")
        return path

    def verify(self, folder: str | Path, remember: Path | None = None) -> None:
        """Read every shard and compare sizes and checksums. Raises DataError naming the first that differs.

        ``remember``: a JSON file that says which shards were found whole, with their i-node and times. Those that have not been
        touched since are not read again, so that a site's second start does not wait for the disk.
        """
        told = read_json(remember) if remember else None
        known = dict(told) if isinstance(told, Mapping) else {}
        for shard in self.shards:
            path = self.shard_path(folder, shard)
            try:
                with path.open("rb") as file:
                    about = os.fstat(file.fileno())
                    mark = [shard.sha256, about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns]
                    if known.get(shard.file) == mark:
                        continue
                    found = hashlib.file_digest(file, "sha256").hexdigest()
            except OSError as error:
                raise DataError(f"{path}: cannot be read ({error.strerror}); prepare the data again") from error
            if found != shard.sha256:
                raise DataError(f"{path}: the checksum differs, the shard was changed; prepare the data again")
            known[shard.file] = mark
            if remember:
                with contextlib.suppress(OSError):  # if it cannot be written, the shards are read again next time
                    write_json(remember, known)

    def _content(self) -> dict[str, Any]:
        names = [each.name for each in fields(self) if self.version > 1 or each.name in _VERSION_1]
        return {
            **{name: getattr(self, name) for name in names},
            "shards": [asdict(shard) for shard in self.shards],
            "tokenizer": self.tokenizer.facts(),
        }


def sequences_in(tokens: int, sequence_length: int, packing: str) -> int:
    """Sequences in a shard of so many tokens."""
    if packing == "stream":
        return max(0, (tokens - 1) // sequence_length)
    return tokens // (sequence_length + 1)


def _from_json(path: Path, document: Mapping[str, Any]) -> Manifest:
    content = {key: value for key, value in document.items() if key not in ("hash", "shards", "tokenizer")}
    try:
        manifest = Manifest(
            **content,
            shards=tuple(Shard(**shard) for shard in document["shards"]),
            tokenizer=_tokenizer(path.parent, document["tokenizer"]),
        )
        # Hashing and reading rely on these being what they should be.
        sound = (
            all(isinstance(getattr(manifest, name), int) for name in _COUNTS)
            and manifest.sequence_length >= 1
            and manifest.packing in ("stream", "best_fit")
            and manifest.dtype in _TYPES
            and all(
                isinstance(shard.tokens, int) and shard.tokens >= 1 and Path(shard.file).name == shard.file
                for shard in manifest.shards
            )
            and manifest.train_sequences == sum(map(manifest.sequences, manifest.of_split("train"))) > 0
            and manifest.val_sequences == sum(map(manifest.sequences, manifest.of_split("val")))
        )
    except (TypeError, KeyError, AttributeError) as error:
        raise DataError(f"{path}: a field is missing, unknown or of a wrong type ({error}); prepare again") from error
    if not sound:
        raise DataError(
            f"{path}: a sequence length, a number of sequences, packing, type, shard size or file name is impossible; "
            "prepare the data again"
        )
    if manifest.tokenizer.vocab_size > 2 ** (8 * _TYPES[manifest.dtype]):
        raise DataError(f"{path}: {manifest.tokenizer.vocab_size} tokens do not fit {manifest.dtype}; prepare the data again")
    return manifest


def _tokenizer(folder: Path, facts: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer that a manifest names, from the file beside it."""
    if facts["kind"] == "bytes":
        return ByteTokenizer(**facts)
    tokenizer = load_tokenizer(folder / TOKENIZER_NAME)
    if tokenizer.facts() != facts:
        raise DataError(
            f"{folder / TOKENIZER_NAME}: not the tokenizer of this data (checksum {tokenizer.sha256[:12]}, the manifest's is"
            f" {str(facts.get('sha256'))[:12]}); copy the one that was prepared with it, or prepare the data again"
        )
    return tokenizer
