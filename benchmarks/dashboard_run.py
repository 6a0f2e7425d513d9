"""A run directory as a long run leaves it: made up, through the tables that coordinators write, in seconds instead of weeks.

Sites' signals swing once a day with noise; a site trains while its reading is under the criterion. Everything that a view reads is
there and agrees: readings, a decision for each tick and site, states, modes, steps, cuts, versions, the account and events.
"""

from __future__ import annotations

import json
import math
import os
import random
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from windfall import clock
from windfall.store.ledger import Ledger
from windfall.store.rundir import RunDir
from windfall.store.telemetry import Telemetry
from windfall.units import parse_utc

START = parse_utc("2026-06-01T00:00Z")
WATTS, IDLE_WATTS, TOKENS_PER_S, CRITERION = 2000.0, 400.0, 20.0, 100.0
_SITE = """
[[site]]
name = "site{i:02d}"
region = "REGION_{i:02d}"
spin_up_s = 300.0
load_s = 100.0
train_power_w = 2000.0
idle_power_w = 400.0
tokens_per_s = 20.0
[site.signal]
path = "bundled:paper_day"
time_column = "from_utc"
column = "g_per_kwh"
region_column = "region"
period_s = 300
"""


@dataclass(frozen=True)
class Made:
    """What was made."""

    run: RunDir
    sites: list[str]
    end: float


