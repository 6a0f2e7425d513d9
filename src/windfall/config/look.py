"""Reads a configuration and reports everything about it, whether it is right or not."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_origin
from urllib.parse import quote, unquote

from pydantic import BaseModel

from windfall.config import lines as places
from windfall.config.accepted import plain, table_of
from windfall.config.examine import class_at, examine
from windfall.config.problems import Problem, dotted
from windfall.config.schema import Config
from windfall.config.signals import _KEYS as KEYS_OF
from windfall.config.signals import SignalTable
from windfall.config.syntax import parse
from windfall.errors import ConfigError
from windfall.inputs import read_bytes

#: The file that a URL of Redis names.
_CA_OF_A_URL = re.compile(r"([?&]ssl_ca_certs=)([^&]+)")
#: Keys that there were.
_GONE = (("federation", "max_base_age"),)


@dataclass
class Looked:
    """The result for a file. ``config`` is there if nothing is wrong. ``partial`` lacks what is wrong."""

    file: str
    config: Config | None
    partial: Config
    problems: list[Problem]
    _tables: dict[str, Any]
    _lines: dict[places.Path, int]

    def problem(self, path: places.Path, message: str, at: places.Path = ()) -> Problem:
        """What is wrong at ``path``, with its line (that of the key ``at`` below it) and the site's name."""
        names = [p for p in path if isinstance(p, str)]
        site = None
        if names[:1] == ["site"] and len(path) > 1 and isinstance(path[1], int):
            rows = self._tables.get("site")
            row = rows[path[1]] if isinstance(rows, list) and path[1] < len(rows) else None
            name = row.get("name") if isinstance(row, dict) else None
            site = name if isinstance(name, str) else None
        return Problem(places.line_of((*path, *at), self._lines), dotted(path), message, site)

    def problem_at_word(self, path: places.Path, message: str) -> Problem:
        """The same, at the key below ``path`` that the message names in backticks, if it names one."""
        cls = class_at(Config, path)
        named = [w for w in message.split("`")[1::2] if cls is not None and w in cls.model_fields]
        # If the message names several keys, the one that is in the file can be changed.
        here = next((w for w in named if (*path, w) in self._lines), named[0] if named else None)
        return self.problem(path, message, (here,) if here else ())


def look(path: Path) -> Looked:
    """The configuration in ``path``, right or wrong.

    Raises:
        ConfigError: the file cannot be read.
    """
    try:
        data = read_bytes(path)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; `windfall init {path}` writes one to start from") from None
    except IsADirectoryError:
        raise ConfigError(f"{path}: a folder; name the configuration in it (TOML)") from None
    except OSError as e:
        raise ConfigError(f"{path}: cannot be read: {e.strerror}") from None
    return look_at(data, str(path), path.parent)


def look_at(data: bytes, file: str, base: Path) -> Looked:
    """The configuration in ``data``; relative paths in it are taken from ``base``."""
    parsed = parse(data, _LISTS)
    if Path(file).name == "config.toml" and Path(file).with_name("ledger.db").is_file():
        without_gone_keys(parsed.tables)
    _absolute(parsed.tables, base)
    found = Looked(file, None, Config.model_construct(), [], parsed.tables, places.key_lines(parsed.text))
    problems = [Problem(line, "(syntax)", what) for line, what in parsed.problems]
    if not parsed.broken:
        examined = examine(parsed.tables, parsed.unread)
        found.config, found.partial = examined.config, examined.partial
        problems += [found.problem(m.path, m.message, m.at) for m in examined.mistakes]
        problems += [found.problem(where, what) for where, what in _missing_files(found.partial, base)]
    found.problems = sorted(dict.fromkeys(problems), key=lambda p: (p.line, p.key))
    if found.problems:
        found.config = None
    return found


def without_gone_keys(tables: dict[str, Any]) -> None:
    """Leave out keys that runs of earlier versions have kept and that mean nothing any more."""
    for table, key in _GONE:
        if isinstance(tables.get(table), dict):
            tables[table].pop(key, None)


