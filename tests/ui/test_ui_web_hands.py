"""Acting from a page or a program: who may, what is taken, and that a stream costs little and forgets nobody."""

from __future__ import annotations

import asyncio
import inspect
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from asgi import Asked
from ui_runs import START, empty_run, finished_run
from windfall.run.operator import Operator
from windfall.run.requests import pending
from windfall.store.ledger import Ledger
from windfall.store.rundir import RunDir
from windfall.store.telemetry import Telemetry
from windfall.ui.web import openapi, stream
from windfall.ui.web.app import Dashboard
from windfall.ui.web.guard import PROOF, Gate
from windfall.view.run_folders import RunFolders

TOKEN = "a-token-of-many-characters"
BEARER = {"authorization": f"Bearer {TOKEN}"}
ORIGIN = "http://127.0.0.1:8731"
AT = "/api/v1/runs/going/requests"


def _dashboard(root: Path) -> Dashboard:
    return Dashboard(RunFolders([root]), Gate.of(TOKEN, "127.0.0.1", 8731, tls=False), compares=False)


@pytest.fixture
def going(tmp_path: Path) -> RunDir:
    """A run that is not done; nobody runs it."""
    return empty_run(tmp_path / "going")


@pytest.fixture
def here(going: RunDir) -> Iterator[Asked]:
    with Asked(_dashboard(going.root.parent).app(), ORIGIN) as found:
        yield found


def test_what_is_asked_is_left_for_the_coordinator_once_under_its_id(here: Asked, going: RunDir) -> None:
    body = {"kind": "hold", "site": "california", "for": "2h", "why": "storm", "who": "Ada", "id": "click-1"}
    first = here.post(AT, json=body, headers=BEARER)
    assert first.status_code == 202
    assert first.json()["request"]["state"] == "waiting"
    assert "no coordinator runs" in first.json()["waits_for"]
    assert here.post(AT, json=body, headers=BEARER).status_code == 202
    (asked,) = pending(going)
    assert (asked.id, asked.who, asked.for_s, asked.why) == ("click-1", "Ada (dashboard)", 7200.0, "storm")
    assert here.get(f"{AT}/click-1").json()["request"]["what"] == "hold of california"
    assert [r["id"] for r in here.get(AT).json()["requests"]] == ["click-1"]
    assert here.get(f"{AT}/click-2").status_code == 404
    other = here.post(AT, json={**body, "site": "adelaide"}, headers=BEARER)
    assert other.status_code == 422
    assert "this id is of another request" in other.json()["error"]


@pytest.mark.parametrize(
    ("body", "status"),
    [({"kind": "start", "site": "california"}, 422), ({"kind": "hold"}, 422), ({"kind": "hold", "site": "nowhere"}, 422),
     ({"kind": "hold", "site": "california", "for": "soon"}, 422), ({"kind": "hold", "site": "california", "for_s": "1"}, 400),
     ({"kind": "hold", "site": "california", "for_s": True}, 400), ({"kind": "hold", "site": ["california"]}, 400),
     ({"kind": "hold", "site": "california", "turn": "on"}, 400), ({"kind": "release", "site": "california", "for": "2h"}, 422),
     ({"kind": "stop"}, 422), ({"kind": "hold", "site": "california", "expect": "asleep"}, 422), ({"kind": "set", "value": 2}, 422),
     ({"kind": "hold", "site": "california", "id": "no spaces"}, 422), ([], 400)],
)  # fmt: skip
def test_what_cannot_be_asked_is_refused_at_once_and_leaves_nothing(here: Asked, going: RunDir, body: Any, status: int) -> None:
    answer = here.post(AT, json=body, headers=BEARER)
    assert answer.status_code == status, answer.text
    assert len(answer.json()["error"].splitlines()) == 1
    assert pending(going) == []


def test_a_key_is_set_with_or_without_its_table_and_others_are_named(here: Asked, going: RunDir) -> None:
    ledger = Ledger.open(going.ledger)
    ledger.commit(t_run=START, t_wall=0.0, file="v0", sha256="0", mode="initial", contributions=[])
    ledger.close()
    answer = here.post(AT, json={"kind": "set", "key": "max_sites", "value": 2}, headers=BEARER)
    assert (answer.status_code, answer.json()["request"]["what"]) == (202, "limits.max_sites = 2")
    other = here.post(AT, json={"kind": "set", "key": "seed", "value": 2}, headers=BEARER)
    assert other.status_code == 422
    assert other.json()["error"].startswith("seed: cannot be changed while the run goes on; there are run.budget_tokens")


