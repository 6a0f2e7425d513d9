"""A run, or several, as Prometheus reads them: the text exposition, in base units, with counters that never fall.

Names are Windfall's, and OpenTelemetry's where its semantic conventions have them (``hw.energy``, ``hw.power``, the resource in
``target_info``). Labels take the names of runs, sites, signals and currencies, and words of fixed lists: a run of s sites has some
forty series a site, however long it goes on.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

from windfall import __version__
from windfall.errors import WindfallError
from windfall.fleet.machine import State
from windfall.store.rundir import RunDir
from windfall.store.telemetry_energy import EnergyCounts
from windfall.view.counters import RunCounters, run_counters
from windfall.view.moment import one_moment
from windfall.view.state import RunState, SiteState, run_state

CONTENT_TYPE = CONTENT_TYPE_LATEST
RUN_STATES = ("running", "done", "interrupted", "failed", "stopped")
MODES = ("paused", "local", "federated")
#: What is counted in fractions is exported to so many digits: sums of the same entries in another order differ in the last ones.
_DIGITS = 6


@dataclass(frozen=True, slots=True)
class Exposed:
    """A run at one moment."""

    state: RunState
    counters: RunCounters


def seen(run: RunDir) -> Exposed:
    """Look at a run.

    Raises:
        StoreError: there is no run, or its databases cannot be read.
        ConfigError: its configuration cannot be read.
    """
    with one_moment(run) as now:
        return Exposed(run_state(run, now), run_counters(run, now))


class Exposition:
    """Renders runs again and again. A counter that it has shown is never shown lower.

    That matters only where a run goes back: a version whose file was damaged is taken back, and so are its tokens.
    """

    def __init__(self) -> None:
        self._highest: dict[tuple[str, ...], float] = {}

    def render(self, runs: Sequence[RunDir]) -> bytes:
        """The text. A run that cannot be read has ``windfall_run_readable`` 0, and nothing else; its name is its folder's.

        So has a copy of a run that is there already: a series may stand in it once.
        """
        found: dict[str, Exposed] = {}
        troubled: dict[str, None] = {}
        for run in runs:
            try:
                look = seen(run)
            except WindfallError:
                troubled[Path(run.root).name] = None
                continue
            if look.state.run_id in found:
                troubled[Path(run.root).name] = None
            else:
                found[look.state.run_id] = look
        return self._text([*found.values()], [*troubled])

    def _text(self, found: Sequence[Exposed], troubled: Sequence[str] = ()) -> bytes:
        """The text of runs that have been looked at, and the names of those that cannot be read."""
        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Families(self, found, troubled))
        return generate_latest(registry)

    def never_lower(self, name: str, labels: Sequence[str], value: float) -> float:
        """A counter's value: at least what it was before."""
        key = (name, *labels)
        self._highest[key] = max(round(value, _DIGITS), self._highest.get(key, 0.0))
        return self._highest[key]


def render(runs: Sequence[RunDir]) -> bytes:
    """The text of runs, once."""
    return Exposition().render(runs)


