"""Reads documents from parquet files such as FineWeb-Edu's: each row is a document, whose text is in a column of strings.

Needs pyarrow (`pip install 'windfall[fineweb]'`), which is imported when a parquet file is met.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from windfall.errors import DataError
from windfall.train.text import without_marks

if TYPE_CHECKING:
    from windfall.train.rows import Tally

_BATCH_ROWS = 1024
#: How a user names the column that holds the text.
CHOOSE = "choose with --text-column, or data.text_column in a configuration"


def require_column(path: Path, column: str) -> None:
    """Raise DataError where the file is unreadable, or the column missing or of another type."""
    _open(path, column).close()


def ranges(path: Path, column: str, unit_bytes: int) -> Iterator[tuple[int, int, int]]:
    """Neighbouring row groups of together about `unit_bytes` of text: first, one after the last, bytes of text.

    Raises DataError where the file is unreadable, or the column missing or of another type.
    """
    file = _open(path, column)
    with file:
        groups = file.metadata
        leaf = next(i for i in range(groups.num_columns) if groups.schema.column(i).path == column)
        sizes = [groups.row_group(i).column(leaf).total_uncompressed_size for i in range(groups.num_row_groups)]
    start, size = 0, 0
    for number, own in enumerate(sizes):
        if number > start and size + own > unit_bytes:
            yield start, number, size
            start, size = number, 0
        size += own
    if sizes:
        yield start, len(sizes), size


def documents(path: Path, start: int, end: int, column: str, tally: Tally) -> Iterator[bytes]:
    """The text of each row of row groups start … end as bytes; a row without text is an empty document, and `tally` is told.

    Raises DataError where the file is unreadable, or a text is not UTF-8 and `tally` leaves no rows out.
    """
    import pyarrow as pa

    file = _open(path, column)
    with file:
        row = sum(file.metadata.row_group(i).num_rows for i in range(start))
        try:
            for batch in file.iter_batches(_BATCH_ROWS, list(range(start, end)), [column], use_threads=False):
                # Read as bytes, so that it is checked here, where the row is known, whether they are UTF-8.
                for text in batch.column(0).cast(pa.large_binary()).to_pylist():
                    row += 1
                    if text is None:
                        tally.no_text(lambda row=row: f"{path}: row {row}")  # type: ignore[misc]
                        yield b""
                    elif (document := _checked(path, row, text, tally)) is not None:
                        yield document
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"{path}: rows after {row} cannot be read ({_line(error)}); fetch the file again") from error


def _checked(path: Path, row: int, text: bytes, tally: Tally) -> bytes | None:
    try:
        text.decode("utf-8")
    except UnicodeDecodeError as error:
        at = error.start
        tally.no_good(lambda: f"{path}: the text of row {row} is not UTF-8 at byte {at}; repair or leave out the row")
        return None
    return without_marks(text)


def _open(path: Path, column: str) -> Any:
    """A pyarrow ParquetFile that has `column`, of strings."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise DataError(f"{path}: reading parquet needs pyarrow; pip install 'windfall[fineweb]'") from error
    try:
        file = pq.ParquetFile(path)
        schema = file.schema_arrow
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path}: not a readable parquet file ({_line(error)}); fetch it again") from error
    if column not in schema.names:
        file.close()
        there = ", ".join(schema.names) or "none"
        raise DataError(f"{path}: there is no column {column!r}; the columns are {there}: {CHOOSE}")
    kind = schema.field(column).type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    types = pa.types
    sound = (types.is_string, types.is_large_string, types.is_binary, types.is_large_binary, types.is_string_view, types.is_null)
    if not any(is_it(kind) for is_it in sound):
        file.close()
        others = ", ".join(each.name for each in schema if types.is_string(each.type) or types.is_large_string(each.type))
        raise DataError(f"{path}: column {column!r} holds {_short(kind)}, not text (columns of text: {others or 'none'}); {CHOOSE}")
    return file


def _short(kind: Any) -> str:
    text = " ".join(str(kind).split())
    return text if len(text) <= 80 else text[:79] + "…"


def _line(error: BaseException) -> str:
    """First line of a message: pyarrow's are long."""
    return str(error).partition("\n")[0]
