"""Messages about a corpus's rows and documents: null texts, bad rows, equal documents."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from windfall.errors import DataError
from windfall.train.rows import Tally


def row_sentences(name: str, tallies: Iterable[Tally], good: int) -> list[str]:
    """A sentence for rows without text and one for bad rows, with the first ten of each.

    good: rows that are documents, empty ones included. Raises DataError where more rows are bad than good.
    """
    total = Tally()
    for each in tallies:
        total.add(each)
    sentences = []
    if total.null:
        sentences.append(f"{name}: {_rows(total.null)} without text (null): {_listed(total.null_rows, total.null, ', ')}")
    if total.bad:
        bad = f"{_rows(total.bad)} of {total.bad + good:,} left out as bad: {_listed(total.bad_rows, total.bad, '; ')}"
        if total.bad > good:
            raise DataError(f"{name}: most of it would be left out, {bad}")
        sentences.append(f"{name}: {bad}")
    return sentences


def equal_documents(name: str, documents: int, different: int) -> str:
    """The sentence on equal documents."""
    if different == 1:
        return f"{name}: all {documents:,} documents are equal"
    return (
        f"{name}: {documents - different:,} of {documents:,} documents equal an earlier one ({different:,} different ones); "
        "equal ones are all trained on, or all held out"
    )


def too_few(name: str, documents: int, different: int, tokens: int, sequence_length: int) -> DataError:
    """The error where a corpus cannot be split."""
    equal, why = "", ""
    if different < documents:
        equal = ", all equal," if different == 1 else f", {different:,} different ones,"
        why = " (equal documents stay on one side)"
    return DataError(
        f"{name}: {documents} documents{equal} of {tokens} tokens cannot be split into training and"
        f" held-out sequences of {sequence_length}{why}; give more documents, or hold out 0"
    )


def unwritable(folder: str | Path, error: OSError) -> DataError:
    """The error where what is prepared cannot be written: what is finished is kept."""
    return DataError(
        f"{folder}: cannot be written ({error.strerror or error}); check the disk and permissions, then run the same again:"
        " what is finished is kept"
    )


def _rows(count: int) -> str:
    return f"{count:,} row{'' if count == 1 else 's'}"


def _listed(named: list[str], count: int, between: str) -> str:
    over = count - len(named)
    return between.join(named) + (f" and {over:,} more" if over else "")
