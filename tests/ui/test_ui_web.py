"""The dashboard's pages and JSON, asked for in the process of the test; without a network, and of runs made by hand."""

from __future__ import annotations

import json
import os
import re
import shutil
import sqlite3
import subprocess
import threading
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from asgi import Asked
from ui_runs import START, finished_run, now_row
from windfall import clock
from windfall.errors import ConfigError, StoreError
from windfall.store.rundir import RunDir
from windfall.store.telemetry import Telemetry
from windfall.ui.web import assets
from windfall.ui.web.app import Dashboard
from windfall.ui.web.guard import Gate, may_serve
from windfall.view.run_folders import RunFolders

TOKEN = "a-token-of-many-characters"
#: Runs in a folder; by hand ten thousand, which take seconds to make.
MANY = 10_000 if os.environ.get("WINDFALL_LONG") else 1_500


def client(root: Path, host: str = "127.0.0.1") -> Asked:
    """A browser without scripts at a dashboard of ``root`` that listens at ``host``."""
    served = Dashboard(RunFolders([root]), Gate.of(TOKEN, host, 8731, tls=False), compares=False)
    return Asked(served.app(), f"http://{host}:8731")


@pytest.fixture
def here(small: RunDir) -> Iterator[Asked]:
    with client(small.root) as found:
        yield found


def test_the_page_says_what_the_run_is_and_what_each_site_does_and_why(here: Asked) -> None:
    page = here.get("/runs/small").text
    for said in ("small-1", "8,192", "2.5000", "california", "NEM_SA", "off: 875 g", "done at version 2"):
        assert said in page.replace("<small>", "").replace("kg CO2", "kg"), said
    assert "/assets/uplot.js?" in page


def test_a_folder_of_one_run_leads_to_it_and_others_are_listed(tmp_path: Path) -> None:
    first = finished_run(tmp_path / "one")
    with client(first.root) as c:
        assert c.get("/").headers["location"] == "/runs/one"
        assert c.get("/?tables=1").headers["location"] == "/runs/one?tables=1"
    finished_run(tmp_path / "deeper" / "two")
    with client(tmp_path) as c:
        plain, page = c.get("/?tables=1").text, c.get("/").text
        assert 'href="/runs/one?tables=1"' in plain
        assert 'name="tables" value="1"' in plain
        assert 'href="/runs/one"' in page
        assert 'href="/runs/deeper-two"' in page
        assert "2 runs" in page
        assert 'href="/runs/one"' not in c.get("/?search=TWO").text


def test_every_text_of_a_run_is_text_and_no_secret_is_shown(here: Asked) -> None:
    for path in (
        "/runs/small",
        "/runs/small?tables=1",
        "/runs/small/words",
        "/api/v1/runs/small/events",
        "/api/v1/runs/small/samples/1",
    ):
        said = here.get(path).text
        assert "verysecret" not in said, path
        assert "hunter2" not in said, path
        if "/api/" not in path:
            assert "<script>alert" not in said, path
    assert "\x1b" not in here.get("/api/v1/runs/small/samples/1").json()["text"]


