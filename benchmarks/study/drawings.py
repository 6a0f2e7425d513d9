"""The study's figures: the day, validation loss, emissions and energy."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.study.runs import STUDY_PHASES
from benchmarks.study.scenarios import NAMES, STUDY, STUDY_KG
from matplotlib.figure import Figure

from windfall.config.load import load
from windfall.store.rundir import RunDir
from windfall.ui.page.figures import COLOURS, INK, MUTED, Draw
from windfall.ui.page.lanes import lanes
from windfall.ui.page.report import lane_criteria
from windfall.view.series import run_series
from windfall.view.state import run_state

if TYPE_CHECKING:
    from benchmarks.study.page import Result

_LOOK = {"single": INK, "federated": COLOURS["provisioning"], "aware": COLOURS["federated"]}
_PHASES = {
    "training": COLOURS["local"],
    "idle": COLOURS["idle"],
    "stall": COLOURS["draining"],
    "provisioning": COLOURS["provisioning"],
}


def drawings(result: Result) -> dict[str, tuple[Draw, str, str]]:
    """By name: how it is drawn, its title and its caption. Those whose figures are not there are left out."""
    found: dict[str, tuple[Draw, str, str]] = {}
    roots = [o["root"] for o in result.of("aware") if o["root"] and Path(o["root"]).exists()]
    if roots:
        run = RunDir(Path(roots[0]))
        draw = lanes(run_series(run), run_state(run).sites, lane_criteria(load(run.config)), [], [])
        found["day"] = (draw, "The curtailment-aware run", "Real training with all processes; the study’s Figure of the same day.")
    if result.outcomes:
        found["loss"] = (
            _loss(result),
            "Validation loss over tokens",
            "A line a seed; at equal tokens, on each seed’s own held-out text.",
        )
        found["energy"] = (
            _energy(result),
            "Energy",
            "Of the first seed by phase, beside the study’s. Provisioning is not in the study’s.",
        )
    if result.rows:
        found["emissions"] = (
            _emissions(result),
            "Emissions",
            "kg CO2 of the same training, at the study’s size; the study’s in grey.",
        )
    return found


def _loss(result: Result) -> Draw:
    def draw(inches: float) -> Figure:
        figure = Figure(figsize=(inches, 3.4), layout="constrained")
        ax = figure.subplots()
        for scenario, name in NAMES.items():
            for i, o in enumerate(result.of(scenario)):
                xs, ys = zip(*o["curve"], strict=True)
                ax.plot([x / 1e3 for x in xs], ys, color=_LOOK[scenario], linewidth=1.4, alpha=0.85, label=name if i == 0 else None)
        ax.set_yscale("log")
        ax.set_yticks([1.2, 1.5, 2, 3, 4, 5], ["1.2", "1.5", "2", "3", "4", "5"])
        ax.set_yticks([], minor=True)
        ax.set_xlabel("tokens, thousands")
        ax.set_ylabel("nats per byte")
        ax.legend(frameon=False, fontsize=8.5, labelcolor=MUTED)
        return figure

    return draw


def _energy(result: Result) -> Draw:
    def draw(inches: float) -> Figure:
        figure = Figure(figsize=(inches, 2.9), layout="constrained")
        ax = figure.subplots()
        names: list[str] = []
        shown: set[str] = set()
        for scenario, name in NAMES.items():
            own = result.of(scenario)[:1]
            bars: list[tuple[str, dict[str, float]]] = [(name, o["kwh"]) for o in own]
            for label, phases in [*bars, (f"{name}, the study", {"the study": STUDY[scenario]["kwh"]})]:
                at = 0.0
                for phase, kwh in phases.items():
                    colour = _PHASES.get(phase, MUTED)
                    ax.barh(len(names), kwh, left=at, color=colour, height=0.66, label=None if phase in shown else phase)
                    shown.add(phase)
                    at += kwh
                known = sum(v for k, v in phases.items() if k in STUDY_PHASES or k == "the study")
                told = f"{known:.2f}" + (f" (all phases {at:.2f})" if at > known + 0.005 else "")
                ax.annotate(told, (at, len(names)), xytext=(4, 0), textcoords="offset points", fontsize=8.5, va="center")
                names.append(label)
        _named(ax, names)
        ax.margins(x=0.2)
        ax.set_xlabel("kWh")
        ax.legend(loc="upper center", bbox_to_anchor=(0.4, -0.2), ncols=5, frameon=False, fontsize=8, labelcolor=MUTED)
        return figure

    return draw


def _emissions(result: Result) -> Draw:
    def draw(inches: float) -> Figure:
        bars = [(r.rule, r.kg, COLOURS["federated"]) for r in result.rows]
        bars.append(("the study, measured", STUDY_KG["aware"], MUTED))
        bars += [(f"{region}, always on", kg, INK) for region, kg in sorted(result.baselines.items(), key=lambda x: x[1])]
        figure = Figure(figsize=(inches, 0.9 + 0.3 * len(bars)), layout="constrained")
        ax = figure.subplots()
        for i, (_, kg, colour) in enumerate(bars):
            ax.barh(i, kg, color=colour, height=0.62)
            ax.annotate(f"{kg:.2f}", (kg, i), xytext=(4, 0), textcoords="offset points", fontsize=8.5, va="center")
        _named(ax, [b[0] for b in bars])
        ax.margins(x=0.1)
        ax.set_xlabel("kg CO2")
        return figure

    return draw


def _named(ax: Any, names: list[str]) -> None:
    ax.set_yticks(range(len(names)), names)
    ax.invert_yaxis()
    ax.tick_params(axis="y", length=0, labelsize=8.5)
    ax.grid(False, axis="y")
