"""A run as one value: where it stands, what it has done and what it cost, read from the ledger and the telemetry.

`windfall status`, the report and the live view all start from it, so it imports nothing heavy: no numpy, no pydantic,
no rich. It works on a run that is going on, that has no telemetry yet, or that has no version yet.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from typing import Any

from windfall import clock
from windfall.run.requests import pending, running, words
from windfall.store.files import read_json
from windfall.store.ledger import Ledger
from windfall.store.rundir import SUPERVISOR_LOCK, RunDir
from windfall.store.telemetry import Event, Telemetry
from windfall.store.telemetry_decisions import DecisionRow
from windfall.store.telemetry_energy import EnergySums
from windfall.store.telemetry_metrics import LOSS
from windfall.units import J_PER_KWH, from_grid
from windfall.view.moment import Moment, coordinator_alive, one_moment

#: Event kinds that begin or end one life of a coordinator, and the run's state after each if nobody is alive.
_LIVES = {"started": "stopped", "resumed": "stopped", "done": "done", "interrupted": "interrupted", "error": "failed"}


@dataclass(frozen=True, slots=True)
class LostWork:
    """Work that came too late: its tokens, and the kWh that it is estimated to have taken, as far as that is known."""

    tokens: int = 0
    kwh: float = 0.0


@dataclass(frozen=True, slots=True)
class SiteState:
    """One site: how it stands, what was last decided of it, and its share of the run. Instants are run time."""

    region: str | None
    state: str
    since: float | None
    tokens: int
    work_lost: LostWork
    energy_kwh: float
    kg_co2: float | None
    training_hours: float
    mean_training_watts: float | None
    starts: int
    wanted: bool
    reason: str
    held: str
    until: float | None
    value: float | None
    worth: float | None


@dataclass(frozen=True, slots=True)
class RunState:
    """Everything about a run that fits on a page. All times are Unix seconds; figures that are not there are None.

    ``state``: running, done, interrupted, failed or stopped; ``message`` says why. ``unpriced_kwh``: energy without an intensity;
    ``measured_share``: the share of all energy that meters have measured, the rest is modelled.
    Of energy used without a reading nobody knows whether it was inside a window: ``share_inside`` leaves it out.
    """

    run_id: str
    #: Every Windfall that its coordinators were of (version, and commit if known), in order.
    windfall: list[str]
    state: str
    message: str
    mode: str
    modes_seen: list[str]
    waiting: dict[str, Any] | None
    transfers: list[dict[str, Any]]
    doing: list[dict[str, Any]]
    platforms: dict[str, str]
    version: int | None
    tokens_committed: int
    tokens_budget: int
    val_bpb: float | None
    val_bpb_start: float | None
    val_bpb_version: int | None
    train_loss: float | None
    energy_kwh: float
    kg_co2: float | None
    share_inside: float | None
    measured_share: float
    unpriced_kwh: float
    training_hours: float
    mean_training_watts: float | None
    blocks: dict[str, int]
    t_run: float | None
    t_wall: float | None
    started_run: float | None
    finished_run: float | None
    run_hours: float
    wall_seconds: float
    sites: dict[str, SiteState]
    holds: list[dict[str, Any]]
    asked: list[dict[str, Any]]
    changes: list[dict[str, Any]]
    signals_lost: list[dict[str, Any]]
    tokens_by_mode: dict[str, int]
    joins_and_leaves: dict[str, int]
    work_lost: LostWork
    events_count: int
    dropped: int | None

    def as_json(self) -> dict[str, Any]:
        """The object that `windfall status --json` prints."""
        return asdict(self)


def run_state(run: RunDir, at: Moment | None = None) -> RunState:
    """Where a run stands; ``at``: the moment to read (default: now).

    Raises:
        StoreError: there is no run, or its databases cannot be read.
    """
    with one_moment(run, at) as now:
        return _read(run, now.ledger, now.telemetry)


def summarise(run: RunDir, at: Moment | None = None) -> dict[str, Any]:
    """The same as an object of JSON."""
    return run_state(run, at).as_json()


def _read(run: RunDir, ledger: Ledger, telemetry: Telemetry | None) -> RunState:
    versions = ledger.versions()
    head = versions[-1] if versions else None
    counts = ledger.counts()
    story = _Story(telemetry)
    complete = counts.settled == ledger.budget_blocks and head is not None
    state, message = _state(run, story)
    started = story.started if story.started is not None else versions[0].t_run if versions else None
    t_run = story.now.get("t_run") or (head.t_run if head else None)
    finished = head.t_run if complete and head else None
    if finished is not None and t_run is not None:
        t_run = max(t_run, finished)
    until = finished if finished is not None else t_run
    tokens_by_mode: dict[str, int] = {}
    for v in versions:
        if v.tokens:
            tokens_by_mode[v.mode] = tokens_by_mode.get(v.mode, 0) + v.tokens
    tokens_by_site: dict[str, int] = {}
    for v in versions:
        for name, n in v.sites.items():
            tokens_by_site[name] = tokens_by_site.get(name, 0) + n
    total = _total(story.sums)
    training = _total([x for x in story.sums if x.phase == "training"])
    judged = total.joules - total.unjudged_joules
    lost = story.work_lost()
    return RunState(
        run_id=ledger.meta("run_id") or "",
        windfall=story.windfall,
        state=state,
        message=message,
        mode=story.now.get("mode") or story.last_mode or "paused",
        modes_seen=story.modes_seen,
        waiting=_waiting(story.now) if state == "running" else None,
        transfers=_transfers(story.now) if state == "running" else [],
        doing=_doing(story.now) if state == "running" else [],
        platforms=_platforms(story.now) if state == "running" else {},
        version=head.version if head else None,
        tokens_committed=head.tokens_total if head else 0,
        tokens_budget=ledger.budget_blocks * ledger.tokens_per_block,
        val_bpb=story.bpb[-1] if story.bpb else None,
        val_bpb_start=story.bpb[0] if story.bpb else None,
        val_bpb_version=story.bpb_version,
        train_loss=story.train_loss,
        energy_kwh=total.joules / J_PER_KWH,
        kg_co2=_kg(total),
        share_inside=total.inside_joules / judged if judged > 0 else None,
        measured_share=total.measured_joules / total.joules if total.joules > 0 else 0.0,
        unpriced_kwh=total.unpriced_joules / J_PER_KWH,
        training_hours=training.seconds / 3600.0,
        mean_training_watts=training.joules / training.seconds if training.seconds > 0 else None,
        blocks={
            "free": counts.free, "leased": counts.leased, "received": counts.received, "committed": counts.committed,
            "skipped": counts.skipped, "quarantined": counts.quarantined,
        },
        t_run=t_run,
        t_wall=story.now.get("t_wall"),
        started_run=started,
        finished_run=finished,
        run_hours=(until - started) / 3600.0 if until is not None and started is not None else 0.0,
        wall_seconds=story.wall_seconds,
        sites=_sites(run, ledger, story, tokens_by_site, lost),
        holds=[
            {"site": h.site, "kind": h.kind, "until": h.until, "who": h.who, "why": h.why, "since": h.t_run}
            for _, h in sorted(ledger.holds().items())
        ],
        asked=[{**a.as_json(), "what": a.what()} for a in pending(run)],
        changes=[{"t_run": c.t_run, "number": c.number, **x} for c in ledger.configurations() for x in c.changes],
        signals_lost=story.signals_lost(),
        tokens_by_mode=tokens_by_mode,
        joins_and_leaves=story.joins_and_leaves(),
        work_lost=_all_of(lost.values()),
        events_count=story.events_count,
        dropped=story.dropped,
    )  # fmt: skip


class _Story:
    """What telemetry tells, and answers for one that is missing or empty."""

    def __init__(self, t: Telemetry | None) -> None:
        self._t = t
        self.now: dict[str, Any] = t.now() if t else {}
        self.dropped = t.lost_rows() if t else None
        modes = [m.mode for m in t.modes()] if t else []
        self.last_mode = modes[-1] if modes else None
        self.modes_seen = list(dict.fromkeys(modes))
        evaluated = t.evaluations() if t else []
        self.bpb = [value for _, value in evaluated]
        self.bpb_version = evaluated[-1][0] if evaluated else None
        newest = t.newest_metrics(LOSS, 1) if t else []
        self.train_loss = newest[0].value if newest else None
        self.events_count = t.event_count() if t else 0
        self.sums: list[EnergySums] = t.energy_sums() if t else []
        self.lives: list[tuple[int, Event]] = t.events_of(*_LIVES) if t else []
        begun = [(number, e) for number, e in self.lives if e.kind in ("started", "resumed")]
        self.started = begun[0][1].t_run if begun else None
        self.windfall = list(dict.fromkeys(str(e.detail["windfall"]) for _, e in begun if e.detail.get("windfall")))
        self.wall_seconds = self._wall_seconds([number for number, _ in begun])

    def _wall_seconds(self, firsts: list[int]) -> float:
        """Wall time that coordinators of this run have lived, as far as their events reach."""
        total = 0.0
        for i, first in enumerate(firsts):
            last = i + 1 == len(firsts)
            span = self._t.wall_span(first, None if last else firsts[i + 1]) if self._t else None
            if span is not None:
                total += (max(span[1], float(self.now.get("t_wall") or span[1])) if last else span[1]) - span[0]
        return total

    def signals_lost(self) -> list[dict[str, Any]]:
        """Live sources that were not heard when last asked: source, since when (run time), and why."""
        lost: dict[str, dict[str, Any]] = {}
        for _, e in self._t.events_of("signal_lost", "signal_back", "started", "resumed") if self._t else ():
            source = e.detail.get("source")
            if e.kind == "signal_lost":
                lost[str(source)] = {"source": source, "since": e.t_run, "reason": e.detail.get("reason")}
            elif e.kind == "signal_back":
                lost.pop(str(source), None)
            else:  # a new life asks them all again
                lost.clear()
        return list(lost.values())

    def work_lost(self) -> dict[str, LostWork]:
        """By site, its work that came too late; no site of which nothing did."""
        found: dict[str, list[LostWork]] = {}
        for _, e in self._t.events_of("work_lost") if self._t else ():
            one = LostWork(int(e.detail.get("tokens") or 0), float(e.detail.get("kwh") or 0.0))
            found.setdefault(str(e.site), []).append(one)
        return {site: _all_of(lost) for site, lost in found.items()}

    def joins_and_leaves(self) -> dict[str, int]:
        """How often a site began to train, and how often one ceased to."""
        last: dict[str, str] = {}
        counted = {"joins": 0, "leaves": 0}
        for row in self._t.states() if self._t else ():
            was = last.get(row.site, "off")
            counted["joins"] += row.state == "training" and was != "training"
            counted["leaves"] += was == "training" and row.state != "training"
            last[row.site] = row.state
        return counted

    def since(self) -> dict[str, float]:
        """By site that has had a state, the instant of its last change."""
        return self._t.since() if self._t else {}

    def newest_decision(self, site: str) -> DecisionRow | None:
        """What was last decided of a site."""
        return self._t.newest_decision(site) if self._t else None


def _state(run: RunDir, story: _Story) -> tuple[str, str]:
    """running, done, interrupted, failed, or stopped (the coordinator has ended without saying why); and its message."""
    if coordinator_alive(run, story.now):
        return "running", ""
    outcome = run.logs / "outcome.json"
    said = read_json(outcome)
    if isinstance(said, dict) and said.get("outcome") in _LIVES.values():
        # A coordinator that failed while it was being built has left no event, only this file.
        latest = story.lives[-1][1].t_wall if story.lives else 0.0
        if outcome.stat().st_mtime >= latest:
            if said.get("again") and running(run, SUPERVISOR_LOCK):
                return "running", ""  # between two of its coordinators, for another budget perhaps
            return str(said["outcome"]), str(said.get("message") or "")
    if not story.lives:
        return "stopped", ""
    last = story.lives[-1][1]
    return _LIVES[last.kind], str(last.detail.get("reason", ""))


def _waiting(now: Mapping[str, Any]) -> dict[str, Any] | None:
    """What a gated clock waits for, and since when (wall time); None while it moves."""
    said = now.get("waiting")
    if not isinstance(said, dict):
        return None
    since = float(said["since_wall"])
    return {"for": str(said["for"]), "since_wall": since, "seconds": max(0.0, clock.wall() - since)}


def _transfers(now: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Large files on their way: of which site, which way, bytes done and of how many, for how long, and what hinders it."""
    said = now.get("transfers")
    return [
        {"site": site, **x, "seconds": max(0.0, clock.wall() - float(x["since_wall"]))}
        for site, found in sorted((said if isinstance(said, dict) else {}).items())
        for x in found
    ]


