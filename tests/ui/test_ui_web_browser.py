"""The dashboard in a real browser: what eyes, keyboards and screen readers are given, and what many pages at once are told."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from chromium import Browser, Page, browser, chromium
from patience import PATIENCE_S, wait_for
from ui_runs import START, commit_all, empty_run, finished_run, now_row, tell
from windfall.run.requests import pending
from windfall.store.ledger import Ledger
from windfall.store.rundir import RunDir
from windfall.store.telemetry import Telemetry
from windfall.units import clock_text
from windfall.wire.probe import free_port

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(chromium() is None, reason="needs Chromium (Debian: chromium), which is not here"),
]
TOKEN = "a-token-of-many-characters"
AXE = (Path(__file__).parents[1] / "assets" / "axe.min.js").read_text(encoding="utf-8")
#: Pictures of pages are kept there, to be looked at.
PICTURES = os.environ.get("WINDFALL_PICTURES")


class Site:
    """A dashboard in a process of its own, and a browser."""

    def __init__(self, url: str, driven: Browser, live: RunDir) -> None:
        self.url, self.browser, self.live = url, driven, live

    def page(self, path: str, **more: Any) -> Page:
        return self.browser.page(self.url + path, **more)

    def drawn(self, path: str = "runs/live", **more: Any) -> Page:
        page = self.page(path, **more)
        page.until("document.documentElement.dataset.ready === 'drawn'")
        return page


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    runs = tmp_path_factory.mktemp("runs")
    finished_run(runs / "done")
    live = _going_on(runs / "live")
    _alive(live)
    with dashboard(runs) as url, browser(tmp_path_factory.mktemp("profile") / "p") as driven:
        yield Site(url, driven, live)


@contextmanager
def dashboard(root: Path, port: int = 0) -> Iterator[str]:
    """A dashboard of ``root`` in a process of its own; its address."""
    command = [sys.executable, "-m", "windfall", "dashboard", str(root), "--port", str(port), "--json"]
    environment = {**os.environ, "WINDFALL_DASHBOARD_TOKEN": TOKEN}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True) as process:
        try:
            assert process.stdout is not None
            yield json.loads(process.stdout.readline())["url"]
        finally:
            process.terminate()
            process.wait(timeout=PATIENCE_S)


def _going_on(root: Path) -> RunDir:
    """A run of which half is trained."""
    run = empty_run(root)
    ledger = Ledger.open(run.ledger)
    commit_all(ledger, "california", 4, "local", START + 3600)
    ledger.close()
    telemetry = Telemetry.open(run.telemetry)
    tell(telemetry)
    telemetry.close()
    return run


def _alive(run: RunDir) -> None:
    """A coordinator that lives, and has just said so: a process that every machine has had for long."""
    t = Telemetry.open(run.telemetry)
    now_row(t, START + 7200, {"california": ["off", 1, "x"], "adelaide": ["off", 1, "x"]}, pid=1)
    t.close()


def violations(page: Page) -> list[str]:
    """What axe finds that is serious or critical."""
    page.run(AXE + ";0")
    found = page.run("axe.run(document, {resultTypes: ['violations']}).then(r => JSON.stringify(r.violations))")
    return [
        f"{v['id']}: {v['help']}: {v['nodes'][0]['html'][:160]}"
        for v in json.loads(found)
        if v["impact"] in ("serious", "critical")
    ]


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (1280, True), (400, False), (400, True)])
def test_a_runs_page_has_no_serious_fault_for_anybody(site: Site, width: int, dark: bool) -> None:
    page = site.drawn("runs/done", width=width, dark=dark)
    page.run("document.querySelectorAll('details').forEach(d => d.open = true)")
    page.until("document.querySelector('details[data-table=loss] table')")
    assert violations(page) == []
    assert page.run("document.documentElement.scrollWidth <= innerWidth"), "it is wider than the screen"
    assert page.errors() == []
    if PICTURES:
        page.picture(Path(PICTURES) / f"dashboard-{width}-{'dark' if dark else 'light'}.png")
    page.close()


@pytest.mark.parametrize("path", ["", "login", "runs/done?tables=1", "runs/nowhere"])
def test_other_pages_have_none_either(site: Site, path: str) -> None:
    page = site.page(path)
    page.until("document.readyState === 'complete' && document.title.endsWith('Windfall')")
    assert violations(page) == []
    page.close()


def test_without_scripts_tables_are_there_by_themselves(site: Site) -> None:
    page = site.page("runs/done", scripts=False)

    # The page goes on to its tables only while scripts may not run, so nothing here may ask it by a script.
    def whole() -> bool:
        address, names = page.elements()
        return address.endswith("?tables=1") and "footer" in names

    wait_for("the page with tables", whole)
    _, names = page.elements()
    assert names.count("table") >= 8
    assert "script" not in names
    page.close()


def test_a_chart_is_read_with_the_keyboard_and_says_what_is_there(site: Site) -> None:
    page = site.drawn("runs/done")
    page.run("document.querySelector('[data-chart=\"lane 0\"]').focus()")
    page.key("Home")
    said = "document.activeElement.getAttribute('aria-valuetext')"
    page.until(f"{said} === '2026-01-11 17:00 UTC: 65.4 gCO2/kWh, window missed'")
    page.key("End")
    page.until(f"{said}.startsWith('2026-01-11 19:00 UTC')")
    page.key("+")
    page.until("new URLSearchParams(location.search).has('from')")
    page.key("Enter")
    page.until("!document.getElementById('moment').hidden")
    assert "california" in page.run("document.getElementById('moment').innerText")
    page.until("document.activeElement.id === 'moment'")
    page.close()


def test_a_link_to_a_moment_shows_the_same_part_and_that_moment(site: Site) -> None:
    page = site.drawn("runs/done?from=2026-01-11T17:30:00Z&to=2026-01-11T18:00:00Z&at=2026-01-11T17:40:00Z&log=1")
    page.until("!document.getElementById('moment').hidden")
    assert "17:40" in page.run("document.getElementById('moment').innerText")
    assert page.run("document.getElementById('shown').textContent") == "2026-01-11 17:30 to 2026-01-11 18:00 UTC"
    assert page.run("document.getElementById('log').checked")
    page.close()


def test_what_happens_comes_to_every_open_page_also_to_the_twelfth(site: Site) -> None:
    pages = [site.drawn() for _ in range(12)]
    t = Telemetry.open(site.live.telemetry)
    t.event(START + 7201, "site_note", site="adelaide", note="a word to all of them")
    t.close()
    for page in pages:
        page.until("document.querySelector('#event-rows tbody').innerText.includes('a word to all of them')")
        assert page.run("document.querySelector('#event-rows td.t').textContent") == clock_text(START + 7201)  # as of older ones
    for page in pages:
        assert page.run("fetch('/api/v1/runs/live').then(r => r.status)") == 200
        page.close()


def test_a_run_with_one_evaluated_version_has_its_figures_too(site: Site, tmp_path: Path) -> None:
    run = empty_run(tmp_path / "young")
    ledger, telemetry = Ledger.open(run.ledger), Telemetry.open(run.telemetry)
    ledger.commit(t_run=START, t_wall=START, file="v0", sha256="0", mode="initial", contributions=[])
    telemetry.metric(START, "california", "val_bpb", 8.0, tokens=0, version=0)
    telemetry.event(START, "started")
    telemetry.close()
    ledger.close()
    with dashboard(run.root) as url:
        page = site.browser.page(f"{url}runs/young")
        # A plot is drawn a moment after it is made; what fails then is an error of the page.
        page.until("document.documentElement.dataset.ready === 'drawn' && window.page.charts.loss.host.querySelector('canvas')")
        page.run("new Promise(done => requestAnimationFrame(() => setTimeout(done, 100)))")
        assert page.run("window.page.charts.loss.plot.data[0].length") == 1
        assert page.errors() == []
        page.close()


def test_a_coordinator_that_falls_silent_is_told_on_the_open_page(site: Site) -> None:
    page = site.drawn()
    _until_live(site, page)
    t = Telemetry.open(site.live.telemetry)
    said = t.now()
    t.present({**said, "t_wall": said["t_wall"] - 60})
    t.close()
    page.until("document.getElementById('w-now').textContent.includes('stale since')")
    _until_live(site, page)
    page.close()


def _until_live(site: Site, page: Page) -> None:
    """Signs of life, as a coordinator gives them, until the page has taken one in before it is too old."""

    def told() -> bool:
        _alive(site.live)
        return bool(page.run("document.getElementById('w-now').textContent.includes('live')"))

    wait_for("the page to call it live", told)


def test_a_site_is_held_from_the_page_once_it_is_signed_in_and_confirmed(site: Site) -> None:
    page = site.page(f"login?token={TOKEN}")
    page.until("document.body?.dataset.page === 'runs'")
    assert TOKEN not in page.run("location.href")
    page.call("Page.navigate", url=site.url + "runs/live")
    page.until("document.documentElement.dataset.ready === 'drawn'")
    page.run("document.querySelector('[data-ask=hold][data-site=adelaide]').click()")
    assert not pending(site.live), "nothing is asked before it is confirmed"
    assert violations(page) == []
    page.run("document.querySelector('#ask [name=why]').value = 'storm warning'")
    page.run("document.querySelector('#ask [name=for]').value = '2h'")
    page.run("document.querySelector('#ask .go').click()")
    page.until("document.querySelector('#ask [role=alert]').textContent.startsWith('Asked: hold of adelaide')")
    (asked,) = pending(site.live)
    assert (asked.kind, asked.site, asked.for_s, asked.why) == ("hold", "adelaide", 7200.0, "storm warning")
    page.until("document.getElementById('w-notes').textContent.includes('hold of adelaide')")
    page.run("document.getElementById('ask').close()")
    page.run("document.querySelector('[data-ask=set]').click()")
    page.run("document.querySelector('#ask [name=key]').value = 'limits.max_sites'")
    page.run("document.querySelector('#ask [name=value]').value = '1'")
    page.run("document.querySelector('#ask .go').click()")
    page.until("document.querySelector('#ask [role=alert]').textContent.startsWith('Asked: limits.max_sites = 1')")
    assert [r.kind for r in pending(site.live)] == ["hold", "set"]
    page.close()


def test_the_page_goes_on_when_the_dashboard_comes_back(site: Site, tmp_path: Path) -> None:
    run = finished_run(tmp_path / "alone")
    port = free_port()
    with dashboard(run.root, port) as url:
        page = site.browser.page(url + "runs/alone")
        page.until("document.documentElement.dataset.ready === 'drawn'")
    page.until("document.getElementById('connection').classList.contains('lost')")
    with dashboard(run.root, port):
        page.until("!document.getElementById('connection').classList.contains('lost')")
    page.close()
