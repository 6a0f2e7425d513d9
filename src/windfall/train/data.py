"""Prepared data as the trainer sees it: numbered sequences and blocks out of memory-mapped shards.

Every site numbers sequences alike: number i is position i mod n of epoch i div n, permuted by (seed, epoch).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from windfall.errors import ConfigError, DataError
from windfall.train.manifest import Manifest
from windfall.train.model import IGNORED_TARGET


def permutation(count: int, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    """Order of `count` sequences in `epoch`, int64 [count].

    Sorted raw Philox numbers rather than Generator.permutation: numpy promises the former's bits for ever, the
    latter's only within a version, and sites may run different versions.
    """
    generator = np.random.Philox(np.random.SeedSequence((seed % 2**64, epoch)))
    return np.argsort(generator.random_raw(count), kind="stable").astype(np.int64, copy=False)


class _Split:
    """Sequences of one split, in file order."""

    def __init__(self, folder: Path, manifest: Manifest, split: str) -> None:
        self.length = manifest.sequence_length
        # In a stream the last token of a sequence is the first of the next one; rows share no token.
        self.stride = self.length if manifest.packing == "stream" else self.length + 1
        shards = manifest.of_split(split)
        self.maps = [np.memmap(manifest.shard_path(folder, s), manifest.numpy_dtype, "r").view(np.ndarray) for s in shards]
        *self._starts, self.count = accumulate((manifest.sequences(shard) for shard in shards), initial=0)

    def window(self, index: int) -> npt.NDArray[Any]:
        """Tokens [sequence_length + 1] of sequence `index`."""
        shard = bisect_right(self._starts, index) - 1
        start = (index - self._starts[shard]) * self.stride
        return self.maps[shard][start : start + self.length + 1]

    def stack(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Tokens and targets, int64 [len(indices), sequence_length] each."""
        tokens = np.empty((len(indices), self.length), dtype=np.int64)
        targets = np.empty_like(tokens)
        for row, index in enumerate(indices):
            window = self.window(index)
            tokens[row] = window[:-1]
            targets[row] = window[1:]
        return torch.from_numpy(tokens), torch.from_numpy(targets)


class TrainData:
    """Read access to a prepared folder. Raises DataError where the manifest or a shard is missing or truncated
    (checksums are `manifest.verify`'s work, which reads everything).
    """

    def __init__(self, folder: str | Path, seed: int = 0) -> None:
        self.folder, self.seed = Path(folder), seed
        self.manifest = Manifest.load(folder)
        self._train = _Split(self.folder, self.manifest, "train")
        self._val = _Split(self.folder, self.manifest, "val")
        if self._train.count < 1:
            raise DataError(f"{self.folder}: the manifest has no training sequence; prepare the data again")
        # Two permutations are kept, because blocks may run over the end of an epoch.
        self._order = lru_cache(maxsize=2)(lambda epoch: permutation(self._train.count, self.seed, epoch))

    @property
    def sequence_length(self) -> int:
        """Tokens per sequence."""
        return self.manifest.sequence_length

    @property
    def train_sequences(self) -> int:
        """Sequences in one epoch."""
        return self._train.count

    @property
    def val_sequences(self) -> int:
        """Sequences held out."""
        return self._val.count

    def batch(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Training sequences by global number (>= 0, without end): tokens and targets, int64 [B, T] each."""
        places = []
        for index in indices:
            if index < 0:
                raise IndexError(f"sequence {index}: numbers start at 0")
            epoch, position = divmod(int(index), self._train.count)
            places.append(int(self._order(epoch)[position]))
        return self._train.stack(places)

    def sequence(self, index: int) -> tuple[Tensor, Tensor]:
        """One training sequence: tokens and targets, int64 [T] each."""
        tokens, targets = self.batch([index])
        return tokens[0], targets[0]

    def block_batch(self, first_block: int, n_blocks: int, block_sequences: int) -> tuple[Tensor, Tensor]:
        """Blocks first_block … first_block + n_blocks − 1 of `block_sequences` sequences each, in order."""
        start = first_block * block_sequences
        return self.batch(range(start, start + n_blocks * block_sequences))

    def val_batches(
        self, max_sequences: int | None = None, batch: int = 16, part: int = 0, parts: int = 1
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Held-out sequences in file order, the same at every call: tokens and targets [up to batch, T].

        With several ``parts``, part k has batches k, k + parts, and so on.

        Targets that are a document separator or another special token are -1, because they are no bytes of the text and do not
        count in bits per byte. If not all sequences are wanted, those taken are spread evenly over the held-out text.
        Raises DataError where nothing was held out, ConfigError for counts below 1.
        """
        count = self._val.count
        if count < 1:
            raise DataError(f"{self.folder}: nothing was held out to evaluate on; prepare with held_out_fraction > 0")
        wanted = count if max_sequences is None else min(count, max_sequences)
        if wanted < 1 or batch < 1:
            raise ConfigError(f"evaluation: {wanted} sequences in batches of {batch}; give at least 1 of each")
        chosen = [position * count // wanted for position in range(wanted)]
        special = torch.from_numpy(self.manifest.tokenizer.token_bytes() == 0)
        for start in range(part * batch, wanted, parts * batch):
            tokens, targets = self._val.stack(chosen[start : start + batch])
            targets[special[targets]] = IGNORED_TARGET
            yield tokens, targets

    def val_bytes(self, max_sequences: int | None = None) -> int:
        """Bytes of text that `val_batches(max_sequences)` asks for: those of its targets that are not -1."""
        counts = torch.from_numpy(self.manifest.tokenizer.token_bytes())
        return sum(int(counts[targets[targets >= 0]].sum()) for _, targets in self.val_batches(max_sequences))
