"""`windfall hold`, `release` and `drain`: an operator's requests about a site."""

from __future__ import annotations

import getpass
import os
import socket
import tomllib
from pathlib import Path

from windfall.cli.output import print_json
from windfall.errors import ConfigError, StoreError
from windfall.run.operator import pending, request, running, seconds
from windfall.store.ledger import Ledger
from windfall.store.rundir import RunDir
from windfall.units import duration_text


def operate(kind: str, root: Path, site: str, span: str | None, why: str, as_json: bool) -> None:
    """Leave a request of ``kind`` (hold, release or drain) with the run in ``root``, and say what will come of it.

    Raises:
        ConfigError: no such site, a time that is none, a run that is done, a run directory that cannot be written.
        StoreError: no run there, or it cannot be read.
    """
    for_s = None if span is None else seconds(span)
    run = RunDir(root).open_existing()
    names = _sites(run)
    if site not in names:
        raise ConfigError(f"{site}: no such site in this run; there are {', '.join(names)}")
    if not os.access(run.root, os.W_OK):
        raise ConfigError(f"{run.root}: cannot be written, and that is where the coordinator finds the request; get write access")
    held, complete = _stands(run, site)
    if complete:
        raise ConfigError(f"{run.root}: the run is done, every block is settled; there is nothing left to {kind}")
    try:
        path = request(run, kind, site, for_s=for_s, who=whoever(), why=" ".join(why.split()))
    except OSError as e:
        raise ConfigError(f"{run.operator}: the request cannot be written: {e.strerror}; make room or get write access") from None
    led = running(run)
    note = f"{site} is not held; the request does no harm" if kind == "release" and not held else ""
    if as_json:
        print_json(
            {
                "site": site, "kind": kind, "for_s": for_s, "why": " ".join(why.split()), "request": str(path),
                "running": led, "note": note,
            }
        )  # fmt: skip
        return
    begins = "asked; the coordinator acts at its next tick" if led else "noted; it takes effect when the run is started again"
    print(f"{begins}: {_comes(kind, site, for_s, led)}" + (f" ({note})" if note else ""))


def whoever() -> str:
    """Who asks: user and host. In some containers the user has only a number."""
    try:
        user = getpass.getuser()
    except (KeyError, ImportError, OSError):
        user = f"uid-{os.getuid()}"
    return f"{user}@{socket.gethostname()}"


def _comes(kind: str, site: str, for_s: float | None, led: bool) -> str:
    """What will come of the request."""
    if kind == "release":
        return f"{site} goes back to its policy"
    goes = f"{site} hands in its work and stops" if led else f"{site} stays off"
    if for_s is not None:
        return f"{goes}, for {duration_text(for_s)} of run time from {'now' if led else 'then'} on, unless released before"
    if kind == "hold":
        return f"{goes}, until it is released"
    return f"{goes}, until the on-period is over that this cuts short; then its policy decides again"


def _sites(run: RunDir) -> list[str]:
    try:
        raw = tomllib.loads(run.config.read_text(encoding="utf-8"))
        return [str(s["name"]) for s in raw["site"]]
    except (OSError, ValueError, KeyError, TypeError):
        raise StoreError(f"{run.config}: the run's sites cannot be read from it; restore it from a copy") from None


def _stands(run: RunDir, site: str) -> tuple[bool, bool]:
    """Whether the site is held, or asked to be, and whether the run is done."""
    ledger = Ledger.open(run.ledger, read_only=True)
    try:
        held, complete = site in ledger.holds(), ledger.complete()
    finally:
        ledger.close()
    for asked in pending(run):
        if asked.site == site:
            held = asked.kind != "release"
    return held, complete
