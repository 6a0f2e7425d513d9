"""Turn a corpus into token shards and a manifest, once, before any training.

Documents are packed one behind the other, each after a separator. A shard of k sequences holds
k · sequence_length + 1 tokens and repeats the last token of the shard before it, so that every sequence
lies inside one shard and none of its targets is lost. What is left over at the end of a split, less than one
sequence, is dropped.

The corpus is read twice: the first pass finds every error and decides by document hash what is held out,
the second writes. So a bad file costs no half-written shards, and memory stays small.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import IO

import numpy as np

from windfall.errors import ConfigError, DataError
from windfall.store.files import sync_dir
from windfall.train.corpus import Corpus, open_corpus
from windfall.train.manifest import (
    MANIFEST_NAME,
    TOKEN_BYTES,
    ByteTokenizer,
    Manifest,
    Shard,
)

Progress = Callable[[int, int], None]
MINIMUM_HELD_OUT_SEQUENCES = 8
DEFAULT_SHARD_TOKENS = 2**26


def prepare(
    source: str | Path,
    out: str | Path,
    *,
    sequence_length: int = 256,
    held_out_fraction: float = 0.02,
    seed: int = 0,
    shard_tokens: int = DEFAULT_SHARD_TOKENS,
    progress: Progress | None = None,
) -> Manifest:
    """Tokenise `source` into folder `out` and return the manifest, which is written last.

    source: "stdlib", a folder of text, a .jsonl file (field "text") or one text file (cut into documents of
    about 8 KiB at line ends). held_out_fraction: share of documents held out, by seeded hash of their content;
    raised as far as 8 sequences need where the corpus allows it; 0 holds out nothing. shard_tokens: about how
    many tokens a shard holds. progress(done_bytes, all_bytes) is called after each document written.

    An earlier preparation in `out` is replaced. Raises DataError for a source that is missing, unreadable, empty,
    not UTF-8, malformed or too small for one sequence; ConfigError for arguments out of range.
    """
    if sequence_length < 1:
        raise ConfigError(f"data: sequence_length is {sequence_length}; give at least 1")
    if not 0.0 <= held_out_fraction < 1.0:
        raise ConfigError(f"data: held_out_fraction is {held_out_fraction}; give a number from 0 to below 1")
    corpus = open_corpus(source)
    hashes, sizes = _survey(corpus, seed)
    held_out = _choose_held_out(corpus, hashes, sizes, held_out_fraction, sequence_length)

    folder = Path(out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # From here on the folder is unprepared until the new manifest is there.
        (folder / MANIFEST_NAME).unlink(missing_ok=True)
        for stale in (*folder.glob("train-*.bin"), *folder.glob("val-*.bin"), *folder.glob("*.bin.tmp")):
            stale.unlink()
        manifest = _write(corpus, folder, hashes, sizes, held_out, sequence_length, held_out_fraction, seed, shard_tokens, progress)
        manifest.save(folder)
    except OSError as error:
        raise DataError(f"{folder}: cannot be written ({error.strerror}); check the disk and permissions") from error
    return manifest


def _document_hash(document: bytes, seed: int) -> int:
    key = (seed % 2**64).to_bytes(8, "little")
    return int.from_bytes(hashlib.blake2b(document, digest_size=8, key=key).digest(), "little")


def _survey(corpus: Corpus, seed: int) -> tuple[list[int], list[int]]:
    """Hash and size in bytes of every document."""
    hashes: list[int] = []
    sizes: list[int] = []
    for document in corpus.documents():
        hashes.append(_document_hash(document, seed))
        sizes.append(len(document))
    if not hashes:
        raise DataError(f"{corpus.name}: the corpus is empty; name a source that holds text")
    return hashes, sizes


def _sequences(tokens: int, sequence_length: int) -> int:
    return max(0, (tokens - 1) // sequence_length)


def _choose_held_out(corpus: Corpus, hashes: list[int], sizes: list[int], fraction: float, sequence_length: int) -> set[int]:
    """Hashes of the documents held out: those below the fraction, and then the lowest until they are enough.

    By content, so equal documents never lie on both sides.
    """
    tokens: dict[int, int] = {}
    for value, size in zip(hashes, sizes, strict=True):
        tokens[value] = tokens.get(value, 0) + size + 1
    total = sum(tokens.values())
    if _sequences(total, sequence_length) < 1:
        raise DataError(
            f"{corpus.name}: {total} tokens are too few for one sequence of {sequence_length};"
            " give more text or a shorter sequence_length"
        )
    chosen: set[int] = set()
    if fraction == 0.0:
        return chosen
    held = 0
    # Small corpora: enough to measure by, but never more than a tenth for it.
    enough = min(MINIMUM_HELD_OUT_SEQUENCES * sequence_length + 1, total // 10)
    enough = max(enough, sequence_length + 1)
    for value in sorted(tokens):
        if value >= fraction * 2**64 and held >= enough:
            break
        chosen.add(value)
        held += tokens[value]
    if _sequences(held, sequence_length) < 1 or _sequences(total - held, sequence_length) < 1:
        raise DataError(
            f"{corpus.name}: {len(tokens)} documents of {total} tokens cannot be split into training and"
            f" held-out sequences of {sequence_length}; give more documents, or hold out 0"
        )
    return chosen


class _SplitWriter:
    """Writes one split's token stream as shards, each through a temporary file."""

    def __init__(self, folder: Path, split: str, sequence_length: int, shard_tokens: int) -> None:
        self.folder, self.split, self.length = folder, split, sequence_length
        self.shard_size = max(1, (shard_tokens - 1) // sequence_length) * sequence_length + 1
        self.shards: list[Shard] = []
        self.sequences = 0
        self.bytes = 0
        self.last: np.ndarray | None = None
        self._file: IO[bytes] | None = None
        self._written = 0

    def add(self, tokens: np.ndarray) -> None:
        """Append tokens [n] uint16 to the stream."""
        while len(tokens):
            if self._file is None:
                self._file = self._temporary().open("w+b")
                self._written = 0
                if self.last is not None:
                    self._put(self.last)
            part, tokens = np.split(tokens, [self.shard_size - self._written])
            self._put(part)
            if self._written == self.shard_size:
                self.finish()

    def _temporary(self) -> Path:
        return self.folder / f"{self.split}-{len(self.shards):05d}.bin.tmp"

    def _put(self, tokens: np.ndarray) -> None:
        assert self._file is not None
        self._file.write(tokens.astype("<u2").tobytes())
        self._written += len(tokens)
        if len(tokens):
            self.last = tokens[-1:]

    def finish(self) -> None:
        """Close the shard being written: cut to whole sequences, fsync, rename. Nothing open: does nothing."""
        if self._file is None:
            return
        sequences = _sequences(self._written, self.length)
        temporary, tokens = self._temporary(), sequences * self.length + 1
        with self._file as file:
            file.truncate(tokens * TOKEN_BYTES)
            file.flush()
            os.fsync(file.fileno())
            file.seek(0)
            digest = hashlib.sha256()
            # Separators are counted from what is kept, for the manifest's byte counts; the first token of a
            # shard is nobody's target.
            bos = ByteTokenizer().bos_id
            first = True
            while chunk := file.read(2**22):
                digest.update(chunk)
                targets = np.frombuffer(chunk, "<u2")[1 if first else 0 :]
                first = False
                if sequences:
                    self.bytes += int(np.count_nonzero(targets != bos))
        self._file = None
        if not sequences:
            temporary.unlink()
            return
        name = temporary.name.removesuffix(".tmp")
        os.replace(temporary, self.folder / name)
        self.shards.append(Shard(name, self.split, tokens, digest.hexdigest()))
        self.sequences += sequences

    def abandon(self) -> None:
        """Close and remove an unfinished shard."""
        if self._file is not None:
            self._file.close()
            self._file = None
            self._temporary().unlink(missing_ok=True)


def _write(
    corpus: Corpus,
    folder: Path,
    hashes: list[int],
    sizes: list[int],
    held_out: set[int],
    sequence_length: int,
    held_out_fraction: float,
    seed: int,
    shard_tokens: int,
    progress: Progress | None,
) -> Manifest:
    tokenizer = ByteTokenizer()
    train = _SplitWriter(folder, "train", sequence_length, shard_tokens)
    val = _SplitWriter(folder, "val", sequence_length, shard_tokens)
    total, done, count = sum(sizes), 0, 0
    bos = np.array([tokenizer.bos_id], dtype=np.uint16)
    try:
        for document in corpus.documents():
            value = _document_hash(document, seed)
            if count >= len(hashes) or value != hashes[count]:
                raise DataError(f"{corpus.name}: the text changed while it was read; prepare again when it is still")
            tokens = np.frombuffer(document, dtype=np.uint8).astype(np.uint16)
            (val if value in held_out else train).add(np.concatenate((bos, tokens)))
            count += 1
            done += len(document)
            if progress is not None:
                progress(done, total)
        if count != len(hashes):
            raise DataError(f"{corpus.name}: the text changed while it was read; prepare again when it is still")
        train.finish()
        val.finish()
    finally:
        train.abandon()
        val.abandon()
    sync_dir(folder)
    return Manifest(
        sequence_length=sequence_length,
        seed=seed,
        held_out_fraction=held_out_fraction,
        train_sequences=train.sequences,
        val_sequences=val.sequences,
        train_bytes=train.bytes,
        val_bytes=val.bytes,
        documents=count,
        shards=(*train.shards, *val.shards),
        source=corpus.name,
        tokenizer=tokenizer,
    )
