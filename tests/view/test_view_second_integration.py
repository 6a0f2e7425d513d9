"""The account's grams against a second integration, of raw trace and exported series: within 1e-9."""

from __future__ import annotations

import csv
import random
from pathlib import Path

import pytest

from second_integration import integrate
from windfall.cli.export import export
from windfall.config.load import load
from windfall.energy.account import Account
from windfall.energy.books import Books
from windfall.energy.phases import of_state
from windfall.energy.power import PowerModel
from windfall.energy.tariff import Tariff
from windfall.grid.build import build_grid
from windfall.run.recorder import TelemetryRecorder
from windfall.store.ledger import Ledger
from windfall.store.rundir import RunDir
from windfall.store.telemetry import Telemetry
from windfall.units import iso_utc, parse_utc
from windfall.view.account import run_account
from windfall.view.state import run_state

START = parse_utc("2026-03-01T00:00Z")
H, TICK = 3600.0, 60.0
_THEN = {"off": "provisioning", "provisioning": "training", "training": "draining", "draining": "off"}
_CONFIG = """
[run]
name = "second"
budget_tokens = 8192
start = "2026-03-01T00:00Z"
clock = "scaled"
"""
_SITE = """
[[site]]
name = "{name}"
region = "{name}"
spin_up_s = 340
load_s = 100
train_power_w = 2024.7
idle_power_w = 411.3
provisioning_power_w = 33.3
tokens_per_s = 20
[site.signal]
path = "{path}"
time_column = "at"
column = "{name}"
period_s = 300
"""


def trace(path: Path, rng: random.Random) -> None:
    """Two days of five-minute rows with holes; each site has holes of its own."""
    rows = ["at,modelled,metered"]
    for i in range(2 * 288):
        a, b = rng.uniform(0, 700), rng.uniform(0, 700)
        cells = ("" if i % 97 in range(5, 14) else round(a, 5), "" if i % 131 in (7, 8) else round(b, 5))
        rows.append(f"{iso_utc(START + i * 300)},{cells[0]},{cells[1]}")
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")


def booked(folder: Path) -> RunDir:
    """Twenty hours of two sites through the account's own machinery: one is modelled, the other's meter tells, late at times."""
    rng = random.Random(7)
    trace(folder / "trace.csv", rng)
    run = RunDir(folder / "run")
    run.make()
    run.config.write_text(_CONFIG + "".join(_SITE.format(name=n, path=folder / "trace.csv") for n in ("modelled", "metered")))
    Ledger.create(run.ledger, run_id="s", fingerprint="f", budget_blocks=8, tokens_per_block=1024).close()
    config = load(run.config)
    grid = build_grid(config)
    account = Account(
        {s.name: PowerModel.of(s) for s in config.site},
        {s.name: Tariff.of(s, grid.signals[s.name], config.run) for s in config.site},
    )
    books, telemetry = Books(account, ["metered"], lag_s=120.0), Telemetry.open(run.telemetry)
    recorder = TelemetryRecorder(telemetry)
    t, joules = START, 0.0
    state = dict.fromkeys(("modelled", "metered"), "off")
    since = dict.fromkeys(state, START)
    silent = 0.0
    while t < START + 20 * H:
        for name in state:
            if t >= since[name]:
                state[name] = _THEN[state[name]]
                lasts = {"provisioning": 340.0, "training": rng.uniform(600, 9000), "draining": 30.0, "off": rng.uniform(60, 4000)}
                since[name] = t + lasts[state[name]]
        after = min([t + TICK, *(s for s in since.values() if s > t)])
        for name, now in state.items():
            loads_at = since[name] - 100.0
            for phase, a, b in of_state(now, t, after, loads_at=loads_at):
                recorder.booked(books.book(name, phase, a, b))
        joules += rng.uniform(300, 2300) * (after - t) if state["metered"] != "off" else 0.0
        silent = silent - (after - t) if silent > 0 else (rng.uniform(200, 900) if rng.random() < 0.02 else 0.0)
        t = after
        if silent <= 0:
            books.heard("metered", "boot/1/0", t - START, joules, joules, t)
        recorder.booked(books.settle(t))
    recorder.booked(books.settle(t, closing=True))
    telemetry.event(START, "started", version=0, fence=1, tokens_total=0, run_id="s", pid=2**22 + 1)
    telemetry.present({"t_run": t, "t_wall": 0.0, "mode": "paused", "sites": {}, "pid": 2**22 + 1})
    telemetry.close()
    return run


def test_a_second_integration_of_raw_trace_and_exported_series_gives_the_accounts_grams(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = booked(tmp_path)
    export(run.root, tmp_path / "out", "csv", as_json=False)
    again = integrate(tmp_path / "out", run.config, tmp_path)
    account = run_account(run)
    lines = {x.name: x for x in account.lines("site")}
    assert set(again) == set(lines) == {"modelled", "metered"}
    for name, line in lines.items():
        assert line.grams > 100
        assert again[name].grams == pytest.approx(line.grams, rel=1e-9), name
        assert again[name].joules == pytest.approx(line.joules, rel=1e-9), name
        assert again[name].unknown_joules == pytest.approx(line.unpriced_joules, rel=1e-9), name
    assert lines["modelled"].unpriced_joules > 0
    assert lines["metered"].corrected_joules != 0
    assert lines["metered"].measured_joules > 0
    whole = sum(x.grams for x in again.values())
    assert run_state(run).kg_co2 == pytest.approx(whole / 1000, rel=1e-9)
    # It would be seen: readings that are off by a hundred-thousandth are ten thousand times more than that.
    with (tmp_path / "trace.csv").open() as file:
        head, *rows = csv.reader(file)
    for row in rows:
        row[1:] = [repr(float(v) * 1.00001) if v else "" for v in row[1:]]
    (tmp_path / "trace.csv").write_text("\n".join(",".join(r) for r in [head, *rows]) + "\n")
    assert sum(x.grams for x in integrate(tmp_path / "out", run.config, tmp_path).values()) != pytest.approx(whole, rel=1e-9)
