"""The summary of a run: one plain dictionary, read from the ledger and the telemetry.

`windfall status`, the report and the live view all start from it, so it imports nothing heavy: no numpy, no pydantic,
no rich. It works on a run that is going on, that has no telemetry yet, or that has no version yet.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from functools import lru_cache
from typing import Any

from windfall import clock
from windfall.run.operator import pending, words
from windfall.store.files import read_json
from windfall.store.ledger import Ledger
from windfall.store.rundir import RunDir
from windfall.store.telemetry import Telemetry
from windfall.ui.reading import Moment, coordinator_alive, one_moment
from windfall.units import J_PER_KWH

#: Event kinds that begin or end one life of a coordinator, and the run's state after each if nobody is alive.
_LIVES = {"started": "stopped", "resumed": "stopped", "done": "done", "interrupted": "interrupted", "error": "failed"}


def summarise(run: RunDir, at: Moment | None = None) -> dict[str, Any]:
    """Everything about the run that fits on a page. All times are Unix seconds; figures that are not there are None.

    ``at``: the moment to read (default: now).

    Raises:
        StoreError: there is no run, or its databases cannot be read.
    """
    with one_moment(run, at) as now:
        return _summary(run, now.ledger, now.telemetry)


def _summary(run: RunDir, ledger: Ledger, telemetry: Telemetry | None) -> dict[str, Any]:
    versions = ledger.versions()
    head = versions[-1] if versions else None
    counts = ledger.counts()
    story = _TelemetryReader(telemetry)
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
    joules, grams, inside, unpriced, unjudged, training_j, training_s = story.energy_totals()
    lost = story.work_lost()
    return {
        "run_id": ledger.meta("run_id") or "",
        "state": state,
        "message": message,
        "mode": story.now.get("mode") or story.last_mode or "paused",
        "modes_seen": story.modes_seen,
        "waiting": _waiting(story.now) if state == "running" else None,
        "transfers": _transfers(story.now) if state == "running" else [],
        "doing": _doing(story.now) if state == "running" else [],
        "platforms": _platforms(story.now) if state == "running" else {},
        "version": head.version if head else None,
        "tokens_committed": head.tokens_total if head else 0,
        "tokens_budget": ledger.budget_blocks * ledger.tokens_per_block,
        "val_bpb": story.bpb[-1] if story.bpb else None,
        "val_bpb_start": story.bpb[0] if story.bpb else None,
        "val_bpb_version": story.bpb_version,
        "train_loss": story.train_loss,
        "energy_kwh": joules / J_PER_KWH,
        "kg_co2": _kg(grams, joules, unpriced),
        # Of energy used without a reading nobody knows whether it was inside a window.
        "share_inside": inside / (joules - unjudged) if joules - unjudged > 0 else None,
        "unpriced_kwh": unpriced / J_PER_KWH,
        "training_hours": training_s / 3600.0,
        "mean_training_watts": training_j / training_s if training_s > 0 else None,
        "blocks": {
            "free": counts.free, "leased": counts.leased, "received": counts.received, "committed": counts.committed,
            "skipped": counts.skipped, "quarantined": counts.quarantined,
        },
        "t_run": t_run,
        "t_wall": story.now.get("t_wall"),
        "started_run": started,
        "finished_run": finished,
        "run_hours": (until - started) / 3600.0 if until is not None and started is not None else 0.0,
        "wall_seconds": story.wall_seconds,
        "sites": _sites(run, ledger, story, tokens_by_site, lost),
        "holds": [
            {"site": h.site, "kind": h.kind, "until": h.until, "who": h.who, "why": h.why, "since": h.t_run}
            for _, h in sorted(ledger.holds().items())
        ],
        "asked": [asdict(a) for a in pending(run)],
        "changes": [{"t_run": c.t_run, "number": c.number, **x} for c in ledger.configurations() for x in c.changes],
        "signals_lost": story.signals_lost(),
        "tokens_by_mode": tokens_by_mode,
        "joins_and_leaves": story.joins_and_leaves(),
        "work_lost": _all_of(lost.values()),
        "events_count": story.events_count,
        "dropped": story.dropped,
    }  # fmt: skip


class _TelemetryReader:
    """Reads the telemetry, and has answers for one that is missing or empty."""

    def __init__(self, telemetry: Telemetry | None) -> None:
        self._t = telemetry
        found = self.rows("SELECT key, value FROM meta WHERE key IN ('now', 'dropped')")
        meta = {str(k): str(v) for k, v in found}
        self.now: dict[str, Any] = json.loads(meta["now"]) if "now" in meta else {}
        self.dropped: int | None = int(meta["dropped"]) if meta.get("dropped", "").isdigit() else None
        modes = [str(m) for (m,) in self.rows("SELECT mode FROM modes ORDER BY rowid")]
        self.last_mode = modes[-1] if modes else None
        self.modes_seen = list(dict.fromkeys(modes))
        evaluated = self.rows("SELECT value, version FROM metrics WHERE name = 'val_bpb' ORDER BY version, id")
        self.bpb = [float(v) for v, _ in evaluated]
        self.bpb_version: int | None = evaluated[-1][1] if evaluated else None
        loss = self.rows("SELECT value FROM metrics WHERE name = 'loss' ORDER BY id DESC LIMIT 1")
        self.train_loss: float | None = float(loss[0][0]) if loss else None
        self.events_count = int(self.rows("SELECT COUNT(*) FROM events")[0][0]) if telemetry else 0
        marks = ",".join(f"'{k}'" for k in _LIVES)
        self.lives = self.rows(f"SELECT id, kind, t_run, t_wall, detail FROM events WHERE kind IN ({marks}) ORDER BY id")
        begun = [r for r in self.lives if r[1] in ("started", "resumed")]
        self.started: float | None = float(begun[0][2]) if begun else None
        self.wall_seconds = self._wall_seconds([int(r[0]) for r in begun])

    def rows(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        return self._t.rows(sql, *values) if self._t else []

    def _wall_seconds(self, firsts: list[int]) -> float:
        """Wall time that coordinators of this run have lived, as far as their events reach."""
        total = 0.0
        for i, first in enumerate(firsts):
            until = f" AND id < {firsts[i + 1]}" if i + 1 < len(firsts) else ""
            ((a, b),) = self.rows(f"SELECT MIN(t_wall), MAX(t_wall) FROM events WHERE id >= {first}{until}")
            if i + 1 == len(firsts):
                b = max(float(b), float(self.now.get("t_wall") or b))
            total += float(b) - float(a)
        return total

    def energy_totals(self) -> tuple[float, ...]:
        """Joules, grams, joules inside windows, of unknown intensity, of unknown first signal; training joules and seconds."""
        found = self.rows(
            "SELECT TOTAL(joules), TOTAL(grams), TOTAL(CASE WHEN inside = 1 THEN joules END),"
            " TOTAL(CASE WHEN g_per_kwh IS NULL THEN joules END), TOTAL(CASE WHEN inside = -1 THEN joules END),"
            " TOTAL(CASE WHEN phase = 'training' THEN joules END), TOTAL(CASE WHEN phase = 'training' THEN t1 - t0 END) FROM energy"
        )
        return tuple(float(x) for x in found[0]) if found else (0.0,) * 7

    def signals_lost(self) -> list[dict[str, Any]]:
        """Live sources that were not heard when last asked: source, since when (run time), and why."""
        lost: dict[str, dict[str, Any]] = {}
        kinds = "('signal_lost', 'signal_back', 'started', 'resumed')"
        for kind, t_run, detail in self.rows(f"SELECT kind, t_run, detail FROM events WHERE kind IN {kinds} ORDER BY id"):
            said = json.loads(detail)
            if kind == "signal_lost":
                lost[str(said.get("source"))] = {"source": said.get("source"), "since": float(t_run), "reason": said.get("reason")}
            elif kind == "signal_back":
                lost.pop(str(said.get("source")), None)
            else:  # a new life asks them all again
                lost.clear()
        return list(lost.values())

    def work_lost(self) -> dict[str, dict[str, float]]:
        """By site: tokens and estimated kWh of its work that came too late; no site of which nothing did."""
        found: dict[str, list[dict[str, float]]] = {}
        for site, detail in self.rows("SELECT site, detail FROM events WHERE kind = 'work_lost' ORDER BY id"):
            found.setdefault(str(site), []).append(json.loads(detail))
        return {site: _all_of(said) for site, said in found.items()}

    def joins_and_leaves(self) -> dict[str, int]:
        """How often a site began to train, and how often one ceased to."""
        last: dict[str, str] = {}
        counted = {"joins": 0, "leaves": 0}
        for site, state in self.rows("SELECT site, state FROM states ORDER BY rowid"):
            was = last.get(site, "off")
            counted["joins"] += state == "training" and was != "training"
            counted["leaves"] += was == "training" and state != "training"
            last[site] = state
        return counted


def _state(run: RunDir, story: _TelemetryReader) -> tuple[str, str]:
    """running, done, interrupted, failed, or stopped (the coordinator has ended without saying why); and its message."""
    if coordinator_alive(run, story.now):
        return "running", ""
    outcome = run.logs / "outcome.json"
    said = read_json(outcome)
    if isinstance(said, dict) and said.get("outcome") in _LIVES.values():
        # A coordinator that failed while it was being built has left no event, only this file.
        latest = float(story.lives[-1][3]) if story.lives else 0.0
        if outcome.stat().st_mtime >= latest:
            return str(said["outcome"]), str(said.get("message") or "")
    if not story.lives:
        return "stopped", ""
    _, kind, _, _, detail = story.lives[-1]
    return _LIVES[kind], str(json.loads(detail).get("reason", ""))


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


def _all_of(lost: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Lost work taken together: tokens, and the kWh that it is estimated to have taken as far as that is known."""
    each = list(lost)
    return {"tokens": sum(int(x.get("tokens") or 0) for x in each), "kwh": sum(float(x.get("kwh") or 0.0) for x in each)}


