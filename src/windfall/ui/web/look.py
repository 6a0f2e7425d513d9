"""One run that is looked at: what its page is made of, read from the run directory as typed values and given as JSON."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
import sys
import threading
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

import numpy as np

from windfall import clock
from windfall.config.load import stored
from windfall.config.schema import Config
from windfall.errors import StoreError, WindfallError
from windfall.processes import die_with_parent
from windfall.store.files import to_json
from windfall.store.rundir import RunDir
from windfall.store.telemetry_thinned import EnergyBin
from windfall.view import curves, lanes
from windfall.view.event_pages import EventPage, event_page
from windfall.view.instant import Instant, instant
from windfall.view.moment import Moment, one_moment
from windfall.view.state import RunState, run_state
from windfall.view.text import printable, safe

#: A coordinator that lives writes how things stand every second or so; after so long (s) that is said to be stale.
STALE_S = 20.0
#: Training losses are read for so long (s) at one go; then what has been read is shown.
_READ_S = 0.25
#: Points of a line that the run is measured against.
_AGAINST_POINTS = 250
#: Parts that the account of a time is read in.
_PARTS = 600
#: A state that was read holds for so long (s) while no file changes: a coordinator that is killed changes none.
_MOMENT_S = 2.0
#: What a run is measured against is worked out again after so long (s) at the earliest, and after so many times what it took.
_AGAINST_S, _AGAINST_TIMES = 60.0, 20.0
_AGAINST_TIMEOUT_S = 600.0


@dataclass(frozen=True, slots=True)
class Head:
    """The page's header besides the state of the run.

    ``stale_since``: wall time of the last word of a coordinator that lives and has said nothing for a while. ``time_left_s``: wall
    seconds, by tokens. ``threshold``: the curtailment criterion in gCO2/kWh. ``span``: run time of what is told, from and to.
    """

    name: str
    policy: str
    clock: str
    threshold: float
    span: tuple[float, float]
    money: dict[str, float]
    time_left_s: float | None
    stale_since: float | None
    last_event: int
    samples: list[int]


@dataclass(frozen=True, slots=True)
class Whole:
    """Where a run stands: the header, and everything about the run that fits on a page."""

    head: Head
    state: RunState


@dataclass
class RunLook:
    """Reads one run. Every method reads one moment, and may be called from any thread.

    ``compares``: whether it is measured against anything.
    """

    name: str
    run: RunDir
    compares: bool = True
    _config: tuple[Hashable, Config] | None = None
    _curve: curves.LossCurve | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _bins: tuple[Hashable, list[EnergyBin]] | None = None
    _account_lock: threading.Lock = field(default_factory=threading.Lock)
    _whole: tuple[Hashable, float, Whole] | None = None
    _whole_lock: threading.Lock = field(default_factory=threading.Lock)
    #: What it is measured against: JSON, why not, and when (monotonic) and in what time (s) it was worked out.
    against: list[dict[str, Any]] | None = None
    against_why: str = ""
    _against_at: float = -math.inf
    _against_took: float = 0.0
    _against_task: asyncio.Task[None] | None = None

    def mark(self) -> Hashable:
        """Changes whenever the run's files do."""
        found = []
        for path in (self.run.telemetry, self.run.ledger, self.run.config):
            for part in ("", "-wal"):
                try:
                    stat = path.with_name(path.name + part).stat()
                    found.append((stat.st_size, stat.st_mtime_ns))
                except OSError:
                    found.append((0, 0))
        return tuple(found)

    def config(self) -> Config:
        """The run's configuration. Raises StoreError, ConfigError."""
        path = self.run.open_existing().config
        try:
            stat = path.stat()
            key = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
            if self._config is None or self._config[0] != key:
                self._config = key, stored(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as e:
            raise StoreError(f"{path}: cannot be read ({e})") from None
        return self._config[1]

    # -- JSON ------------------------------------------------------------------------------------------------

    def whole(self) -> Whole:
        """Header and state. What a page, a stream and a poll ask for within a moment is read once."""
        with self._whole_lock:
            mark, now = self.mark(), clock.monotonic()
            if self._whole is None or self._whole[0] != mark or now - self._whole[1] > _MOMENT_S:
                self._whole = mark, now, self._read_whole()
            return self._whole[2]

    def _read_whole(self) -> Whole:
        config = self.config()
        with one_moment(self.run) as at:
            state = run_state(self.run, at)
            span = curves.span_of(at)
            money = _money(at, config)
            last = at.telemetry.last_event_id() if at.telemetry else 0
            kept = curves.samples(at)
        stale = None
        if state.state == "running" and state.t_wall is not None and clock.wall() - state.t_wall > STALE_S:
            stale = state.t_wall
        head = Head(
            self.name, config.policy.name, config.run.clock, config.run.threshold_g_per_kwh, span, money, _left(state), stale, last,
            kept,
        )  # fmt: skip
        return Whole(head, state)

    def lanes(self, t0: float | None, t1: float | None, points: int, sites: list[str]) -> dict[str, Any]:
        """Lanes over a time (default: all of it)."""
        config = self.config()
        with one_moment(self.run) as at:
            a, b = self._span(at, t0, t1)
            # However many sites there are, the answer stays small enough to be sent at once.
            each = max(60, min(points, 9000 // max(1, len(sites) or len(config.site))))
            found = lanes.lanes(at, config, a, b, each, sites)
            modes = [(m.t_run, m.mode) for m in at.telemetry.modes()] if at.telemetry else []
            end = lanes.now_of(at.telemetry) if at.telemetry else b
        kinds = ("paused", "local", "federated")
        spans = [
            (t, modes[i + 1][0] if i + 1 < len(modes) else end, kinds.index(m)) for i, (t, m) in enumerate(modes) if m in kinds
        ]
        strip = lanes.merged(lanes.painted(spans, a, min(b, end)), (b - a) / max(1, points)) if b > a else []
        return {
            "from": a, "to": b, "blocks": list(lanes.BLOCKS), "modes": list(kinds),
            "mode": [(round(x, 1), round(y, 1), w) for x, y, w in strip], "lanes": found,
        }  # fmt: skip

    @property
    def loading(self) -> bool:
        """Whether not all training losses have been read yet."""
        return self._curve is None or self._curve.read < 1.0

    @property
    def against_mark(self) -> Hashable:
        """Changes whenever what it is measured against does."""
        return self._against_at

    def loss(self, a: int | None, b: int | None, points: int) -> dict[str, Any]:
        """What was learned, over tokens: all of it, or of tokens in ``[a, b)``."""
        with self._lock, one_moment(self.run) as at:
            budget = at.ledger.budget_blocks * at.ledger.tokens_per_block
            if self._curve is None or self._curve.budget != budget:
                self._curve = curves.LossCurve(budget)
            curve = self._curve
            until = clock.monotonic() + _READ_S
            while at.telemetry is not None and not curve.advance(at.telemetry) and clock.monotonic() < until:
                pass
            read = curve.read if at.telemetry is not None else 1.0
            if at.telemetry is not None and a is not None and b is not None:
                training = curve.within(at.telemetry, a, b, points)
            else:
                training = curve.points()
            found = curves.Loss(read, training, curves.evaluated(at))
        return {"budget": budget, **plain(found)}

    def emissions(self, t0: float | None, t1: float | None, points: int) -> dict[str, Any]:
        """Cumulative kg of the run, and of what it is measured against."""
        with one_moment(self.run) as at:
            a, b = self._span(at, t0, t1)
            times, kg = curves.emitted(at.telemetry, self._account(at, a, b), a, b, points) if at.telemetry and b > a else ([], [])
        whole = (t0, t1) if t0 is not None and t1 is not None else (-math.inf, math.inf)
        return {
            "from": a, "to": b, "t": times, "kg": kg, "against": [_thinned(x, *whole, points) for x in self.against or []],
            "against_state": "there" if self.against is not None else "not computable" if self.against_why else "loading",
            "against_why": self.against_why,
        }  # fmt: skip

    def rates(self, t0: float | None, t1: float | None, parts: int) -> dict[str, Any]:
        """Throughput, stalls and bytes."""
        names = [s.name for s in self.config().site]
        with one_moment(self.run) as at:
            a, b = self._span(at, t0, t1)
            return {"from": a, "to": b, **plain(curves.rates(at, self._account(at, a, b), names, a, b, parts))}

    def _account(self, at: Moment, a: float, b: float) -> list[EnergyBin]:
        """The account over a time in parts; two figures are made of it, asked for at the same moment."""
        if at.telemetry is None or b <= a:
            return []
        with self._account_lock:
            key = (self.mark(), a, b)
            if self._bins is None or self._bins[0] != key:
                self._bins = key, at.telemetry.energy_bins(a, b, _PARTS)
            return self._bins[1]

    def events(
        self, before: int | None, most: int, kinds: list[str], site: str | None, search: str, moment: float | None
    ) -> EventPage:
        """Events, newest first."""
        with one_moment(self.run) as at:
            return event_page(at, before=before, most=most, kinds=kinds, site=site, search=search, upto=moment)

    def instant(self, t: float) -> Instant:
        """How things stood at an instant."""
        config = self.config()
        with one_moment(self.run) as at:
            return instant(at, config, t)

    def sample(self, version: int) -> dict[str, Any] | None:
        """What a version wrote; None where nothing is kept of it."""
        prompt = self.config().data.sample_prompt
        with one_moment(self.run) as at:
            found = curves.sample_of(at, version)
        if found is None:
            return None
        return {"version": version, "val_bpb": found[1], "prompt": prompt, "text": safe(printable(found[0]))}

    def _span(self, at: Moment, t0: float | None, t1: float | None) -> tuple[float, float]:
        a, b = curves.span_of(at)
        return (a if t0 is None else t0), (b if t1 is None else t1)

    # -- what it is measured against -------------------------------------------------------------------------

    def look_against(self) -> None:
        """Have it worked out by a process of its own, if that is due. Call it from the event loop."""
        age = clock.monotonic() - self._against_at
        if self.compares and self._against_task is None and age >= max(_AGAINST_S, _AGAINST_TIMES * self._against_took):
            self._against_task = asyncio.create_task(self._work_against())

    async def _work_against(self) -> None:
        began = clock.monotonic()
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "windfall.view.against", str(self.run.root), stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, preexec_fn=_modestly,
            )  # fmt: skip
            try:
                async with asyncio.timeout(_AGAINST_TIMEOUT_S):
                    out, said = await process.communicate()
            finally:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
            if process.returncode == 0:
                self.against, self.against_why = json.loads(out), ""
            else:
                lines = safe(said.decode(errors="replace")).strip().splitlines()
                self.against_why = lines[-1] if lines else "it ended without a word"
        except TimeoutError:
            self.against_why = f"it took longer than {_AGAINST_TIMEOUT_S:.0f} s"
        except OSError as e:
            self.against_why = f"no process could be started for it: {e.strerror}"
        finally:
            self._against_at = clock.monotonic()
            self._against_took = self._against_at - began
            self._against_task = None

    async def close(self) -> None:
        """End what is under way."""
        if self._against_task is not None:
            self._against_task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._against_task


def _thinned(other: dict[str, Any], a: float, b: float, points: int) -> dict[str, Any]:
    """A line within ``[a, b]``, at so many instants at most; of one that lies elsewhere the end that is nearer."""
    if not other["t"]:
        return other
    t, kg = np.array(other["t"], dtype=float), np.array(other["kg"], dtype=float)
    most = max(2, min(points, _AGAINST_POINTS))
    first, last = np.clip((a, b), t[0], t[-1])
    times = np.unique(np.concatenate([[first, last], t[(t > first) & (t < last)]]))
    times = times if len(times) <= most else np.linspace(first, last, most)
    return {**other, "t": np.round(times, 1).tolist(), "kg": [float(f"{x:.6g}") for x in np.interp(times, t, kg)]}


def _modestly() -> None:
    """What takes long must not make the page wait."""
    die_with_parent()
    os.nice(10)


def plain(value: Any) -> Any:
    """Typed values as dictionaries; what is in lists of numbers is left as it is, which `asdict` would copy one by one."""
    if is_dataclass(value):
        return {f.name: plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple) and value and is_dataclass(value[0]):
        return [plain(x) for x in value]
    return value


def as_json(make: Callable[[], Any]) -> Callable[[], bytes]:
    """The same as bytes of JSON."""

    def made() -> bytes:
        return to_json(plain(make()), ensure_ascii=False).encode()

    return made


def _money(at: Moment, config: Config) -> dict[str, float]:
    """What the energy cost, by currency; nothing where no site has a price, which spares looking through a long account."""
    currency = {s.name: t.currency for s in config.site for t in s.all_signals if t.type == "price"}
    if at.telemetry is None or not currency:
        return {}
    found: dict[str, float] = {}
    for x in at.telemetry.energy_sums():
        if x.site in currency:
            found[currency[x.site]] = found.get(currency[x.site], 0.0) + x.money
    return found


def _left(state: RunState) -> float | None:
    if state.state == "done" or not state.tokens_committed or state.wall_seconds <= 0:
        return None
    return state.wall_seconds * max(0, state.tokens_budget - state.tokens_committed) / state.tokens_committed


def unreadable(e: WindfallError) -> str:
    """Why a run cannot be shown, as a sentence without credentials."""
    return safe(str(e))
