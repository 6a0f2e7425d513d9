"""The dashboard beside a run that lives: `windfall run` on replayed time for 24 run hours, as fast as it goes, with its page open.

    .venv/bin/python -m benchmarks.dashboard_live          (about ten minutes; part of `make verify-dashboard`)
    .venv/bin/python -m benchmarks.dashboard_live --hours 4 --pictures DIR

Prints the server's memory over the run, how long events took to the screen, and whether the page that was open all the time says at
the end what a page says that is loaded then. Exits 1 where it does not, or a mark is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from benchmarks.dashboard import MISSED, memory, p95, served, told

from chromium import Browser, Page, browser, chromium
from run.real import T0, Living, status, wait_for, write_config
from windfall import clock
from windfall.store.rundir import RunDir
from windfall.store.telemetry import Telemetry
from windfall.units import clock_text

#: Notes when the row of each event came to the page.
WATCH = """
window.seen = {};
document.addEventListener('DOMContentLoaded', () => {
  const rows = document.querySelector('#event-rows tbody');
  if (rows) new MutationObserver((all) => { for (const m of all) for (const r of m.addedNodes)
    if (r.classList && r.classList.contains('fresh')) window.seen[r.dataset.id] ??= Date.now();
  }).observe(rows, {childList: true});
});
"""
#: What a page says, by the id of the element, without what is of the moment of asking.
SAID = """JSON.stringify(Object.fromEntries([...document.querySelectorAll('[id^=w-]')].filter(e => e.id !== 'w-left')
  .map(e => [e.id, e.textContent])))"""
TOP = "JSON.stringify([...document.querySelectorAll('#event-rows tbody tr')].slice(0, 60).map(r => r.textContent))"


def windows(hours: float) -> dict[str, list[tuple[float, float]]]:
    """When two sites are in a window (minutes): alone, together and not at all, again and again."""
    spans: dict[str, list[tuple[float, float]]] = {"a": [], "b": []}
    for hour in range(0, int(hours) + 2, 4):
        spans["a"].append((60 * hour, 60 * hour + 110))
        spans["b"].append((60 * hour + 70, 60 * hour + 170))
    return spans


def watched(folder: Path, hours: float, pictures: Path | None) -> None:
    """The run, and its page."""
    config = write_config(
        folder, windows(hours), budget=128 * 400_000, until_min=60 * (hours + 6), solo_cut_s=600, round_s=600, snapshot_s=60
    )
    run, end = folder / "lived", T0 + 3600 * hours
    began, used, late = clock.monotonic(), [], False
    with browser(folder / "profile") as b, Living(config, run) as living:
        wait_for("the run directory", lambda: (run / "telemetry.db").is_file() or living.over())
        with served(run) as (url, pid):
            address = f"{url}runs/{run.name}"
            page = b.page("about:blank")
            page.call("Page.addScriptToEvaluateOnNewDocument", source=WATCH)
            page.call("Page.navigate", url=address)
            page.until("document.documentElement.dataset.ready === 'drawn'")
            while (t := float(living.now().get("t_run") or T0)) < end:
                living.over()
                used.append((t, memory(pid)))
                clock.pause(2.0)
            took = clock.monotonic() - began
            living.send(signal.SIGINT)
            living.end()
            state = status(run)
            page.until("document.getElementById('w-state').textContent.includes('interrupted')")
            last = Telemetry.open(RunDir(run).telemetry, read_only=True).last_event_id()
            page.until(f"Number(document.querySelector('#event-rows tbody tr').dataset.id) >= {last} || window.seen[{last}]")
            clock.pause(8.0)  # figures follow at a distance of five seconds
            print(f"{hours:g} run hours in {took:.0f} s, version {state['version']}, load average {os.getloadavg()[0]:.1f}")
            _memory(used, memory(pid), end)
            _events(run, json.loads(page.run("JSON.stringify(window.seen)")))
            late = _same(b, page, address)
            if pictures is not None:
                _pictures(b, address, pictures)
    MISSED.extend(["what the page says at the end"] if late else [])


def _memory(used: list[tuple[float, float]], at_last: float, end: float) -> None:
    """Of the server: what it had when a tenth of the time was over, and what became of it."""
    early = next(mb for t, mb in used if t >= T0 + 0.1 * (end - T0))
    print(f"memory of the server: {used[0][1]:.0f} MB at first, {early:.0f} MB at a tenth, most {max(m for _, m in used):.0f} MB")
    told("memory at the end, over that at a tenth of the time", at_last - early, "MB", 5.0)


def _events(run: Path, seen: dict[str, float]) -> None:
    """From when an event was told (before it was committed) until its row was on the page."""
    telemetry = Telemetry.open(RunDir(run).telemetry, read_only=True)
    took = [seen[str(n)] / 1000 - e.t_wall for n, e in telemetry.events() if str(n) in seen]
    telemetry.close()
    told(f"event to screen, p95 of {len(took)}", p95(took), "s", 1.0)
    print(f"{'the same, half of them within':<62} {sorted(took)[len(took) // 2]:>12,.3f} s")


def _same(b: Browser, page: Page, address: str) -> bool:
    """Whether the page that was open differs from one that is loaded now."""
    fresh = b.page(address)
    fresh.until("document.documentElement.dataset.ready === 'drawn'")
    differs: list[Any] = []
    for what, script in (("words", SAID), ("events", TOP)):
        old, new = json.loads(page.run(script)), json.loads(fresh.run(script))
        keys = old if isinstance(old, dict) else range(min(len(old), len(new)))
        differs += [(what, k, old[k], new[k]) for k in keys if old[k] != new[k]]
    charts = "[page.charts.emissions, page.charts.loss]"
    shown = f"JSON.stringify({charts}.map(c => [c.plot.data[0].length, ...c.plot.data.map(d => d.at(-1))]))"
    if (old := page.run(shown)) != (new := fresh.run(shown)):
        differs.append(("figures", "", old, new))
    said = "the page that was open says what a new one says"
    print(f"{said if not differs else f'{len(differs)} things differ between the page that was open and a new one: {differs[:5]}'}")
    wrong = [e for p in (page, fresh) for e in p.errors()]
    print(f"errors of scripts: {wrong or 'none'}")
    return bool(differs or wrong)


def _pictures(b: Browser, address: str, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for width in (1280, 400):
        for dark in (False, True):
            page = b.page(address, width=width, dark=dark)
            page.until("document.documentElement.dataset.ready === 'drawn' && page.charts.emissions.others.length > 0")
            page.picture(folder / f"live-{width}-{'dark' if dark else 'light'}.png")
            page.close()


def main() -> int:
    """Watch a run; the exit code."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--hours", type=float, default=24.0, help="run hours")
    arguments.add_argument("--pictures", type=Path, metavar="DIR", help="keep pictures of the page at its end")
    given = arguments.parse_args()
    if chromium() is None:
        print("needs Chromium (Debian: chromium)")
        return 2
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = str(Path(folder) / "cache")
        print(f"from {clock_text(T0)} UTC of run time", flush=True)
        watched(Path(folder), given.hours, given.pictures)
    print("missed: " + ", ".join(MISSED) if MISSED else "all marks are met")
    return int(bool(MISSED))


if __name__ == "__main__":
    raise SystemExit(main())
