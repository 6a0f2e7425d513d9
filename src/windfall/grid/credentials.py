"""Credentials of providers: from the environment, or from a file of NAME=value lines that only its owner can read."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from windfall.config.load import signals
from windfall.config.schema import Config
from windfall.config.trackers import SECRETS
from windfall.errors import Unauthorized
from windfall.inputs import read_text, why

#: What each kind of signal needs. Its own package asks for nothing else.
NEEDED: dict[str, tuple[str, ...]] = {
    "watttime": ("WATTTIME_USERNAME", "WATTTIME_PASSWORD"),
    "electricity_maps": ("ELECTRICITY_MAPS_API_KEY",),
    "openelectricity": ("OPENELECTRICITY_API_KEY",),
}
#: Other names of the same, which a service's own client reads.
_ALSO = {"WATTTIME_USERNAME": "WATTTIME_USER"}
#: Where an account comes from.
WHERE = {
    "watttime": "https://docs.watttime.org (free accounts see CAISO_NORTH)",
    "electricity_maps": "https://portal.electricitymaps.com",
    "openelectricity": "https://platform.openelectricity.org.au",
}


def variables(config: Config) -> frozenset[str]:
    """The environment's variables that hold credentials of what ``config`` asks, or sends to: for the coordinator alone, sites that
    watch a signal by themselves, and what sends figures to trackers."""
    found = {name for t in config.tracker for name in SECRETS[t.kind]}
    found |= {s.exalsius.token_from.removeprefix("env:") for s in config.site if s.exalsius is not None}
    found |= config.alerts.variables
    grid = config.openadr.references.values() if config.openadr is not None else ()
    found |= {where.removeprefix("env:") for where in grid if where.startswith("env:")}
    for _, table in signals(config):
        names = (*NEEDED.get(table.kind, ()), *table.headers_from_env.values())
        found.update(names, (_ALSO[n] for n in names if n in _ALSO))
    return frozenset(found)


def by_reference(reference: str, named_by: str) -> str:
    """The secret that `env:NAME` or `file:PATH` names; ``named_by`` is the key that does, for messages.

    Raises:
        Unauthorized: there is none, it cannot be read, or it is not one line of ASCII.
    """
    kind, _, name = reference.partition(":")
    if kind == "env":
        value = os.environ.get(name, "").strip()
        if not value:
            raise Unauthorized(f"the variable {name}, which {named_by} names, is not set")
    else:
        try:
            value = read_text(Path(name).expanduser()).strip()
        except (OSError, UnicodeDecodeError) as e:
            raise Unauthorized(f"{name}, which {named_by} names, cannot be read: {why(e)}") from None
        if not value:
            raise Unauthorized(f"{name}, which {named_by} names, is empty")
    if not value.isascii() or not value.isprintable():
        raise Unauthorized(f"what {reference} has, which {named_by} names, is more than one line, or not ASCII")
    return value


class Credentials:
    """Values by name: the environment's, else those of ``file``. Has no repr that shows any."""

    def __init__(self, file: str | None = None, environ: Mapping[str, str] | None = None) -> None:
        self._file = Path(file).expanduser() if file else None
        self._environ = os.environ if environ is None else environ

    def named(self, name: str) -> str:
        """The variable that gives the value of ``name``: another name of it, where that is the one set."""
        return self._look_up((name,))[name][0]

    def missing(self, names: tuple[str, ...]) -> list[str]:
        """Those of ``names`` that have no value.

        Raises:
            Unauthorized: the file cannot be read, or others can read it too.
        """
        found = self._look_up(names)
        return [n for n in names if not found[n][1]]

    def need(self, names: tuple[str, ...], who: str) -> list[str]:
        """The values of ``names``; ``who`` opens the message.

        Raises:
            Unauthorized: one has no value, or the file cannot be used.
        """
        found = self._look_up(names)
        missing = [n for n in names if not found[n][1]]
        if missing:
            place = f" or in {self._file}" if self._file else ", or name a credentials_file"
            also = "".join(f" ({_ALSO[n]} is read too)" for n in missing if n in _ALSO)
            raise Unauthorized(f"{who}: {' and '.join(missing)} not set; set {'it' if len(missing) == 1 else 'them'} in the "
                               f"environment{place}{also}")  # fmt: skip
        return [found[n][1] for n in names]

    def _look_up(self, names: tuple[str, ...]) -> dict[str, tuple[str, str]]:
        """Each name, the one of its spellings that is set, and the value."""
        found = {n: _first(self._environ, n) for n in names}
        if self._file is not None and not all(value for _, value in found.values()):
            stored = _read(self._file)
            found = {n: f if f[1] else _first(stored, n) for n, f in found.items()}
        return found


def _first(values: Mapping[str, str], name: str) -> tuple[str, str]:
    return next(((n, v) for n in (name, _ALSO.get(name, "")) if n and (v := values.get(n, "").strip())), (name, ""))


def _read(file: Path) -> dict[str, str]:
    try:
        if file.stat().st_mode & 0o077:
            raise Unauthorized(f"{file}: others can read these credentials; run: chmod 600 {file}")
        lines = read_text(file).splitlines()
    except FileNotFoundError:
        raise Unauthorized(f"{file}: no such credentials_file; make it, with NAME=value lines") from None
    except (OSError, UnicodeDecodeError) as e:
        raise Unauthorized(f"{file}: these credentials cannot be read: {why(e)}") from None
    found = {}
    for line in lines:
        name, sign, value = line.strip().removeprefix("export ").partition("=")
        if sign and not name.startswith("#"):
            value = value.strip()
            if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'":
                value = value[1:-1]
            found[name.strip()] = value
    return found
