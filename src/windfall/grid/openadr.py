"""A client (VEN) of an OpenADR 3 server (VTN): reads a programme's events and sends reports.

Of the OpenADR 3.0.1 specification (openadr.org) it uses `GET /programs`, `GET /events` and `POST /reports`, with OAuth 2 client
credentials (RFC 6749 4.4) or a bearer token. Of 3.1 it reads targets that are texts, asks for objects that only who names a target
may see, and knows its way of saying "now".
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from windfall import clock
from windfall.config.openadr import OpenAdrTable
from windfall.config.schema import Config
from windfall.errors import SignalError, Unauthorized
from windfall.grid.credentials import by_reference
from windfall.grid.http import AccessDenied, Http
from windfall.units import parse_utc

#: The most that a VTN gives at once (the specification's own limit), and pages that are read at most.
_PAGE, _PAGES = 50, 100
#: A token is asked for anew so long (s) before it ends; and how long one counts that does not say when it ends.
_BEFORE_END_S, _TOKEN_S = 30.0, 300.0
#: Intervals of one event, at most.
_MOST_INTERVALS = 10_000
_DURATION = re.compile(r"P(?:(\d+)Y)?(?:(\d+)M)?(?:(\d+)W)?(?:(\d+)D)?(?:T(?:(\d+)H)?(?:(\d+)M)?(?:(\d+(?:\.\d+)?)S)?)?")
#: Seconds of its parts. Years and months are the longest that there are, so that nothing ends too early.
_PARTS_S = (366 * 86400, 31 * 86400, 604800, 86400, 3600, 60, 1)
#: "The beginning of time", as 3.0 and 3.1 write it: at once, or of a later interval: after the one before.
_BEGINNING = re.compile(r"000[01]-0[01]-0[01](T00:00(:00(\.0+)?)?(Z|[+-]00:00)?)?")
_WATTS = {"KW": 1e3, "W": 1.0, "MW": 1e6}


@dataclass(frozen=True, slots=True)
class GridSpan:
    """What one interval of an event asks of sites: to be off (``hold``), or to take no more than ``limit_w`` together.

    ``key`` is made of the event's id, when it was last changed, and the interval. ``begin`` and ``end`` are Unix seconds, the
    end infinite where there is none. ``whole``: it is for every site of the run.
    """

    key: str
    event: str
    interval: int
    begin: float
    end: float
    sites: frozenset[str]
    whole: bool
    hold: bool
    limit_w: float | None


class Vtn:
    """The server. Used by one thread."""

    def __init__(self, table: OpenAdrTable) -> None:
        self._table = table
        self._http = Http("openadr", timeout_s=table.timeout_s)
        self._token, self._token_until = "", -math.inf
        self._programme: dict[str, Any] = {}

    def programme(self) -> dict[str, Any]:
        """The programme. Raises SignalError if the VTN has none of that name or id, else as `events`."""
        if not self._programme:
            found = [p for p in self._all("programs") if isinstance(p, dict)]
            for key in ("id", "programName"):
                mine = [p for p in found if p.get(key) == self._table.programme and p.get("id")]
                if mine:
                    self._programme = mine[0]
                    break
            else:
                names = sorted(str(p.get("programName")) for p in found)[:10]
                there = f"there are {', '.join(names)}" if names else "there is none"
                raise SignalError(f"openadr: the VTN has no programme {self._table.programme}; {self._http.public(there)}")
        return self._programme

    def events(self) -> list[Any]:
        """The programme's events as the VTN has them now, each with the programme's payload descriptors before its own.

        Raises:
            TryLater: it may answer later.
            Unauthorized: a credential is not there, or access is refused.
            SignalError: it answers something else, or has no such programme.
        """
        programme = self.programme()
        found, common = self._all("events", programID=str(programme["id"])), programme.get("payloadDescriptors")
        if not isinstance(common, list):
            return found
        key = "payloadDescriptors"
        return [
            {**e, key: [*common, *(e.get(key) or [])]} if isinstance(e, dict) and isinstance(e.get(key), list | None) else e
            for e in found
        ]

    def report(self, body: Mapping[str, Any]) -> None:
        """Send a report, whose programID is filled in. Raises as `events`."""
        whole = {"programID": self.programme()["id"], **body}
        self._authorised(lambda headers: self._http.post(self._at("reports"), whole, headers=headers))

    def close(self) -> None:
        """Let go of connections."""
        self._http.close()

    def _at(self, what: str) -> str:
        return f"{self._table.url.rstrip('/')}/{what}"

    def _all(self, what: str, **params: str) -> list[Any]:
        """Every object; and those that only who names a target of theirs is given (3.1)."""
        found = self._pages(what, **params)
        for target in self._table.targets:
            known = {o.get("id") for o in found if isinstance(o, dict)}
            found += [o for o in self._pages(what, targets=target, **params) if not isinstance(o, dict) or o.get("id") not in known]
        return found

    def _pages(self, what: str, **params: str) -> list[Any]:
        found: list[Any] = []
        seen: set[str] = set()
        for page in range(_PAGES):
            asked = {**params, "skip": page * _PAGE, "limit": _PAGE}
            got = self._authorised(lambda headers, asked=asked: self._http.get(self._at(what), asked, headers=headers))
            if not isinstance(got, list):
                raise SignalError(f"openadr: /{what} answers no list; check openadr.url")
            ids = {str(o.get("id")) if isinstance(o, dict) else repr(o) for o in got}
            if not ids - seen:
                return found  # the end, or a VTN that knows no pages
            seen |= ids
            found += got
            if len(got) < _PAGE:
                return found
        raise SignalError(f"openadr: /{what} has more than {_PAGES * _PAGE} objects; ask for a programme of its own")

    def _authorised(self, ask: Any) -> Any:
        """What ``ask`` returns, with a token; where the VTN refuses the one that is kept, with a new one.

        It does so with 401, or with 403, as the specification has no other answer for it.
        """
        kept, token = clock.monotonic() < self._token_until, self._bearer()
        try:
            return ask({"Authorization": f"Bearer {token}"})
        except AccessDenied:
            if self._table.token_url is None or not kept:
                raise
        self._token_until = -math.inf
        return ask({"Authorization": f"Bearer {self._bearer()}"})

    def _bearer(self) -> str:
        named = {key: by_reference(where, key) for key, where in self._table.references.items()}
        self._http.hide(*named.values())
        if self._table.token_url is None:
            return named["openadr.token"]
        if clock.monotonic() >= self._token_until:
            form = {
                "grant_type": "client_credentials", "client_id": named["openadr.client_id"],
                "client_secret": named["openadr.client_secret"], **({"scope": self._table.scope} if self._table.scope else {}),
            }  # fmt: skip
            got = self._http.post_form(self._table.token_url, form)
            token, lasts = (got.get("access_token"), got.get("expires_in")) if isinstance(got, dict) else (None, None)
            if not isinstance(token, str) or not token.isascii() or not token.isprintable() or not token:
                raise SignalError("openadr: token_url answers no access_token; check it")
            self._http.hide(token)
            lasts_s = float(lasts) if isinstance(lasts, int | float) and math.isfinite(lasts) else _TOKEN_S
            self._token, self._token_until = token, clock.monotonic() + max(lasts_s - _BEFORE_END_S, 0.0)
        return self._token


def missing(config: Config) -> list[str]:
    """What `[openadr]` names and is not there, a sentence each."""
    found = []
    for key, where in config.openadr.references.items() if config.openadr is not None else ():
        try:
            by_reference(where, key)
        except Unauthorized as e:
            found.append(f"{e}; the VTN is not heard, and nothing is held for it")
    return found


# -- events --------------------------------------------------------------------------------------------------


def spans_of(event: Any, config: Config) -> tuple[list[GridSpan], list[str]]:
    """What an event asks of the run's sites, and in words what of it is not acted on."""
    table = config.openadr
    assert table is not None
    id = str(event.get("id") or "without an id")[:100] if isinstance(event, dict) else "that is no object"
    if isinstance(event, dict) and not isinstance(event.get("targets"), list | None):
        return [], [f"event {id} is malformed (its targets are no list), and not acted on"]
    try:
        return _spans(id, event, table, config)
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as e:
        return [], [f"event {id} is malformed ({e}), and not acted on"]


