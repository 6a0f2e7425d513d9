"""How machines join, learn what to do and begin: requests against a real server."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from patience import PATIENCE_S
from windfall import clock
from windfall.store.files import write_json
from windfall.store.records import Token
from windfall.store.residents import Assignment, Presence, Resident
from windfall.wire.bulk_server import application
from windfall.wire.start_server import StartServer
from wire.served import Served


class Place:
    """A run's folder of sites, of which `a` and `b` are machines that join, and its endpoint."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.tokens = [Token("c", 3, hashlib.sha256(b"of c").hexdigest(), True)]
        self.served = Served(application(StartServer(root, lambda: self.tokens, ["a", "b"]).routes()))
        self.client = httpx.Client(base_url=self.served.url, trust_env=False, timeout=PATIENCE_S)
        self.a = Resident(root, "a")

    def join(self, token: str) -> httpx.Response:
        return self.client.post("/join", json={"token": token})

    def joined(self) -> str:
        return str(self.join(self.a.invite(clock.wall() + 60)).json()["key"])

    def ask(self, key: str, generation: int = 0, wait_s: int = 0) -> httpx.Response:
        headers = {"Authorization": f"Bearer {key}"}
        return self.client.get("/assignment", params={"generation": generation, "wait_s": wait_s}, headers=headers)

    def say(self, key: str, **more: object) -> httpx.Response:
        about = {"generation": 1, "state": "up", "words": "", **more}
        return self.client.put("/presence", json=about, headers={"Authorization": f"Bearer {key}"})


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path)
    yield made
    made.client.close()
    made.served.stop()


def test_a_join_token_is_good_once_and_gives_a_key_of_its_site(place: Place) -> None:
    token = place.a.invite(clock.wall() + 60)
    first, second = place.join(token), place.join(token)
    assert (first.status_code, first.json()["site"]) == (200, "a")
    assert second.status_code == 401
    assert "has been used" in second.text
    assert place.a.has_key(first.json()["key"])
    assert not Resident(place.root, "b").has_key(first.json()["key"])
    assert all(first.json()["key"] not in p.read_text() for p in (place.root / "a").iterdir()), "only its hash is kept"


def test_a_token_that_is_too_old_replaced_or_revoked_lets_nobody_in(place: Place) -> None:
    assert "no longer valid" in place.join(place.a.invite(clock.wall() - 1)).text
    old = place.a.invite(clock.wall() + 60)
    new = place.a.invite(clock.wall() + 60)
    assert place.join(old).status_code == 401
    assert place.a.revoke()
    assert place.join(new).status_code == 401
    assert not place.a.revoke()


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b'{"token": 3}', b'{"token": ""}', b"\xff" * 10, b"[" * 10_000])
def test_rubbish_lets_nobody_in(place: Place, body: bytes) -> None:
    place.a.invite(clock.wall() + 60)
    answer = place.client.post("/join", content=body)
    assert answer.status_code in (400, 401)
    assert "Traceback" not in answer.text


def test_a_body_that_is_too_large_is_refused_before_it_is_read(place: Place) -> None:
    assert place.client.post("/join", content=b"x" * 30_000).status_code == 413

    def endless() -> Iterator[bytes]:
        yield b"{"

    assert place.client.post("/join", content=endless()).status_code == 413


def test_a_machine_learns_what_to_do_and_its_token_is_on_no_disk_then(place: Place) -> None:
    key = place.joined()
    assert place.ask(key).json()["generation"] == 0
    place.a.assign(Assignment(4, reason="in a window"), "secret-of-4")
    told = place.ask(key, wait_s=30).json()
    assert (told["generation"], told["token"], told["reason"]) == (4, "secret-of-4", "in a window")
    assert not any("secret-of-4" in p.read_text() for p in (place.root / "a").iterdir())
    assert place.ask(key).json()["token"] == "secret-of-4", "the answer may have been lost on its way"
    assert "token" not in place.ask(key, generation=4).json()
    place.a.assign(Assignment(0, 12.5, "its window is over"))
    told = place.ask(key, generation=4, wait_s=30).json()
    assert (told["generation"], told["grace_s"]) == (0, 12.5)
    place.a.assign(Assignment(5), "secret-of-5")
    assert place.ask(key).json()["token"] == "secret-of-5"


def test_a_key_that_was_revoked_or_never_given_is_refused(place: Place) -> None:
    key = place.joined()
    assert place.say(key).status_code == 204
    place.a.revoke()
    for bad in (key, "x"):
        assert place.ask(bad).status_code == 401
        assert place.say(bad).status_code == 401
    assert place.client.get("/assignment").status_code == 401


def test_a_machine_says_how_it_is(place: Place) -> None:
    key = place.joined()
    assert place.a.presence() is None
    before = clock.wall()
    assert place.say(key, words="w" * 2000, asleep=True).status_code == 204
    found = place.a.presence()
    assert found == Presence(1, "up", "w" * 500, True, found.at if found else 0)
    assert before <= found.at <= clock.wall(), "by the run's clock, whatever the machine's says"
    for wrong in ({"state": "on"}, {"generation": "1"}, {"words": 3}):
        assert place.say(key, **wrong).status_code == 400


def test_a_start_is_told_to_who_has_its_token_and_while_it_is_its_generation(place: Place) -> None:
    def ask(token: str) -> httpx.Response:
        return place.client.get("/start", headers={"Authorization": f"Bearer {token}"})

    assert ask("of c").status_code == 409
    (place.root / "c").mkdir()
    write_json(place.root / "c" / "site.json", {"site": "c", "generation": 3, "more": [1]})
    told = ask("of c").json()
    assert {k: told[k] for k in ("site", "generation", "more")} == {"site": "c", "generation": 3, "more": [1]}
    assert ask("of d").status_code == 401
    place.tokens[0] = Token("c", 3, place.tokens[0].sha256, False)
    assert ask("of c").status_code == 403