def test_only_what_waits_is_said_to_wait_for_something(here: Asked, going: RunDir) -> None:
    here.post(AT, json={"kind": "hold", "site": "california", "id": "a"}, headers=BEARER)
    ledger, telemetry = Ledger.open(going.ledger), Telemetry.open(going.telemetry)
    Operator(going, ledger, telemetry, sites={"california", "adelaide"}).look(START)
    ledger.close()
    telemetry.close()
    for answer in (
        here.get(f"{AT}/a"),
        here.get(AT),
        here.post(AT, json={"kind": "hold", "site": "california", "id": "a"}, headers=BEARER),
    ):
        assert answer.json()["waits_for"] == "", answer.text
    here.post(AT, json={"kind": "hold", "site": "adelaide", "id": "b"}, headers=BEARER)
    assert here.get(f"{AT}/a").json()["waits_for"] == ""
    assert "no coordinator runs" in here.get(AT).json()["waits_for"]


def test_the_streams_events_have_one_name_everywhere() -> None:
    sent = set(re.findall(r'frame\("(\w+)"', inspect.getsource(stream)))
    script = (Path(stream.__file__).parent / "assets" / "dashboard.js").read_text(encoding="utf-8")
    page = (Path(__file__).parents[2] / "docs" / "dashboard.md").read_text(encoding="utf-8")
    told = next(line for line in page.splitlines() if line.startswith("| `/api/v1/runs/RUN/stream`"))
    of_document = re.search(r"server-sent events \((.*?)\)", openapi.document()["info"]["description"])
    assert of_document is not None
    assert sent == set(re.findall(r'source.addEventListener\("(\w+)"', script))
    assert sent == set(re.findall(r"`(\w+)`", told)) == set(re.findall(r"`(\w+)`", of_document[1]))


def test_only_json_of_a_few_kilobytes_is_read(here: Asked) -> None:
    form = {**BEARER, "content-type": "application/x-www-form-urlencoded"}
    assert here.post(AT, content=b"kind=hold&site=california", headers=form).status_code == 415
    js = {**BEARER, "content-type": "application/json"}
    assert here.post(AT, content=b"x" * 9000, headers=js).status_code == 413
    assert here.post(AT, content=b"{" * 500, headers=js).status_code == 400
    assert here.post(AT, content=b"[" * 8000, headers=js).status_code == 400


def test_acting_takes_the_token_and_a_page_of_ours(here: Asked, going: RunDir) -> None:
    body = {"kind": "hold", "site": "california"}
    assert here.post(AT, json=body).status_code == 401
    assert here.post(AT, json=body, headers={"authorization": "Bearer a-wrong-token-as-long"}).status_code == 401
    assert here.post(AT, json=body, headers={**BEARER, "origin": "http://evil.example"}).status_code == 403
    assert here.post(AT, json=body, headers={**BEARER, "sec-fetch-site": "cross-site"}).status_code == 403
    # A browser that is signed in sends its cookie by itself: that alone asks for nothing.
    assert here.post("/login", data={"token": TOKEN}).status_code == 303
    assert here.post(AT, json=body, headers={"origin": ORIGIN}).status_code == 403
    assert here.post(AT, json=body, headers={"origin": ORIGIN, PROOF: "guess"}).status_code == 403
    assert pending(going) == []
    page = here.get("/runs/going").text
    proof = page.split('data-proof="')[1].split('"')[0]
    assert here.post(AT, json=body, headers={"origin": "http://evil.example", PROOF: proof}).status_code == 403
    assert here.post(AT, json=body, headers={"origin": ORIGIN, PROOF: proof}).status_code == 202
    assert TOKEN not in page


def test_who_is_not_signed_in_has_no_buttons_and_no_proof(here: Asked) -> None:
    page = here.get("/runs/going").text
    assert 'data-proof=""' in page
    assert "data-ask" not in page


# -- streams -------------------------------------------------------------------------------------------------


