"""`windfall hold`, `release`, `drain`, `stop`, `set` and `requests`: what people ask of a run."""

from __future__ import annotations

import getpass
import os
import socket
from contextlib import closing
from pathlib import Path

from windfall import clock
from windfall.cli.output import print_json, say
from windfall.errors import StoreError
from windfall.run.asking import ask
from windfall.run.requests import (
    BUDGET,
    Request,
    RequestOutcome,
    live_key,
    outcome,
    outcomes,
    pending,
    running,
    seconds,
    value_of,
    waits_for,
)
from windfall.store.ledger import Ledger
from windfall.store.rundir import RunDir
from windfall.units import clock_text, duration_text, iso_utc
from windfall.view.moment import open_telemetry
from windfall.view.text import safe

_LOOK_S = 0.2


def of_site(
    kind: str,
    root: Path,
    site: str,
    span: str | None,
    why: str,
    who: str | None,
    expect: str | None,
    wait: str | None,
    as_json: bool,
) -> int:
    """Ask for ``kind`` (hold, release or drain) of a site of the run in ``root``, and say what will come of it. The exit code."""
    for_s = None if span is None else seconds(span)
    run = RunDir(root).open_existing()
    note = f"{site} is not held; the request does no harm" if kind == "release" and not _held(run, site) else ""
    return _ask(run, Request(kind, site, who or whoever(), why, for_s, expect=expect), wait, as_json, note)


def stop(root: Path, why: str, who: str | None, expect: str | None, wait: str | None, as_json: bool) -> int:
    """Ask that the run in ``root`` stops. The exit code."""
    return _ask(RunDir(root), Request("stop", None, who or whoever(), why, expect=expect), wait, as_json)


def change(
    root: Path, key: str, value: str, extend: str | None, why: str, who: str | None, expect: str | None, wait: str | None,
    as_json: bool,
) -> int:  # fmt: skip
    """Ask for another value of ``key``. The exit code."""
    asked = Request("set", None, who or whoever(), why, key=live_key(key), value=value_of(value), extend=extend, expect=expect)
    return _ask(RunDir(root), asked, wait, as_json)


def requests(root: Path, as_json: bool) -> None:
    """Print what was asked of a run and what became of it, oldest first."""
    found = outcomes(RunDir(root).open_existing())
    if not found:
        say("nothing has been asked of this run")
    for one in found:
        if as_json:
            print_json(one.as_json(), line=True)
            continue
        r = one.request
        asked = iso_utc(r.at).replace("T", " ").removesuffix("Z") if r.at is not None else "at an unknown time"
        expects = f", if it is {r.expect}" if r.expect is not None else ""
        for_s = f" for {duration_text(r.for_s)}" if r.for_s is not None else ""
        what = f"{r.what()}{for_s}{expects}, by {r.who}" + (f": {r.why}" if r.why else "")
        print(safe(f"{asked}  {r.id}  {_became(one):<28}  {what}" + (f" ({one.reason})" if one.reason else "")))


def _became(one: RequestOutcome) -> str:
    return one.state if one.t_run is None else f"{one.state} at {clock_text(one.t_run)}"


def _ask(run: RunDir, asked: Request, wait: str | None, as_json: bool, note: str = "") -> int:
    wait_s = None if wait is None else seconds(wait, "--wait")
    id = ask(run, asked)
    led, stands = running(run), _stands(run, asked.site)
    found = _wait(run, id, wait_s) if wait_s is not None else outcome(run, id)
    state, reason = (found.state, found.reason) if found else ("waiting", "")
    if as_json:
        print_json(
            {
                "id": id, "site": asked.site, "kind": asked.kind, "for_s": asked.for_s, "key": asked.key or None,
                "value": asked.value, "who": asked.who, "why": " ".join(asked.why.split()), "expect": asked.expect,
                "running": led, "state": state, "reason": reason, "note": note,
            }
        )  # fmt: skip
        return int(state == "refused")
    if state == "refused":
        print(f"refused: {asked.what()}: {reason}")
        return 1
    said = {"applied": "done", "waiting": "asked; " + waits_for(run)}[state]
    print(f"{said}: {_comes(asked, led, stands)}" + (f" ({note})" if note else ""))
    return 0


def _wait(run: RunDir, id: str, wait_s: float) -> RequestOutcome | None:
    """What becomes of a request within ``wait_s`` of wall time."""
    until = clock.monotonic() + wait_s
    while (found := outcome(run, id)) is not None and found.state == "waiting" and clock.monotonic() < until:
        clock.pause(_LOOK_S)
    return found


def whoever() -> str:
    """Who asks: user and host. In some containers the user has only a number."""
    try:
        user = getpass.getuser()
    except (KeyError, ImportError, OSError):
        user = f"uid-{os.getuid()}"
    return f"{user}@{socket.gethostname()}"


def _comes(asked: Request, led: bool, stands: str) -> str:
    """What comes of a request; ``stands``: the state of its site."""
    site = asked.site
    match asked.kind:
        case "release":
            return f"{site} goes back to its policy"
        case "stop":
            return "sites hand in their work and the run stops; `windfall run` resumes it"
        case "set" if asked.key == BUDGET:
            goes = "sites hand in their work and start again under the new schedule" if led else "it counts from then on"
            return f"{asked.what()}; {goes}. Write it into the configuration, too, or resume with the run directory"
        case "set":
            return f"{asked.what()} from then on. Write it into the configuration, too, or resume with the run directory"
    goes = f"{site} {_goes(stands)}"
    if asked.for_s is not None:
        return f"{goes}, for {duration_text(asked.for_s)} of run time from {'now' if led else 'then'} on, unless released before"
    if asked.kind == "hold":
        return f"{goes}, until it is released"
    if stands in ("off", "failed"):
        return f"{goes}, through an on-period that has begun; its policy decides on the next one"
    return f"{goes}, until the on-period is over that this cuts short; then its policy decides again"


def _goes(stands: str) -> str:
    """What a site does that is to be off."""
    match stands:
        case "off" | "failed":
            return "stays off"
        case "provisioning":
            return "is started no further"
        case "":
            return "hands in its work if it is on, and is off"
    return "hands in its work and stops"


def _stands(run: RunDir, site: str | None) -> str:
    """The site's state as its coordinator last said; "off" while none runs, "" where nothing says."""
    if site is None or not running(run):
        return "off"
    try:
        telemetry = open_telemetry(run)
        if telemetry is None:
            return ""
        with closing(telemetry):
            return str(telemetry.now().get("sites", {}).get(site, [""])[0])
    except StoreError:
        return ""


def _held(run: RunDir, site: str) -> bool:
    """Whether the site is held, or asked to be."""
    with closing(Ledger.open(run.ledger, read_only=True)) as ledger:
        held = site in ledger.holds()
    for asked in pending(run):
        if asked.site == site:
            held = asked.kind != "release"
    return held