def generated(
    root: Path, *, days: float, sites: int, events: int, tick_s: float = 60.0, step_s: float = 50.0, pid: int | None = None
) -> Made:  # fmt: skip
    """A run of ``days`` with ``sites`` sites and about ``events`` events; ``pid``: of its coordinator (default: none)."""
    rng = random.Random(7)
    run = RunDir(root)
    run.make()
    budget = int(days * 86400 * TOKENS_PER_S * sites)
    config = f'[run]\nname = "long"\nbudget_tokens = {budget}\nclock = "real"\ntick_s = {tick_s}\n'
    run.config.write_text(config + "".join(_SITE.format(i=i) for i in range(sites)), encoding="utf-8")
    Ledger.create(run.ledger, run_id="long-1", fingerprint="x", budget_blocks=budget // 1024, tokens_per_block=1024).close()
    telemetry = Telemetry.open(run.telemetry)
    end = START + days * 86400
    names = [f"site{i:02d}" for i in range(sites)]
    db = sqlite3.connect(run.telemetry, isolation_level=None)
    db.execute("PRAGMA synchronous = OFF")
    db.execute("BEGIN")
    open_at = {n: _signal(db, n, i, days, rng) for i, n in enumerate(names)}
    spans = {n: list(_training(open_at[n], end)) for n in names}
    _states(db, spans)
    modes = _modes(db, spans, end)
    _account(db, spans, open_at, end)
    db.executemany(
        "INSERT OR REPLACE INTO decisions (t_run, t_wall, site, wanted, reason, numbers, until, input, memory)"
        " VALUES (?,?,?,?,?,?,?,?,?)",
        _decisions(open_at, end, tick_s),
    )
    committed = _steps_and_cuts(db, spans, modes, step_s)
    had = db.execute("SELECT COUNT(*) FROM events").fetchone()[0]
    every = (end - START) / max(1, events - had)
    db.executemany(
        "INSERT INTO events (t_run, t_wall, kind, site, version, detail) VALUES (?,?,?,?,?,?)",
        _chatter(names, every, end, events - had),
    )
    # Events come in order of time.
    db.execute("CREATE TEMP TABLE sorted AS SELECT t_run, t_wall, kind, site, version, detail FROM events ORDER BY t_run")
    db.execute("DELETE FROM events")
    db.execute("INSERT INTO events (t_run, t_wall, kind, site, version, detail) SELECT * FROM sorted")
    db.execute("COMMIT")
    db.close()
    telemetry.present(
        {
            "t_run": end,
            "t_wall": clock.wall(),
            "mode": modes[-1][1],
            "sites": {n: ["off", 1, "x"] for n in names},
            "pid": pid or 2**22 + 1,
        }
    )
    telemetry.close()
    _versions(run, committed)
    return Made(run, names, end)


def _signal(db: sqlite3.Connection, name: str, place: int, days: float, rng: random.Random) -> list[tuple[float, float]]:
    rows = []
    for i in range(int(days * 288)):
        t = START + i * 300.0
        wave = math.sin((t / 86400 + place / 7) * 2 * math.pi)
        rows.append((t, max(0.0, 240 - 260 * wave + rng.gauss(0, 25))))
    db.executemany(
        "INSERT INTO readings (t_run, t_wall, site, value, unit, valid_from, known_at, source, stale_at)"
        " VALUES (?,?,?,?,?,?,?,?,?)",
        ((t, t, name, v, "gCO2/kWh", t, t, "made up", t + 900.0) for t, v in rows),
    )
    return rows


def _training(rows: list[tuple[float, float]], end: float) -> Iterator[tuple[float, float]]:
    """On-periods: from the second reading under the criterion to the second one over it."""
    on, since, count = False, 0.0, 0
    for t, v in rows:
        count = count + 1 if (v < CRITERION) != on else 0
        if count >= 2:
            on, count = not on, 0
            if on:
                since = t
            else:
                yield since, t
    if on:
        yield since, end


def _states(db: sqlite3.Connection, spans: dict[str, list[tuple[float, float]]]) -> None:
    rows = []
    for name, own in spans.items():
        for a, b in own:
            told = [
                (a, "off", "provisioning"),
                (a + 300, "provisioning", "training"),
                (b, "training", "draining"),
                (b + 20, "draining", "off"),
            ]
            rows += [(t, name, was, now) for t, was, now in told if t <= max(b, a + 300) + 20]
    rows.sort()
    db.executemany("INSERT INTO states VALUES (?,?,?,?,?)", ((n, t, t, now, "the reading says so") for t, n, _, now in rows))
    db.executemany(
        "INSERT INTO events (t_run, t_wall, kind, site, version, detail) VALUES (?,?,'state',?,NULL,?)",
        ((t, t, n, json.dumps({"was": was, "now": now, "reason": "the reading says so"})) for t, n, was, now in rows),
    )


def _modes(db: sqlite3.Connection, spans: dict[str, list[tuple[float, float]]], end: float) -> list[tuple[float, str]]:
    marks = sorted(
        [(a + 300, 1) for own in spans.values() for a, b in own if b > a + 300]
        + [(b, -1) for own in spans.values() for a, b in own if b > a + 300]
    )
    found: list[tuple[float, str]] = [(START, "paused")]
    count = 0
    for t, change in marks:
        count += change
        mode = ("paused", "local")[count] if count < 2 else "federated"
        if mode != found[-1][1] and t < end:
            found.append((t, mode))
    db.executemany("INSERT INTO modes VALUES (?,?,?)", ((t, t, m) for t, m in found))
    return found


def _account(
    db: sqlite3.Connection, spans: dict[str, list[tuple[float, float]]], open_at: dict[str, list[tuple[float, float]]], end: float
) -> None:
    rows = []
    for name, readings in open_at.items():
        for a, b in spans[name]:
            for t, v in readings[int((a - START) // 300) : int((b - START) // 300) + 1]:
                x, y = max(a, t), min(b, t + 300)
                phase, watts = ("provisioning", 0.0) if x < a + 300 else ("training", WATTS)
                if y > x:
                    stall = (y - x) * 0.01 if phase == "training" else 0.0
                    for p, w, t0, t1 in ((phase, watts, x, y - stall), ("stall", IDLE_WATTS, y - stall, y)):
                        if t1 > t0:
                            joules = w * (t1 - t0)
                            rows.append((name, p, t0, t1, t1, w, v, joules, joules / 3.6e6 * v, int(v < CRITERION)))
    rows.sort(key=lambda r: (r[2], r[0]))
    db.executemany(
        "INSERT INTO energy (site, phase, t0, t1, t_wall, watts, g_per_kwh, joules, grams, inside) VALUES (?,?,?,?,?,?,?,?,?,?)",
        rows,
    )


def _decisions(open_at: dict[str, list[tuple[float, float]]], end: float, tick_s: float) -> Iterator[tuple[Any, ...]]:
    for i in range(int((end - START) / tick_s)):
        t = START + i * tick_s
        for name, rows in open_at.items():
            v = rows[min(len(rows) - 1, int((t - START) // 300))][1]
            on = v < CRITERION
            numbers = f'{{"value": {v:.1f}, "worth": 100.0, "accumulated": 0.0, "needed": 15000.0}}'
            given = (
                f'{{"begun": {START}, "left": 1.0, "on": {str(on).lower()}, "state": "off", "reading": [{v:.1f}, "gCO2/kWh", {t}]}}'
            )
            yield (
                t,
                t,
                name,
                on,
                f"{'on' if on else 'off'}: {v:.0f} g is {'under' if on else 'at or over'} worth 100 g",
                numbers,
                None,
                given,
                "{}",
            )


def _steps_and_cuts(
    db: sqlite3.Connection, spans: dict[str, list[tuple[float, float]]], modes: list[tuple[float, str]], step_s: float
) -> list[tuple[float, str, dict[str, int]]]:
    """Losses and cuts of ten minutes; what was committed when, by whom."""
    steps: list[tuple[float, str]] = []
    cuts: dict[float, dict[str, int]] = {}
    for name, own in spans.items():
        for a, b in own:
            t = a + 300
            while t < b:
                steps.append((t, name))
                t += step_s
            t = a + 300
            while t < b:
                at = min(b, (t // 600 + 1) * 600)
                cuts.setdefault(at, {})[name] = cuts.get(at, {}).get(name, 0) + int((at - t) * TOKENS_PER_S)
                t = at
    steps.sort()
    place, tokens, rows = 0, 0, []
    rng = random.Random(3)
    for t, name in steps:
        while place + 1 < len(modes) and modes[place + 1][0] <= t:
            place += 1
        tokens += int(step_s * TOKENS_PER_S)
        loss = 2.2 + 4.0 / (1 + tokens / 2e6) + rng.gauss(0, 0.08)
        rows.append((t, t, name, "loss", loss, tokens, 0, json.dumps({"mode": modes[place][1], "tokens_per_s_wall": 9000.0})))
    db.executemany("INSERT INTO metrics (t_run, t_wall, site, name, value, tokens, version, detail) VALUES (?,?,?,?,?,?,?,?)", rows)
    told = []
    for i, (t, sites) in enumerate(sorted(cuts.items())):
        for name, n in sites.items():
            told.append(
                (
                    t,
                    t,
                    "contribution",
                    name,
                    i,
                    json.dumps({"generation": 1, "cut": i, "tokens": n, "drained": False}),
                )
            )
        if i % 40 == 0:
            bpb = 1.1 + 2.0 / (1 + i / 60)
            db.execute(
                "INSERT INTO metrics (t_run, t_wall, site, name, value, tokens, version) VALUES (?,?,?,'val_bpb',?,?,?)",
                (t, t, next(iter(sites)), bpb, 0, i + 1),
            )
            detail = {"val_bpb": bpb, "sample": f"In the beginning of version {i + 1} there was wind. " * 6}
            told.append((t, t, "evaluation", next(iter(sites)), i + 1, json.dumps(detail)))
    db.executemany("INSERT INTO events (t_run, t_wall, kind, site, version, detail) VALUES (?,?,?,?,?,?)", told)
    return [(t, "federated" if len(sites) > 1 else "local", sites) for t, sites in sorted(cuts.items())]


def _chatter(names: list[str], every: float, end: float, count: int) -> Iterator[tuple[Any, ...]]:
    yield START, START, "started", None, 0, json.dumps({"fence": 1, "run_id": "long-1", "pid": os.getpid()})
    rng = random.Random(5)
    notes = (
        "a message took long and was sent again",
        "its link carries less than before",
        "the queue of its platform is long today",
    )
    for i in range(max(0, count - 1)):
        t = min(end, START + i * every)
        kind = "site_note" if i % 3 else "round"
        name = names[rng.randrange(len(names))]
        detail = (
            {"note": f"{notes[i % 3]} ({i})"}
            if kind == "site_note"
            else {"round": i, "mode": "federated", "sites": names[:3], "cut_at": t + 600}
        )
        yield t, t, kind, name, i // 200, json.dumps(detail)


def _versions(run: RunDir, committed: list[tuple[float, str, dict[str, int]]]) -> None:
    db = sqlite3.connect(run.ledger, isolation_level=None)
    db.execute("PRAGMA synchronous = OFF")
    db.execute("BEGIN")
    total = 0
    rows: list[tuple[Any, ...]] = [(0, START, START, "v0", "0", "initial", 0, 0, "{}")]
    for i, (t, mode, sites) in enumerate(committed):
        total += sum(sites.values())
        rows.append((i + 1, t, t, f"v{i + 1}", "0", mode, sum(sites.values()), total, json.dumps(sites)))
    db.executemany(
        "INSERT INTO versions (version, t_run, t_wall, file, sha256, mode, tokens, tokens_total, sites) VALUES (?,?,?,?,?,?,?,?,?)",
        rows,
    )
    db.execute("COMMIT")
    db.close()
