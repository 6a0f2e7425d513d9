"""Leaves a request for the coordinator of a run (`run.requests`): what the command line and the page do."""

from __future__ import annotations

import os
import secrets
import tomllib
from contextlib import closing
from dataclasses import replace

from windfall import clock
from windfall.errors import ConfigError, StoreError
from windfall.run.requests import Request, outcome, pending, plain, running
from windfall.store.files import sync_dir, write_json
from windfall.store.ledger import Ledger
from windfall.store.rundir import SUPERVISOR_LOCK, RunDir

#: So many requests may wait.
_MOST_WAITING = 1000


def ask(run: RunDir, asked: Request) -> str:
    """Leave a request for the coordinator, durably. Returns its id. Asked again under the same id it is left once.

    Raises:
        ConfigError: it can be seen at once that it will be refused (no such site or value, the run is done), its id was used for
            something else, or it cannot be written.
        StoreError: no run there, or it cannot be read.
    """
    run.open_existing()
    r = replace(asked, id=asked.id or secrets.token_hex(8), who=plain(asked.who), why=plain(asked.why))
    if wrong := r.wrong():
        raise ConfigError(f"{r.what()}: {wrong}")
    names = _sites(run)
    if r.site is not None and r.site not in names:
        raise ConfigError(f"{r.site}: no such site in this run; there are {', '.join(names)}")
    waiting = pending(run)
    if (known := outcome(run, r.id, waiting)) is not None:
        if replace(known.request, at=None) == replace(r, at=None):
            return r.id
        raise ConfigError(f"{r.id}: this id is of another request ({known.request.what()}); give a new one")
    with closing(Ledger.open(run.ledger, read_only=True)) as ledger:
        if ledger.complete():
            raise ConfigError(f"{run.root}: the run is done, every block is settled; there is nothing left to {r.kind}")
    if r.kind == "stop" and not (running(run) or running(run, SUPERVISOR_LOCK)):
        raise ConfigError(f"{run.root}: the run is not running; there is nothing to stop")
    if r.kind == "set":
        from windfall.run.settings import change

        change(run, r)
    if len(waiting) >= _MOST_WAITING:
        raise ConfigError(f"{run.operator}: {len(waiting)} requests wait already; start the run, which takes them up")
    if not os.access(run.root, os.W_OK):
        raise ConfigError(f"{run.root}: cannot be written, and that is where the coordinator finds the request; get write access")
    try:
        if not run.operator.is_dir():
            run.operator.mkdir(exist_ok=True)
            sync_dir(run.root)
        # They are taken up in the order of their names, and a clock that was set back must not let one overtake another.
        at = max(clock.wall(), *(before.at + 1e-6 for before in waiting if before.at is not None), 0.0)
        write_json(run.operator / f"{at:020.6f}-{r.id}.json", r.as_json(), durable=True)
    except OSError as e:
        raise ConfigError(f"{run.operator}: the request cannot be written: {e.strerror}; make room or get write access") from None
    return r.id


def _sites(run: RunDir) -> list[str]:
    try:
        raw = tomllib.loads(run.config.read_text(encoding="utf-8"))
        return [str(s["name"]) for s in raw["site"]]
    except (OSError, ValueError, KeyError, TypeError):
        raise StoreError(f"{run.config}: the run's sites cannot be read from it; restore it from a copy") from None
