"""The grid's word in a run: events of an OpenADR 3 programme hold sites or limit the run's power (`grid.openadr` reads them).

A thread of its own asks the VTN, so nobody waits for it. The coordinator's thread compares what is in force with what is held and
asks the `Operator` for the difference, as requests of the author `openadr:PROGRAMME`: only holds of that author are released, and
who else holds a site keeps it. Nothing here turns a site on: a hold that ends gives the site back to its policy. While the VTN is
away its last word counts, and each hold ends at its own time.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
import threading
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from windfall.config.schema import Config
from windfall.errors import SignalError, StoreError, Transient, Unauthorized
from windfall.grid.http import TryLater, backoff_s
from windfall.grid.openadr import GridSpan, Vtn, held_until, limit_at, spans_of
from windfall.run.operator import Operator
from windfall.run.requests import Request, plain
from windfall.store.files import write_json
from windfall.store.rundir import RunDir
from windfall.store.telemetry import Telemetry
from windfall.units import iso_utc

_BACKOFF_S, _BACKOFF_MOST_S = 2.0, 300.0
#: A report is made so long (s) after its interval, when that is booked, and after the account's own wait for meters.
_BOOKED_S = 60.0
#: Reports that wait, those known as sent, and things that are told of one answer, at most.
_MOST_REPORTS, _MOST_KNOWN, _MOST_WORDS = 1000, 5000, 20
#: A hold without an end is asked for so long: what a request may ask at most is ten years.
_LONGEST_S = 365 * 86400.0
LIMIT = "limits.max_power_w"


class Server(Protocol):
    """What a VTN does for this (a `grid.openadr.Vtn`)."""

    def events(self) -> list[Any]: ...
    def report(self, body: Mapping[str, Any]) -> None: ...
    def close(self) -> None: ...


class VtnThread:
    """Asks the VTN again and again, and sends reports."""

    def __init__(self, server: Server, poll_s: float, *, base_s: float = _BACKOFF_S, rng: random.Random | None = None) -> None:
        self._server = server
        self._poll_s, self._base_s = poll_s, base_s
        self._rng = rng or random.Random()
        self._closed = threading.Event()
        self._lock = threading.Lock()
        self._heard: list[Any] | None = None
        self._reports: deque[tuple[str, Mapping[str, Any]]] = deque(maxlen=_MOST_REPORTS)
        self._done: list[tuple[str, str]] = []
        #: Why the VTN is not heard now, or empty.
        self.trouble = ""
        self._thread = threading.Thread(target=self._work, name="openadr", daemon=True)
        self._thread.start()

    def heard(self) -> list[Any] | None:
        """The events of the newest answer, once; None if there is no newer one."""
        with self._lock:
            found, self._heard = self._heard, None
        return found

    def put(self, key: str, report: Mapping[str, Any]) -> None:
        """Have a report sent. It never waits."""
        with self._lock:
            self._reports.append((key, report))

    def done(self) -> list[tuple[str, str]]:
        """Keys of reports that were sent since the last call, each with why it was refused, or an empty text."""
        with self._lock:
            found, self._done = self._done, []
        return found

    def close(self) -> None:
        """End, without waiting for the network."""
        self._closed.set()

    def _work(self) -> None:
        failures = 0
        while not self._closed.is_set():
            wait_s = self._poll_s
            try:
                events = self._server.events()
                with self._lock:
                    self._heard = events
                failures, self.trouble = 0, ""
                self._send()
            except (Transient, SignalError, Unauthorized) as e:
                failures, self.trouble = failures + 1, str(e)
                least = e.retry_after_s if isinstance(e, TryLater) else None
                base_s = self._base_s if isinstance(e, Transient) else self._poll_s
                wait_s = backoff_s(failures, base_s, self._rng, cap_s=max(_BACKOFF_MOST_S, self._poll_s), at_least_s=least)
            self._closed.wait(wait_s)
        self._server.close()

    def _send(self) -> None:
        while self._reports and not self._closed.is_set():
            key, body = self._reports[0]
            refused = ""
            try:
                self._server.report(body)
            except (SignalError, Unauthorized) as e:
                refused = str(e)
            with self._lock:
                if self._reports and self._reports[0][0] == key:
                    self._reports.popleft()
                self._done.append((key, refused))


class GridDesk:
    """Makes events into requests, and reports. Only the coordinator's thread calls it."""

    def __init__(
        self, config: Callable[[], Config], run: RunDir, telemetry: Telemetry, operator: Operator, thread: VtnThread, *,
        begun: float,
    ) -> None:  # fmt: skip
        """``config``: the configuration in force, with `[openadr]`. ``begun``: run time at which the run began."""
        self._config, self._telemetry, self._operator, self._thread = config, telemetry, operator, thread
        self._begun = begun
        table = config().openadr
        assert table is not None
        self._table = table
        self.author = f"openadr:{plain(table.programme)}"
        #: What the VTN has said; None until it has said anything to this coordinator.
        self._spans: list[GridSpan] | None = None
        self._words: set[str] = set()
        self._trouble = ""
        #: By site, since when another's hold has stood before ours; and a limit that was refused.
        self._displaced: dict[str, float] = {}
        self._refused: float | None = None
        self._due: dict[str, GridSpan] = {}
        self._path = run.root / "openadr.json"
        self._limit: dict[str, float | None] | None = None
        #: Keys of intervals whose reports were sent, and of those that this process has made.
        self._reported: dict[str, None] = {}
        self._made: set[str] = set()
        self._recall()

    def look(self, t: float, tick: bool) -> None:
        """At run time ``t``: take in what the VTN has said, and ask for what follows. At a ``tick`` what has begun or ended too."""
        events = self._thread.heard()
        if events is not None:
            self._take_in(t, events)
        if not tick and events is None:
            return
        self._tell(t)
        self._hold(t)
        if tick:
            self._set_limit(t)
            self._report(t)

    # -- what was said ---------------------------------------------------------------------------------------

    def _take_in(self, t: float, events: list[Any]) -> None:
        spans: list[GridSpan] = []
        words: set[str] = set()
        for event in events:
            found, said = spans_of(event, self._config())
            spans += found
            words.update(said)
        for text in sorted(words - self._words)[:_MOST_WORDS]:
            self._telemetry.event(t, "grid_note", reason=plain(text))
        self._words = words
        self._spans = spans
        keys = {s.key for s in spans}
        # What was taken back or changed before its end was not delivered as it was announced.
        self._due = {key: s for key, s in self._due.items() if key in keys or s.end <= t}

    def _tell(self, t: float) -> None:
        trouble = self._thread.trouble
        if bool(trouble) != bool(self._trouble):
            self._telemetry.event(t, "grid_lost" if trouble else "grid_back", reason=trouble or "the VTN is heard again")
        self._trouble = trouble

    # -- holds and the limit ---------------------------------------------------------------------------------

    def _hold(self, t: float) -> None:
        if self._spans is None:
            return  # nobody knows what is in force: holds end by themselves
        wanted = held_until(self._spans, t, self._config())
        for site, (ends, why) in wanted.items():
            hold, until = self._operator.holds.get(site), min(ends, t + _LONGEST_S)
            if hold is not None and hold.who != self.author:
                self._displaced[site] = hold.t_run
                continue  # it is off already, by another's word
            if hold is not None and hold.until is not None:
                endless = until - t >= _LONGEST_S and hold.until > t + _LONGEST_S / 2
                if endless or abs(hold.until - until) <= 1.0:
                    continue
            id = _id("hold", site, *sorted(s.key for s in why), f"{ends:.0f}", f"{self._displaced.get(site, '')}")
            said = ", ".join(dict.fromkeys(s.event for s in why))
            self._operator.ask(t, Request("hold", site, self.author, plain(f"event {said}")[:200], until - t, id=id))
        for site, hold in list(self._operator.holds.items()):
            if hold.who == self.author and site not in wanted and (hold.until is None or hold.until > t):
                why_not = "no event holds it any more"
                self._operator.ask(
                    t, Request("release", site, self.author, why_not, id=_id("release", site, f"{hold.t_run}", f"{t}"))
                )

    def _set_limit(self, t: float) -> None:
        present, kept = self._config().limits.max_power_w, self._limit
        ours = kept is not None and kept["ours"] == present
        was = kept["was"] if kept is not None and ours else present  # else somebody has set another since, and that counts
        if self._spans is None:
            if kept is None or not ours or (kept["until"] is not None and t < kept["until"]):
                return  # the last coordinator's limit stands until its interval ends
            found = None
        else:
            found = limit_at(self._spans, t, self._config())
        self._refused = None if found is None else self._refused
        target = was if found is None else min(found[0], math.inf if was is None else was)
        if target == present or (target is not None and target == self._refused):
            if kept is not None and not ours:
                self._limit = None
                self._keep()
            elif kept is not None and found is not None and found[1] != kept["until"]:
                self._limit = {**kept, "until": _finite(found[1])}
                self._keep()
            return
        # What it was is kept before it is changed, so that no crash forgets it.
        self._limit = None if found is None else {"ours": target, "was": was, "until": _finite(found[1])}
        if self._limit is not None:
            self._keep()
        why = "no event limits it any more" if found is None else "the grid limits it"
        asked = Request("set", None, self.author, why, key=LIMIT, value=target, id=_id("set", f"{target}", f"{t}"))
        self._refused = None if self._operator.ask(t, asked) else target
        self._keep()

    # -- reports ---------------------------------------------------------------------------------------------

    def _report(self, t: float) -> None:
        sent = self._thread.done()
        for key, refused in sent:
            self._reported[key] = None
            event = key.partition("/")[0]
            if refused:
                self._telemetry.event(t, "grid_note", reason=plain(f"the report on event {event} is not taken: {refused}"))
        while len(self._reported) > _MOST_KNOWN:
            del self._reported[next(iter(self._reported))]
        if sent:
            self._keep()
        if not self._table.reports:
            return
        for span in self._spans or ():
            if span.begin <= t and span.end > self._begun and span.key not in self._reported and span.key not in self._made:
                self._due.setdefault(span.key, span)
        for key, span in list(self._due.items()):
            if t < span.end + _BOOKED_S + self._config().account.meter_lag_s:
                continue
            try:
                self._telemetry.flush()
                body, said = self._report_of(span)
            except StoreError:
                return  # it is made later
            del self._due[key]
            self._made.add(key)
            self._thread.put(key, body)
            self._telemetry.event(t, "grid_reported", reason=said)

    def _report_of(self, span: GridSpan) -> tuple[dict[str, Any], str]:
        """The report on one interval: by site what was taken from the grid and what its policy wanted (kWh), and that in words."""
        begin = max(span.begin, self._begun)
        used = self._telemetry.grid_joules_between(begin, span.end)
        period = {"start": iso_utc(begin), "duration": f"PT{span.end - begin:.0f}S"}
        resources, sums = [], [0.0, 0.0]
        sites = [s for s in self._config().site if s.name in span.sites]
        reading = "DIRECT_READ" if all(s.meter is not None for s in sites) else "ESTIMATED"
        for s in sites:
            kwh = used.get(s.name, 0.0) / 3.6e6
            baseline = self._telemetry.wanted_s(s.name, begin, span.end) * s.train_power_w / 3.6e6
            sums = [sums[0] + kwh, sums[1] + baseline]
            payloads = [{"type": "USAGE", "values": [round(kwh, 6)]}, {"type": "BASELINE", "values": [round(baseline, 6)]}]
            interval = {"id": span.interval, "intervalPeriod": period, "payloads": payloads}
            resources.append({"resourceName": s.name, "intervalPeriod": period, "intervals": [interval]})
        body = {
            "eventID": span.event, "clientName": self._table.ven_name, "reportName": f"windfall-{_id(span.key)[5:21]}",
            "payloadDescriptors": [
                {"objectType": "REPORT_PAYLOAD_DESCRIPTOR", "payloadType": kind, "readingType": how, "units": "KWH"}
                for kind, how in (("USAGE", reading), ("BASELINE", "ESTIMATED"))
            ],
            "resources": resources,
        }  # fmt: skip
        kw = (sums[1] - sums[0]) / ((span.end - begin) / 3600.0)
        said = (
            f"event {span.event}, {iso_utc(begin)} to {iso_utc(span.end)}: {sums[0]:.3f} kWh used, {sums[1]:.3f} kWh wanted, "
            f"{kw:.3f} kW curtailed"
        )
        return body, plain(said)

    # -- remembering -----------------------------------------------------------------------------------------

    def _recall(self) -> None:
        """What the last coordinator kept. Without it, or damaged, the limit stays as it is and reports are sent again."""
        try:
            kept = json.loads(self._path.read_text(encoding="utf-8"))
            limit = kept["limit"]
            self._limit = None if limit is None else {k: _number(limit[k]) for k in ("ours", "was", "until")}
            self._reported = dict.fromkeys(str(k) for k in kept["reported"])
        except FileNotFoundError:
            return
        except (OSError, ValueError, KeyError, TypeError) as e:
            self._telemetry.event(self._begun, "warning", reason=f"{self._path.name} cannot be read and is made anew: {e}")

    def _keep(self) -> None:
        write_json(self._path, {"limit": self._limit, "reported": list(self._reported)}, durable=True)


def _id(*parts: str) -> str:
    return "oadr-" + hashlib.sha256("\n".join(parts).encode()).hexdigest()[:40]


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _number(value: Any) -> float | None:
    return None if value is None else float(value)


def desk_of(
    config: Callable[[], Config], run: RunDir, telemetry: Telemetry, operator: Operator, *, begun: float
) -> VtnThread | None:
    """The thread of a run that asks its VTN, heard by ``operator``; None where the run has no `[openadr]`."""
    table = config().openadr
    if table is None:
        return None
    thread = VtnThread(Vtn(table), table.poll_s)
    operator.hears(GridDesk(config, run, telemetry, operator, thread, begun=begun).look)
    return thread
