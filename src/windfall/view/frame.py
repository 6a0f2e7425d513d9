"""A small table: what a run's series are handed out as. pandas and pyarrow are needed only by the methods that name them."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from windfall.errors import ConfigError, StoreError
from windfall.store.files import to_json, write_atomic
from windfall.units import counted

if TYPE_CHECKING:
    import pandas

#: ``unix``: seconds, given a second column with the suffix ``_utc`` of kind ``time``.
Kind = Literal["text", "int", "float", "bool", "time", "unix"]

#: What a frame shows of itself.
_SHOWN_ROWS, _SHOWN_COLUMNS, _SHOWN_CHARACTERS = 10, 14, 32
_PANDAS = {"text": "string", "int": "Int64", "float": "float64", "bool": "boolean", "time": "datetime64[us, UTC]"}


class Frame:
    """Columns of equal length by name. Values are str, int, float, bool, datetime (UTC) or None where there is none.

    ``frame["watts"]`` is a column as a list, ``for row in frame`` gives dictionaries.
    """

    def __init__(self, kinds: Mapping[str, Kind], rows: Iterable[Sequence[Any]]) -> None:
        """``rows`` have a value for each of ``kinds``, in its order."""
        self.kinds: dict[str, Kind] = {}
        self._data: dict[str, list[Any]] = {}
        table = list(rows)
        for i, (name, kind) in enumerate(kinds.items()):
            values = [_value(row[i], kind) for row in table]
            self.kinds[name] = "float" if kind == "unix" else kind
            self._data[name] = values
            if kind == "unix":
                self.kinds[f"{name}_utc"] = "time"
                self._data[f"{name}_utc"] = [_utc(v) for v in values]

    @property
    def columns(self) -> list[str]:
        """Names of the columns."""
        return list(self._data)

    def __getitem__(self, name: str) -> list[Any]:
        return self._data[name]

    def __len__(self) -> int:
        return len(next(iter(self._data.values()), []))

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for values in zip(*self._data.values(), strict=True):
            yield dict(zip(self._data, values, strict=True))

    def __repr__(self) -> str:
        """The first rows, and what else there is."""
        shown = self._shown()
        widths = [max(map(len, column)) for column in zip(*shown, strict=True)] if shown[0] else []
        texts = [n for n, kind in self.kinds.items() if kind == "text"]
        lines = [
            "  ".join(c.ljust(w) if n in texts else c.rjust(w) for c, w, n in zip(row, widths, shown[0], strict=True)).rstrip()
            for row in shown
        ]
        return "\n".join([f"Frame({counted(len(self), 'row')}, {counted(len(self._data), 'column')})", *lines, *self._left_out()])

    def _repr_html_(self) -> str:
        """The same for notebooks."""
        head, *rows = self._shown()
        body = "".join(f"<tr>{''.join(f'<td>{escape(c)}</td>' for c in row)}</tr>" for row in rows)
        more = "".join(f"<p>{escape(text)}</p>" for text in self._left_out())
        return f"<table><thead><tr>{''.join(f'<th>{escape(c)}</th>' for c in head)}</tr></thead><tbody>{body}</tbody></table>{more}"

    def _shown(self) -> list[list[str]]:
        """Names and the first rows as text, of as many columns as there is room for."""
        names = list(self._data)[:_SHOWN_COLUMNS]
        rows = [[_brief(self._data[n][i]) for n in names] for i in range(min(len(self), _SHOWN_ROWS))]
        return [names, *rows]

    def _left_out(self) -> list[str]:
        more = list(self._data)[_SHOWN_COLUMNS:]
        found = [f"and {counted(len(self) - _SHOWN_ROWS, 'row')} more"] if len(self) > _SHOWN_ROWS else []
        return [*found, f"and the columns {', '.join(more)}"] if more else found

    def to_pandas(self) -> pandas.DataFrame:
        """The same as a pandas DataFrame; times are ``datetime64[us, UTC]``.

        Raises:
            ConfigError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError:
            raise _without("to_pandas", "pandas") from None
        return pandas.DataFrame({n: pandas.Series(v, dtype=_PANDAS[self.kinds[n]]) for n, v in self._data.items()})

    def to_csv(self, path: Path | str) -> None:
        """Write it as CSV: a header, ISO 8601 instants, nothing where there is no value.

        Raises:
            StoreError: the file cannot be written.
        """
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(self._data)
        writer.writerows([_cell(v) for v in row] for row in zip(*self._data.values(), strict=True))
        _write(Path(path), out.getvalue().encode())

    def to_parquet(self, path: Path | str) -> None:
        """Write it as Parquet; times are timestamps of microseconds in UTC.

        Raises:
            ConfigError: pyarrow is not installed.
            StoreError: the file cannot be written.
        """
        try:
            import pyarrow
            import pyarrow.parquet
        except ImportError:
            raise _without("to_parquet", "pyarrow") from None
        types = {
            "text": pyarrow.string(), "int": pyarrow.int64(), "float": pyarrow.float64(), "bool": pyarrow.bool_(),
            "time": pyarrow.timestamp("us", tz="UTC"),
        }  # fmt: skip
        table = pyarrow.table({n: pyarrow.array(v, types[self.kinds[n]]) for n, v in self._data.items()})
        out = io.BytesIO()
        pyarrow.parquet.write_table(table, out)
        _write(Path(path), out.getvalue())


def kind_of(values: Iterable[Any]) -> Kind:
    """The narrowest kind that holds all of ``values`` (None apart): bool, float or text."""
    known = [v for v in values if v is not None]
    if known and all(isinstance(v, bool) for v in known):
        return "bool"
    return "float" if all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in known) else "text"


def unpacked(prefix: str, rows: Sequence[Mapping[str, Any]]) -> tuple[dict[str, Kind], list[list[Any]]]:
    """Mappings as columns, one for each key that any of them has, in the order of first appearance."""
    keys = list(dict.fromkeys(k for row in rows for k in row))
    kinds = {f"{prefix}{k}": kind_of(row.get(k) for row in rows) for k in keys}
    return kinds, [[row.get(k) for k in keys] for row in rows]


def _value(value: Any, kind: Kind) -> Any:
    if value is None:
        return None
    match kind:
        case "text":
            return value if isinstance(value, str) else to_json(value)
        case "int":
            return int(value)
        case "bool":
            return bool(value)
        case "time":
            return value
        case _:
            return float(value)


def _utc(t: float | None) -> datetime | None:
    # Infinity is "until something else happens": no instant.
    return datetime.fromtimestamp(t, UTC) if t is not None and math.isfinite(t) else None


def _cell(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    if isinstance(value, bool):
        return "true" if value else "false"
    return value


def _brief(value: Any) -> str:
    """A cell as a person reads it."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.10g}" if abs(value) >= 1e6 else f"{value:.5g}"
    text = str(_cell(value))
    return text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 1] + "…"


def _write(path: Path, data: bytes) -> None:
    try:
        write_atomic(path, [data], durable=False)
    except OSError as e:
        raise StoreError(f"{path}: cannot be written: {e.strerror}; name another place or give write access") from None


def _without(method: str, package: str) -> ConfigError:
    return ConfigError(f"{method} needs the package {package}, which is not installed; run: pip install 'windfall[analysis]'")
