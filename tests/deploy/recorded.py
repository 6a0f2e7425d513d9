"""Four hours, as they are scraped, of a run in which all goes wrong that there is an alert for; and runs that ended otherwise."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from ui_runs import NOBODY, START, commit_all, empty_run, finished_run
from windfall import clock
from windfall.store.files import write_json
from windfall.store.ledger import Ledger
from windfall.store.records import Hold
from windfall.store.rundir import RunDir
from windfall.store.telemetry import Telemetry
from windfall.store.telemetry_energy import EnergyRow
from windfall.ui.web.metrics import Exposition
from windfall.view.account import RunAccount, run_account

STEP_S = 600.0
STEPS = 24
SITES = ("metered", "flaps", "slow", "drains")
_CONFIG = """
[run]
name = "main"
budget_tokens = 131072
clock = "real"
tick_s = 60.0
"""
_SITE = """
[[site]]
name = "{name}"
region = "CAISO_NORTH"
spin_up_s = 340.0
load_s = 100.0
train_power_w = 2000.0
idle_power_w = 400.0
tokens_per_s = 20.0
[site.embodied]
kg_co2 = 656.0
[site.signal]
path = "bundled:paper_day"
time_column = "from_utc"
column = "g_per_kwh"
region_column = "region"
period_s = 0
until = "2026-01-12T11:00Z"
[[site.signals]]
name = "price"
type = "price"
currency = "USD"
path = "bundled:paper_day"
time_column = "from_utc"
column = "g_per_kwh"
region_column = "region"
period_s = 0
until = "2026-01-12T11:00Z"
"""


@dataclass(frozen=True)
class Recorded:
    """By series (name and labels as PromQL writes them) its value at each step; and the main run's account at the end."""

    series: dict[str, list[float | None]]
    account: RunAccount


def record(folder: Path) -> Recorded:
    """Make the runs, and scrape them at each step."""
    run = _main_run(folder / "main")
    exposition = Exposition()
    found: dict[str, list[float | None]] = {}
    others = _others(folder)
    still = _series(exposition.render(others))
    for step in range(STEPS + 1):
        _go_on(run, step)
        for name, value in {**still, **_series(exposition.render([run]))}.items():
            found.setdefault(name, [None] * step).append(value)
        for values in found.values():
            values += [None] * (step + 1 - len(values))
    return Recorded(found, run_account(run))


def _series(text: bytes) -> dict[str, float]:
    found = {}
    for family in text_string_to_metric_families(text.decode()):
        for s in family.samples:
            labels = ",".join(f'{k}="{v}"' for k, v in sorted(s.labels.items()))
            assert f"{s.name}{{{labels}}}" not in found, f"{s.name} twice"
            found[f"{s.name}{{{labels}}}"] = s.value
    return found


def _others(folder: Path) -> list[RunDir]:
    """A run that is done, one that has failed, one that nobody runs, one whose sites train for nothing, and one that is damaged."""
    done, failed, stopped, stuck = (finished_run(folder / name) for name in ("done", "failed", "stopped", "stuck"))
    write_json(failed.logs / "outcome.json", {"outcome": "failed", "message": "every trace has ended"})
    for run in (stopped, stuck):
        t = Telemetry.open(run.telemetry)
        t.event(START + 7200, "resumed", version=2, pid=NOBODY)
        t.present({"t_run": START + 7200, "t_wall": STEPS * STEP_S, "mode": "local", "sites": {"adelaide": ["training", 1, ""]}})
        t.close()
    (stuck.root / "lock").write_text(str(os.getpid()))
    for run in (done, failed, stopped, stuck):
        ledger = Ledger.open(run.ledger)
        ledger.set_meta(run_id=run.root.name)
        ledger.close()
    damaged = RunDir(folder / "damaged")
    damaged.make()
    damaged.config.write_text("this is no configuration")
    damaged.ledger.write_bytes(b"this is no database")
    return [done, failed, stopped, stuck, damaged]


def _main_run(root: Path) -> RunDir:
    run = empty_run(root)
    run.config.write_text(_CONFIG + "".join(_SITE.format(name=n) for n in SITES), encoding="utf-8")
    (run.root / "lock").write_text(str(os.getpid()))
    ledger = Ledger.open(run.ledger)
    ledger.set_meta(run_id="main")
    commit_all(ledger, "metered", 1, "local", START)
    ledger.close()
    telemetry = Telemetry.open(run.telemetry)
    telemetry.event(START, "started", version=0, fence=1, tokens_total=0, run_id="main", pid=os.getpid())
    telemetry.close()
    return run


def _go_on(run: RunDir, step: int) -> None:
    """What happens in ten minutes. The wall's clock begins at 0, as promtool's does."""
    t0, t1 = START + (step - 1) * STEP_S, START + step * STEP_S
    t = Telemetry.open(run.telemetry)
    late = step > 12
    if step:
        # Its meter is silent for the second half: the model stands in, and may yet be corrected.
        joules = 1700.0 * STEP_S
        t.book(
            EnergyRow(
                "metered", "training", t0, t1, 1700.0, 65.4, joules, joules / 3.6e6 * 65.4, 1, 20.0, 0.05, 0.0 if late else joules
            )
        )
        t.book(EnergyRow("metered", "network", t1, t1, 0.0, 65.4, 7200.0, 0.1308, 1, None, None))
        t.book(EnergyRow("flaps", "stall", t0, t0 + 60, 400.0, None, 24000.0, 0.0, -1, None, -0.02))
        t.book(EnergyRow("flaps", "training", t0 + 60, t1, 2000.0, None, 1.08e6, 0.0, -1, None, -0.9))
        t.metric(t1, "metered", "network_bytes", 1e6)
        t.metric(t1, "metered", "loss", 5.0 / step, tokens=step * 512, version=0)
        t.metric(t1, "metered", "val_bpb", 3.0, tokens=step * 512, version=step)
    if late:
        t.state(t1, "flaps", "failed", "its processes ended")
        t.event(t1, "work_lost", site="flaps", generation=1, cut=step, tokens=512, kwh=0.1, reason="too late")
    for site in SITES:
        stale_at = START + 3600.0 if site == "slow" else START + 1e6
        row = [65.4, "gCO2/kWh", t1 - 300.0, t1 - 200.0, t1, stale_at, "bundled", None]
        given = {"reading": row, "readings": {"marginal_co2": row, "price": [30.0, "USD/MWh", *row[2:]]}}
        numbers = {"value": 65.4, "worth": 100.0}
        t.decision(t1, site, site != "drains", "on", numbers=numbers, until=None, given=given, memory={})
    states = {"metered": "training", "flaps": "training", "slow": "provisioning", "drains": "draining"}
    # In its last two hours the coordinator says nothing any more; what it wrote for others goes on.
    t_wall = min(step, 12) * STEP_S
    t.present(
        {"t_run": t1, "t_wall": t_wall, "mode": "federated", "sites": {n: [s, 1, ""] for n, s in states.items()}, "pid": NOBODY}
    )
    t.close()
    ledger = Ledger.open(run.ledger)
    if step % 4 == 0 and step:
        commit_all(ledger, "metered", 1, "local", t1)
    if late:
        ledger.asked(t1, clock.wall(), "flaps", step, "ensure_up", "start")
    if step == 12:
        ledger.hold(Hold("metered", "hold", t1, None, "an engineer", "the grid operator called"))
    ledger.close()
