"""A run's series as tables for analysis: ``windfall.open_run(path).energy().to_pandas()``.

Read only, from ledger and telemetry, of a run that is going on too. Times are there as Unix seconds and as UTC instants.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from windfall.errors import ConfigError
from windfall.store.files import to_json
from windfall.store.rundir import RunDir
from windfall.store.telemetry_metrics import LOSS, VAL_BPB
from windfall.view.events import what_happened
from windfall.view.frame import Frame, Kind, unpacked
from windfall.view.moment import Moment, one_moment
from windfall.view.state import summarise
from windfall.view.text import safe


class RunFrames:
    """The series of one run directory.

    Each method reads one moment of the run; ``frames`` reads all of them at one moment.
    """

    def __init__(self, root: Path | str) -> None:
        """Raises StoreError if there is no run in ``root``."""
        self._run = RunDir(Path(root)).open_existing()

    def __repr__(self) -> str:
        s = self.summary()
        share = s["tokens_committed"] / s["tokens_budget"] if s["tokens_budget"] else 0.0
        return (
            f"RunFrames({s['run_id']}, {s['state']}: {s['tokens_committed']:,} tokens ({share:.0%}), {s['energy_kwh']:.3g} kWh; "
            f"{', '.join(_ALL)})"
        )

    def versions(self) -> Frame:
        """Every version: how it came about, tokens (also by site), and its evaluation if it has one."""
        return self._of(_versions)

    def blocks(self) -> Frame:
        """The partition of the budget: ranges of blocks ``[first, end)`` and their states."""
        return self._of(_blocks)

    def events(self) -> Frame:
        """What happened: kind, site, version, in words (``what``) and with all details (JSON)."""
        return self._of(_events)

    def decisions(self) -> Frame:
        """Every decision: wanted, reason, until, its numbers (``numbers_*``) and what the policy remembers (``memory_*``)."""
        return self._of(_decisions)

    def readings(self) -> Frame:
        """Readings that decisions were made on."""
        return self._of(_readings)

    def forecasts(self) -> Frame:
        """Forecasts that decisions were made on, a row for each value."""
        return self._of(_forecasts)

    def metrics(self) -> Frame:
        """Every figure by name (``loss``, ``val_bpb``)."""
        return self._of(_metrics)

    def steps(self) -> Frame:
        """Optimizer steps: training loss (nats per token), tokens, mode, tokens per second of wall time."""
        return self._of(_steps)

    def energy(self) -> Frame:
        """The account, a row for each interval of one site, phase and reading.

        Joules, grams, and where the site has such signals grams by average intensity and money; runs of older versions lack both.
        """
        return self._of(_energy)

    def states(self) -> Frame:
        """States of sites, each until the site's next."""
        return self._of(_states)

    def modes(self) -> Frame:
        """Modes of the run (paused, local, federated), each until the next."""
        return self._of(_modes)

    def counterfactuals(self) -> Frame:
        """The run beside what every alternative would have cost at the same tokens: regions, random times, rules, the oracle."""
        return self._of(_counterfactuals)

    def summary(self) -> dict[str, Any]:
        """Everything about the run that fits on a page, as `windfall status --json` prints it."""
        return summarise(self._run)

    def frames(self) -> dict[str, Frame]:
        """All of the tables by name."""
        with one_moment(self._run) as at:
            return {name: make(at) for name, make in _ALL.items()}

    def everything(self) -> tuple[dict[str, Frame], dict[str, Any]]:
        """All of the tables by name and the summary, of one moment."""
        with one_moment(self._run) as at:
            return {name: make(at) for name, make in _ALL.items()}, summarise(self._run, at)

    def _of(self, make: Callable[[Moment], Frame]) -> Frame:
        with one_moment(self._run) as at:
            return make(at)


