"""From a configuration to the signals of its sites and counterfactual regions."""

from __future__ import annotations

from dataclasses import dataclass, field

from windfall import clock
from windfall.config.schema import Config, SignalTable
from windfall.errors import SignalError
from windfall.grid.signal import StepSignal
from windfall.grid.synthetic import synthetic
from windfall.grid.trace import load_trace
from windfall.units import iso_utc, parse_utc


@dataclass
class Grid:
    """Signals by site, and by region for the counterfactual baselines; what was odd about their sources."""

    by_site: dict[str, StepSignal]
    by_region: dict[str, StepSignal]
    warnings: list[str] = field(default_factory=list)

    def require_from(self, t: float) -> None:
        """Raise SignalError if nothing is known of any site from ``t`` on: no site would ever start."""
        ends = max(s.ends_at() for s in self.by_site.values())
        if t >= ends:
            raise SignalError(
                f"the run would begin at {iso_utc(t)}, and every trace has ended by {iso_utc(ends)}; "
                "give a run.start inside the traces, or longer traces"
            )

    def starts_at(self) -> float:
        """The first instant at which every signal has a row."""
        return max(s.starts_at() for s in self.by_region.values())


def run_start(config: Config) -> float:
    """Where a new run of ``config`` begins: its start, or now on the calendar."""
    return parse_utc(config.run.start) if config.run.start and config.run.clock == "scaled" else clock.wall()


def make_signal(table: SignalTable, region: str, start: float) -> tuple[StepSignal, list[str]]:
    """One region's signal, and what is odd about its source; ``start`` is where a generated one begins.

    Raises:
        SignalError: it cannot be used at all.
    """
    if table.kind == "synthetic":
        made = synthetic(
            region, table.seed, start, table.days,
            publication_delay_s=table.publication_delay_s, stale_periods=table.stale_periods,
        )  # fmt: skip
        return made, []
    trace = load_trace(table, region)
    return trace.signal, trace.warnings


def build_grid(config: Config) -> Grid:
    """Load every signal of ``config``.

    Raises:
        SignalError: a trace cannot be used at all.
    """
    grid = Grid({}, {})
    start = parse_utc(config.run.start) if config.run.start else 0.0

    def make(table: SignalTable, region: str) -> StepSignal:
        signal, warnings = make_signal(table, region, start)
        grid.warnings += warnings
        return signal

    for site in config.site:
        grid.by_site[site.name] = make(site.signal, site.region)
        grid.by_region.setdefault(site.region, grid.by_site[site.name])
    for extra in config.counterfactual:
        grid.by_region.setdefault(extra.region, make(extra.signal, extra.region))
    return grid
