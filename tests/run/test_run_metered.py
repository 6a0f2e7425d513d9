"""A real run on the calendar whose site has a plug: measured, modelled while the plug is away, corrected when it is back."""

from __future__ import annotations

import json
import math
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from run.real import Living, events, status, wait_for, windfall, write_config
from windfall import clock
from windfall.energy.books import LATE
from windfall.store.rundir import RunDir
from windfall.store.telemetry_energy import EnergyRow
from windfall.view.moment import open_telemetry

pytestmark = pytest.mark.slow
WATTS = 1500.0
#: What the site takes by its configuration; 400 W in every other phase.
MODEL_W = {"training": 2000.0, "evaluation": 2000.0, "provisioning": 0.0, "off": 0.0}


class Plug:
    """Counts 1,500 W from the beginning on, whatever its network does; told to, it runs backwards."""

    def __init__(self) -> None:
        self.begun = clock.monotonic()
        self.answers = True
        self.backwards = False

    def joules(self) -> float:
        counted = 1e9 + WATTS * (clock.monotonic() - self.begun)
        return 2e9 - counted if self.backwards else counted


@contextmanager
def serving(plug: Plug) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            body = json.dumps({"meter": {"counter": plug.joules()}}).encode()
            self.send_response(200 if plug.answers else 503)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            return None

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/status"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def metered_config(folder: Path, url: str) -> Path:
    ten_years = 60.0 * 24 * 3650
    config = write_config(folder, {"a": [(0, ten_years)]}, budget=128 * 200_000, tick_s=1, solo_cut_s=5, until_min=ten_years)
    text = config.read_text(encoding="utf-8")
    for old, new in (('clock = "scaled"', 'clock = "real"'), ('start = "2026-01-01T00:00Z"\n', ""), ("speed = 100000\n", "")):
        text = text.replace(old, new)
    text += f"""[site.meter]
sources = ["http"]
url = "{url}"
energy_path = "meter.counter"
energy_unit = "J"
interval_s = 0.25
[account]
meter_lag_s = 2
network_kwh_per_gb = 0.05
"""
    config.write_text(text, encoding="utf-8")
    return config


def entries(run: Path) -> list[EnergyRow]:
    telemetry = open_telemetry(RunDir(run))
    if telemetry is None:
        return []
    try:
        return telemetry.energy()
    finally:
        telemetry.close()


def test_a_metered_run_measures_stands_in_corrects_and_names_what_stayed_modelled(tmp_path: Path) -> None:
    plug, run = Plug(), tmp_path / "run"
    with serving(plug) as url, Living(metered_config(tmp_path, url), run) as living:
        wait_for("measured joules", lambda: any(e.measured_joules for e in entries(run)) or living.over())
        living.commits()
        # Its network goes, for longer than a meter is waited for, and comes back; the plug has counted on.
        plug.answers = False
        wait_for("the model", lambda: living.events("meter_silent") or living.over())
        wait_for("the agent to have noticed", lambda: living.events("meter_lost") or living.over())
        plug.answers = True
        wait_for("a correction", lambda: any(e.cause for e in entries(run)) or living.over())
        wait_for("the word of it", lambda: living.events("meter_back") or living.over())
        before = status(run)["measured_share"]
        counted = plug.joules() - 1e9
        plug.backwards = True
        wait_for("the word of a counter that falls", lambda: _falls(living) or living.over())
        living.send(signal.SIGINT)
        assert living.end() == 130

    rows = entries(run)
    assert before > 0.0
    # Joules are known exactly; of which moments they are, as well as the quickest delivery was quick.
    measured = math.fsum(e.measured_joules for e in rows)
    seconds = math.fsum(e.t1 - e.t0 for e in rows if e.measured_joules)
    assert 0.5 * WATTS * seconds < measured <= counted
    assert all(e.measured_joules == pytest.approx(e.joules) for e in rows if e.measured_joules and not e.cause)
    fixes = [e for e in rows if e.cause]
    assert {e.cause for e in fixes} == {LATE}
    for e in fixes:
        modelled = MODEL_W.get(e.phase, 400.0) * (e.t1 - e.t0)
        assert e.joules == pytest.approx(e.measured_joules - modelled, abs=1e-3), "what it took less what was booked"
    assert [e["site"] for e in events(run, "meter_closed")] == ["a"], "its last second, of which nobody heard"
    told = json.loads(windfall("account", run, "--json").stdout)
    assert 0.0 < told["measured_share"] < 1.0
    assert told["stayed_modelled_s"]["a"] > 1.0
    assert any("stayed modelled: a" in n for n in told["notes"])
    phases = {x["name"]: x for x in told["by_phase"]}
    assert phases["network"]["joules"] > 0.0
    assert phases["network"]["seconds"] == 0.0
    for by in ("by_phase", "by_site"):
        assert math.fsum(x["joules"] for x in told[by]) == pytest.approx(told["total"]["joules"], rel=1e-12)
    assert told["total"]["measured_joules"] == pytest.approx(math.fsum(e.measured_joules for e in rows), rel=1e-12)


def _falls(living: Living) -> bool:
    return any("again and again" in str(e.detail.get("note")) for e in living.events("site_note"))
