"""A live signal: it asks a source for news, keeps what it heard, and answers from that alone.

If a request fails, only the time of the next one changes. Readings grow old by themselves, and policies treat them by invariant 5.

An observed source cannot know the future, so its newest value is about the present whatever its stamp says. A stamp at most one
period ahead comes from a clock that differs a little, or from an interval's end: the value then holds from when it was heard (if
the same answer has a value for now too, from its own stamp). A stamp further ahead shows that the stamps are wrong, and nothing of
the answer is used, then or later. Values that are published ahead wait for their time.
"""

from __future__ import annotations

import math
import random
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from windfall import clock
from windfall.config.signals import SignalTable
from windfall.errors import Unauthorized, WindfallError
from windfall.grid.cache import SignalCache, cache_folder
from windfall.grid.credentials import Credentials
from windfall.grid.http import SHARED_LIMITS, RateLimits, TryLater, backoff_s
from windfall.grid.reading_series import ReadingSeries
from windfall.grid.signal import Columns, Forecast, Reading
from windfall.grid.source import ForecastPoints, News, Point, Source, TwoValues
from windfall.grid.stamps import ahead_text, late_text
from windfall.units import UNITS

#: How many readings the cache on disk keeps.
_CACHED_POINTS = 300
#: After a source has refused our credentials it is not asked again for so long (s), because a person has to act first.
_UNAUTHORIZED_S = 300.0
#: The period (s) that is used, where one is needed, for sources whose readings hold until the next one (period_s = 0).
_NO_PERIOD_S = 300.0
#: How far ahead values are published at most (s).
_MAX_AHEAD_S = 8 * 86400.0
#: How long it is remembered when a stamp was first heard (s), because sources repeat values.
_KEEP_AHEAD_S = 86400.0


@dataclass(frozen=True)
class Status:
    """The state of a live signal. Instants are Unix seconds; None: not yet, or there is none."""

    source: str
    last_success: float | None
    last_error: str | None
    next_attempt: float | None
    requests: int
    dropped: int
    warnings: tuple[str, ...]


