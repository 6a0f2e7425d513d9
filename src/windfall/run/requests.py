"""What people ask of a run: hold, release or drain a site, stop the run, change its budget or a limit.

Only the coordinator writes a run's databases, so whoever asks leaves a *request* in the run directory: a file, durable and whole.
The coordinator takes it up once, at a tick, into the ledger (`run.operator`); until then it waits, also while nobody runs. A
request has an id of its asker's: asked again under that id, it is done no second time. With ``expect`` it says what its asker saw,
and it is refused if that is not so any more.

Nothing that can be asked turns a site on: `release` only gives a site back to its policy. The command line and the page both ask
through `run.asking.ask`. This file imports nothing heavy, as views read it.
"""

from __future__ import annotations

import fcntl
import json
import re
import unicodedata
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from windfall.errors import ConfigError
from windfall.fleet.machine import State
from windfall.store.ledger import Ledger
from windfall.store.records import Hold, TakenRequest
from windfall.store.rundir import SUPERVISOR_LOCK, RunDir
from windfall.units import iso_utc

#: What can be asked of a site, and in all.
OF_SITES = ("hold", "release", "drain")
KINDS = (*OF_SITES, "stop", "set")
#: Keys of the configuration that `set` changes while a run goes on.
LIVE_KEYS = (
    "run.budget_tokens", "policy.deadline", "policy.deadline_h", "limits.max_sites", "limits.max_power_w",
    "limits.max_spend_per_h", "limits.max_spend",
)  # fmt: skip
BUDGET = "run.budget_tokens"
#: What can be expected of a site, and of the run.
SITE_STANDS = (*(s.value for s in State), "held", "free")
RUN_STANDS = ("paused", "local", "federated")
#: Ten years (s). A longer time is a mistake, and much longer ones are beyond what calendars can express.
_MOST_S = 3650 * 86400.0
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
#: Bytes of a request's file, and characters of its texts.
_LARGEST, _LONGEST = 8192, 500
_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


@dataclass(frozen=True, slots=True)
class Request:
    """Something asked of a run.

    ``site`` and ``for_s`` (run time) belong to a hold or drain, ``key``, ``value`` (None takes it away) and ``extend`` (of a larger
    budget: warmdown or hold) to `set`. ``who``: its author. ``expect``: of a site its state, `held` or `free`; of a stop the mode
    (several with commas: any of them); of `set` the value so far. ``id``: the asker's (made up if empty). ``at``: wall time at
    which it was asked.
    """

    kind: str
    site: str | None = None
    who: str = ""
    why: str = ""
    for_s: float | None = None
    key: str = ""
    value: Any = None
    extend: str | None = None
    expect: str | None = None
    id: str = ""
    at: float | None = None

    def what(self) -> str:
        """`hold of california`, `stop`, `limits.max_sites = 2`."""
        if self.kind == "set":
            return f"{self.key} = {'none' if self.value is None else json.dumps(self.value)}"
        return f"{self.kind} of {self.site}" if self.site is not None else self.kind

    def expected(self) -> list[str]:
        """What a site or the run may be, a word each."""
        return [word.strip() for word in (self.expect or "").split(",")]

    def as_json(self) -> dict[str, Any]:
        """What its file and the ledger keep."""
        return asdict(self)

    @classmethod
    def of(cls, asked: Any, at: float | None = None) -> Request:
        """The request that a file holds. Raises ValueError if it is none."""
        if not isinstance(asked, dict) or not isinstance(asked.get("kind"), str):
            raise ValueError("it is no request")
        if asked["kind"] == "set" and "value" not in asked:
            raise ValueError("set needs a value; null takes the key's value away")
        for name in ("site", "who", "why", "key", "extend", "expect", "id"):
            if not isinstance(asked.get(name), str | None):
                raise ValueError(f"its {name} is no text")
        found = cls(
            asked["kind"], asked.get("site") or None, plain(asked.get("who") or ""), plain(asked.get("why") or ""),
            _span(asked.get("for_s")), asked.get("key") or "", asked.get("value"), asked.get("extend") or None,
            asked.get("expect") or None, asked.get("id") or "", at,
        )  # fmt: skip
        if wrong := found.wrong():
            raise ValueError(wrong)
        return found

    def wrong(self) -> str:
        """Why it cannot be a request of any run, or an empty string."""
        if self.kind not in KINDS:
            return f"{self.kind!r} is nothing that can be asked; there are {', '.join(KINDS)}"
        if (self.kind in OF_SITES) != (self.site is not None):
            return f"{self.kind} is of {'a site' if self.kind in OF_SITES else 'the run, and names no site'}"
        if self.for_s is not None and self.kind not in ("hold", "drain"):
            return f"{self.kind} takes no time"
        if self.kind == "set" and self.key not in LIVE_KEYS:
            return f"{self.key} cannot be changed while the run goes on; there are {', '.join(LIVE_KEYS)}"
        if not isinstance(self.value, str | int | float | None) or isinstance(self.value, bool):
            return f"{self.key} is one value"
        if self.extend is not None and (self.key != BUDGET or self.extend not in ("warmdown", "hold")):
            return "extend goes with a larger budget, and is warmdown or hold"
        if self.expect and self.kind != "set":
            known = SITE_STANDS if self.kind in OF_SITES else RUN_STANDS
            if strange := [word for word in self.expected() if word not in known]:
                return f"expect: {strange[0] or 'nothing'!r} is nothing that can be so; there are {', '.join(known)}"
        if not _ID.fullmatch(self.id):
            return "an id has 1 to 64 letters, digits, - and _"
        long = [k for k in ("site", "who", "why", "expect", "value") if len(str(getattr(self, k) or "")) > _LONGEST]
        return f"its {long[0]} is longer than {_LONGEST} characters" if long else ""


