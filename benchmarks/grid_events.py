"""A whole run that listens to the grid: `windfall run` on the calendar with two sites and an OpenADR 3 server of the tests.

    .venv/bin/python -m benchmarks.grid_events          (about four minutes; part of `make verify-dashboard`)

A programme's event holds one site; the server goes away meanwhile and comes back; a second event limits the run's power; a
third one is taken back. Prints what was seen beside what has to be, and exits 1 where it differs. Above all: no site begins to
start while it is held, whatever the server says or does not say.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from asgi import Asked
from run.real import T0, Living, status, wait_for, windfall, write_config
from vtn import CLIENT, SECRET, TestVtn, event
from windfall import clock
from windfall.store.rundir import RunDir
from windfall.store.telemetry import Event, Telemetry
from windfall.ui.web.app import Dashboard
from windfall.ui.web.guard import Gate
from windfall.units import iso_utc
from windfall.view.run_folders import RunFolders

WRONG: list[str] = []
OFF, ON = ("off", "failed"), ("provisioning", "ready", "training")


def told(what: str, well: bool, seen: object) -> None:
    """Print what was seen, and keep what is not as it has to be."""
    WRONG.extend([] if well else [what])
    print(f"{'ok   ' if well else 'WRONG'} {what}: {seen}", flush=True)


def written(folder: Path, url: str) -> Path:
    """A configuration whose two sites are in a window from now on for hours, and which listens to a VTN."""
    config = write_config(folder, {"a": [(0, 600)], "b": [(0, 600)]}, budget=128 * 200_000, tick_s=1, solo_cut_s=10, round_s=10)
    shift = clock.wall() - 3600 - T0
    for name in ("a", "b"):
        path = folder / f"{name}.csv"
        path.write_text(f"time_utc,g\n{iso_utc(T0 + shift)},10\n", encoding="utf-8")
    text = config.read_text(encoding="utf-8").replace(
        'clock = "scaled"\nspeed = 100000\nstart = "2026-01-01T00:00Z"', 'clock = "real"'
    )
    text = "\n".join(line for line in text.splitlines() if not line.startswith("until = "))
    text += f"""
[account]
meter_lag_s = 0
[openadr]
url = "{url}"
programme = "curtail"
ven_name = "windfall"
token_url = "{url}/auth/token"
client_id = "env:VTN_ID"
client_secret = "env:VTN_SECRET"
poll_s = 1
"""
    config.write_text(text, encoding="utf-8")
    return config


def said(found: list[Event]) -> object:
    """The reason of the last of them."""
    return found[-1].detail.get("reason")


class Watched:
    """The run, and what it says of itself."""

    def __init__(self, living: Living) -> None:
        self.living, self.run = living, RunDir(living.run)

    def wait(self, what: str, ready: Callable[[], object]) -> float:
        """Wait for it; how long that took (s)."""
        begun = clock.monotonic()
        wait_for(what, lambda: ready() or self.living.over())
        return clock.monotonic() - begun

    def state(self, site: str) -> str:
        return str(self.living.now().get("sites", {}).get(site, ["off"])[0])

    def events(self, *kinds: str) -> list[Event]:
        return self.living.events(*kinds)

    def limit(self) -> float | None:
        """The run's limit of power by its own stored configuration."""
        text = self.run.config.read_text(encoding="utf-8")
        return next((float(line.partition("=")[2]) for line in text.splitlines() if line.startswith("max_power_w")), None)

    def states(self) -> list[Any]:
        telemetry = Telemetry.open(self.run.telemetry, read_only=True)
        try:
            return telemetry.states()
        finally:
            telemetry.close()


