"""What the study brought, as figures with their marks, JSON, a page, and figures as files."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.study.drawings import drawings
from benchmarks.study.emissions import DayRow
from benchmarks.study.runs import STUDY_PHASES
from benchmarks.study.scenarios import NAMES, STUDY, STUDY_ENERGY, STUDY_INSIDE, STUDY_KG, STUDY_OF_CLEANEST

from windfall.revision import revision
from windfall.store.files import write_json
from windfall.ui.backtest_page import document, figure, section, write_page
from windfall.ui.page import pieces
from windfall.ui.page.figures import pdf, svg
from windfall.units import counted

#: Elastic over centralised validation loss, mean over seeds; energy over the centralised run's.
MARK_LOSS, MARK_ENERGY = 1.010, 1.01
NOT_RUN = "not run"
_WIDE = 1040.0


@dataclass
class Result:
    """Outcomes of training (as kept in JSON), the day's rows, and kg of each region always on."""

    outcomes: list[dict[str, Any]]
    rows: list[DayRow]
    baselines: dict[str, float]

    def of(self, scenario: str) -> list[dict[str, Any]]:
        """The outcomes of a scenario, by seed."""
        return sorted((o for o in self.outcomes if o["scenario"] == scenario), key=lambda o: int(o["seed"]))

    def ratios(self, scenario: str) -> list[float]:
        """Last validation loss over the centralised run's, seed by seed."""
        plain = {o["seed"]: o["val_last"] for o in self.of("single")}
        return [o["val_last"] / plain[o["seed"]] for o in self.of(scenario) if o["seed"] in plain]

    def energy(self, *, all_phases: bool) -> list[float]:
        """The curtailment-aware run's energy over the centralised one's, by seed; all phases only where both have all of them."""
        found = []
        plain = {o["seed"]: o for o in self.of("single")}
        for o in self.of("aware"):
            # A trainer alone has no phase but training.
            if o["seed"] in plain and not (all_phases and set(plain[o["seed"]]["kwh"]) == {"training"}):
                found.append(_kwh(o, all_phases) / _kwh(plain[o["seed"]], all_phases))
        return found

    def figures(self) -> list[dict[str, Any]]:
        """Each figure with its mark and whether that is met (null: it is printed only, or was not run)."""
        found: list[dict[str, Any]] = []
        for scenario, mark in (("aware", MARK_LOSS), ("federated", None)):
            ratios = self.ratios(scenario)
            if ratios:
                name = f"validation loss, {NAMES[scenario]} / centralised"
                found.append(_figure(name, statistics.mean(ratios), mark, by_seed=[round(r, 4) for r in ratios]))
        for r in self.rows:
            more = {} if r.least is None else {"least": r.least, "largest": r.largest, "median": r.median}
            found.append(_figure(f"emissions / cleanest region always on: {r.rule}", r.share, r.mark, **more))
        for all_phases, mark in ((False, MARK_ENERGY), (True, None)):
            ratios = self.energy(all_phases=all_phases)
            if ratios:
                name = f"energy / centralised, {'all phases' if all_phases else 'the phases of the study'}"
                found.append(_figure(name, statistics.mean(ratios), mark, by_seed=[round(r, 4) for r in ratios]))
        found.append({"figure": "validation loss at 561M parameters", "value": NOT_RUN, "mark": None, "met": None})
        return found

    def as_json(self) -> dict[str, Any]:
        """The object of study.json."""
        return {
            "windfall": str(revision()), "figures": self.figures(), "outcomes": self.outcomes,
            "day": [r.as_json() for r in self.rows], "baselines_kg": self.baselines,
            "published": {"scenarios": STUDY, "kg": STUDY_KG, "share_inside": STUDY_INSIDE},
        }  # fmt: skip


def _figure(name: str, value: float, mark: float | None, **more: Any) -> dict[str, Any]:
    return {
        "figure": name,
        "value": round(value, 4),
        "mark": mark,
        "met": None if mark is None else round(value, 4) <= mark,
        **more,
    }