def _versions(at: Moment) -> Frame:
    found = at.ledger.versions()
    bpb = {m.version: m.value for m in at.telemetry.metrics(VAL_BPB)} if at.telemetry else {}
    kinds: dict[str, Kind] = {
        "version": "int", "t_run": "unix", "t_wall": "unix", "mode": "text", "tokens": "int", "tokens_total": "int",
        "retained": "bool", "val_bpb": "float",
    }  # fmt: skip
    more, by_site = unpacked("tokens_", [v.sites for v in found])
    rows = [
        (v.version, v.t_run, v.t_wall, v.mode, v.tokens, v.tokens_total, v.retained, bpb.get(v.version), *own)
        for v, own in zip(found, by_site, strict=True)
    ]
    return Frame({**kinds, **dict.fromkeys(more, "int")}, rows)


def _blocks(at: Moment) -> Frame:
    spans = at.ledger.spans()
    return Frame({"first": "int", "end": "int", "blocks": "int", "state": "text"}, [(a, b, b - a, state) for a, b, state in spans])


def _events(at: Moment) -> Frame:
    kinds: dict[str, Kind] = {
        "id": "int", "t_run": "unix", "t_wall": "unix", "kind": "text", "site": "text", "version": "int", "what": "text",
        "detail": "text",
    }  # fmt: skip
    rows = [
        (i, e.t_run, e.t_wall, e.kind, e.site, e.version, what_happened(e), to_json(without_secrets(e.detail)))
        for i, e in (at.telemetry.events() if at.telemetry else ())
    ]
    return Frame(kinds, rows)


def without_secrets(value: Any, key: str = "") -> Any:
    """Details with what looks like a credential taken out, value by value, so that they stay JSON."""
    if isinstance(value, dict):
        return {k: without_secrets(v, str(k)) for k, v in value.items()}
    if isinstance(value, list):
        return [without_secrets(v, key) for v in value]
    if not isinstance(value, str):
        return value
    whole = f"{key}={value}"
    return safe(value) if safe(whole) == whole or safe(value) != value else "…"


def _decisions(at: Moment) -> Frame:
    kinds: dict[str, Kind] = {
        "t_run": "unix", "t_wall": "unix", "site": "text", "wanted": "bool", "reason": "text", "until": "unix",
    }  # fmt: skip
    found = sorted(at.telemetry.decisions(), key=lambda d: (d.t_run, d.site)) if at.telemetry else []
    numbers, n = unpacked("numbers_", [d.numbers for d in found])
    memory, m = unpacked("memory_", [d.memory for d in found])
    rows = [
        (d.t_run, d.t_wall, d.site, d.wanted, safe(d.reason), d.until, *numbered, *kept)
        for d, numbered, kept in zip(found, n, m, strict=True)
    ]
    return Frame({**kinds, **numbers, **memory}, rows)


def _readings(at: Moment) -> Frame:
    kinds: dict[str, Kind] = {
        "site": "text", "valid_from": "unix", "known_at": "unix", "stale_at": "unix", "value": "float", "unit": "text",
        "source": "text", "t_run": "unix", "t_wall": "unix",
    }  # fmt: skip
    # A source may be an address with a credential in it.
    found = [r._replace(source=safe(str(r.source))) for r in at.telemetry.readings()] if at.telemetry else []
    return Frame(kinds, found)


def _forecasts(at: Moment) -> Frame:
    kinds: dict[str, Kind] = {"site": "text", "made_at": "unix", "t": "unix", "value": "float"}
    found = at.telemetry.forecasts() if at.telemetry else []
    return Frame(kinds, [(f.site, f.made_at, t, v) for f in found for t, v in zip(f.times, f.values, strict=True)])


def _metrics(at: Moment) -> Frame:
    kinds: dict[str, Kind] = {
        "id": "int", "t_run": "unix", "t_wall": "unix", "site": "text", "name": "text", "value": "float", "tokens": "int",
        "version": "int", "detail": "text",
    }  # fmt: skip
    return Frame(kinds, at.telemetry.metrics() if at.telemetry else [])