@dataclass(frozen=True, slots=True)
class RequestOutcome:
    """What has become of a request: `waiting`, `applied`, or `refused` with a reason. Both times are of when it was taken up."""

    request: Request
    state: str
    reason: str = ""
    t_run: float | None = None
    t_wall: float | None = None

    def as_json(self) -> dict[str, Any]:
        """The object that `windfall requests --json` prints a line of."""
        return {**self.request.as_json(), "state": self.state, "reason": self.reason, "t_run": self.t_run, "t_wall": self.t_wall}


# -- as it is typed -----------------------------------------------------------------------------------------


def seconds(text: str, option: str = "--for") -> float:
    """`90s`, `30m`, `2h`, `1.5d` in seconds, as given with an option.

    Raises:
        ConfigError: it is none of these, not above 0, or beyond ten years.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text.strip())
    if not found or float(found[1]) <= 0:
        raise ConfigError(f"{option} {text}: give a number and s, m, h or d, as in 90s, 30m, 2h or 1.5d")
    found_s = float(found[1]) * _UNITS[found[2]]
    if found_s > _MOST_S:
        raise ConfigError(f"{option} {text}: more than ten years; leave it out for no end")
    return found_s


def live_key(text: str) -> str:
    """The key that `set` means by ``text``, which may leave out the table: `max_sites`. Raises ConfigError."""
    found = [k for k in LIVE_KEYS if text in (k, k.rpartition(".")[2])]
    if not text:
        raise ConfigError(f"set names a key; there are {', '.join(LIVE_KEYS)}")
    if not found:
        raise ConfigError(
            f"{text}: cannot be changed while the run goes on; there are {', '.join(LIVE_KEYS)}. For others stop the run, change "
            "the file and run it again"
        )
    return found[0]


def value_of(text: str) -> str | int | float | None:
    """A value as it is typed: a number, `none` for no value, or a text."""
    if text.strip().lower() == "none":
        return None
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text.strip()


# -- looking -------------------------------------------------------------------------------------------------


def pending(run: RunDir) -> list[Request]:
    """Requests that the coordinator has not taken up yet, oldest first, without those that it will refuse as malformed."""
    found = []
    for path in sorted(run.operator.glob("*.json")):
        try:
            found.append(read(path))
        except (OSError, ValueError):
            continue  # it was taken up a moment ago, or is malformed
    return found


def read(path: Path) -> Request:
    """The request in a file. Raises ValueError if it is none, OSError if it cannot be read."""
    with open(path, "rb") as f:
        text = f.read(_LARGEST + 1)
    if len(text) > _LARGEST:
        raise ValueError(f"it has more than {_LARGEST} bytes")
    name = re.fullmatch(r"(\d+\.\d+)-(.+)\.json", path.name)
    try:
        asked = json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError("it is no JSON") from None
    if isinstance(asked, dict) and name:
        asked.setdefault("id", name[2])  # left by a Windfall from before requests had ids
    return Request.of(asked, float(name[1]) if name else None)


def outcome(run: RunDir, id: str, waiting: list[Request] | None = None) -> RequestOutcome | None:
    """What has become of a request; None if nobody has heard of it. ``waiting``: what `pending` has just found.

    Raises:
        StoreError: no run there, or it cannot be read.
    """
    # What waits is read first: a request that is taken up in between is then found in the ledger.
    left = next((r for r in (pending(run) if waiting is None else waiting) if r.id == id), None)
    with closing(Ledger.open(run.ledger, read_only=True)) as ledger:
        taken = ledger.request(id)
    if taken is not None:
        return _taken(taken)
    return RequestOutcome(left, "waiting") if left is not None else None


def outcomes(run: RunDir, most: int = 100) -> list[RequestOutcome]:
    """The last requests, at most so many that were taken up, oldest first, and then all that wait. Raises as `outcome`."""
    waiting = pending(run)
    with closing(Ledger.open(run.ledger, read_only=True)) as ledger:
        taken = ledger.last_requests(most)
    known = {t.id for t in taken}
    return [*map(_taken, taken), *(RequestOutcome(r, "waiting") for r in waiting if r.id not in known)]


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


def waits_for(run: RunDir) -> str:
    """In words, what a request that is left now waits for."""
    if running(run):
        return "the coordinator acts at its next tick"
    if running(run, SUPERVISOR_LOCK):
        return "no coordinator runs at this moment; the next one, which is being started, takes it up"
    return "no coordinator runs; it waits until the run is started again"


def _taken(t: TakenRequest) -> RequestOutcome:
    return RequestOutcome(Request(**{**t.asked, "id": t.id}), "applied" if t.applied else "refused", t.reason, t.t_run, t.t_wall)


def plain(text: str) -> str:
    """A text of one line without what a terminal would obey, as it is shown to others than who wrote it."""
    return " ".join("".join("\ufffd" if unicodedata.category(c) in ("Cc", "Cf") and not c.isspace() else c for c in text).split())


def _span(value: Any) -> float | None:
    """A request's time in seconds. Raises ValueError for a value that `seconds` does not return."""
    if value is None:
        return None
    if not isinstance(value, int | float) or not 0 < value <= _MOST_S:
        raise ValueError(f"for_s = {value!r} is not between 0 and ten years")
    return float(value)


def words(hold: Hold) -> str:
    """What a hold says, for reasons."""
    text = f"{'held' if hold.kind == 'hold' else 'drained'} by {hold.who}"
    text += f": {hold.why}" if hold.why else ""
    return text + (f" (until {iso_utc(hold.until)})" if hold.until is not None else "")