def _kwh(outcome: dict[str, Any], all_phases: bool) -> float:
    return sum(float(v) for k, v in outcome["kwh"].items() if all_phases or k in STUDY_PHASES)


def write(folder: Path, result: Result) -> Path:
    """Write study.json, figures and index.html into ``folder``; the page."""
    write_json(folder / "study.json", result.as_json())
    drawn = drawings(result)
    for name, (draw, _, _) in drawn.items():
        (folder / f"{name}.svg").write_text(svg(draw, _WIDE), encoding="utf-8")
        (folder / f"{name}.pdf").write_bytes(pdf(draw, _WIDE))
    body = [
        '<header class="top"><h1>The study, and Windfall</h1><span class="badge">study</span></header>',
        f'<p class="sub">Windfall {pieces.text(revision())}. {_ABOUT}</p>',
        section("Figures and marks", "", _marks(result)),
        section("Scenarios", _ABOUT_SCENARIOS, _scenarios(result)) if result.outcomes else "",
        section("Quality", _ABOUT_QUALITY, _quality(result)) if result.outcomes else "",
        section("The day at the study’s size", _ABOUT_DAY, _day(result)) if result.rows else "",
        section("Regions always on", _ABOUT_REGIONS, _regions(result)) if result.rows else "",
        *(section(title, "", figure(name, draw, title, caption)) for name, (draw, title, caption) in drawn.items()),
        "<footer>python -m benchmarks.study; study.json has every figure.</footer>",
    ]  # fmt: skip
    page = folder / "index.html"
    write_page(page, document("The study, and Windfall", body))
    return page


_ABOUT = (
    "Published figures: arXiv 2602.22760. Training here is of 0.87M parameters on 520,000 tokens, emissions are of the study’s own "
    "size and day."
)
_ABOUT_REGIONS = "kg CO2 of one uninterrupted training of 17.78 site-hours."
_ABOUT_SCENARIOS = (
    "Run time, training, energy; the study’s figures in brackets. Energy of the study’s phases leaves out what nodes take while "
    "they are provisioned, which here is idle power; all phases have it. Over seeds: the mean."
)
_ABOUT_QUALITY = (
    "Last and best validation loss in nats per byte at equal tokens, and the last one’s ratio to the centralised run’s, seed by "
    "seed. The study reports perplexity of training, which is no measure of quality: it stands apart, by its own moving mean. Of "
    "other data, tokens and sizes, so that levels cannot be compared."
)
_ABOUT_DAY = (
    "The study’s day as 22 piecewise means, 17.86 site-hours, its machines. Shares are of the cleanest region always on. No "
    "training: the same policies, controller and account on a manual clock."
)


def _marks(result: Result) -> str:
    rows = []
    for f in result.figures():
        value = f["value"] if isinstance(f["value"], str) else f"{f['value']:.4f}"
        if "by_seed" in f:
            value += f" ({min(f['by_seed']):.4f} to {max(f['by_seed']):.4f}, {counted(len(f['by_seed']), 'seed')})"
        if f.get("least") is not None:
            value += f" (median {f['median']:.4f}, {f['least']:.4f} to {f['largest']:.4f})"
        met = {True: "met", False: "missed", None: ""}[f["met"]]
        mark = "printed" if f["mark"] is None else f"≤ {f['mark']:g}"
        rows.append(("", [pieces.text(f["figure"]), value, "–" if value == NOT_RUN else mark, met]))
    return pieces.table(["figure", ">here", ">mark", ""], rows)


