"""Turn a corpus into token shards and a manifest, once, before any training.

Three stages. A tokenizer is trained, unless it is given. Every unit of the corpus is read once and encoded into a piece
(`windfall.train.pieces`), by several processes where it is worth it. Then the pieces' documents are put on one side or the
other by a hash of their content, packed into sequences and written as shards, and the manifest comes last.

Pieces lie in DIR/.preparing until the end. A preparation that was interrupted and is started again uses those that are
finished; the result is the same, whatever the interruptions and the number of processes.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt

from windfall.errors import ConfigError, DataError
from windfall.store.files import sync_dir
from windfall.train.bpe import SAMPLE_BYTES, SMALLEST_VOCABULARY, train_bpe
from windfall.train.corpus import STDLIB, Corpus, Unit, file_marks, open_corpus
from windfall.train.encoders import encode
from windfall.train.manifest import MANIFEST_NAME, Manifest, sequences_in
from windfall.train.packing import PACKINGS, Packer, Packing, ShardWriter, packer
from windfall.train.pieces import EncodingSettings, Piece, document_hash, find_piece, piece_name, token_dtype
from windfall.train.telling import equal_documents, row_sentences, too_few, unwritable
from windfall.train.tokenizer import PATTERN, TOKENIZER_NAME, BPETokenizer, ByteTokenizer, Tokenizer, load_tokenizer

#: (stage, done, all): stages are "look", in bytes of files, "tokenizer" and "encode", in bytes of text, and "write", in tokens.
Progress = Callable[[str, int, int], None]
MINIMUM_HELD_OUT_SEQUENCES = 8
#: Equal documents are reported if they are at least this share. Every corpus has some.
MUCH_EQUAL = 0.02
DEFAULT_SHARD_TOKENS = 2**26
DEFAULT_VOCABULARY = 2**16
WORK_FOLDER = ".preparing"
_MADE_FOLDER = "made"
#: Each process must have at least so many bytes to encode, because starting one takes a third of a second.
_WORTH_A_PROCESS = {"bpe": 2**22, "bytes": 2**28}


def prepare(
    source: str | Path,
    out: str | Path,
    *,
    sequence_length: int = 256,
    held_out_fraction: float = 0.02,
    seed: int = 0,
    shard_tokens: int = DEFAULT_SHARD_TOKENS,
    progress: Progress | None = None,
    tokenizer: str | Path = "bytes",
    vocab_size: int | None = None,
    packing: Packing = "stream",
    workers: int | None = None,
    text_column: str = "text",
    skip_bad_rows: bool = False,
    replace: bool = False,
    tell: Callable[[str], None] = lambda _: None,
) -> Manifest:
    """Tokenise `source` into folder `out` and return the manifest, which is written last.

    source: what `open_corpus` takes; one text file is cut into documents of about 8 KiB at line ends. held_out_fraction: share
    of documents held out, by seeded hash of their content; raised as far as 8 sequences need where the corpus allows it;
    0 holds out nothing. shard_tokens: about how many tokens a shard holds. tokenizer: "bytes", "bpe" (trained on what
    `held_out_fraction` leaves, `vocab_size` tokens with specials, 65,536 unless given; what a small corpus holds out beyond
    that fraction is in its sample) or the path of a tokenizer.json or of a prepared
    folder with one. packing: see `windfall.train.packing`. workers: processes that encode, all cores unless given;
    they change nothing in the result. text_column: of parquet and JSON rows. skip_bad_rows: leave rows that are no documents
    out, unless they are most, and tell of them. tell: takes what a user should know of the source, a sentence each.

    A finished preparation in `out` is refused, or with `replace` stays whole until the new one takes its place; an interrupted one
    of the same is gone on with. While it works, about as much space again as the shards take is needed. Raises DataError for a
    source that is missing, unreadable, empty, not UTF-8, malformed or too small for one sequence, or a tokenizer that is no good;
    ConfigError for arguments out of range.
    """
    _check(sequence_length, held_out_fraction, shard_tokens, tokenizer, vocab_size, packing, workers)
    report = progress or (lambda stage, done, total: None)
    folder = Path(out)
    if not str(source):
        raise ConfigError("data: no source is named; name one")
    if not replace:
        _require_empty(folder)
    if source != STDLIB and folder.resolve() == Path(source).resolve():
        raise ConfigError(f"{folder}: is the corpus itself; name another folder for the shards")
    corpus = open_corpus(source, text_column, leave_out=folder, skip_bad_rows=skip_bad_rows)
    for note in corpus.notes():
        tell(note)
    corpus.look_through(lambda done, total: report("look", done, total))
    if not corpus.units:
        raise DataError(f"{corpus.name}: the corpus is empty; name a source that holds text")
    chosen: Tokenizer | None = None
    if tokenizer != "bpe":
        chosen = ByteTokenizer() if tokenizer == "bytes" else load_tokenizer(tokenizer)

    existed = folder.exists()
    work = folder / WORK_FOLDER
    lock: int | None = None
    try:
        work.mkdir(parents=True, exist_ok=True)
        lock = _locked(folder)
        if not replace:
            _require_empty(folder)  # another preparation may have ended since
        if chosen is None:
            chosen = _trained(corpus, work, vocab_size, held_out_fraction, seed, report)
        pieces = _encoded(corpus, work, chosen, seed, workers, report)
        documents = [piece.index()["hash"] for piece in pieces]
        good = sum(len(each) for each in documents) + sum(piece.empty for piece in pieces)
        for sentence in row_sentences(corpus.name, [piece.tally for piece in pieces], good):
            tell(sentence)
        hashes = np.concatenate(documents)
        different = len(np.unique(hashes))
        if source != STDLIB and len(hashes) - different >= MUCH_EQUAL * len(hashes) > 0:
            tell(equal_documents(corpus.name, len(hashes), different))
        made = work / _MADE_FOLDER
        shutil.rmtree(made, ignore_errors=True)  # left by an interrupted preparation
        made.mkdir()
        manifest = _write(
            corpus, made, pieces, chosen, packing, sequence_length, held_out_fraction, seed, shard_tokens, report
        )  # fmt: skip
        _take_the_place(folder, made)
        manifest.save(folder)
        shutil.rmtree(work, ignore_errors=True)
    except OSError as error:
        raise unwritable(folder, error) from error
    finally:
        if lock is not None:
            _tidy(folder, work, existed)
            os.close(lock)
    return manifest


def _locked(folder: Path) -> int:
    """The folder itself, locked by its one preparation until that closes it or its process ends."""
    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise DataError(f"{folder}: is being prepared by another process; wait for it, or name another folder") from None
    except OSError:
        pass  # some network file systems cannot lock folders; the user has to take care then
    return lock


def _require_empty(folder: Path) -> None:
    """Raise DataError where finished data, or files that only look like its shards, would be replaced."""
    if (folder / MANIFEST_NAME).exists():
        raise DataError(f"{folder}: holds prepared data already; name another folder, or replace it (--replace)")
    # An interrupted preparation has a work folder. Shards without one may belong to something else.
    if not (folder / WORK_FOLDER).exists() and (strange := next(iter(_shards(folder)), None)):
        raise DataError(f"{strange}: a file of that name would be overwritten; name another folder, or replace it (--replace)")


def finished_pieces(out: str | Path) -> int:
    """How many pieces an interrupted preparation in `out` has finished and keeps."""
    return sum(1 for _ in (Path(out) / WORK_FOLDER).glob("*.json"))


def _check(
    sequence_length: int, held_out_fraction: float, shard_tokens: int, tokenizer: str | Path, vocab_size: int | None,
    packing: str, workers: int | None,
) -> None:  # fmt: skip
    if sequence_length < 1:
        raise ConfigError(f"data: sequence_length is {sequence_length}; give at least 1")
    if not 0.0 <= held_out_fraction < 1.0:
        raise ConfigError(f"data: held_out_fraction is {held_out_fraction}; give a number from 0 to below 1")
    if shard_tokens < 1:
        raise ConfigError(f"data: shard_tokens is {shard_tokens}; give at least 1")
    if packing not in PACKINGS:
        raise ConfigError(f"data: packing is {packing!r}; choose from {', '.join(PACKINGS)}")
    if workers is not None and workers < 1:
        raise ConfigError(f"data: workers is {workers}; give at least 1")
    if vocab_size is None:
        return
    if tokenizer != "bpe":
        raise ConfigError(f"data: vocab_size is for training a tokenizer, not for {str(tokenizer)!r}; leave it out, or choose bpe")
    if not SMALLEST_VOCABULARY <= vocab_size < 2**32:
        raise ConfigError(f"data: vocab_size is {vocab_size}; give at least {SMALLEST_VOCABULARY} (256 bytes and the specials)")


def _take_the_place(folder: Path, made: Path) -> None:
    """Replace an earlier preparation's files by the new ones. Meanwhile there is no manifest, so readers see either one or none."""
    (folder / MANIFEST_NAME).unlink(missing_ok=True)
    for stale in _products(folder):
        stale.unlink()
    for path in sorted(made.iterdir()):
        path.replace(folder / path.name)
    sync_dir(folder)