class _Tags(HTMLParser):
    """Tags that are open, and attributes that a strict policy refuses."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.refused: list[str] = []
        self.tables = 0
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tables += tag == "table"
        self.ids += [v for k, v in attrs if k == "id" and v]
        self.refused += [k for k, _ in attrs if k == "style" or k.startswith("on")]
        if tag not in ("meta", "link", "input", "br", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.mark.parametrize("path", ["/runs/small", "/runs/small?tables=1", "/login", "/?search=x", "/runs/none"])
def test_pages_are_well_formed_and_obey_their_own_policy(here: Asked, path: str) -> None:
    tags = _Tags()
    response = here.get(path)
    tags.feed(response.text)
    tags.close()
    assert tags.open == []
    assert tags.refused == [], "inline styles and handlers are refused by the policy"
    assert len(tags.ids) == len(set(tags.ids))
    assert "script-src 'self'" in response.headers["content-security-policy"]
    assert "unsafe" not in response.headers["content-security-policy"]


def test_without_scripts_every_figure_is_a_table(here: Asked) -> None:
    page = here.get("/runs/small?tables=1").text
    tags = _Tags()
    tags.feed(page)
    assert tags.tables >= 8
    assert "<script" not in page
    assert "data-chart" not in page
    for said in ("Signal, gCO2/kWh", "bits per byte", "nats per token", "federated", "provisioning", "Still working it out"):
        assert said in page, said
    assert 'content="0;url=?tables=1"' in here.get("/runs/small").text


def test_everything_that_a_page_loads_is_small_and_kept_by_the_browser(here: Asked) -> None:
    sizes = {name: len(assets.asset(name).packed) for name in ("page.css", "uplot.js", "dashboard.js", "icon.svg")}
    page = here.get("/runs/small", headers={"accept-encoding": "gzip"})
    assert sum(sizes.values()) + len(page.content) <= 150_000, sizes
    answer = here.get(assets.address("dashboard.js"))
    assert "immutable" in answer.headers["cache-control"]
    assert here.get(assets.address("dashboard.js"), headers={"if-none-match": answer.headers["etag"]}).status_code == 304
    assert here.get("/assets/secrets.txt").status_code == 404


def test_our_scripts_are_at_most_eight_hundred_lines() -> None:
    folder = Path(assets.__file__).parent / "assets"
    assert sum(len((folder / name).read_text().splitlines()) for name in ("charts.js", "dashboard.js")) <= 800


def test_an_answer_that_the_asker_has_is_not_sent_again(here: Asked) -> None:
    first = here.get("/api/v1/runs/small")
    assert here.get("/api/v1/runs/small", headers={"if-none-match": first.headers["etag"]}).status_code == 304


def test_lanes_have_the_signal_the_criterion_and_what_the_site_did(here: Asked) -> None:
    found = here.get("/api/v1/runs/small/lanes").json()
    lane = next(x for x in found["lanes"] if x["site"] == "california")
    assert (lane["unit"], lane["level"], lane["under"]) == ("gCO2/kWh", 100.0, True)
    assert lane["signal"]["low"][0] == 65.4
    told = [(round((a - START) / 60), found["blocks"][w]) for a, _, w in lane["blocks"]]
    assert told == [(0, "missed"), (5, "provisioning"), (10, "local"), (60, "federated")]
    assert [found["modes"][w] for _, _, w in found["mode"]] == ["paused", "local", "federated"]


def test_emissions_add_up_to_the_runs_own_figure(here: Asked) -> None:
    whole = here.get("/api/v1/runs/small").json()["state"]["kg_co2"]
    found = here.get("/api/v1/runs/small/emissions").json()
    assert found["kg"][-1] == pytest.approx(whole, rel=1e-4)
    half = (START + 3600 + START) / 2
    zoomed = here.get(f"/api/v1/runs/small/emissions?from={half}&to={START + 3600}").json()
    assert zoomed["kg"][0] == pytest.approx(2.0 * (1800 - 600) / 3600 * 0.0654 + 400 * 100 / 3.6e6 * 0.0654, rel=1e-3)
    assert zoomed["kg"][-1] < whole


def test_what_the_run_is_measured_against_is_thinned_to_what_is_looked_at(small: RunDir) -> None:
    found = Dashboard(RunFolders([small.root]), Gate.of(TOKEN, "127.0.0.1", 8731, tls=False), compares=False)
    t = [START + 60.0 * i for i in range(2000)]
    look = found.looks.get("small")
    look.against = [{"name": "oracle", "t": t, "kg": [0.001 * i for i in range(2000)]}, {"name": "none", "t": [], "kg": []}]
    whole, none = look.emissions(None, None, 600)["against"]
    assert len(whole["t"]) == 250
    assert (whole["t"][0], whole["t"][-1], whole["kg"][-1]) == (t[0], t[-1], 1.999)
    assert none["t"] == []
    part, _ = look.emissions(t[100] + 30, t[110], 600)["against"]
    assert part["t"] == [t[100] + 30, *t[101:111]]
    assert part["kg"][0] == pytest.approx(0.1005)
    later, _ = look.emissions(t[-1] + 100, t[-1] + 200, 600)["against"]
    assert (later["t"], later["kg"]) == ([t[-1]], [1.999])


def test_a_moment_says_how_things_stood_and_what_had_just_happened(here: Asked) -> None:
    found = here.get("/api/v1/runs/small/moment?t=2026-01-11T17:30Z").json()
    assert (found["mode"], found["version"]) == ("local", 0)
    assert {s["site"]: s["state"] for s in found["sites"]} == {"california": "training", "adelaide": "off"}
    assert {s["site"]: s["inside"] for s in found["sites"]} == {"california": True, "adelaide": False}
    assert found["events"][0]["what"] == "mode paused -> local"


def test_events_are_searched_by_their_words_and_paged(here: Asked) -> None:
    whole = here.get("/api/v1/runs/small/events").json()
    assert whole["events"][0]["kind"] == "done"
    assert here.get("/api/v1/runs/small/events?search=under%20WORTH").json()["events"][-1]["kind"] in ("decision", "state")
    first = here.get("/api/v1/runs/small/events?limit=3").json()
    rest = here.get(f"/api/v1/runs/small/events?limit=500&before={first['next_before']}").json()
    assert [e["id"] for e in first["events"] + rest["events"]] == [e["id"] for e in whole["events"]]
    assert rest["next_before"] is None
    assert {e["kind"] for e in here.get("/api/v1/runs/small/events?kind=mode&kind=commit").json()["events"]} == {"mode", "commit"}
    assert all(e["site"] is None for e in here.get("/api/v1/runs/small/events?site=run").json()["events"])


@pytest.mark.parametrize(
    "path",
    ["lanes?points=1", "lanes?points=x", "lanes?from=5&to=4", "loss?from_tokens=3", "events?limit=0", "events?nonsense=1", "moment",
     "moment?t=soon", "moment?t=nan", "emissions?from=1e400", "rates?parts=-1", "stream?after=x"],
)  # fmt: skip
def test_a_wrong_parameter_is_answered_with_400_and_one_sentence(here: Asked, path: str) -> None:
    answer = here.get(f"/api/v1/runs/small/{path}")
    assert answer.status_code == 400
    assert len(answer.json()["error"].splitlines()) == 1


@pytest.mark.parametrize("path", ["/api", "/api/", "/api/v1", "/api/v2/runs", "/api/v1/runs/small/nothing"])
def test_what_leads_nowhere_below_the_api_says_what_there_is(here: Asked, path: str) -> None:
    answer = here.get(path)
    assert answer.status_code == 404
    assert "/api/v1/openapi.json" in answer.json()["error"]
    assert here.get("/api/v1/openapi.json").status_code == 200


def test_a_run_that_is_not_there_is_404_and_says_so(here: Asked) -> None:
    assert here.get("/api/v1/runs/other").json() == {"error": "no run of that name is here (any more)"}
    assert here.get("/runs/..%2f..%2fetc").status_code == 404
    assert here.get("/api/v1/runs/small/samples/77").status_code == 404


# -- runs that are not as they should be ---------------------------------------------------------------------


def test_a_damaged_or_newer_run_says_so_and_the_others_are_shown(tmp_path: Path) -> None:
    finished_run(tmp_path / "good")
    damaged = finished_run(tmp_path / "damaged")
    damaged.telemetry.write_bytes(b"this is no database, whatever it was" * 300)
    newer = finished_run(tmp_path / "newer")
    with sqlite3.connect(newer.telemetry) as db:
        db.execute("UPDATE meta SET value = '99' WHERE key = 'schema'")
    db.close()
    gone = finished_run(tmp_path / "unconfigured")
    gone.config.write_text("this is [ no toml", encoding="utf-8")
    with client(tmp_path) as c:
        page = c.get("/").text
        assert "newer Windfall" in page
        assert page.count("✕ unreadable") == 2
        assert c.get("/api/v1/runs/newer/lanes").status_code == 503
        assert "upgrade" in c.get("/api/v1/runs/newer").json()["error"]
        assert c.get("/api/v1/runs/damaged").status_code == 503
        assert c.get("/api/v1/runs/unconfigured/lanes").status_code == 503
        for name in ("damaged", "newer", "unconfigured"):
            assert c.get(f"/runs/{name}").status_code == 503
        assert c.get("/runs/good").status_code == 200


def test_a_run_that_has_not_begun_and_one_without_telemetry_are_shown(empty: RunDir) -> None:
    with client(empty.root) as c:
        assert "the run has not begun" in c.get("/runs/empty").text
        assert c.get("/runs/empty?tables=1").status_code == 200
        for path in ("", "/lanes", "/loss", "/emissions", "/rates", "/events", "/moment?t=5"):
            assert c.get(f"/api/v1/runs/empty{path}").status_code == 200, path


def test_a_run_that_is_being_written_is_read_whole_each_time(small: RunDir) -> None:
    stop = threading.Event()

    def write() -> None:
        t = Telemetry.open(small.telemetry)
        while not stop.is_set():
            t.event(START + 7200, "site_note", site="adelaide", note="again")
            t.flush()
        t.close()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        with client(small.root) as c:
            totals = [c.get(f"/api/v1/runs/small/events?limit={n}").json()["total"] for n in range(1, 12)]
            assert c.get("/runs/small").status_code == 200
    finally:
        stop.set()
        writer.join()
    assert totals == sorted(totals)


def test_a_run_directory_that_cannot_be_written_is_shown(small: RunDir) -> None:
    for path in small.root.rglob("*"):
        path.chmod(0o555 if path.is_dir() else 0o444)
    small.root.chmod(0o555)
    try:
        with client(small.root) as c:
            assert c.get("/api/v1/runs/small/lanes").status_code == 200
            assert "small-1" in c.get("/runs/small").text
    finally:
        small.root.chmod(0o755)
        for path in small.root.rglob("*"):
            path.chmod(0o755)


def test_a_run_on_a_read_only_disk_is_shown_as_it_lies(small: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for part in small.root.glob("*.db-*"):
        part.unlink()  # a run that has ended leaves none
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "--bind", str(small.root), str(disk)], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("mounting takes rights that this user does not have")
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", str(disk)], check=True)
        monkeypatch.setattr(shutil, "copyfile", lambda *_: pytest.fail("a long run would be copied into memory again and again"))
        with client(disk) as c:
            assert c.get("/api/v1/runs/disk/lanes").status_code == 200
            assert "small-1" in c.get("/runs/disk").text
            asked = c.post(
                "/api/v1/runs/disk/requests",
                json={"kind": "release", "site": "california"},
                headers={"authorization": f"Bearer {TOKEN}"},
            )
            assert asked.status_code == 422
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_coordinator_that_says_nothing_any_more_is_said_to_be_stale(small: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    t = Telemetry.open(small.telemetry)
    now_row(t, START + 7200, {"california": ["off", 1, "x"], "adelaide": ["off", 1, "x"]}, pid=1)
    t.close()
    with client(small.root) as c:
        assert "· live" in c.get("/runs/small").text
    real = clock.wall
    monkeypatch.setattr(clock, "wall", lambda: real() + 100)
    with client(small.root) as c:
        page = c.get("/runs/small").text
        assert "stale since" in page
        assert c.get("/api/v1/runs/small").json()["head"]["stale_since"] is not None
    # A calendar that was set back makes nobody's word stale.
    monkeypatch.setattr(clock, "wall", lambda: real() - 3600)
    with client(small.root) as c:
        assert "· live" in c.get("/runs/small").text


def test_thousands_of_runs_in_a_folder_are_listed_without_being_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finished_run(tmp_path / "real")
    for i in range(MANY):
        folder = tmp_path / f"r{i}"
        folder.mkdir()
        (folder / "ledger.db").touch()
        os.utime(folder / "ledger.db", (i, i))
    opened = []
    monkeypatch.setattr("windfall.ui.web.looks.run_state", lambda run: opened.append(run) or _unreadable())
    with client(tmp_path) as c:
        found = c.get("/api/v1/runs?limit=10").json()
        assert c.get(f"/api/v1/runs?search=r{MANY - 1}").json()["total"] == 1
    assert found["total"] == MANY + 1
    assert found["runs"][0]["name"] == "real"
    assert [r["name"] for r in found["runs"][1:3]] == [f"r{MANY - 1}", f"r{MANY - 2}"]
    assert len(opened) <= 21


def _unreadable() -> Any:
    raise StoreError("not asked here")


def test_a_root_that_is_no_folder_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="is not there"):
        RunFolders([tmp_path / "missing"])


# -- who may look, and who may act ---------------------------------------------------------------------------


def test_from_elsewhere_looking_takes_the_token(small: RunDir) -> None:
    with client(small.root, "192.0.2.7") as c:
        assert c.get("/api/v1/runs/small").status_code == 401
        assert c.get("/runs/small").headers["location"] == "/login"
        assert c.get("/api/v1/runs/small", headers={"authorization": "Bearer wrong-token-of-length"}).status_code == 401
        assert c.get("/api/v1/runs/small", headers={"authorization": f"Bearer {TOKEN}"}).status_code == 200
        wrong = c.post("/login", data={"token": "guess"})
        assert wrong.status_code == 401
        assert "not the token" in wrong.text
        signed = c.post("/login", data={"token": TOKEN})
        assert signed.status_code == 303
        assert "HttpOnly" in signed.headers["set-cookie"]
        assert "SameSite=strict" in signed.headers["set-cookie"]
        assert c.get("/runs/small").status_code == 200
        assert TOKEN not in c.get("/runs/small").text


def test_a_name_that_was_made_to_point_here_is_refused(here: Asked) -> None:
    for host in ("evil.example", "evil.example:8731", "", "127.0.0.1.evil.example"):
        assert here.get("/runs/small", headers={"host": host}).status_code == 421, host
    assert here.get("/runs/small", headers={"host": "localhost:8731"}).status_code == 200


def test_a_page_of_another_site_is_told_nothing(here: Asked) -> None:
    asked = here.get("/api/v1/runs/small", headers={"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"})
    assert asked.status_code == 403
    assert "access-control-allow-origin" not in asked.headers
    followed = here.get("/runs/small", headers={"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"})
    assert followed.status_code == 200


def test_off_the_loopback_it_is_not_served_without_certificates_by_accident() -> None:
    with pytest.raises(ConfigError, match="certs init"):
        may_serve("0.0.0.0", None, "")
    with pytest.raises(ConfigError, match="I know"):
        may_serve("0.0.0.0", None, "yes")
    may_serve("0.0.0.0", None, "I know")
    may_serve("0.0.0.0", "certs", "")
    may_serve("127.0.0.1", None, "")
    with pytest.raises(ConfigError, match="16"):
        Gate.of("short", "127.0.0.1", 1, tls=False)


def test_the_document_of_the_json_has_every_address_that_there_is(here: Asked) -> None:
    document = here.get("/api/v1/openapi.json").json()
    served = {r.path for r in _routes(here) if r.path.startswith("/api/") and not r.path.endswith("/stream")}
    assert set(document["paths"]) == served
    named = set(re.findall(r"#/components/schemas/(\w+)", json.dumps(document)))
    assert named <= set(document["components"]["schemas"])


def _routes(c: Asked) -> list[Any]:
    guarded: Any = c.app
    return list(guarded._app.routes)