def _scenarios(result: Result) -> str:
    rows = []
    for scenario, name in NAMES.items():
        own, study = result.of(scenario), STUDY[scenario]
        if not own:
            continue
        timed = [o["runtime_h"] for o in own if o["runtime_h"] is not None]
        runtime = f"{statistics.mean(timed):.2f}" if timed else "–"
        inside = [o["share_inside"] for o in own if o["share_inside"] is not None]
        kg = [sum(v for k, v in o["kg"].items() if k in STUDY_PHASES) for o in own if o["kg"]]
        rows.append(("", [
            name, f"{runtime} ({study['runtime_h']:.2f})", f"{_mean(own, 'site_hours'):.2f} ({study['site_hours']:.2f})",
            f"{statistics.mean(_kwh(o, False) for o in own):.2f} ({study['kwh']:.2f})",
            f"{statistics.mean(_kwh(o, True) for o in own):.2f}", f"{statistics.mean(kg):.3f}" if kg else "–",
            f"{statistics.mean(inside) * 100:.1f}" if inside else "–", f"{_mean(own, 'versions'):.0f}",
            f"{_mean(own, 'share_federated') * 100:.0f}",
        ]))  # fmt: skip
    heads = [
        "",
        ">hours",
        ">site-hours",
        ">kWh, its phases",
        ">kWh, all phases",
        ">kg CO2",
        ">% inside",
        ">versions",
        ">% federated",
    ]
    return pieces.table(heads, rows)


def _quality(result: Result) -> str:
    rows = []
    for scenario, name in NAMES.items():
        ratios = {o["seed"]: r for o, r in zip(result.of(scenario), result.ratios(scenario), strict=False)}
        for o in result.of(scenario):
            rows.append(("", [
                name, str(o["seed"]), o["how"], f"{o['val_last']:.4f}", f"{o['val_best']:.4f}",
                f"{ratios[o['seed']]:.4f}" if o["seed"] in ratios else "–",
                f"{o['perplexity_least']:.2f} / {o['perplexity_last']:.2f}",
            ]))  # fmt: skip
        s = STUDY[scenario]
        told = f"{s['perplexity_least']:.2f} / {s['perplexity_last']:.2f}"
        rows.append(("", [f"{name}, the study", "", "561M, GPUs", "–", "–", "–", told]))
    heads = ["", ">seed", "how", ">last", ">best", ">/ centralised", ">training perplexity, least / last"]
    return pieces.table(heads, rows)


def _day(result: Result) -> str:
    rows = [
        ("", [
            pieces.text(r.rule), f"{r.kg:.3f}", f"{r.share * 100:.1f}" + _range(r), pieces.number(r.finish_h, 2), f"{r.kwh:.2f}",
            pieces.number(None if r.share_inside is None else r.share_inside * 100, 1), pieces.text(r.note),
        ])
        for r in result.rows
    ]  # fmt: skip
    kg, more = STUDY_KG["aware"], f"energy {STUDY_ENERGY - 1:+.1%} of its centralised run"
    rows.append(("", [
        "the study, measured", f"{kg:.3f}", f"{STUDY_OF_CLEANEST * 100:.1f}", f"{STUDY['aware']['runtime_h']:.2f}",
        f"{STUDY['aware']['kwh']:.2f}", f"{STUDY_INSIDE['aware'] * 100:.1f}", more,
    ]))  # fmt: skip
    return pieces.table(["rule", ">kg CO2", ">% of cleanest", ">hours", ">kWh", ">% inside", ""], rows)


def _range(r: DayRow) -> str:
    if r.least is None or r.largest is None or r.median is None:
        return ""
    return f" (median {r.median * 100:.1f}, {r.least * 100:.1f} to {r.largest * 100:.1f})"


def _regions(result: Result) -> str:
    reactive = next((r.kg for r in result.rows if r.mark == 0.087), None)
    rows = []
    for region, kg in sorted(result.baselines.items(), key=lambda x: x[1]):
        ours = "–" if reactive is None else f"{reactive / kg * 100:.1f}"
        study, inside = STUDY_KG[region], STUDY_INSIDE[region]
        rows.append(
            (
                "",
                [
                    pieces.text(region),
                    f"{kg:.2f} ({study:.2f})",
                    ours,
                    f"{STUDY_KG['aware'] / study * 100:.1f}",
                    f"{inside * 100:.1f}",
                ],
            )
        )
    return pieces.table(
        ["region", ">kg CO2 (the study)", ">% of it: reactive", ">% of it: the study", ">% inside: the study"], rows
    )


def _mean(outcomes: Sequence[dict[str, Any]], key: str) -> float:
    return statistics.mean(float(o[key]) for o in outcomes)
