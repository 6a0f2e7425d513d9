"""What a run has to tell since a mark: figures over tokens, for experiment trackers."""

from __future__ import annotations

from dataclasses import dataclass

from windfall.store.records import Version
from windfall.store.rundir import RunDir
from windfall.store.telemetry_metrics import LOSS, VAL_BPB, MetricRow
from windfall.units import J_PER_KWH
from windfall.view.moment import Moment, one_moment
from windfall.view.state import run_state

#: At most so many figures at a time, so that catching up on a long run takes little memory.
_MOST = 5000


@dataclass(frozen=True, slots=True)
class ToldMark:
    """How far a run has been told: the last figure's number and the last version (-1: none)."""

    metric: int = 0
    version: int = -1


@dataclass(frozen=True, slots=True)
class TrackedPoint:
    """Figures at a number of tokens; ``t_wall`` is when, in Unix seconds of the machine's clock."""

    tokens: int
    t_wall: float
    values: dict[str, float]


@dataclass(frozen=True)
class Told:
    """What is new: ``points`` in the order in which it came about; ``mark`` is where to go on. ``state`` is the run's."""

    points: list[TrackedPoint]
    mark: ToldMark
    state: str
    #: Whether more is there already than was taken.
    more: bool = False


def since(run: RunDir, mark: ToldMark) -> Told:
    """Read what a run has to tell since ``mark``.

    ``train/loss`` and ``site/NAME/loss`` are nats a token, ``validation/bits_per_byte`` bits a byte; ``energy/kwh``,
    ``emissions/kg_co2`` and ``money`` are what had been used up to a version, all phases and sites.

    Raises:
        StoreError: there is no run, or its databases cannot be read.
    """
    with one_moment(run) as at:
        state = run_state(run, at).state
        metrics = at.telemetry.metrics_after(mark.metric, _MOST) if at.telemetry is not None else []
        versions = [v for v in at.ledger.versions() if v.version > mark.version]
        points = [_of_metric(m) for m in metrics if m.tokens is not None]
        points += [_of_version(v, at) for v in versions]
    points.sort(key=lambda p: p.t_wall)
    mark = ToldMark(metrics[-1].id if metrics else mark.metric, versions[-1].version if versions else mark.version)
    return Told(points, mark, state, more=len(metrics) == _MOST)


def _of_metric(m: MetricRow) -> TrackedPoint:
    match m.name:
        case name if name == LOSS:
            values = {"train/loss": m.value, f"site/{m.site}/loss": m.value}
            pace = m.more.get("tokens_per_s_wall")
            if isinstance(pace, int | float):
                values[f"site/{m.site}/tokens_per_s_wall"] = float(pace)
        case name if name == VAL_BPB:
            values = {"validation/bits_per_byte": m.value}
        case name:
            values = {f"site/{m.site}/{name}" if m.site else name: m.value}
    return TrackedPoint(int(m.tokens or 0), m.t_wall, values)


def _of_version(v: Version, at: Moment) -> TrackedPoint:
    values = {"run/version": float(v.version), "run/sites": float(len(v.sites))}
    if at.telemetry is not None:
        joules, grams, money = at.telemetry.energy_until(v.t_run)
        values |= {"energy/kwh": joules / J_PER_KWH, "emissions/kg_co2": grams / 1000.0}
        if money is not None:
            values["money"] = money
    return TrackedPoint(v.tokens_total, v.t_wall, values)
