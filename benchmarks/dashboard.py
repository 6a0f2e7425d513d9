"""The dashboard at scale: a generated run of 30 days, 20 sites and a million events, in a real browser.

    make bench-dashboard          (about ten minutes, most of it making the run)
    .venv/bin/python -m benchmarks.dashboard --days 3 --sites 5 --events 50000

Prints each figure beside its mark: bytes of the page, first load (of a dashboard that has just begun, and again), bytes of that
load, from an event's commit to the screen, memory while a million more events are written, twelve pages at once.
``--all``: a thousand clients that never read as well. Exits 1 where a mark is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from benchmarks.dashboard_run import Made, generated

from chromium import Browser, Page, browser, chromium
from windfall import clock
from windfall.store.telemetry import Telemetry

#: Notes when the figures have been drawn, and when each numbered event is there.
WATCH = """
window.seen = {}; window.drawnAt = null;
new MutationObserver(() => {
  if (window.drawnAt === null && document.documentElement.dataset.ready === 'drawn') window.drawnAt = performance.now();
}).observe(document, {attributes: true, subtree: true, attributeFilter: ['data-ready']});
document.addEventListener('DOMContentLoaded', () => {
  const rows = document.querySelector('#event-rows tbody');
  if (rows) new MutationObserver((all) => { for (const m of all) for (const r of m.addedNodes) {
    const n = /number (\\d+)$/.exec(r.textContent); if (n) window.seen[n[1]] ??= Date.now();
  }}).observe(rows, {childList: true});
});
"""
MISSED: list[str] = []


def told(name: str, value: float, unit: str, mark: float | None = None) -> None:
    """Print a figure beside its mark."""
    bad = mark is not None and value > mark
    MISSED.extend([name] if bad else [])
    beside = "" if mark is None else f"   (mark: at most {mark:,g}{', MISSED' if bad else ''})"
    print(f"{name:<62} {value:>12,.3f} {unit}{beside}", flush=True)


@contextmanager
def served(root: Path) -> Iterator[tuple[str, int]]:
    """A dashboard in a process of its own: its address and its process."""
    command = [sys.executable, "-m", "windfall", "dashboard", str(root), "--port", "0", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield json.loads(process.stdout.readline())["url"], process.pid
        finally:
            process.terminate()
            process.wait(timeout=60)


def memory(pid: int) -> float:
    """Resident memory in MB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def processor(pid: int) -> float:
    """Seconds of processor time."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def opened(b: Browser, url: str) -> Page:
    """A page that is watched from its beginning, drawn."""
    page = b.page("about:blank")
    page.call("Page.addScriptToEvaluateOnNewDocument", source=WATCH)
    page.call("Page.navigate", url=url)
    page.until("window.drawnAt")
    return page


def loads(page: Page) -> tuple[float, float]:
    """Seconds until it was drawn, and KB that had come by then."""
    script = """[...performance.getEntriesByType('resource'), ...performance.getEntriesByType('navigation')]
      .filter(e => e.responseEnd <= window.drawnAt).reduce((n, e) => n + e.transferSize, 0)"""
    return page.run("window.drawnAt") / 1000, page.run(script) / 1000


def p95(values: list[float]) -> float:
    """The 95th percentile."""
    return sorted(values)[min(len(values) - 1, int(0.95 * len(values)))]


def note(t: Telemetry, at: float, number: int) -> float:
    """Write a numbered event; wall time of its commit (s)."""
    t.event(at, "site_note", site="site01", note=f"number {number}")
    t.flush()
    return clock.wall()


def events_to_screen(pages: list[Page], made: Made, count: int) -> list[float]:
    """Seconds from the commit of each of ``count`` events until the pages had it, the last of them."""
    t = Telemetry.open(made.run.telemetry)
    committed = {}
    for i in range(count):
        committed[i] = note(t, made.end + i, i)
        clock.pause(0.37)
    t.close()
    for page in pages:
        page.until(f"window.seen[{count - 1}]")
    seen = [json.loads(page.run("JSON.stringify(window.seen)")) for page in pages]
    return [max(s[str(i)] for s in seen) / 1000 - at for i, at in committed.items()]


def replayed(made: Made, count: int) -> None:
    """Write ``count`` events as fast as the disk takes them, a commit for each thousand."""
    t = Telemetry.open(made.run.telemetry)
    for i in range(count // 1000):
        for k in range(1000):
            t.event(made.end + 60 + i, "site_note", site="site02", note=f"replayed {i * 1000 + k}")
        t.flush()
    t.close()


async def clients(url: str, count: int, seconds: float) -> tuple[int, int, list[float]]:
    """``count`` listeners at once, and one who asks meanwhile: how many are told, how many sent away, times of answers (s)."""
    import httpx

    host, port = url.split("//")[1].strip("/").split(":")
    run = url + "api/v1/runs/" + (await httpx.AsyncClient().get(url + "api/v1/runs")).json()["runs"][0]["name"]
    path = run.removeprefix(url.rstrip("/"))
    statuses: list[int] = []

    async def listen() -> None:
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(f"GET {path}/stream HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode())
        await writer.drain()
        statuses.append(int((await reader.readline()).split()[1]))
        await asyncio.sleep(seconds)  # reads no more: it is slow, or has gone to sleep
        writer.close()

    listening = [asyncio.create_task(listen()) for _ in range(count)]
    times = []
    async with httpx.AsyncClient(timeout=60) as asker:
        until = clock.monotonic() + seconds * 0.8
        while clock.monotonic() < until:
            began = clock.monotonic()
            (await asker.get(run)).raise_for_status()
            times.append(clock.monotonic() - began)
            await asyncio.sleep(0.05)
    await asyncio.gather(*listening, return_exceptions=True)
    return statuses.count(200), statuses.count(503), times


def main() -> int:
    """Make the run, look at it."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--days", type=float, default=30.0)
    arguments.add_argument("--sites", type=int, default=20)
    arguments.add_argument("--events", type=int, default=1_000_000)
    arguments.add_argument("--more", type=int, help="events that are written while it is looked at (default: as many)")
    arguments.add_argument("--run", type=Path, help="folder to keep the run in, or one of an earlier time")
    arguments.add_argument("--all", action="store_true", help="a thousand clients as well")
    given = arguments.parse_args()
    if chromium() is None:
        print("needs Chromium (Debian: chromium)")
        return 2
    from windfall.ui.web import assets

    size = sum(len(assets.asset(n).packed) for n in ("page.css", "uplot.js", "dashboard.js", "icon.svg"))
    told("style, script, uPlot, compressed", size / 1000, "KB", 150.0)
    with tempfile.TemporaryDirectory() as folder:
        root = given.run or Path(folder) / "long"
        began = clock.monotonic()
        if root.exists():
            from windfall.store.rundir import RunDir
            from windfall.view.curves import span_of
            from windfall.view.moment import one_moment

            with one_moment(RunDir(root)) as at:
                made = Made(RunDir(root), [], span_of(at)[1])
        else:
            made = generated(root, days=given.days, sites=given.sites, events=given.events, pid=1)
        print(
            f"{root.name}: {made.run.telemetry.stat().st_size / 1e6:,.0f} MB, made in {clock.monotonic() - began:.0f} s; "
            f"load average {os.getloadavg()[0]:.1f}",
            flush=True,
        )
        with browser(Path(folder) / "profile") as b, served(root) as (url, pid):
            _look(b, url, pid, made, given.more if given.more is not None else given.events)
            if given.all:
                _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
                resource.setrlimit(resource.RLIMIT_NOFILE, (min(8192, hard), hard))
                before = memory(pid)
                streams, away, times = asyncio.run(clients(url, 1000, 30.0))
                print(f"a thousand clients that read nothing: {streams} are told, {away} are sent away to ask again and again")
                told("answers to one who asks meanwhile, p95", p95(times), "s", 1.0)
                told("memory that they take", memory(pid) - before, "MB", 64.0)
    print("missed: " + ", ".join(MISSED) if MISSED else "all marks are met")
    return 1 if MISSED else 0