class Listening:
    """One listener, told in this process. ``stuck``: it takes nothing after the headers."""

    def __init__(self, app: Any, path: str, *, stuck: bool = False) -> None:
        self.told: list[bytes] = []
        self.status = 0
        self._stuck = stuck
        self._leave = asyncio.Event()
        scope = {
            "type": "http", "method": "GET", "path": path.split("?")[0], "query_string": path.partition("?")[2].encode(),
            "headers": [(b"host", b"127.0.0.1:8731")], "http_version": "1.1", "scheme": "http", "client": None, "server": None,
            "root_path": "", "raw_path": b"", "extensions": {},
        }  # fmt: skip
        self.task = asyncio.create_task(app(scope, self._receive, self._send))

    async def _receive(self) -> dict[str, Any]:
        await self._leave.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        elif self._stuck:
            await asyncio.Event().wait()
        else:
            self.told.append(message["body"])

    async def until(self, kind: str) -> list[Any]:
        """What it has been told of a kind, as soon as there is something."""
        while True:
            text = b"".join(self.told).decode()
            found = [part.split("data: ", 1)[1] for part in text.split("\n\n") if f"event: {kind}\n" in part]
            if found:
                return [json.loads(x) for x in found]
            await asyncio.sleep(0.01)

    async def leave(self) -> None:
        self._leave.set()
        await self.task


def test_listeners_are_told_words_and_events_and_leave_nothing_behind(tmp_path: Path) -> None:
    run = finished_run(tmp_path / "small")

    async def listen() -> None:
        served = _dashboard(tmp_path)
        app = served.app()
        both = [Listening(app, "/api/v1/runs/small/stream") for _ in range(2)]
        for one in both:
            assert "done" in (await one.until("words"))[0]["words"]["w-state"]
        t = Telemetry.open(run.telemetry)
        t.event(START + 7300, "site_note", site="adelaide", note="a word")
        t.close()
        for one in both:
            (told,) = await one.until("happened")
            assert (told["what"], told["site"]) == ("a word", "adelaide")
        for one in both:
            await one.leave()
        assert served.streams.listeners == 0
        assert served.streams._watchers == {}

    asyncio.run(listen())


def test_who_comes_back_is_told_what_it_has_missed_and_who_missed_much_to_ask_anew(tmp_path: Path) -> None:
    run = finished_run(tmp_path / "small")

    async def listen() -> None:
        app = _dashboard(tmp_path).app()
        first = Listening(app, "/api/v1/runs/small/stream")
        last = (await first.until("words"))[0]["last_event"]
        t = Telemetry.open(run.telemetry)
        for i in range(3):
            t.event(START + 7300, "site_note", site="adelaide", note=f"word {i}")
        t.close()
        while len(await first.until("happened")) < 3:
            await asyncio.sleep(0.01)
        again = Listening(app, f"/api/v1/runs/small/stream?after={last + 1}")
        assert [e["what"] for e in await again.until("happened")] == ["word 1", "word 2"]
        long_ago = Listening(app, "/api/v1/runs/small/stream?after=1")
        assert (await long_ago.until("missed"))[0]["last_event"] == last + 3
        for one in (first, again, long_ago):
            await one.leave()

    asyncio.run(listen())


def test_who_takes_nothing_is_dropped_and_keeps_nobody_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finished_run(tmp_path / "small")
    monkeypatch.setattr(stream, "_SLOW_S", 0.05)

    async def listen() -> None:
        served = _dashboard(tmp_path)
        app = served.app()
        stuck = Listening(app, "/api/v1/runs/small/stream", stuck=True)
        good = Listening(app, "/api/v1/runs/small/stream")
        await good.until("words")
        await stuck.task
        assert served.streams.listeners == 1
        await good.leave()

    asyncio.run(listen())


def test_more_listeners_than_there_is_room_for_are_told_to_ask_again_and_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished_run(tmp_path / "small")
    monkeypatch.setattr(stream, "MOST_LISTENERS", 1)

    async def listen() -> None:
        app = _dashboard(tmp_path).app()
        first = Listening(app, "/api/v1/runs/small/stream")
        await first.until("words")
        second = Listening(app, "/api/v1/runs/small/stream")
        await second.task
        assert second.status == 503
        await first.leave()

    asyncio.run(listen())
