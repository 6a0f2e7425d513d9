"""Packs documents into sequences of equal length, in shards. There are two ways, with the same file format.

`stream`: documents one behind the other, each after a separator, cut every `sequence_length` tokens. A shard of k sequences holds
k · sequence_length + 1 tokens and repeats the last token of the shard before it, so that no target is lost.

`best_fit`: rows of sequence_length + 1 tokens that share nothing, each beginning with a document, so that every token sees its
document's start. A row takes the longest waiting document that still fits, again and again; when none fits, the shortest
is cropped to fill it (nanochat's loader does so on the fly, with fewer documents waiting). Nothing is padded; what a
crop cuts off is lost, and counted.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right, insort
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from windfall.store.files import write_atomic
from windfall.train.manifest import Shard, sequences_in

Packing = Literal["stream", "best_fit"]
PACKINGS: tuple[Packing, ...] = ("stream", "best_fit")
#: How many documents wait for a place in a row. More of them mean fewer crops and more memory.
WAITING_DOCUMENTS = 16_384

Array = npt.NDArray[Any]


class Packer(Protocol):
    """Packs one split: it is given the documents in order, and writes the shards."""

    dropped_tokens: int
    cropped_documents: int
    cropped_tokens: int

    def add(self, tokens: Array, lengths: Array) -> None:
        """Add neighbouring documents: their tokens with separators [n], and how many tokens each has [documents]."""
        ...

    def finish(self) -> None:
        """Write what is left. No more documents come."""
        ...


class ShardWriter:
    """Writes one split's shards, each whole or not at all, and counts the bytes of text that its targets stand for.

    token_bytes: bytes of each token, [vocab_size].
    """

    def __init__(
        self, folder: Path, split: str, sequence_length: int, packing: Packing, shard_tokens: int, dtype: str, token_bytes: Array
    ) -> None:
        self._folder, self._split, self._length, self._packing = folder, split, sequence_length, packing
        self._stream = packing == "stream"
        if self._stream:
            capacity = max(1, (shard_tokens - 1) // sequence_length) * sequence_length + 1
        else:
            capacity = max(1, shard_tokens // (sequence_length + 1)) * (sequence_length + 1)
        self._buffer = np.empty(capacity, dtype)
        self._filled = 0
        self._fresh = 0
        self._token_bytes = token_bytes
        self.shards: list[Shard] = []
        self.sequences = 0
        self.bytes = 0

    def put(self, tokens: Array) -> None:
        """Append tokens [n] to the split."""
        at = 0
        while at < len(tokens):
            part = tokens[at : at + len(self._buffer) - self._filled]
            self._buffer[self._filled : self._filled + len(part)] = part
            self._filled += len(part)
            self._fresh += len(part)
            at += len(part)
            if self._filled == len(self._buffer):
                self._write()

    def finish(self) -> int:
        """Write what is left, cut to whole sequences; tokens that were left over."""
        return self._write()

    def _write(self) -> int:
        sequences = sequences_in(self._filled, self._length, self._packing)
        if not sequences:
            dropped, self._filled, self._fresh = self._fresh, 0, 0
            return dropped
        kept = sequences * self._length + 1 if self._stream else sequences * (self._length + 1)
        data = self._buffer[:kept]
        targets = data[1:] if self._stream else data.reshape(sequences, -1)[:, 1:]
        # In parts: the table's numbers are wide.
        flat = targets.reshape(-1)
        self.bytes += sum(int(self._token_bytes[flat[at : at + 2**20]].sum()) for at in range(0, len(flat), 2**20))
        name = f"{self._split}-{len(self.shards):05d}.bin"
        content = data.tobytes()
        write_atomic(self._folder / name, [content])
        self.shards.append(Shard(name, self._split, kept, hashlib.sha256(content).hexdigest()))
        self.sequences += sequences
        dropped, self._filled, self._fresh = self._filled - kept, 0, 0
        if self._stream:
            self._buffer[0] = data[-1]
            self._filled = 1
        return dropped


class StreamPacker:
    """The packing `stream`, as the module describes it."""

    cropped_documents = 0
    cropped_tokens = 0

    def __init__(self, writer: ShardWriter) -> None:
        self._writer = writer
        self.dropped_tokens = 0

    def add(self, tokens: Array, lengths: Array) -> None:
        """Append them."""
        self._writer.put(tokens)

    def finish(self) -> None:
        """Write what is left. An incomplete sequence at the end is dropped."""
        self.dropped_tokens = self._writer.finish()


class BestFitPacker:
    """The packing `best_fit`, as the module describes it. put: is called with each row [row_tokens]."""

    def __init__(
        self, put: Callable[[Array], None], finish: Callable[[], int], row_tokens: int, dtype: str, waiting: int = WAITING_DOCUMENTS
    ) -> None:
        self._put, self._finish = put, finish
        self._row = np.empty(row_tokens, dtype)
        self._most = waiting
        self._waiting = self._waiting_tokens = 0
        #: Waiting documents by length, in the order in which they came; and the lengths that there are, ascending.
        self._by_length: dict[int, deque[Array]] = {}
        self._lengths: list[int] = []
        self.dropped_tokens = 0
        self.cropped_documents = 0
        self.cropped_tokens = 0

    def add(self, tokens: Array, lengths: Array) -> None:
        """Add documents. One longer than a row becomes a row at once, cropped, since it could only ever be the first in one."""
        at = 0
        for length in lengths.tolist():
            document = tokens[at : at + length]
            at += length
            if length >= len(self._row):
                self._crop(length - len(self._row))
                self._put(document[: len(self._row)])
                continue
            if length not in self._by_length:
                self._by_length[length] = deque()
                insort(self._lengths, length)
            self._by_length[length].append(document.copy())
            self._waiting += 1
            self._waiting_tokens += length
            if self._waiting >= self._most and self._waiting_tokens >= len(self._row):
                self._fill()

    def finish(self) -> None:
        """Make rows until no document waits. A last row that is not full is dropped."""
        while self._waiting:
            self._fill()
        self.dropped_tokens += self._finish()

    def _crop(self, lost: int) -> None:
        self.cropped_documents += lost > 0
        self.cropped_tokens += lost

    def _fill(self) -> None:
        filled, row = 0, self._row
        while filled < len(row):
            space = len(row) - filled
            fitting = bisect_right(self._lengths, space)
            if fitting:
                document = self._take(self._lengths[fitting - 1])
            elif self._lengths:
                document = self._take(self._lengths[0])
                self._crop(len(document) - space)
                document = document[:space]
            else:
                self.dropped_tokens += filled
                return
            row[filled : filled + len(document)] = document
            filled += len(document)
        self._put(row)

    def _take(self, length: int) -> Array:
        queue = self._by_length[length]
        document = queue.popleft()
        self._waiting -= 1
        self._waiting_tokens -= length
        if not queue:
            del self._by_length[length]
            del self._lengths[bisect_right(self._lengths, length) - 1]
        return document


def packer(writer: ShardWriter, packing: Packing, sequence_length: int, dtype: str) -> Packer:
    """The packer for a split's writer."""
    if packing == "stream":
        return StreamPacker(writer)
    return BestFitPacker(writer.put, writer.finish, sequence_length + 1, dtype)