def _kg(grams: float, joules: float, unpriced: float) -> float | None:
    """kgCO2; None where the intensity of all the energy is unknown, as of a site that has prices alone."""
    return None if joules > 0 and unpriced >= joules * (1 - 1e-9) else grams / 1000.0


def _sites(
    run: RunDir, ledger: Ledger, story: _TelemetryReader, tokens: dict[str, int], lost: dict[str, dict[str, float]]
) -> dict[str, dict[str, Any]]:
    configured = _configured(run)
    gone = {name: region for name, region in _ever(ledger).items() if name not in configured}
    reported: dict[str, list[Any]] = story.now.get("sites") or {}
    known = story.rows("SELECT DISTINCT site FROM states")
    seen = [str(s) for (s,) in known]
    names = list(dict.fromkeys([*configured, *(n for n in reported if n not in gone), *seen, *tokens, *lost, *gone]))
    energy = {
        str(s): (float(j), float(g), float(u), float(h))
        for s, j, g, u, h in story.rows(
            "SELECT site, SUM(joules), SUM(grams), TOTAL(CASE WHEN g_per_kwh IS NULL THEN joules END),"
            " SUM(CASE WHEN phase = 'training' THEN t1 - t0 ELSE 0 END) FROM energy GROUP BY site"
        )
    }
    latest: dict[str, tuple[str, dict[str, Any], float | None, bool]] = {}
    for name in names:
        # Read by the table's key, newest first, because a long run has a decision per site and tick.
        for reason, numbers, until, wanted in story.rows(
            "SELECT reason, numbers, until, wanted FROM decisions WHERE site = ? ORDER BY t_run DESC LIMIT 1", name
        ):
            latest[name] = (str(reason), json.loads(numbers), until, bool(wanted))
    since = {str(s): float(t) for s, t in story.rows("SELECT site, MAX(t_run) FROM states GROUP BY site")}
    starts = ledger.starts()
    held = {name: words(hold) for name, hold in ledger.holds().items()}
    asked = {a.site: f"{a.kind} asked by {a.who}, not yet noted" for a in pending(run)}
    sites: dict[str, dict[str, Any]] = {}
    for name in names:
        joules, grams, unpriced, seconds = energy.get(name, (0.0, 0.0, 0.0, 0.0))
        reason, numbers, until, wanted = latest.get(name, ("", {}, None, False))
        sites[name] = {
            "region": configured.get(name, gone.get(name)),
            "state": str(reported[name][0]) if name in reported and name not in gone else "off",
            "since": since.get(name),
            "tokens": tokens.get(name, 0),
            "work_lost": lost.get(name, _all_of(())),
            "energy_kwh": joules / J_PER_KWH,
            "kg_co2": _kg(grams, joules, unpriced),
            "training_hours": seconds / 3600.0,
            "starts": starts.get(name, 0),
            "wanted": wanted,
            "reason": "no part of the run any more" if name in gone else reason,
            "held": "; ".join(w for w in (held.get(name), asked.get(name)) if w),
            "until": until,
            "value": numbers.get("value"),
            "worth": numbers.get("worth"),
        }
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