def _spans(id: str, event: Any, table: OpenAdrTable, config: Config) -> tuple[list[GridSpan], list[str]]:
    every = frozenset(s.name for s in config.site)
    sites = _meant(event.get("targets"), table, config)
    if not event["id"] or not isinstance(event["id"], str):
        raise ValueError("it has no id")
    if not sites:
        return [], []  # it is for others
    changed = str(event.get("modificationDateTime") or event.get("createdDateTime") or "")
    described = [d for d in event.get("payloadDescriptors") or [] if isinstance(d, dict)]
    units = {d.get("payloadType"): d["units"] for d in described if d.get("units")}
    whole_begin, whole_s = _period(event.get("intervalPeriod"))
    whole_begin = parse_utc(changed) if whole_begin == -math.inf else whole_begin
    intervals = event["intervals"]
    if not isinstance(intervals, list) or len(intervals) > _MOST_INTERVALS:
        raise ValueError(f"intervals are a list of at most {_MOST_INTERVALS}")
    spans, words, begin = [], dict[str, None](), whole_begin
    if event.get("duration") is not None:
        words[f"event {id}: its intervals are taken as they are, once; its duration is not acted on"] = None
    for i, interval in enumerate(intervals):
        own_begin, own_s = _period(interval.get("intervalPeriod"))
        if own_begin == -math.inf:  # with the event, after the interval before, or at once
            own_begin = parse_utc(changed) if begin is None else begin
        begin = begin if own_begin is None else own_begin
        lasts_s = whole_s if own_s is None else own_s
        if begin is None or lasts_s is None:
            raise ValueError(f"interval {i} has no start or no duration")
        hold, limit_w, end = False, None, begin + lasts_s
        for payload in interval["payloads"]:
            kind, does = str(payload["type"])[:100], table.does(str(payload["type"]))
            if does == "ignore":
                words[f"event {id}: payloads of type {kind} are not acted on"] = None
                continue
            values = payload["values"]
            if does == "hold" and kind != "SIMPLE" and values and all(isinstance(v, str) for v in values):
                hold = True  # an alert: its value is for people
                continue
            if not values or any(isinstance(v, bool) or not isinstance(v, int | float) or not math.isfinite(v) for v in values):
                raise ValueError(f"the value of {kind} is no number")
            # Several are for parts of the interval (3.1): the strictest is taken for the whole.
            if does == "hold":
                hold = hold or max(values) >= table.hold_level
                continue
            unit = str(units.get(kind) or "KW").upper()
            if unit not in _WATTS:
                raise ValueError(f"{kind} is in {unit[:20]}, and not in KW, W or MW")
            # Less than nothing would be to feed in, which no site can.
            limit_w = min(max(0.0, min(values) * _WATTS[unit]), math.inf if limit_w is None else limit_w)
        if lasts_s > 0 and (hold or limit_w is not None):
            key = f"{id}/{changed}/{i}"
            number = interval.get("id", i)
            spans.append(
                GridSpan(key, id, number if isinstance(number, int) else i, begin, end, sites, sites == every, hold, limit_w)
            )
        begin = end
    return spans, list(words)


