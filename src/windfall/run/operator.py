"""The operator's hand on the switch: hold, release and drain, durable and over every policy.

The command line leaves a request in the run directory; the coordinator, running or started later, takes note of it in
the ledger, says so in an event with who and why, and keeps to it until it is released or over.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from windfall import clock
from windfall.errors import ConfigError
from windfall.policy.base import Decision
from windfall.store.files import read_json, write_json
from windfall.store.ledger import Ledger
from windfall.store.records import Hold
from windfall.store.rundir import RunDir
from windfall.store.telemetry import Telemetry
from windfall.units import iso_utc

KINDS = ("hold", "release", "drain")
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def seconds(text: str) -> float:
    """`90s`, `30m`, `2h`, `1.5d` in seconds.

    Raises:
        ConfigError: it is none of these, or not above 0.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text.strip())
    if not found or float(found[1]) <= 0:
        raise ConfigError(f"--for {text}: give a number and s, m, h or d, as in 90s, 30m, 2h or 1.5d")
    return float(found[1]) * _UNITS[found[2]]


def request(run: RunDir, kind: str, site: str, *, for_s: float | None, who: str, why: str) -> Path:
    """Leave a request for the coordinator; the file that it is in."""
    run.operator.mkdir(exist_ok=True)
    path = run.operator / f"{clock.wall():020.6f}-{secrets.token_hex(3)}.json"
    write_json(path, {"kind": kind, "site": site, "for_s": for_s, "who": who, "why": why}, durable=True)
    return path


class Operator:
    """The coordinator's side."""

    def __init__(self, run: RunDir, ledger: Ledger, telemetry: Telemetry, *, sites: set[str]) -> None:
        self._folder = run.operator
        self._ledger = ledger
        self._telemetry = telemetry
        self._sites = sites
        self._holds = ledger.holds()

    def look(self, t: float) -> None:
        """Take note of what has been asked since the last look."""
        if not self._folder.is_dir():
            return
        for path in sorted(self._folder.glob("*.json")):
            try:
                self._take(t, dict(read_json(path) or {}))
            except (KeyError, TypeError, ValueError, AttributeError) as e:
                self._telemetry.event(t, "refused", reason=f"operator request {path.name}: {type(e).__name__}: {e}")
            path.unlink(missing_ok=True)

    def _take(self, t: float, asked: dict[str, Any]) -> None:
        kind, site, who, why = asked["kind"], asked["site"], str(asked["who"]), str(asked["why"])
        if kind not in KINDS or site not in self._sites:
            raise ValueError(f"{kind!r} of {site!r} is not known")
        if kind == "release":
            self._ledger.unhold(site)
            self._holds.pop(site, None)
            self._telemetry.event(t, "released", site=site, who=who, reason=why or "no reason given")
            return
        until = None if asked["for_s"] is None else t + float(asked["for_s"])
        hold = Hold(site, kind, t, until, who, why)
        self._ledger.hold(hold)
        self._holds[site] = hold
        self._telemetry.event(t, "held" if kind == "hold" else "drain_asked", site=site, who=who, reason=why or "no reason given",
                              until=until)  # fmt: skip

    def keeps_off(self, t: float, decisions: Mapping[str, Decision]) -> dict[str, str]:
        """Sites that must be off whatever their policy says, each with the reason."""
        for site, hold in list(self._holds.items()):
            over = hold.until is not None and t >= hold.until
            # A drain cuts one on-period short; without a time of its own it ends with that.
            over = over or (hold.kind == "drain" and hold.until is None and not decisions[site].on)
            if over:
                self._ledger.unhold(site)
                del self._holds[site]
                self._telemetry.event(t, "released", site=site, who=hold.who, reason=f"the {hold.kind} is over")
        return {site: words(hold) for site, hold in self._holds.items()}


def words(hold: Hold) -> str:
    """A hold in words."""
    text = f"{'held' if hold.kind == 'hold' else 'drained'} by {hold.who}"
    text += f": {hold.why}" if hold.why else ""
    return text + (f" (until {iso_utc(hold.until)})" if hold.until is not None else "")
