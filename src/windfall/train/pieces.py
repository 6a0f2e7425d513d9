"""Encoded pieces of a corpus, on disk until a preparation is done: they make it parallel, and let it go on after an interruption.

A piece is the tokens of one unit and an index with a row for each document. Its name is a hash of everything that its contents
depend on (the unit, its files' sizes and times, the tokenizer, the seed). A piece with the right name is therefore the right one;
its checksums are compared before it is used again.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from windfall.errors import DataError
from windfall.store.files import read_json, write_atomic
from windfall.train.corpus import Unit, file_marks, read_unit
from windfall.train.rows import Tally
from windfall.train.tokenizer import ByteTokenizer, Tokenizer, load_tokenizer

#: Of each document: its seeded hash, its tokens with the separator before it, its bytes.
INDEX = np.dtype([("hash", "<u8"), ("tokens", "<u4"), ("bytes", "<u4")])
_FORMAT = 2


@dataclass(frozen=True)
class EncodingSettings:
    """Settings that all pieces of a preparation share, as plain values. tokenizer: a file's path, or "bytes"."""

    folder: str
    tokenizer: str
    text_column: str
    seed: int
    skip_bad_rows: bool = False

    def load_tokenizer(self) -> Tokenizer:
        """The tokenizer. Raises DataError where its file is no good."""
        return ByteTokenizer() if self.tokenizer == "bytes" else load_tokenizer(self.tokenizer)


@dataclass(frozen=True)
class Piece:
    """A finished piece: paths of its tokens and index, how many empty documents were left out, and notes on rows."""

    tokens_path: Path
    index_path: Path
    empty: int
    tally: Tally = field(default_factory=Tally)

    def tokens(self, dtype: str) -> npt.NDArray[Any]:
        """All tokens, a separator before each document, memory-mapped [n]."""
        if not self.tokens_path.stat().st_size:
            return np.empty(0, dtype)
        return np.memmap(self.tokens_path, dtype=dtype, mode="r")

    def index(self) -> npt.NDArray[Any]:
        """A row for each document, [documents] of `INDEX`."""
        return np.fromfile(self.index_path, dtype=INDEX)


def token_dtype(vocab_size: int) -> str:
    """Little-endian type of stored tokens: "<u2" while every id fits, else "<u4"."""
    return "<u2" if vocab_size <= 2**16 else "<u4"


def document_hash(document: bytes, seed: int) -> int:
    """A number below 2^64 by which a document is held out or not."""
    key = (seed % 2**64).to_bytes(8, "little")
    return int.from_bytes(hashlib.blake2b(document, digest_size=8, key=key).digest(), "little")


def piece_name(unit: Unit, settings: EncodingSettings, tokenizer: Tokenizer) -> str:
    """Name of a unit's piece: a hash of everything that it depends on. Raises DataError if a file of the unit is missing."""
    content = {
        "format": _FORMAT, "unit": asdict(unit), "files": file_marks(unit), "tokenizer": tokenizer.facts(),
        "text_column": settings.text_column, "seed": settings.seed, "skip_bad_rows": settings.skip_bad_rows,
    }  # fmt: skip
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]


def encode_unit(unit: Unit, name: str, settings: EncodingSettings, tokenizer: Tokenizer) -> None:
    """Read and encode a unit and write its piece.

    Raises DataError as reading does, or where a file changed meanwhile; OSError where the piece cannot be written.
    """
    dtype = token_dtype(tokenizer.vocab_size)
    bos = np.array([tokenizer.bos_id], dtype=dtype)
    parts: list[npt.NDArray[Any]] = []
    rows: list[tuple[int, int, int]] = []
    empty = 0
    tally = Tally(settings.skip_bad_rows)
    for document in read_unit(unit, settings.text_column, tally):
        if not document:
            empty += 1
            continue
        tokens = tokenizer.encode_document(document)
        parts += (bos, tokens.astype(dtype))
        rows.append((document_hash(document, settings.seed), len(tokens) + 1, len(document)))
    if piece_name(unit, settings, tokenizer) != name:
        raise DataError(f"{unit.paths[0]}: the text changed while it was read; prepare again when it is still")
    data = np.concatenate(parts).tobytes() if parts else b""
    index = np.array(rows, dtype=INDEX).tobytes()
    facts = {
        "empty": empty, "tally": asdict(tally), "tokens": hashlib.sha256(data).hexdigest(),
        "index": hashlib.sha256(index).hexdigest(),
    }  # fmt: skip
    # Not synced to the disk. A crash may damage a piece, which the checksum shows; then it is made again.
    folder = Path(settings.folder)
    write_atomic(folder / f"{name}.tokens", [data], durable=False)
    write_atomic(folder / f"{name}.index", [index], durable=False)
    write_atomic(folder / f"{name}.json", [json.dumps(facts).encode()], durable=False)


def find_piece(folder: Path, name: str, *, verify: bool) -> Piece | None:
    """The piece of that name; None where it is missing or, if `verify`, not what its checksums say."""
    facts = read_json(folder / f"{name}.json")
    piece = Piece(folder / f"{name}.tokens", folder / f"{name}.index", 0)
    if not isinstance(facts, dict) or not isinstance(facts.get("empty"), int):
        return None
    try:
        tally = Tally(**facts["tally"])
        if verify:
            for path, digest in ((piece.tokens_path, facts.get("tokens")), (piece.index_path, facts.get("index"))):
                with path.open("rb") as file:
                    if hashlib.file_digest(file, "sha256").hexdigest() != digest:
                        return None
    except (OSError, KeyError, TypeError):
        return None
    return Piece(piece.tokens_path, piece.index_path, facts["empty"], tally)