def trial(vtn: TestVtn, living: Living) -> None:
    """The whole of it."""
    run = Watched(living)
    for site in ("a", "b"):
        living.trains(site)
    held = {}

    # An event holds a site, and the others go on.
    begin = clock.wall()
    held["a"] = (begin, begin + 45)
    vtn.events = [event("hold-a", begin, 45, targets=[{"type": "RESOURCE_NAME", "values": ["a"]}])]
    took = run.wait("a to be off", lambda: run.state("a") in OFF)
    told("an event of the programme holds its site", True, f"off {took:.1f} s after the VTN had it")
    told("the other site goes on", run.state("b") == "training", run.state("b"))
    words = status(run.run.root)["sites"]["a"]["held"]
    told("status says who holds it and by which event", words.startswith("held by openadr:curtail: event hold-a"), words)
    with Asked(Dashboard(RunFolders([run.run.root]), Gate.of("t" * 20, "127.0.0.1", 8731, tls=False), compares=False).app(),
               "http://127.0.0.1:8731") as page:  # fmt: skip
        name = run.run.root.name
        text, chip = page.get(f"/runs/{name}").text, page.get(f"/runs/{name}/words").json()["words"]["w-0-chip"]
        told("the page says so", "held by openadr:curtail: event hold-a" in text and "‖</span> held" in chip, chip)

    # The server is away while the hold goes on and ends.
    vtn.away = True
    run.wait("the VTN to be missed", lambda: run.events("grid_lost"))
    told("that the server is away is told", True, said(run.events("grid_lost")))
    before = len([s for s in run.states() if s.site == "a" and s.state == "provisioning"])
    told("and nothing is turned on by it", run.state("a") in OFF and clock.wall() < held["a"][1], run.state("a"))
    run.wait("a to start again", lambda: len([s for s in run.states() if s.site == "a" and s.state == "provisioning"]) > before)
    again = [s for s in run.states() if s.site == "a" and s.state == "provisioning"][-1]
    told(
        "the hold ends at its own time, without the server", again.t_run >= held["a"][1] - 1, f"{again.t_run - held['a'][1]:+.1f} s"
    )
    vtn.away = False
    run.wait("the VTN to be heard", lambda: run.events("grid_back"))
    told("that the server is back is told", True, said(run.events("grid_back")))
    run.wait("a to train", lambda: run.state("a") == "training")

    # A limit for all: one of two sites has room in it.
    limit = event("limit-all", begin_2 := clock.wall(), 45, kind="IMPORT_CAPACITY_LIMIT", value=2.5)
    vtn.events = [*vtn.events, limit]
    run.wait("the limit", lambda: run.limit() == 2500.0)
    run.wait("one site to be off", lambda: sum(run.state(s) in OFF for s in ("a", "b")) == 1)
    told("a limit lets on what has room in it", True, {s: run.state(s) for s in ("a", "b")})
    run.wait("the limit's end", lambda: run.limit() is None)
    told("and is taken back when its interval is over", clock.wall() >= begin_2 + 44, f"{clock.wall() - begin_2 - 45:+.1f} s")
    run.wait("both to train", lambda: all(run.state(s) == "training" for s in ("a", "b")))

    # One that is taken back.
    begin_3 = clock.wall()
    vtn.events = [*vtn.events, event("hold-b", begin_3, 1800, targets=["b"])]
    run.wait("b to be off", lambda: run.state("b") in OFF)
    vtn.events = vtn.events[:-1]
    cancelled = clock.wall()
    held["b"] = (begin_3, cancelled)
    took = run.wait("b to start again", lambda: run.state("b") in ON)
    told("an event that is taken back gives its site back to the policy", True, f"{took:.1f} s later")

    # What was delivered.
    run.wait("the reports", lambda: {r["eventID"] for r in vtn.reports} >= {"hold-a", "limit-all"})
    for report in vtn.reports:
        kwh = {r["resourceName"]: {p["type"]: p["values"][0] for p in r["intervals"][0]["payloads"]} for r in report["resources"]}
        more = all(v["USAGE"] <= v["BASELINE"] * 1.05 for v in kwh.values())
        told(f"a report on {report['eventID']}, by site and interval", more and bool(kwh), json.dumps(kwh))
    told("none on what was taken back", all(r["eventID"] != "hold-b" for r in vtn.reports), len(vtn.reports))
    for e in run.events("grid_reported"):
        print(f"      {e.detail.get('reason')}")

    starts = [
        s for s in run.states() if s.state == "provisioning" for a, b in [held.get(s.site, (0.0, 0.0))] if a + 5 < s.t_run < b - 1
    ]
    told("no site began to start while the grid held it", not starts, starts or "none")


def main() -> int:
    """Run the trial; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    os.environ.update({"VTN_ID": CLIENT, "VTN_SECRET": SECRET, "OMP_NUM_THREADS": "1"})
    with tempfile.TemporaryDirectory() as folder, TestVtn() as vtn:
        os.environ["XDG_CACHE_HOME"] = str(Path(folder) / "cache")
        config, run = written(Path(folder), vtn.url), Path(folder) / "listening"
        with Living(config, run) as living:
            trial(vtn, living)
            living.send(signal.SIGINT)
            told("Ctrl-C ends the run in order", living.end() == 130, "exit code 130")
        found = windfall("backtest", "--replay", run)
        told("a replay repeats its decisions", found.returncode == 0, (found.stdout + found.stderr).strip().splitlines()[-1])
        secret = [p for p in run.rglob("*") if p.is_file() and SECRET.encode() in p.read_bytes()]
        told("the client's secret is in no file of the run", not secret, secret or "none")
    print(f"{len(WRONG)} not as it has to be" if WRONG else "all as it has to be")
    return int(bool(WRONG))


if __name__ == "__main__":
    raise SystemExit(main())