def _shards(folder: Path) -> list[Path]:
    return [path for pattern in ("train-*.bin", "val-*.bin") for path in sorted(folder.glob(pattern))]


def _products(folder: Path) -> Iterable[Path]:
    """The files that an earlier preparation wrote."""
    found = _shards(folder)
    # Other programs have files with this name too.
    with contextlib.suppress(DataError):
        load_tokenizer(folder)
        found.append(folder / TOKENIZER_NAME)
    return found


def _tidy(folder: Path, work: Path, existed: bool) -> None:
    """Remove what this preparation made if nothing in it can be used again."""
    for log in work.glob("worker-*.log"):
        log.unlink(missing_ok=True)
    shutil.rmtree(work / _MADE_FOLDER, ignore_errors=True)
    for path in (work, *(() if existed else (folder,))):
        try:
            path.rmdir()
        except OSError:
            return  # not empty, or gone


def _trained(corpus: Corpus, work: Path, vocab_size: int | None, fraction: float, seed: int, report: Progress) -> Tokenizer:
    """A tokenizer trained on this corpus. It is kept in the work folder, under a hash of everything that it depends on."""
    size = DEFAULT_VOCABULARY if vocab_size is None else vocab_size
    content = {
        "units": [[asdict(unit), file_marks(unit)] for unit in corpus.units], "text_column": corpus.text_column,
        "skip_bad_rows": corpus.skip_bad_rows,
        "vocab_size": size, "held_out_fraction": fraction, "seed": seed, "pattern": PATTERN, "sample_bytes": SAMPLE_BYTES,
    }  # fmt: skip
    path = work / f"tokenizer-{hashlib.sha256(json.dumps(content).encode()).hexdigest()[:32]}"
    try:
        return load_tokenizer(path)
    except DataError:  # not trained yet
        limit = math.ceil(fraction * 2**64)
        keep = (lambda document: document_hash(document, seed) >= limit) if limit else (lambda document: True)
        trained = train_bpe(corpus, size, keep=keep, progress=lambda done, total: report("tokenizer", done, total))
        trained.save(path)
        return trained


