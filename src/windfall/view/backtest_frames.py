"""Backtests as tables for analysis, of one start date and of many."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, fields

from windfall.simulate.backtest import Backtest, Row
from windfall.simulate.paired import PairedDifference
from windfall.simulate.provenance import Provenance, UsedTrace
from windfall.simulate.sweep import SweepPoint, SweepSummary
from windfall.view.dictionary import SET
from windfall.view.frame import Frame, Kind, unpacked

#: Parts of a row that are columns of their own for each key.
_MAPS = {"kg_by_method": "kg_", "money_by_currency": "money_", "site_hours_by_site": "site_hours_", "kwh_by_origin": "kwh_"}
_TEXTS, _COUNTS = ("policy", "preset"), ("starts", "seeds")


def _figures() -> dict[str, Kind]:
    """The columns that every row has."""
    return {
        f.name: "text" if f.name in _TEXTS else "int" if f.name in _COUNTS else "float"
        for f in fields(Row)
        if f.name not in (*_MAPS, "notes", "lanes", "levels", "over_seeds")
    }


def backtest_frames(result: Backtest) -> dict[str, Frame]:
    """A backtest as tables: ``rows``, ``lanes`` (states of sites), ``baselines`` (regions always on), ``seeds`` and ``traces``.

    Lanes and seeds name their row by its place in ``rows``.
    """
    plain = _figures()
    every = [*result.rows, *result.late]
    kinds: dict[str, Kind] = {"row": "int", **plain}
    table = [[i, *(getattr(r, name) for name in plain)] for i, r in enumerate(every)]
    for name, prefix in _MAPS.items():
        more, values = unpacked(prefix, [getattr(r, name) for r in every])
        kinds |= more
        table = [[*row, *extra] for row, extra in zip(table, values, strict=True)]
    kinds["notes"] = "text"
    table = [[*row, "; ".join(r.notes)] for row, r in zip(table, every, strict=True)]
    lanes = [
        (i, r.policy, site, t0, t1, state)
        for i, r in enumerate(every)
        for site, lane in r.lanes.items()
        for t0, t1, state in lane
    ]  # fmt: skip
    bases = [(region, result.baseline_site_hours, kg) for region, kg in result.baselines.items()]
    drawn = [(i, r.policy, k, r.seeds, *v) for i, r in enumerate(every) for k, v in r.over_seeds.items()]
    return {
        "rows": Frame(kinds, table),
        "lanes": Frame({"row": "int", "policy": "text", "site": "text", "t0": "unix", "t1": "unix", "state": "text"}, lanes),
        "baselines": Frame({"region": "text", "site_hours": "float", "kg_co2": "float"}, bases),
        "seeds": Frame(
            {"row": "int", "policy": "text", "figure": "text", "seeds": "int", "p10": "float", "p50": "float", "p90": "float"},
            drawn,
        ),
        "traces": traces_frame(result.provenance),
    }


def sweep_frame(points: Sequence[SweepPoint]) -> Frame:
    """A sweep's points: a row for each policy, start and choice of settings."""
    keys = list(dict.fromkeys(k for p in points for k, _ in p.settings))
    plain = _figures()
    kinds: dict[str, Kind] = {"policy": "text", "preset": "text", "start": "unix"}
    rest = [name for name in plain if name not in kinds]
    kinds |= _settings(keys)
    kinds |= {name: plain[name] for name in rest}
    table = [
        [p.row.policy, p.row.preset, p.start, *(dict(p.settings).get(k) for k in keys), *(getattr(p.row, f) for f in rest)]
        for p in points
    ]
    return Frame(kinds, table)


def summary_frame(found: Sequence[SweepSummary]) -> Frame:
    """A sweep's summaries: a row for each policy and choice of settings, each figure as 10th, 50th and 90th percentile."""
    keys = list(dict.fromkeys(k for s in found for k, _ in s.settings))
    figures = list(dict.fromkeys(k for s in found for k in s.figures))
    kinds: dict[str, Kind] = {"policy": "text", "publication_delay_s": "float", "deadline_h": "float"}
    kinds |= _settings(keys)
    kinds |= {"start_dates": "int", "finished": "int"}
    kinds |= dict.fromkeys((f"{f}_{q}" for f in figures for q in ("p10", "p50", "p90")), "float")
    table = []
    for s in found:
        settings = dict(s.settings)
        triples = [v for f in figures for v in s.figures.get(f, (None, None, None))]
        table.append(
            [s.policy, s.publication_delay_s, s.deadline_h, *(settings.get(k) for k in keys), s.start_dates, s.finished, *triples]
        )
    return Frame(kinds, table)


def pairs_frame(found: Sequence[PairedDifference]) -> Frame:
    """Differences between policies: a row for each pair, choice of settings and figure."""
    keys = list(dict.fromkeys(k for d in found for k, _ in d.settings))
    texts, counts = ("policy", "against", "figure"), ("start_dates", "block_starts")
    names = [f.name for f in fields(PairedDifference) if f.name != "settings"]
    kinds: dict[str, Kind] = {"policy": "text", "against": "text", **_settings(keys)}
    kinds |= {n: "text" if n in texts else "int" if n in counts else "float" for n in names}
    rest = [n for n in names if n not in ("policy", "against")]
    table = [[d.policy, d.against, *(dict(d.settings).get(k) for k in keys), *(getattr(d, n) for n in rest)] for d in found]
    return Frame(kinds, table)


def traces_frame(made: Provenance | None) -> Frame:
    """What a backtest was computed on."""
    kinds: dict[str, Kind] = {
        f.name: "int" if f.name == "holes" else "float" if f.name.endswith("_h") else "text" for f in fields(UsedTrace)
    }
    return Frame(kinds, [list(asdict(t).values()) for t in (made.traces if made else ())])


def _settings(keys: Sequence[str]) -> dict[str, Kind]:
    """Columns of settings. Figures may have the same names: then a setting's begins with ``set_``."""
    return {f"{SET}{k}" if k in _figures() else k: "float" for k in keys}