def _look(b: Browser, url: str, pid: int, made: Made, more: int) -> None:
    page_url = url + "runs/" + made.run.root.name
    page = opened(b, page_url)
    seconds, kb = loads(page)
    told("first load, of a dashboard that has just begun", seconds, "s")
    told("bytes of it", kb, "KB", 500.0)
    page.close()
    # What it reads ahead when it begins has been read by now, as it has when a person opens the address.
    page = opened(b, page_url)
    seconds, _ = loads(page)
    told("first load", seconds, "s", 1.0)
    page.close()
    used = processor(pid)
    print(f"{'processor time of the dashboard so far':<62} {used:>12,.3f} s")
    page = opened(b, page_url)
    told("event to screen, p95", p95(events_to_screen([page], made, 60)), "s", 1.0)
    before = memory(pid)
    replayed(made, more)
    page.until("document.querySelector('#event-rows tbody').innerText.includes('replayed')")
    told(f"memory, after {more:,} more events (from {before:.0f} MB)", memory(pid) - before, "MB", 5.0)
    page.close()
    pages = [opened(b, page_url) for _ in range(12)]
    answered = [p.run("fetch(location.pathname.replace('/runs', '/api/v1/runs')).then(r => r.status)") for p in pages]
    t = Telemetry.open(made.run.telemetry)
    at = note(t, made.end + 9999, 777)
    t.close()
    for p in pages:
        p.until("window.seen[777]")
    late = max(p.run("window.seen[777]") / 1000 - at for p in pages)
    print(f"twelve pages at once: {sum(a == 200 for a in answered)} of 12 answer")
    MISSED.extend([] if all(a == 200 for a in answered) else ["twelve pages"])
    told("the last of twelve is told after (eleven are hidden)", late, "s", 6.0)
    for p in pages:
        p.close()


if __name__ == "__main__":
    sys.exit(main())