def _encoded(
    corpus: Corpus, work: Path, tokenizer: Tokenizer, seed: int, workers: int | None, report: Progress
) -> list[Piece]:  # fmt: skip
    """A piece for every unit, in order. Pieces that are there already are checked and not made again."""
    path = "bytes"
    if isinstance(tokenizer, BPETokenizer):
        # The processes use a copy, because the user's file may change.
        path = str(work / f"used-{tokenizer.sha256[:32]}")
        tokenizer.save(Path(path))
    common = EncodingSettings(str(work), path, corpus.text_column, seed, corpus.skip_bad_rows)
    names = [piece_name(unit, common, tokenizer) for unit in corpus.units]
    total = max(1, sum(unit.size for unit in corpus.units))
    jobs = [
        (unit, name) for unit, name in zip(corpus.units, names, strict=True) if find_piece(work, name, verify=True) is None
    ]  # fmt: skip
    left = sum(unit.size for unit, _ in jobs)
    done = total - left
    if workers is None:
        workers = max(1, min(_cores(), left // _WORTH_A_PROCESS[tokenizer.kind]))

    def one_more(unit: Unit) -> None:
        nonlocal done
        done += unit.size
        report("encode", done, total)

    encode(jobs, common, tokenizer, workers, one_more)
    pieces = [find_piece(work, name, verify=False) for name in names]
    found = [piece for piece in pieces if piece is not None]
    if len(found) != len(names):
        raise DataError(f"{work}: a piece vanished while the others were made; run the same again")
    return found


def _cores() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on this system
        return os.cpu_count() or 1


def _write(
    corpus: Corpus, folder: Path, pieces: list[Piece], tokenizer: Tokenizer, packing: Packing, sequence_length: int,
    held_out_fraction: float, seed: int, shard_tokens: int, report: Progress,
) -> Manifest:  # fmt: skip
    """Write shards and tokenizer. Returns the manifest that describes them, which is not written yet."""
    dtype = token_dtype(tokenizer.vocab_size)
    indices = [piece.index() for piece in pieces]
    every = np.concatenate(indices)
    if not len(every):
        raise DataError(f"{corpus.name}: the corpus is empty; name a source that holds text")
    last_held_out = _last_held_out(corpus.name, every["hash"], every["tokens"], held_out_fraction, sequence_length, packing)
    total, done = int(every["tokens"].sum(dtype=np.int64)), 0

    counts = tokenizer.token_bytes()
    writers = [ShardWriter(folder, split, sequence_length, packing, shard_tokens, dtype, counts) for split in ("train", "val")]
    packers: list[Packer] = [packer(writer, packing, sequence_length, dtype) for writer in writers]
    for piece, index in zip(pieces, indices, strict=True):
        tokens = piece.tokens(dtype)
        held_out = index["hash"] <= np.uint64(last_held_out) if last_held_out >= 0 else np.zeros(len(index), np.bool_)
        for side, lengths, start, end in _runs(held_out, index["tokens"]):
            packers[side].add(tokens[start:end], lengths)
        done += len(tokens)
        report("write", done, total)
    for each in packers:
        each.finish()
    train, val = writers
    if not train.sequences or (held_out_fraction and not val.sequences):
        raise too_few(corpus.name, len(every), len(np.unique(every["hash"])), total, sequence_length)
    if isinstance(tokenizer, BPETokenizer):
        tokenizer.save(folder / TOKENIZER_NAME)
    return Manifest(
        sequence_length=sequence_length,
        seed=seed,
        held_out_fraction=held_out_fraction,
        train_sequences=train.sequences,
        val_sequences=val.sequences,
        train_bytes=train.bytes,
        val_bytes=val.bytes,
        documents=len(every),
        shards=(*train.shards, *val.shards),
        source=corpus.name,
        tokenizer=tokenizer,
        packing=packing,
        dtype="uint16" if dtype == "<u2" else "uint32",
        empty_documents=sum(piece.empty for piece in pieces),
        cropped_documents=sum(each.cropped_documents for each in packers),
        cropped_tokens=sum(each.cropped_tokens for each in packers),
        dropped_tokens=sum(each.dropped_tokens for each in packers),
    )


def _runs(
    held_out: npt.NDArray[np.bool_], lengths: npt.NDArray[np.uint32]
) -> Iterator[tuple[int, npt.NDArray[np.uint32], int, int]]:
    """Runs of neighbouring documents on one side: 1 if held out else 0, their lengths, first token, and one after the last."""
    if not len(lengths):
        return
    ends = np.cumsum(lengths, dtype=np.int64)
    borders = [0, *(np.flatnonzero(held_out[1:] != held_out[:-1]) + 1).tolist(), len(lengths)]
    for first, after in pairwise(borders):
        yield int(held_out[first]), lengths[first:after], int(ends[first] - lengths[first]), int(ends[after - 1])


def _last_held_out(
    name: str, hashes: npt.NDArray[np.uint64], lengths: npt.NDArray[np.uint32], fraction: float, sequence_length: int, packing: str
) -> int:
    """The highest hash that is held out: by the fraction, or a higher one if that holds out too little to measure by.

    The hash is of the content, so equal documents are never on both sides. -1 holds out nothing.
    """
    tokens = lengths.astype(np.int64)
    room = sequence_length + 1
    if packing == "best_fit":
        # Crops may lose the end of a document, and with each row less than a row of another one.
        tokens = np.minimum(tokens, room)
    share = 1 if packing == "stream" else 2
    unique, inverse = np.unique(hashes, return_inverse=True)
    held = np.zeros(len(unique), np.int64)
    np.add.at(held, inverse, tokens)
    held = np.cumsum(held)
    total = int(held[-1])
    if sequences_in(total, sequence_length, packing) < 1:
        raise DataError(
            f"{name}: {total} tokens are too few for one sequence of {sequence_length}; give more text or a shorter sequence_length"
        )
    if fraction == 0.0:
        return -1
    # Of a small corpus enough is held out to measure by, but never more than a tenth.
    enough = min(share * MINIMUM_HELD_OUT_SEQUENCES * sequence_length + 1, total // 10)
    enough = max(enough, share * sequence_length + 1)
    below = int(np.searchsorted(unique, np.uint64(math.ceil(fraction * 2**64))))
    chosen = max(below, int(np.searchsorted(held, min(enough, total))) + 1)
    kept = int(held[chosen - 1])
    if sequences_in(kept, sequence_length, packing) < 1 or sequences_in(total - kept, sequence_length, packing) < 1:
        raise too_few(name, len(hashes), len(unique), total, sequence_length)
    return int(unique[chosen - 1])
