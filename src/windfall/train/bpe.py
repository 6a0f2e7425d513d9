"""Trains a byte pair encoding on a bounded sample of a corpus. The same text gives the same encoding on every machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from windfall.errors import ConfigError, DataError
from windfall.train.corpus import Corpus, Unit
from windfall.train.tokenizer import PATTERN, SPECIALS, BPETokenizer

#: A tokenizer is trained on at most so much text (bytes). More would hardly change 65,536 tokens, and takes longer.
SAMPLE_BYTES = 2**28
#: Of each document at most so much is taken, so that no single one shapes the vocabulary (nanochat's bound).
DOCUMENT_CHARACTERS = 10_000
SMALLEST_VOCABULARY = 256 + len(SPECIALS)


def train_bpe(
    corpus: Corpus,
    vocab_size: int,
    *,
    sample_bytes: int = SAMPLE_BYTES,
    keep: Callable[[bytes], bool] = lambda document: True,
    progress: Callable[[int, int], None] | None = None,
) -> BPETokenizer:
    """A tokenizer of `vocab_size` tokens, specials included; of fewer where the text has no more pairs to merge.

    The sample is whole parts of the corpus spread evenly over it, until they hold `sample_bytes` of text; documents that
    `keep` refuses (the held-out ones) are left out. progress(bytes read, bytes in the sample) is called after each part.

    Raises ConfigError where `vocab_size` is too small, DataError as reading the corpus does, or where the sample is empty.
    """
    if vocab_size < SMALLEST_VOCABULARY:
        raise ConfigError(
            f"data: a vocabulary of {vocab_size} is too small; give at least {SMALLEST_VOCABULARY} (256 bytes and specials)"
        )
    import rustbpe  # type: ignore[import-untyped]

    taken = 0

    def sample() -> Iterator[str]:
        nonlocal taken
        units = _spread(corpus.units, sample_bytes)
        read, total = 0, sum(unit.size for unit in units)
        for unit in units:
            for document in corpus.read(unit):
                if document and keep(document):
                    # The bytes are cut first, because megabytes need not be decoded for some thousand characters.
                    text = document[: 4 * DOCUMENT_CHARACTERS].decode("utf-8", errors="ignore")[:DOCUMENT_CHARACTERS]
                    taken += len(text)
                    yield text
            read += unit.size
            if progress is not None:
                progress(read, total)

    trainer = rustbpe.Tokenizer()
    trainer.train_from_iterator(sample(), vocab_size - len(SPECIALS), pattern=PATTERN)
    if not taken:
        raise DataError(f"{corpus.name}: there is no text to train a tokenizer on; name a source that holds text")
    ranks = sorted((rank, bytes(token)) for token, rank in trainer.get_mergeable_ranks())
    return BPETokenizer(tuple(token for _, token in ranks))


def _spread(units: tuple[Unit, ...], limit: int) -> tuple[Unit, ...]:
    """Parts of together about `limit` bytes, evenly over the corpus; all where they are no more than that."""
    total = sum(unit.size for unit in units)
    if total <= limit:
        return units
    wanted = max(1, len(units) * limit // total)
    return tuple(units[i * len(units) // wanted] for i in range(wanted))
