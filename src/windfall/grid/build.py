"""Builds the signals of a configuration's sites and counterfactual regions."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from windfall import clock
from windfall.config.schema import Config
from windfall.config.signals import SignalTable
from windfall.errors import SignalError
from windfall.grid.signal import Signal, StepSignal
from windfall.grid.supply import supply
from windfall.grid.synthetic import synthetic
from windfall.grid.trace import load_trace
from windfall.units import iso_utc, parse_utc

if TYPE_CHECKING:
    from windfall.grid.live import LiveSignal
    from windfall.grid.poller import Poller


@dataclass
class Grid:
    """The first signal of each site, and the signal of each counterfactual region.

    ``signals`` holds every signal of a site by its label, except the state of charge of its microgrid, which is made by what
    the run does. Live ones are asked for news between ``start`` and ``close``.
    """

    by_site: dict[str, Signal] = field(default_factory=dict)
    by_region: dict[str, Signal] = field(default_factory=dict)
    signals: dict[str, dict[str, Signal]] = field(default_factory=dict)
    #: What the plants of a site's microgrid deliver (W), by site.
    supplies: dict[str, Signal] = field(default_factory=dict)
    #: Warnings about their sources.
    warnings: list[str] = field(default_factory=list)
    #: How much of the past live signals are asked for at the start (s), because policies look back so far.
    past_s: float = 0.0
    _poller: Poller | None = field(default=None, repr=False)

    def live(self) -> list[LiveSignal]:
        """Every live signal, once each."""
        if all(isinstance(s, StepSignal) for s in self._all()):
            return []
        from windfall.grid.live import LiveSignal

        return list(dict.fromkeys(s for s in self._all() if isinstance(s, LiveSignal)))

    def start(self) -> None:
        """Begin to ask live signals for news, each at its own times. Returns at once. Without live signals it does nothing.

        Raises:
            Unauthorized: one lacks its credentials.
            SignalError: one lacks a package.
        """
        if self._poller is not None or not any(not isinstance(s, StepSignal) for s in self._all()):
            return
        from windfall.grid.poller import Poller

        live = self.live()
        for signal in live:
            signal.require()
        self._poller = Poller(live, past_s=self.past_s)
        self._poller.start()

    def close(self) -> None:
        """Stop asking, and close connections. What was heard stays; ``start`` may follow."""
        if self._poller is not None:
            self._poller.close()
            self._poller = None
        elif any(not isinstance(s, StepSignal) for s in self._all()):
            for signal in self.live():
                signal.close()

    def _all(self) -> Iterator[Signal]:
        yield from self.by_site.values()
        for signals in self.signals.values():
            yield from signals.values()
        yield from self.supplies.values()
        yield from self.by_region.values()

    def require_from(self, t: float) -> None:
        """Raise SignalError if no site could start at ``t``: all signals have ended by then, or none has begun."""
        ends = max(s.ends_at() for s in self.by_site.values())
        if t >= ends:
            raise SignalError(
                f"the run would begin at {iso_utc(t)}, and every trace has ended by {iso_utc(ends)}; "
                "give a run.start inside the traces, or longer traces"
            )
        begins = min(s.starts_at() if isinstance(s, StepSignal) else t for s in self.by_site.values())
        if t < begins:
            raise SignalError(
                f"the run would begin at {iso_utc(t)}, and no trace has a row before {iso_utc(begins)}; give a run.start inside "
                "the traces, or leave it out on a scaled clock: it is then the first instant that all of them have"
            )

    def starts_at(self) -> float:
        """The first instant at which every signal has a row.

        Raises:
            SignalError: one of them is live and has no past here.
        """
        return max(recorded(s).starts_at() for s in self.by_region.values())


def recorded(signal: Signal) -> StepSignal:
    """``signal``, if it is a recorded or generated one.

    Raises:
        SignalError: it is live: what it will say is not known.
    """
    if not isinstance(signal, StepSignal):
        raise SignalError('a backtest needs recorded signals, and one here is live; give a trace for it (kind = "trace")')
    return signal


def with_start(config: Config, grid: Grid) -> Config:
    """The configuration with the start of its replayed time: where none is given, the first instant that all sites' traces have."""
    if config.run.clock != "scaled" or config.run.start is not None:
        return config
    own = [*(s for found in grid.signals.values() for s in found.values()), *grid.supplies.values()]
    first = max(recorded(s).starts_at() for s in own)
    return config.model_copy(update={"run": config.run.model_copy(update={"start": iso_utc(math.ceil(first))})})


def run_start(config: Config) -> float:
    """Where a new run of ``config`` (with its start, see `with_start`) begins: there, or now on the calendar."""
    return parse_utc(config.run.start) if config.run.start and config.run.clock == "scaled" else clock.wall()


def make_signal(table: SignalTable, region: str, start: float) -> tuple[Signal, list[str]]:
    """One signal of a region, and what is odd about its source; ``start`` is where a generated one begins.

    Raises:
        SignalError: it cannot be used at all.
    """
    if table.live:
        from windfall.grid.live import live_signal  # httpx takes a while to import, and traces do without

        signal = live_signal(table, region)
        lacking = signal.lacking()
        return signal, [lacking] if lacking else []
    if table.kind == "synthetic":
        made = synthetic(
            region, table.seed, start, table.days, publication_delay_s=table.publication_delay_s,
            stale_periods=table.stale_periods, perfect=table.forecast == "perfect",
        )  # fmt: skip
        return made, []
    trace = load_trace(table, region)
    return trace.signal, trace.warnings


def build_grid(config: Config) -> Grid:
    """Load every signal of ``config``. Signals of equal description are one and the same, so that each source is asked once.

    Raises:
        SignalError: a trace cannot be used at all.
    """
    days = max(config.policy.window_days, config.policy.climatology_days)
    grid = Grid(past_s=days * 86400.0)
    start = parse_utc(config.run.start) if config.run.start else 0.0
    made: dict[str, Signal] = {}

    def make(table: SignalTable, region: str) -> Signal:
        key = f"{region} {table.model_dump_json(exclude={'name'})}"
        if key not in made:
            made[key], warnings = make_signal(table, region, start)
            grid.warnings += [w for w in warnings if w not in grid.warnings]  # two sites may share a file
        return made[key]

    def plain(table: SignalTable, region: str) -> tuple[Signal, list[str]]:
        return make_signal(table, region, start)

    for site in config.site:
        if site.microgrid is not None:
            grid.supplies[site.name], warnings = supply(site.microgrid.source, site.region, plain)
            grid.warnings += [w for w in warnings if w not in grid.warnings]
        grid.signals[site.name] = {
            t.label: grid.supplies[site.name] if t.kind == "microgrid" else make(t, site.region)
            for t in site.all_signals if not t.simulated
        }  # fmt: skip
        grid.by_site[site.name] = grid.signals[site.name][site.signal.label]
        grid.by_region.setdefault(site.region, grid.by_site[site.name])
    for extra in config.counterfactual:
        grid.by_region.setdefault(extra.region, make(extra.signal, extra.region))
    return grid