def _meant(targets: list[Any] | None, table: OpenAdrTable, config: Config) -> frozenset[str]:
    """The sites that an event is for: all where it has no targets."""
    every = frozenset(s.name for s in config.site)
    if not targets:
        return every
    names: set[str] = set()
    for t in targets:
        names |= {t} if isinstance(t, str) else {str(v) for v in t["values"]}
    found: set[str] = set(every) if table.ven_name in names else set()
    for s in config.site:
        if s.name in names or s.region in names:
            found.add(s.name)
    return frozenset(found.union(*(table.groups.get(n, []) for n in names)))


def _period(period: Any) -> tuple[float | None, float | None]:
    """Start and duration (s) of an intervalPeriod, None for what it does not say; minus infinity for the beginning of time."""
    if period is None:
        return None, None
    start, duration = period.get("start"), period.get("duration")
    if isinstance(start, str) and _BEGINNING.fullmatch(start.strip()):
        start_s: float | None = -math.inf
    else:
        start_s = None if start is None else parse_utc(start)
    return start_s, None if duration is None else duration_s(duration)


def duration_s(text: str) -> float:
    """Seconds of an ISO 8601 duration; infinity for P9999Y, which is without end. A year has 366 days and a month 31.

    Raises:
        ValueError: it is none.
    """
    if text == "P9999Y":
        return math.inf
    found = _DURATION.fullmatch(text)
    if not found or not any(found.groups()):
        raise ValueError(f"{text[:40]!r} is no duration, as PT15M or P1D is one")
    return math.fsum(float(n or 0) * s for n, s in zip(found.groups(), _PARTS_S, strict=True))


# -- what is wanted ------------------------------------------------------------------------------------------


def held_until(spans: Iterable[GridSpan], t: float, config: Config) -> dict[str, tuple[float, list[GridSpan]]]:
    """Of each site that is to be off at ``t``: until when, over spans that follow on one another, and because of which."""
    by_site: dict[str, list[GridSpan]] = {}
    for span in spans:
        for site in _off(span, config):
            by_site.setdefault(site, []).append(span)
    found = {}
    for site, its in by_site.items():
        until, why = t, []
        for span in sorted(its, key=lambda s: (s.begin, s.end, s.key)):
            if span.begin <= until < span.end:
                until = span.end
                why.append(span)
        if why:
            found[site] = (until, why)
    return found


def limit_at(spans: Iterable[GridSpan], t: float, config: Config) -> tuple[float, float] | None:
    """The strictest limit (W) of the whole run at ``t``, and until when it is in force; None without one."""
    least = min(s.train_power_w for s in config.site)
    now = [s for s in spans if s.whole and s.limit_w is not None and s.limit_w >= least and s.begin <= t < s.end]
    strictest = min(now, key=lambda s: (s.limit_w or 0.0, -s.end), default=None)
    return None if strictest is None or strictest.limit_w is None else (strictest.limit_w, strictest.end)


def _off(span: GridSpan, config: Config) -> set[str]:
    """The sites that a span keeps off: all that it is for, or under a limit those that have no room in it."""
    if span.hold:
        return set(span.sites)
    least = min(s.train_power_w for s in config.site)
    if span.limit_w is None or (span.whole and span.limit_w >= least):
        return set()  # the run's own limit chooses
    off, left = set(), span.limit_w
    for s in config.site:
        if s.name in span.sites:
            left, fits = (left - s.train_power_w, True) if s.train_power_w <= left else (left, False)
            if not fits:
                off.add(s.name)
    return off