class LiveSignal:
    """A ``grid.signal.Signal`` whose readings arrive while a run goes on. All methods may be called from any thread.

    ``step`` and ``refresh`` ask the source. Only one request is under way at a time.
    """

    def __init__(
        self,
        table: SignalTable,
        source: Source,
        *,
        folder: Path | None = None,
        now: Callable[[], float] = clock.wall,
        rng: random.Random | None = None,
    ) -> None:
        self.unit = UNITS[table.type]
        self.poll_s = table.poll_s or table.period_s or _NO_PERIOD_S
        #: How long one request may take (s).
        self.timeout_s = table.timeout_s
        self._table = table
        self._asked = source
        self._now = now
        self._rng = rng or random.Random()
        self._cache = SignalCache(folder, source.identity(), table.type)
        self._asking = threading.Lock()
        #: Guards the attributes below. It is held for moments only.
        self._lock = threading.Lock()
        self._series = ReadingSeries()
        self._forecasts: tuple[Forecast, ...] = ()
        self._last_success: float | None = None
        self._last_error: str | None = None
        self._next: float | None = None
        #: When the next request was planned. If the clock shows less it was set back since, and the plan does not count.
        self._planned = -math.inf
        self._failures = 0
        #: Stamps that were ahead when they were heard, and when that was.
        self._heard_ahead: dict[float, float] = {}
        #: Stamps that were refused, and are still ahead: saying them again changes nothing before their time.
        self._refused_ahead: set[float] = set()
        #: Since when readings may not start a site, because an answer was refused or the clock was set back. None once one is
        #: taken.
        self._doubted_at = math.inf
        #: The newest stamp, since when it has been the newest, and whether there was another one before it.
        self._newest: tuple[float, float, bool] | None = None
        self._dropped = 0
        self._warnings: dict[str, None] = {}
        self._remember()

    @property
    def source(self) -> str:
        """Its name: provider and zone. A zone that belongs to a place is known once the source has been asked."""
        return self._asked.who

    @property
    def address(self) -> str:
        """The address that is asked, without secrets; empty if only a foreign package knows it."""
        return self._asked.identity().get("url", "")

    # -- the signal

    def at(self, t: float) -> Reading | None:
        found = self._series.at(t)
        if found is None or t < self._doubted_at:
            return found
        return replace(found, fresh_until=min(found.fresh_until, self._doubted_at))

    def between(self, t0: float, t1: float) -> Columns:
        return self._series.between(t0, t1)

    def history(self, t: float, span_s: float) -> Columns:
        return self._series.history(t, span_s)

    def forecast(self, t: float, horizon_s: float) -> Forecast | None:
        if self._table.forecast == "none":
            return None
        known = [f for f in self._forecasts if f.made_at <= t]
        if not known:
            return None
        f = known[-1]
        until = np.append(f.times[1:], f.ends_at)
        keep = (until > t) & (f.times < t + horizon_s)
        if not keep.any():
            return None
        return Forecast(f.made_at, f.times[keep], f.values[keep], min(float(until[keep][-1]), t + horizon_s))

    def starts_at(self) -> float:
        return self._series.starts_at()

    def ends_at(self) -> float:
        return math.inf

    # -- asking

    def due(self) -> float:
        """When to ask next (Unix seconds); minus infinity: at once."""
        with self._lock:
            return -math.inf if self._next is None else self._next

    def step(self, now: float) -> float:
        """Ask if it is time to. Returns when to call again. It never raises an error of the source."""
        if self._is_due(now):
            self._ask(now, 0.0)
        return self.due()

    def refresh(self, now: float, patience_s: float = 0.0) -> None:
        """Ask now, unless it asked less than ``poll_s`` ago or was told to wait. ``status`` has the result.

        ``patience_s``: how long in all it may wait for retries.
        """
        if self._is_due(now):
            self._ask(now, patience_s)

    def load_past(self, now: float, span_s: float) -> bool:
        """Ask for the last ``span_s`` seconds; whether that is done with. A failure is only a warning: the past is optional.

        If a source's stamps are wrong now, those of its past are too. The past is then asked for only when they are right again.
        """
        if self._doubted_at < math.inf:
            return False
        with self._asking:
            self._asked.patience_s = 0.0
            try:
                news = self._asked.past(now, span_s)
            except WindfallError as e:
                self._warn(f"its past is not known: {e}")
                return True
        if news is not None and (wrong := self._take(news, now, forecast=False)):
            self._warn(f"its past is not known: {wrong}")
        return True

    def require(self) -> None:
        """Raise if it cannot be asked, because something is missing.

        Raises:
            Unauthorized: credentials are missing.
            SignalError: a package is missing.
        """
        self._asked.require()

    def lacking(self) -> str | None:
        """What is missing to ask it, in words; None if nothing is."""
        try:
            self.require()
        except WindfallError as e:
            return str(e)
        return None

    def status(self) -> Status:
        """Its present state."""
        with self._lock:
            return Status(
                self.source, self._last_success, self._last_error, self._next, self._asked.requests, self._dropped,
                tuple(self._warnings),
            )  # fmt: skip

    def note(self, error: str) -> None:
        """Record ``error`` as what went wrong last."""
        with self._lock:
            self._last_error = error

    def close(self) -> None:
        """Close its connections. If a request is under way, the thread that makes it closes them afterwards."""
        if self._asking.acquire(blocking=False):
            try:
                self._asked.close()
            finally:
                self._asking.release()

    def _ask(self, now: float, patience_s: float) -> None:
        with self._asking:
            self._asked.patience_s = patience_s
            try:
                news = self._asked.fetch(now)
            except WindfallError as e:
                self._failed(e)
                return
        heard = self._now()
        wrong = self._take(news, heard)
        refused = bool(wrong)
        if news.points:
            wrong = wrong or self._late(news, heard)
        with self._lock:
            self._failures = 0
            # A little sooner than poll_s, so that many runs do not all ask at the same time.
            self._next, self._planned = heard + self.poll_s * self._rng.uniform(0.95, 1.0), heard
            if refused:
                self._doubted_at = min(self._doubted_at, heard)
            else:
                self._doubted_at = math.inf if news.points else self._doubted_at
                self._last_success = heard
            self._last_error = f"{self.source}: {wrong}" if wrong else None
        if not wrong:  # else a restart asks again
            self._cache.save(heard, news.points[-_CACHED_POINTS:], news.expected, news.published)

    def _is_due(self, now: float) -> bool:
        with self._lock:
            if now < self._planned:  # the clock was set back: readings start no site until the source has answered
                self._series = self._series.known_by(now)
                self._doubted_at = min(self._doubted_at, now)
                return True
            return self._next is None or now >= self._next

    def _failed(self, e: WindfallError) -> None:
        now = self._now()
        with self._lock:
            self._failures += 1
            base = max(_UNAUTHORIZED_S, self.poll_s) if isinstance(e, Unauthorized) else min(self.poll_s, 15.0)
            wait = e.retry_after_s if isinstance(e, TryLater) else None
            # A source that is asked often is tried again soon, because its values are needed soon.
            cap = base if isinstance(e, Unauthorized) else min(900.0, max(30.0, 4.0 * self.poll_s))
            self._next, self._planned = now + backoff_s(self._failures, base, self._rng, cap_s=cap, at_least_s=wait), now
            self._last_error = str(e)
            if isinstance(e, TwoValues):  # earlier answers may have been of the wrong series too
                self._doubted_at = min(self._doubted_at, now)

    def _take(self, news: News, heard: float, *, forecast: bool = True) -> str:
        """Add what was heard to what is known. Returns why nothing of it may be used, or an empty string."""
        for text in news.warnings:
            self._warn(text)
        newest = max(news.points, key=lambda p: p.valid_from, default=None)
        self._refused_ahead = {s for s in self._refused_ahead if s > heard}
        refused = newest is not None and (
            newest.valid_from - heard > self._ahead_s(news, newest) or newest.valid_from in self._refused_ahead
        )
        with self._lock:
            self._dropped += news.dropped + len(news.points) * refused
            self._series = self._series.known_by(heard)
            if refused:
                assert newest is not None
                if news.published == "observed":
                    self._refused_ahead |= {p.valid_from for p in news.points if p.valid_from > heard}
                return ahead_text(newest.valid_from - heard, self._period(newest), news)
            self._series = self._series.with_readings(self._readings(news, heard))
            if forecast and news.expected is not None and news.expected.points:
                self._forecasts = (*self._forecasts[-1:], _forecast(news.expected, heard))
        return ""

    def _period(self, point: Point) -> float:
        """How long (s) a point counts; 0: until the next one."""
        return max(self._table.period_s, point.period_s) if self._table.period_s > 0 else 0.0

    def _ahead_s(self, news: News, newest: Point) -> float:
        """How far ahead of our clock a source's newest stamp may be."""
        period = self._period(newest) or newest.period_s or _NO_PERIOD_S
        match news.published:
            case "observed":
                return period
            case "forecast":  # a value further ahead would not be fresh any more when its time comes
                return period * self._table.stale_periods
        return _MAX_AHEAD_S

    def _readings(self, news: News, heard: float) -> list[Reading]:
        points = news.points
        # If the answer has a value for now, or its stamps are known to be right, a value ahead waits for its time.
        present = any(p.valid_from <= heard < p.valid_from + self._period(p) for p in points)
        if news.published == "observed" and not present and any(p.period_s == 0 for p in points):
            # Else the last of several values ahead is about the present, and holds from when it was first heard.
            self._heard_ahead = {s: t for s, t in self._heard_ahead.items() if s > heard - _KEEP_AHEAD_S and t <= heard}
            ahead = max((p.valid_from for p in points if p.valid_from > heard), default=-math.inf)
            if ahead >= max(self._heard_ahead, default=heard):
                self._heard_ahead.setdefault(ahead, heard)
            points = [p for p in points if p.valid_from <= heard or p.valid_from in self._heard_ahead]
        settled = news.published == "ahead"
        return [self._reading(p, self._heard_ahead.get(p.valid_from, p.valid_from), heard, settled) for p in points]

    def _reading(self, point: Point, begins: float, heard: float, settled: bool) -> Reading:
        """A point as a reading.

        ``settled``: it is as good at its own time as when it was heard; else it ages from when it was heard.
        """
        table, period = self._table, self._period(point)
        label = f"{self.source} {point.source}".strip()
        if period == 0:
            return Reading(point.value, self.unit, begins, heard, math.inf, math.inf, label)
        of = begins if settled else min(begins, heard)
        stale = of + table.stale_periods * period + table.publication_delay_s
        # The next reading is heard up to one poll after it is published.
        fresh = of + period + table.publication_delay_s + self.poll_s
        return Reading(point.value, self.unit, begins, heard, min(fresh, stale), stale, label, begins + period)

    def _late(self, news: News, heard: float) -> str:
        """What is wrong with an answer whose newest value is too old to be used; empty if it is not too old."""
        point = max(news.points, key=lambda p: p.valid_from)
        newest, period = point.valid_from, self._period(point)
        if self._newest is None or newest != self._newest[0]:
            self._newest = (newest, heard, self._newest is not None)
        _, since, moved = self._newest
        late = heard - newest
        if period == 0 or late < self._table.stale_periods * period + self._table.publication_delay_s:
            return ""
        stands = heard - since >= period + self.poll_s
        return late_text(late, period, news, False if stands else True if moved else None)

    def _remember(self) -> None:
        now = self._now()
        found = self._cache.load(now)
        if found is None:
            return
        fetched, points, expected, published = found
        if self._take(News(points, expected, published=published), fetched):
            return
        self._last_success = fetched
        self._next, self._planned = fetched + self.poll_s, fetched

    def _warn(self, text: str) -> None:
        with self._lock:
            if len(self._warnings) < 20:
                self._warnings.setdefault(text)


def _forecast(expected: ForecastPoints, heard: float) -> Forecast:
    times = np.array([p.valid_from for p in expected.points], np.float64)
    return Forecast(heard, times, np.array([p.value for p in expected.points], np.float64), expected.ends_at)


def live_signal(
    table: SignalTable,
    region: str,
    *,
    now: Callable[[], float] = clock.wall,
    pause: Callable[[float], None] = clock.pause,
    environ: Mapping[str, str] | None = None,
    folder: Path | None = None,
    rng: random.Random | None = None,
    limits: RateLimits = SHARED_LIMITS,
) -> LiveSignal:
    """The live signal that ``table`` describes. Nothing is asked yet; what is cached on disk is known at once.

    ``folder`` is where the cache lives (default: the user's), ``environ`` where credentials are looked up.
    """
    from windfall.grid.providers import Tools, make_source

    folder = folder or cache_folder(environ)
    tools = Tools(Credentials(table.credentials_file, environ), now, pause, rng or random.Random(), limits, folder)
    return LiveSignal(table, make_source(table, region, tools), folder=folder, now=now, rng=rng)