def _steps(at: Moment) -> Frame:
    kinds: dict[str, Kind] = {
        "t_run": "unix", "t_wall": "unix", "site": "text", "tokens": "int", "version": "int", "loss": "float", "mode": "text",
        "tokens_per_s_wall": "float",
    }  # fmt: skip
    rows = []
    for s in at.telemetry.metrics(LOSS) if at.telemetry else ():
        more = s.more
        rows.append((s.t_run, s.t_wall, s.site, s.tokens, s.version, s.value, more.get("mode"), more.get("tokens_per_s_wall")))
    return Frame(kinds, rows)


def _energy(at: Moment) -> Frame:
    kinds: dict[str, Kind] = {
        "site": "text", "phase": "text", "t0": "unix", "t1": "unix", "watts": "float", "g_per_kwh": "float", "joules": "float",
        "grams": "float", "inside": "bool", "average_grams": "float", "money": "float", "measured_joules": "float", "cause": "text",
        "booked_at": "unix", "own_joules": "float", "stored_joules": "float",
    }  # fmt: skip
    rows = at.telemetry.energy() if at.telemetry else []
    return Frame(kinds, [(*e[:8], None if e.inside == -1 else e.inside, *e[9:]) for e in rows])


def _states(at: Moment) -> Frame:
    found = at.telemetry.states() if at.telemetry else []
    after: dict[str, float] = {}
    ends: list[float | None] = []
    for row in reversed(found):
        ends.append(after.get(row.site))
        after[row.site] = row.t_run
    rows = [(r.site, r.t_run, end, r.t_wall, r.state, safe(r.reason)) for r, end in zip(found, ends[::-1], strict=True)]
    return Frame({"site": "text", "t_run": "unix", "until": "unix", "t_wall": "unix", "state": "text", "reason": "text"}, rows)


def _modes(at: Moment) -> Frame:
    found = at.telemetry.modes() if at.telemetry else []
    ends = [*(r.t_run for r in found[1:]), None]
    rows = [(r.t_run, end, r.t_wall, r.mode) for r, end in zip(found, ends, strict=False)]
    return Frame({"t_run": "unix", "until": "unix", "t_wall": "unix", "mode": "text"}, rows)


def _counterfactuals(at: Moment) -> Frame:
    from windfall.view.counterfactuals import run_counterfactuals  # simulates, which the other tables do without

    kinds: dict[str, Kind] = {
        "name": "text", "kind": "text", "kg_co2": "float", "run_share": "float", "kg_low": "float", "kg_high": "float",
        "seeds": "int", "energy_kwh": "float", "site_hours": "float", "finish_h": "float", "starts": "int", "unknown_h": "float",
        "why_not": "text",
    }  # fmt: skip
    try:
        c = run_counterfactuals(at.run, at)
    except ConfigError:  # the other tables do without the configuration
        return Frame(kinds, [])
    more, money = unpacked("money_", [c.money, *(r.money for r in c.rows)])
    starts = sum(at.ledger.starts().values())
    own = ("this run", "run", c.kg, None, None, None, None, c.kwh, c.site_hours, c.hours, starts, c.unknown_h, "", *money[0])
    rows = [
        (
            r.name, r.kind, r.kg, r.share, r.kg_low, r.kg_high, r.seeds, r.kwh, r.site_hours, r.finish_h, r.starts, r.unknown_h,
            safe(r.why), *paid,
        )
        for r, paid in zip(c.rows, money[1:], strict=True)
    ]  # fmt: skip
    return Frame({**kinds, **dict.fromkeys(more, "float")}, [own, *rows])


_ALL: dict[str, Callable[[Moment], Frame]] = {
    "versions": _versions, "blocks": _blocks, "events": _events, "decisions": _decisions, "readings": _readings,
    "forecasts": _forecasts, "metrics": _metrics, "steps": _steps, "energy": _energy, "states": _states, "modes": _modes,
    "counterfactuals": _counterfactuals,
}  # fmt: skip