def signals(config: Config) -> list[tuple[places.Path, SignalTable]]:
    """Every signal of a configuration, and every source of a microgrid, with its place in the file. Of one that is wrong, those
    that are there."""
    found: list[tuple[places.Path, SignalTable | None]] = []
    sites, others = list(getattr(config, "site", ())), list(getattr(config, "counterfactual", ()))
    found += [(("site", i, "signal"), getattr(s, "signal", None)) for i, s in enumerate(sites)]
    found += [(("site", i, "signals", k), more) for i, s in enumerate(sites) for k, more in enumerate(getattr(s, "signals", ()))]
    for i, s in enumerate(sites):
        behind = getattr(getattr(s, "microgrid", None), "source", ())
        found += [(("site", i, "microgrid", "source", k), source) for k, source in enumerate(behind)]
    found += [(("counterfactual", i, "signal"), getattr(c, "signal", None)) for i, c in enumerate(others)]
    return [(path, table) for path, table in found if table is not None]


def _missing_files(config: Config, base: Path) -> Iterator[tuple[places.Path, str]]:
    for where, table in signals(config):
        for key in ("path", "credentials_file"):
            path = getattr(table, key, None)
            if key not in KEYS_OF[getattr(table, "kind", "trace")]:
                continue  # the key itself is told to be out of place
            if path and not path.startswith("bundled:") and not Path(path).is_file():
                yield (*where, key), f"no such file: {path}{_near(Path(path), base)}"


def _near(path: Path, base: Path) -> str:
    if path.is_dir():
        return ", it is a folder; name the file in it"
    try:
        names = [p.name for p in path.parent.iterdir()]
    except OSError:
        return f"; its folder {path.parent} is not there either (paths are taken from the configuration's own folder, {base})"
    near = difflib.get_close_matches(path.name, names, n=1)
    return f"; did you mean {near[0]}?" if near else f"; put it there, or correct the path (taken from {base.absolute()})"


def _absolute(tables: dict[str, Any], base: Path) -> None:
    """Relative paths in ``tables`` are from ``base``, and `~` is the user's home."""

    def fix(table: Any, key: str, words: Iterable[str] = (), prefixes: tuple[str, ...] = ()) -> None:
        value = table.get(key) if isinstance(table, dict) else None
        if isinstance(value, str) and value and value not in words and not (prefixes and value.startswith(prefixes)):
            table[key] = str(_resolved(value, base))

    for row in (*_rows(tables, "site"), *_rows(tables, "counterfactual")):
        grid = row.get("microgrid")
        for signal in (row.get("signal"), *_rows(row, "signals"), *(_rows(grid, "source") if isinstance(grid, dict) else ())):
            fix(signal, "path", prefixes=("bundled:",))
            fix(signal, "credentials_file")
        fix(row.get("kubernetes"), "kubeconfig")
        exalsius = row.get("exalsius")
        fix(exalsius.get("kubernetes") if isinstance(exalsius, dict) else None, "kubeconfig")
    fix(tables.get("network"), "certificates")
    run = tables.get("run")
    if isinstance(run, dict) and isinstance(bus := run.get("bus"), str):
        run["bus"] = _CA_OF_A_URL.sub(lambda m: f"{m[1]}{quote(str(_resolved(unquote(m[2]), base)))}", bus)
    fix(tables.get("data"), "source", ("stdlib",), ("hf:",))
    fix(tables.get("data"), "tokenizer", ("bytes", "bpe"))
    fix(tables.get("model"), "initial_weights")


def _rows(table: dict[str, Any], key: str) -> list[dict[str, Any]]:
    """A list of tables, as far as it is one."""
    found = table.get(key)
    return [row for row in found if isinstance(row, dict)] if isinstance(found, list) else []


def _resolved(value: str, base: Path) -> Path:
    try:
        path = Path(value).expanduser()
    except RuntimeError:  # the home of a user that there is not
        path = Path(value)
    try:
        return (base / path).resolve()
    except (OSError, ValueError, RuntimeError):  # a loop of links, a NUL: told where it is opened
        return base / path


def _list_names(cls: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for key, field in cls.model_fields.items():
        inner = table_of(field.annotation)
        if inner is not None:
            if get_origin(plain(field.annotation)) is list:
                yield prefix + key
            yield from _list_names(inner, f"{prefix}{key}.")


#: Names of tables of which there may be several, as they stand in headers.
_LISTS = frozenset(_list_names(Config))
