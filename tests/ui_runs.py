"""A small run directory, made by hand through the stores' own interfaces."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from windfall import clock
from windfall.store.ledger import Ledger
from windfall.store.records import Consumed
from windfall.store.rundir import RunDir
from windfall.store.telemetry import Telemetry
from windfall.store.telemetry_energy import EnergyRow
from windfall.units import parse_utc

START = parse_utc("2026-01-11T17:00Z")
#: No process has this number, so that the coordinator of a hand-made run is gone.
NOBODY = 2**22 + 1

_SITE = """
[[site]]
name = "{name}"
region = "{region}"
spin_up_s = 340.0
load_s = 100.0
train_power_w = 2000.0
idle_power_w = 400.0
tokens_per_s = 20.0
[site.signal]
path = "bundled:paper_day"
time_column = "from_utc"
column = "g_per_kwh"
region_column = "region"
period_s = 0
until = "2026-01-12T11:00Z"
"""
_CONFIG = (
    """
[run]
name = "small"
budget_tokens = 8192
clock = "scaled"
speed = 600
start = "2026-01-11T17:00Z"
tick_s = 60.0
"""
    + _SITE.format(name="california", region="CAISO_NORTH")
    + _SITE.format(name="adelaide", region="NEM_SA")
    + """
[[counterfactual]]
region = "DE"
[counterfactual.signal]
path = "bundled:paper_day"
time_column = "from_utc"
column = "g_per_kwh"
region_column = "region"
period_s = 0
until = "2026-01-11T17:10Z"
"""
)


def empty_run(root: Path) -> RunDir:
    """A run that has been prepared and not begun: a configuration and a ledger without a version."""
    run = RunDir(root)
    run.make()
    run.config.write_text(_CONFIG, encoding="utf-8")
    Ledger.create(run.ledger, run_id="small-1", fingerprint="x", budget_blocks=8, tokens_per_block=1024).close()
    return run


def commit_all(ledger: Ledger, site: str, blocks: int, mode: str, t: float) -> None:
    """One contribution of ``blocks`` by ``site``, committed."""
    head = ledger.head().version if ledger.has_version() else None
    if head is None:
        ledger.commit(t_run=START, t_wall=clock.wall(), file="v0", sha256="0", mode="initial", contributions=[])
        head = 0
    lease = ledger.lease(site, 1, blocks, t, t + 3600)
    assert lease is not None
    used = [Consumed(lease.epoch, lease.start, lease.end)]
    header = {"consumed": [{"epoch": lease.epoch, "start": lease.start, "end": lease.end, "skipped": False}]}
    tokens = blocks * 1024
    c = ledger.receive(site, 1, lease.epoch, head, tokens, used, header, "f", t, 0)
    ledger.commit(t_run=t, t_wall=clock.wall(), file=f"v{head + 1}", sha256="0", mode=mode, contributions=[c])


def state(t: Telemetry, at: float, site: str, was: str, now: str, reason: str) -> None:
    """A state change as the recorder writes it."""
    t.state(at, site, now, reason)
    t.event(at, "state", site=site, was=was, now=now, generation=1, reason=reason)


def mode(t: Telemetry, at: float, was: str, now: str) -> None:
    """A mode change as the recorder writes it."""
    t.mode(at, now)
    t.event(at, "mode", was=was, now=now)


def energy(t: Telemetry, site: str, phase: str, t0: float, t1: float, watts: float, g: float) -> None:
    """A booked interval."""
    joules = watts * (t1 - t0)
    t.book(EnergyRow(site, phase, t0, t1, watts, g, joules, joules / 3.6e6 * g, int(g < 100), None, None))


def now_row(t: Telemetry, at: float, sites: dict[str, Any], pid: int = NOBODY, mode: str = "paused") -> None:
    """The row that the coordinator keeps up to date."""
    value = {"t_run": at, "t_wall": clock.wall(), "mode": mode, "sites": sites, "pid": pid}
    t.present(value)


def tell(t: Telemetry) -> None:
    """Two sites, a local and a federated hour, done: all rows."""
    h = 3600.0
    t.event(START, "started", version=0, fence=1, tokens_total=0, run_id="small-1", pid=NOBODY)
    mode(t, START, "", "paused")
    t.event(START + 300, "decision", site="california", wanted="on", reason="start: 65 g is under worth 100 g")
    state(t, START + 300, "california", "off", "provisioning", "start: 65 g is under worth 100 g")
    state(t, START + 600, "california", "provisioning", "ready", "answered hello")
    state(t, START + 600, "california", "ready", "training", "has a lease")
    mode(t, START + 600, "paused", "local")
    state(t, START + h, "adelaide", "off", "training", "has a lease")
    mode(t, START + h, "local", "federated")
    state(t, START + 2 * h, "california", "training", "off", "nothing is left to train on")
    state(t, START + 2 * h, "adelaide", "training", "off", "nothing is left to train on")
    mode(t, START + 2 * h, "federated", "paused")
    energy(t, "california", "idle", START + 500, START + 600, 400.0, 65.4)
    energy(t, "california", "training", START + 600, START + 2 * h, 2000.0, 65.4)
    energy(t, "adelaide", "training", START + h, START + 2 * h, 2000.0, 875.4)
    for site, value in (("california", 65.4), ("adelaide", 875.4)):
        t.reading(START, site, value, "gCO2/kWh", valid_from=START, known_at=START, source="bundled", stale_at=None)
        numbers = {"value": value, "worth": 100.0}
        t.decision(START + 2 * h, site, False, f"off: {value:.0f} g", numbers=numbers, until=None, given={}, memory={})
    for version, bpb in ((0, 8.0), (1, 4.0), (2, 2.5)):
        t.metric(START + version * h, "california", "val_bpb", bpb, tokens=version * 4096, version=version)
        wrote = f"text of {version} \x1b[31m </pre><script>alert(1)</script>"
        t.event(START + version * h, "evaluation", site="california", version=version, val_bpb=bpb, sample=wrote)
    for i in range(8):
        t.metric(START + 600 + i * 60, "california", "loss", 5.0 / (i + 1), tokens=i * 512, version=0)
    t.event(START + h, "commit", version=1, mode="local", tokens=4096, tokens_total=4096, sites={"california": 4096})
    t.event(START + 2 * h, "commit", version=2, mode="federated", tokens=4096, tokens_total=8192, sites={"adelaide": 4096})
    t.event(START + h, "refused", site="adelaide", reason="based on version 9", password="hunter2hunter2")
    t.event(START + h, "warning", reason="api_key=sk-verysecretvalue was in a message")
    t.event(START + 2 * h, "done", version=2)
    now_row(t, START + 2 * h, {"california": ["off", 1, "x"], "adelaide": ["off", 1, "x"]})


def finished_run(root: Path) -> RunDir:
    """A run of two hours that is done."""
    run = empty_run(root)
    ledger = Ledger.open(run.ledger)
    commit_all(ledger, "california", 4, "local", START + 3600)
    commit_all(ledger, "adelaide", 4, "federated", START + 7200)
    ledger.asked(START + 300, clock.wall(), "california", 1, "ensure_up", "start")
    ledger.close()
    telemetry = Telemetry.open(run.telemetry)
    tell(telemetry)
    telemetry.close()
    return run


@pytest.fixture
def empty(tmp_path: Path) -> RunDir:
    """Prepared and not begun: no version, no telemetry."""
    return empty_run(tmp_path / "empty")


@pytest.fixture
def small(tmp_path: Path) -> RunDir:
    """A finished run of two hours."""
    return finished_run(tmp_path / "small")


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages without figures, which take nine tenths of a page's time: for tests of its words. Figures have tests of their own."""
    nothing = b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg" width="1" height="1"></svg>'
    monkeypatch.setattr("windfall.ui.page.figures.drawn", lambda draw, width, *formats: [nothing] * len(formats))
