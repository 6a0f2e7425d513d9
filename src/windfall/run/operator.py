"""What operators ask for: hold, release and drain. It is durable and overrides every policy.

The command line leaves a request in the run directory. The coordinator, running or started later, records it in the ledger, tells
of it in an event with who and why, and obeys it until the site is released or the time is over.
"""

from __future__ import annotations

import fcntl
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from windfall import clock
from windfall.errors import ConfigError
from windfall.store.files import read_json, sync_dir, write_json
from windfall.store.ledger import Ledger
from windfall.store.records import Hold
from windfall.store.rundir import RunDir
from windfall.store.telemetry import Telemetry
from windfall.units import iso_utc

if TYPE_CHECKING:  # views read holds too, and import nothing heavy
    from windfall.policy.base import Decision

KINDS = ("hold", "release", "drain")
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
#: Ten years (s). A longer time is a mistake, and much longer ones are beyond what calendars can express.
_MOST_S = 3650 * 86400.0


@dataclass(frozen=True, slots=True)
class OperatorRequest:
    """A request that no coordinator has recorded yet. ``at``: wall time (Unix seconds) at which it was made."""

    kind: str
    site: str
    for_s: float | None
    who: str
    why: str
    at: float | None


def seconds(text: str) -> float:
    """`90s`, `30m`, `2h`, `1.5d` in seconds.

    Raises:
        ConfigError: it is none of these, not above 0, or beyond ten years.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text.strip())
    if not found or float(found[1]) <= 0:
        raise ConfigError(f"--for {text}: give a number and s, m, h or d, as in 90s, 30m, 2h or 1.5d")
    found_s = float(found[1]) * _UNITS[found[2]]
    if found_s > _MOST_S:
        raise ConfigError(f"--for {text}: more than ten years; without --for it is until it is released")
    return found_s


def request(run: RunDir, kind: str, site: str, *, for_s: float | None, who: str, why: str) -> Path:
    """Leave a request for the coordinator, durably. Returns its file. Raises OSError if it cannot be written."""
    if not run.operator.is_dir():
        run.operator.mkdir(exist_ok=True)
        sync_dir(run.root)
    path = run.operator / f"{clock.wall():020.6f}-{secrets.token_hex(3)}.json"
    write_json(path, {"kind": kind, "site": site, "for_s": for_s, "who": who, "why": why}, durable=True)
    return path


def pending(run: RunDir) -> list[OperatorRequest]:
    """Requests that the coordinator has not recorded yet, oldest first, without those that it will refuse."""
    found = []
    for path in sorted(run.operator.glob("*.json")):
        try:
            asked = dict(read_json(path) or {})
            kind, site, for_s = asked["kind"], asked["site"], _span(asked["for_s"])
            at = float(path.name.split("-")[0]) if re.match(r"\d+\.\d+-", path.name) else None
        except (OSError, KeyError, TypeError, ValueError):
            continue  # it was recorded a moment ago, or is malformed
        if kind in KINDS and isinstance(site, str):
            found.append(OperatorRequest(kind, site, for_s, str(asked.get("who", "")), str(asked.get("why", "")), at))
    return found


def running(run: RunDir, lock: str = "lock") -> bool:
    """Whether a coordinator of this run is running: its lock is held. With another ``lock`` it is the supervisor.

    It writes nothing, and takes the lock only for a moment.
    """
    try:
        with open(run.root / lock, "rb") as f:
            fcntl.flock(f, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False  # there is no lock file, so there has never been a coordinator
    return False


def _span(value: Any) -> float | None:
    """A request's time in seconds. Raises ValueError or TypeError for a value that `seconds` does not return."""
    if value is None:
        return None
    if not 0 < float(value) <= _MOST_S:
        raise ValueError(f"for_s = {value!r} is not between 0 and ten years")
    return float(value)


class Operator:
    """The coordinator's end: records requests and says which sites they keep off (a `fleet.loop.OperatorHolds`)."""

    def __init__(self, run: RunDir, ledger: Ledger, telemetry: Telemetry, *, sites: set[str]) -> None:
        self._folder = run.operator
        self._ledger = ledger
        self._telemetry = telemetry
        self._sites = sites
        self._holds = {name: hold for name, hold in ledger.holds().items() if name in sites}
        self._seen: set[str] = set()

    def look(self, t: float) -> None:
        """Record what has been asked since the last look."""
        if not self._folder.is_dir():
            return
        for path in sorted(self._folder.glob("*.json")):
            if path.name in self._seen:
                continue
            try:
                self._take(t, dict(read_json(path) or {}))
            except (KeyError, TypeError, ValueError, AttributeError, OSError) as e:
                self._telemetry.event(t, "refused", reason=f"operator request {path.name}: {type(e).__name__}: {e}")
            self._seen.add(path.name)
            try:
                path.unlink(missing_ok=True)
            except OSError as e:  # it is another user's file: that must not end the run
                self._telemetry.event(t, "warning", reason=f"operator request {path.name} cannot be removed: {e.strerror}")

    def _take(self, t: float, asked: dict[str, Any]) -> None:
        kind, site, who, why = asked["kind"], asked["site"], str(asked["who"]), str(asked["why"])
        if kind not in KINDS or site not in self._sites:
            raise ValueError(f"{kind!r} of {site!r} is not known")
        if kind == "release":
            self._ledger.unhold(site)
            self._holds.pop(site, None)
            self._telemetry.event(t, "released", site=site, who=who, reason=why or "no reason given")
            return
        for_s = _span(asked["for_s"])
        until = None if for_s is None else t + for_s
        hold = Hold(site, kind, t, until, who, why)
        self._ledger.hold(hold)
        self._holds[site] = hold
        self._telemetry.event(t, "held" if kind == "hold" else "drain_asked", site=site, who=who, reason=why or "no reason given",
                              until=until)  # fmt: skip

    def keeps_off(self, t: float, decisions: Mapping[str, Decision]) -> dict[str, str]:
        """Sites that must be off whatever their policy says, each with the reason."""
        self.look(t)  # so that a resumed run's first decision knows what was asked meanwhile
        for site, hold in list(self._holds.items()):
            over = hold.until is not None and t >= hold.until
            # A drain ends one on-period. If it has no time of its own it is over when that on-period would have ended.
            over = over or (hold.kind == "drain" and hold.until is None and not (site in decisions and decisions[site].on))
            if over:
                self._ledger.unhold(site)
                del self._holds[site]
                self._telemetry.event(t, "released", site=site, who=hold.who, reason=f"the {hold.kind} is over")
        return {site: words(hold) for site, hold in self._holds.items()}


def words(hold: Hold) -> str:
    """What a hold says, for reasons."""
    text = f"{'held' if hold.kind == 'hold' else 'drained'} by {hold.who}"
    text += f": {hold.why}" if hold.why else ""
    return text + (f" (until {iso_utc(hold.until)})" if hold.until is not None else "")