class _Families(Collector):
    """All families, each with the samples of all runs: a family may stand in an exposition once."""

    def __init__(self, exposition: Exposition, found: Sequence[Exposed], troubled: Sequence[str]) -> None:
        self._exposition, self._found, self._troubled = exposition, found, troubled

    def _gauge(self, name: str, text: str, labels: str, samples: Iterable[tuple[Sequence[str], float | None]]) -> Metric:
        family = GaugeMetricFamily(name, text, labels=labels.split())
        for values, value in samples:
            if value is not None:
                family.add_metric([*values], value)
        return family

    def _counter(self, name: str, text: str, labels: str, samples: Iterable[tuple[Sequence[str], float]]) -> Metric:
        family = CounterMetricFamily(name, text, labels=labels.split())
        for values, value in samples:
            family.add_metric([*values], self._exposition.never_lower(name, values, value))
        return family

    def collect(self) -> Iterator[Metric]:
        yield self._gauge(
            "target_info", "Who is asked, as OpenTelemetry names it.", "service_name service_version",
            [(("windfall", __version__), 1.0)],
        )  # fmt: skip
        readable = [((f.state.run_id,), 1.0) for f in self._found] + [((name,), 0.0) for name in self._troubled]
        yield self._gauge("windfall_run_readable", "Whether the run's directory can be read.", "run", readable)
        yield from self._runs()
        yield from self._sites()
        yield from self._signals()
        yield from self._work()
        yield from self._account()

    def _runs(self) -> Iterator[Metric]:
        each = [(f.state.run_id, f.state) for f in self._found]
        clocks = [((f.state.run_id, f.counters.clock), 1.0) for f in self._found]
        yield self._gauge("windfall_run_info", "What kind of clock the run is on.", "run clock", clocks)
        states = [((r, x), float(s.state == x)) for r, s in each for x in RUN_STATES]
        yield self._gauge("windfall_run_state", "State of the run: 1 for the one that it is in.", "run state", states)
        modes = [((r, x), float(s.mode == x)) for r, s in each for x in MODES]
        yield self._gauge("windfall_run_mode", "Mode of the run: 1 for the one that it is in.", "run mode", modes)
        for name, text, figure in (
            ("version", "Newest version of the model.", "version"),
            ("tokens_budget", "Tokens that the run is to train on.", "tokens_budget"),
            ("time_seconds", "Time on the run's clock (Unix seconds).", "t_run"),
            ("updated_timestamp_seconds", "When the coordinator last said how things stand.", "t_wall"),
            ("training_loss_nats", "Loss of the newest step, in nats a token.", "train_loss"),
            ("validation_loss_bpb", "Newest validation loss, in bits a byte.", "val_bpb"),
        ):
            yield self._gauge(f"windfall_run_{name}", text, "run", [((r,), getattr(s, figure)) for r, s in each])

    def _sites(self) -> Iterator[Metric]:
        each = [((f.state.run_id, name), s, f.counters) for f in self._found for name, s in f.state.sites.items()]
        states = [((*at, x.value), float(s.state == x.value)) for at, s, _ in each for x in State]
        yield self._gauge("windfall_site_state", "State of the site: 1 for the one that it is in.", "run site state", states)
        wanted = [(at, float(s.wanted)) for at, s, _ in each]
        yield self._gauge("windfall_site_wanted", "Whether the policy wants the site on.", "run site", wanted)
        held = [(at, float(bool(s.held))) for at, s, _ in each]
        yield self._gauge("windfall_site_held", "Whether an operator keeps the site off.", "run site", held)
        running = {f.state.run_id for f in self._found if f.state.state == "running"}
        watts = [(at, _watts(s, c, at[1])) for at, s, c in each if at[0] in running]
        yield self._gauge("windfall_power_watts", "Power of the site.", "run site", watts)
        text = "Power of the site, as OpenTelemetry names it (hw.power)."
        yield self._gauge("hw_power_watts", text, "run hw_id hw_type", [((*at, "enclosure"), w) for at, w in watts])
        starts = [(at, float(s.starts)) for at, s, _ in each]
        yield self._counter("windfall_site_starts", "Starts of the site.", "run site", starts)
        failures = [(at, float(c.failures.get(at[1], 0))) for at, _, c in each]
        yield self._counter("windfall_site_failures", "Failures of the site.", "run site", failures)

    def _signals(self) -> Iterator[Metric]:
        each = [(f.state.run_id, x) for f in self._found for x in f.counters.signals]
        yield self._gauge(
            "windfall_signal_value", "Newest reading of the signal, in its unit.", "run site signal unit",
            [((r, x.site, x.label, x.unit), x.value) for r, x in each],
        )  # fmt: skip
        yield self._gauge(
            "windfall_signal_age_seconds", "Age of that reading on the run's clock.", "run site signal",
            [((r, x.site, x.label), x.age_s) for r, x in each],
        )  # fmt: skip
        yield self._gauge(
            "windfall_signal_stale", "Whether nothing may be decided on that reading, or nothing is known.", "run site signal",
            [((r, x.site, x.label), float(x.stale)) for r, x in each],
        )  # fmt: skip
        yield self._gauge(
            "windfall_signal_worth", "Value of the site's first signal under which it is worth training.", "run site",
            [((f.state.run_id, n), s.worth) for f in self._found for n, s in f.state.sites.items()],
        )  # fmt: skip

    def _work(self) -> Iterator[Metric]:
        each = [((f.state.run_id, name), s, f.counters) for f in self._found for name, s in f.state.sites.items()]
        tokens = [((*at, "committed"), float(s.tokens)) for at, s, _ in each]
        tokens += [((*at, "lost"), float(s.work_lost.tokens)) for at, s, _ in each]
        yield self._counter("windfall_tokens", "Tokens of the site's work, by what became of it.", "run site state", tokens)
        moved = [(at, c.network_bytes.get(at[1], 0.0)) for at, _, c in each]
        text = "Weights, work and inner states between coordinator and site, both ways."
        yield self._counter("windfall_network_bytes", text, "run site", moved)
        phases = [((r, c.site, c.phase), c.seconds) for r, c in self._booked() if c.seconds > 0]
        yield self._counter("windfall_site_phase_seconds", "Run time of the site, by energy phase.", "run site phase", phases)
        stalls = [(at, sum(x.seconds for x in c.energy if (x.site, x.phase) == (at[1], "stall"))) for at, _, c in each]
        yield self._counter("windfall_stall_seconds", "Run time for which the site was to train, and waited.", "run site", stalls)

    def _booked(self) -> list[tuple[str, EnergyCounts]]:
        return [(f.state.run_id, c) for f in self._found for c in f.counters.energy]

    def _account(self) -> Iterator[Metric]:
        booked = self._booked()
        energy = [((r, c.site, c.phase, "measured"), c.measured_joules) for r, c in booked if c.measured_joules > 0]
        energy += [((r, c.site, c.phase, _source(c)), c.joules - c.measured_joules) for r, c in booked]
        text = "Energy, by phase, and whether it was measured."
        yield self._counter("windfall_energy_joules", text, "run site phase source", energy)
        whole = _sums([(r, c) for r, c in booked if c.phase != "network"], "joules")
        text = "Energy of the site, as OpenTelemetry names it (hw.energy)."
        yield self._counter("hw_energy_joules", text, "run hw_id hw_type", [((*at, "enclosure"), j) for at, j in whole])
        text = "Part of the energy: used while its intensity was unknown."
        yield self._counter("windfall_energy_unpriced_joules", text, "run site", _sums(booked, "unpriced_joules"))
        yield from self._emissions(booked)
        priced = {f.state.run_id: f.counters.currencies for f in self._found}
        for name, text, figure in (
            ("windfall_cost", "Cost of the energy.", "money"),
            ("windfall_earnings", "What was earned by using energy at negative prices.", "earned"),
        ):
            cost = [((r, n, priced[r][n]), m) for (r, n), m in _sums(booked, figure) if n in priced[r]]
            yield self._counter(name, text, "run site currency", cost)
        borders = [((f.state.run_id, n), t) for f in self._found for n, t in f.counters.watermark.items()]
        text = "Run time behind which the account does not change any more."
        yield self._gauge("windfall_account_watermark_timestamp_seconds", text, "run site", borders)

    def _emissions(self, booked: Sequence[tuple[str, EnergyCounts]]) -> Iterator[Metric]:
        marginal = {(f.state.run_id, n) for f in self._found for n in f.counters.marginal}
        grams = [((*at, "marginal"), g) for at, g in _sums(booked, "grams") if at in marginal]
        grams += [((*at, "average"), g) for at, g in _sums(booked, "average_grams") if g]
        grams += [((f.state.run_id, n, "embodied"), g) for f in self._found for n, g in sorted(f.counters.embodied_g.items())]
        text = "Grams of CO2, by method. Methods never add; embodied is the share of reserved time."
        yield self._counter("windfall_emissions_grams", text, "run site method", grams)
        avoided = [((*at, "marginal"), g) for at, g in _sums(booked, "avoided_grams") if g and at in marginal]
        avoided += [((*at, "average"), g) for at, g in _sums(booked, "avoided_average_grams") if g]
        yield self._counter("windfall_emissions_avoided_grams", "Grams of CO2 at negative intensities.", "run site method", avoided)


def _watts(s: SiteState, c: RunCounters, site: str) -> float:
    """What a site takes now. A site that is off takes something only where its machine stays on."""
    phase, watts = c.power.get(site, ("off", 0.0))
    return 0.0 if s.state == State.OFF and phase != "off" else watts


def _source(c: EnergyCounts) -> str:
    return "assumed" if c.phase == "network" else "modelled"


def _sums(booked: Iterable[tuple[str, EnergyCounts]], figure: str) -> list[tuple[tuple[str, str], float]]:
    """By run and site, a figure over all phases."""
    found: dict[tuple[str, str], float] = {}
    for r, c in booked:
        found[r, c.site] = found.get((r, c.site), 0.0) + float(getattr(c, figure))
    return sorted(found.items())