def _platforms(now: Mapping[str, Any]) -> dict[str, str]:
    """By site: what its platform, or its driver, says of it."""
    said = now.get("platforms")
    return {str(site): str(words) for site, words in sorted((said if isinstance(said, dict) else {}).items())}


def _doing(now: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What sites have been at for a while, by their own word: of which site, what, and since when (wall time)."""
    said = now.get("doing")
    return [
        {"site": site, "what": str(x["what"]), "seconds": max(0.0, clock.wall() - float(x["since_wall"]))}
        for site, x in sorted((said if isinstance(said, dict) else {}).items())
    ]


def _all_of(lost: Iterable[LostWork]) -> LostWork:
    """Lost work taken together."""
    each = list(lost)
    return LostWork(sum(x.tokens for x in each), sum(x.kwh for x in each))


def _total(sums: Iterable[EnergySums]) -> EnergySums:
    """Sums of sites and phases taken together."""
    each = list(sums)
    names = [f.name for f in fields(EnergySums) if f.name not in ("site", "phase")]
    return EnergySums("", "", **{n: math.fsum(getattr(x, n) for x in each) for n in names})


def _kg(of: EnergySums) -> float | None:
    """kgCO2; None where the intensity of all the energy is unknown, as of a site that has prices alone."""
    grid = from_grid(of.joules, of.own_joules, of.stored_joules)
    return None if of.unpriced_joules > 1e-9 * of.joules and of.unpriced_joules >= grid * (1 - 1e-9) else of.grams / 1000.0


def _sites(run: RunDir, ledger: Ledger, story: _Story, tokens: dict[str, int], lost: dict[str, LostWork]) -> dict[str, SiteState]:
    configured = _configured(run)
    gone = {name: region for name, region in _ever(ledger).items() if name not in configured}
    reported: dict[str, list[Any]] = story.now.get("sites") or {}
    since = story.since()
    names = list(dict.fromkeys([*configured, *(n for n in reported if n not in gone), *since, *tokens, *lost, *gone]))
    starts = ledger.starts()
    held = {name: words(hold) for name, hold in ledger.holds().items()}
    asked = {a.site: f"{a.kind} asked by {a.who}, not yet noted" for a in pending(run) if a.site is not None}
    complete = ledger.complete()
    sites: dict[str, SiteState] = {}
    for name in names:
        own = [x for x in story.sums if x.site == name]
        energy = _total(own)
        trained = _total([x for x in own if x.phase == "training"])
        last = story.newest_decision(name)
        numbers = last.numbers if last else {}
        state = str(reported[name][0]) if name in reported and name not in gone else "off"
        reason = "no part of the run any more" if name in gone else last.reason if last else ""
        if complete and state == "off" and last is not None and last.wanted and name not in gone:
            reason = f"off: nothing is left to train on (before: {last.reason})"
        sites[name] = SiteState(
            region=configured.get(name, gone.get(name)),
            state=state,
            since=since.get(name),
            tokens=tokens.get(name, 0),
            work_lost=lost.get(name, LostWork()),
            energy_kwh=energy.joules / J_PER_KWH,
            kg_co2=_kg(energy),
            training_hours=trained.seconds / 3600.0,
            mean_training_watts=trained.joules / trained.seconds if trained.seconds > 0 else None,
            starts=starts.get(name, 0),
            wanted=last is not None and last.wanted,
            reason=reason,
            held="; ".join(w for w in (held.get(name), asked.get(name)) if w),
            until=last.until if last else None,
            value=numbers.get("value"),
            worth=numbers.get("worth"),
        )
    return sites


def _ever(ledger: Ledger) -> dict[str, str | None]:
    """Sites, and their regions, of every configuration that the run has had."""
    found: dict[str, str | None] = {}
    kept = ledger.configurations()
    for c in kept if len(kept) > 1 else []:
        found |= dict(_regions(c.text))
    return found


@lru_cache(maxsize=256)
def _regions(text: str) -> tuple[tuple[str, str | None], ...]:
    """Sites and regions of a kept configuration, which never changes: a live view asks again and again."""
    return tuple((str(s["name"]), s.get("region")) for s in tomllib.loads(text).get("site", []))


def _configured(run: RunDir) -> dict[str, str | None]:
    """Sites and their regions, from the stored configuration; nothing else of it is needed here."""
    try:
        raw = tomllib.loads(run.config.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {str(s["name"]): s.get("region") for s in raw.get("site", []) if "name" in s}
