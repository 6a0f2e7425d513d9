"""A run of two sites over ten hours of made-up readings, whose figures can be worked out by hand."""

from __future__ import annotations

from pathlib import Path

from ui_runs import NOBODY, START, commit_all, energy, mode, now_row, state
from windfall.store.ledger import Ledger
from windfall.store.rundir import RunDir
from windfall.store.telemetry import Telemetry
from windfall.units import iso_utc

H = 3600.0
#: Intensities of the two regions, hour by hour from the start.
WEST = (200.0, 50.0, 50.0, 300.0, 300.0, 20.0, 20.0, 400.0, 150.0, 90.0)
EAST = (10.0, 500.0, 500.0, 60.0, 60.0, 500.0, 500.0, 80.0, 80.0, 500.0)
#: What the run did: site, hour of the start, hours of training after a spin-up of six minutes, tokens.
DUTY = (("west", 1, 1.9, 19 * 1024), ("east", 3, 1.9, 19 * 1024), ("west", 5, 0.9, 9 * 1024))

_HEAD = """
[run]
name = "ways"
budget_tokens = 48128
clock = "scaled"
speed = 600
start = "2026-01-11T17:00Z"
tick_s = 60.0
"""
_SITE = """
[[site]]
name = "{name}"
region = "{region}"
spin_up_s = 360.0
load_s = 360.0
train_power_w = 9999.0
idle_power_w = 400.0
tokens_per_s = 77.0
{more}
[site.signal]
path = "{path}"
time_column = "t"
column = "{column}"
period_s = 3600
type = "{type}"
"""


def config(folder: Path, *, more: str = "", east: str = "marginal_co2", also: str = "") -> str:
    """Two sites; power and pace as configured are far from what the run has booked."""
    path = folder / "trace.csv"
    return (
        _HEAD
        + _SITE.format(name="west", region="W", path=path, column="w", type="marginal_co2", more=more)
        + _SITE.format(name="east", region="E", path=path, column="e", type=east, more="")
        + also
    )


def trace(folder: Path, west: tuple[float, ...] = WEST, east: tuple[float, ...] = EAST, holes: tuple[int, ...] = ()) -> None:
    rows = [f"{iso_utc(START + i * H)},{w},{e}" for i, (w, e) in enumerate(zip(west, east, strict=True)) if i not in holes]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "trace.csv").write_text("t,w,e\n" + "\n".join(rows) + "\n")


def begun(folder: Path, text: str) -> tuple[RunDir, Ledger, Telemetry]:
    run = RunDir(folder / "run")
    run.make()
    run.config.write_text(text, encoding="utf-8")
    Ledger.create(run.ledger, run_id="ways-1", fingerprint="x", budget_blocks=47, tokens_per_block=1024).close()
    ledger, t = Ledger.open(run.ledger), Telemetry.open(run.telemetry)
    t.event(START, "started", version=0, fence=1, tokens_total=0, run_id="ways-1", pid=NOBODY)
    mode(t, START, "", "paused")
    return run, ledger, t


def price(site: str, t: float) -> float:
    return {"west": WEST, "east": EAST}[site][int((t - START) // H)]


def trained_run(folder: Path, text: str, *, ends: str = "done", watts: float = 2000.0) -> RunDir:
    """A run that did its `DUTY`: 4.7 h of training at 2 kW, and 10 tokens a second and more at each site."""
    run, ledger, t = begun(folder, text)
    for site, hour, hours, tokens in DUTY:
        at = START + hour * H
        state(t, at, site, "off", "provisioning", "start")
        state(t, at + 360, site, "provisioning", "training", "has a lease")
        mode(t, at + 360, "paused", "local")
        energy(t, site, "idle", at, at + 360, 400.0, price(site, at))
        begin, end = at + 360, at + 360 + hours * H
        while begin < end:
            border = min(end, START + ((begin - START) // H + 1) * H)
            energy(t, site, "training", begin, border, watts, price(site, begin))
            begin = border
        state(t, end, site, "training", "off", "stop")
        mode(t, end, "local", "paused")
        commit_all(ledger, site, tokens // 1024, "local", end)
    for name in ("west", "east"):
        for hour in range(7):
            at = START + hour * H
            t.reading(at, name, price(name, at), "gCO2/kWh", valid_from=at, known_at=at, source="x", stale_at=at + 3 * H)
    end = START + 6 * H
    if ends:
        t.event(end, ends, version=3)
    now_row(t, end, {"west": ["off", 1, ""], "east": ["off", 1, ""]})
    ledger.close()
    t.close()
    return run
