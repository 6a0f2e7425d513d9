"""A site's user in a real Redis over TLS: what it may do, what it may not, and what becomes of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from store.redis_server import RedisServer, wait_for
from store.test_store_bus import Collected
from windfall import clock
from windfall.store.redis_access import Login, SiteUsers, forget, password_of, user_of
from windfall.store.redis_bus import RedisBus, RedisSiteBus
from windfall.store.redis_link import PASSWORD, connect
from windfall.wire.certificates import make

ADMIN = "open-sesame"


class Place:
    """A Redis over TLS that wants a password, and a run in it."""

    def __init__(self, folder: Path) -> None:
        made = make(folder / "certs", ["localhost"], clock.wall(), days=10)
        self.ca = made.ca.read_text()
        self.server = RedisServer(folder, password=ADMIN, tls=(made.ca, made.endpoint, made.endpoint_key))
        #: As a site elsewhere has it: without a file of the run's machine.
        self.url = self.server.url.partition("?")[0]
        self.kept: list[str] = []
        self.revoked: dict[str, int] = {}
        self.users = self.another()
        self.run = RedisBus(self.server.url, "r", self.users)
        self.open: list[RedisBus | RedisSiteBus] = [self.run]

    def another(self) -> SiteUsers:
        kept = self.kept[-1] if self.kept else None
        return SiteUsers("r", kept, self.kept.append, revoked=lambda site: self.revoked.get(site, 0))

    def login(self, site: str, token: str) -> Login:
        return Login(user_of("r", site), password_of(token), self.ca)

    def client(self, site: str, token: str) -> redis.Redis:
        return connect(self.url, self.login(site, token))

    def site(self, site: str, token: str, generation: int = 1) -> RedisSiteBus:
        self.open.append(bus := RedisSiteBus(self.url, "r", site, generation, self.login(site, token)))
        return bus

    def admit(self, site: str, generation: int, token: str) -> None:
        self.users.admit(site, generation, token)
        self.wait(site, token)

    def wait(self, site: str, token: str) -> None:
        wait_for(f"the user of {site}", lambda: self.run.poll(site) == [] and self.lets_in(site, token))

    def lets_in(self, site: str, token: str) -> bool:
        with self.client(site, token) as client:
            try:
                return bool(client.ping())
            except redis.AuthenticationError:
                return False


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    monkeypatch.setenv(PASSWORD, ADMIN)
    place = Place(tmp_path)
    yield place
    for end in place.open:
        end.close()
    place.server.kill()


def test_a_site_with_a_user_of_its_own_hears_and_is_heard(place: Place) -> None:
    place.admit("a", 1, "token-a")
    site = place.site("a", "token-a")
    commands, events = Collected(site.commands), Collected(lambda: place.run.poll("a"))
    place.run.send("a", {"n": 1, "generation": 1})
    place.run.set("a", "clock", {"beat": 7})
    site.emit({"n": 2})
    site.set("heartbeat", {"n": 3})
    assert [c["n"] for c in commands.wait(1)] == [1]
    assert [e["n"] for e in events.wait(1)] == [2]
    wait_for("the registers", lambda: site.get("clock") == {"beat": 7} and (place.run.get("a", "heartbeat") or {}).get("n") == 3)
    wait_for("the acknowledgement", lambda: site.commands() == [] and place.run.poll("a") == [] and not place.run._open)
    assert (place.run.health(), site.health()) == ("", "")


def test_a_site_can_neither_read_nor_write_what_is_anothers_the_runs_or_another_runs_and_cannot_administer(place: Place) -> None:
    place.admit("a", 1, "token-a")
    place.admit("b", 1, "token-b")
    with place.client("a", "token-a") as a:
        a.xadd("windfall:r:a:events", {"id": "1", "entry": "{}"})
        a.mset({"windfall:r:a:site:heartbeat": "{}"})
        denied: list[tuple[object, ...]] = [
            # Another site's, in all of its parts; and one whose name only begins alike.
            ("XADD", "windfall:r:b:events", "*", "id", "1", "entry", "{}"),
            ("XREADGROUP", "GROUP", "site", "x", "STREAMS", "windfall:r:b:commands", ">"),
            ("XACK", "windfall:r:b:commands", "site", "1-1"),
            ("MGET", "windfall:r:b:run:clock"),
            ("MGET", "windfall:r:b:site:heartbeat"),
            ("MGET", "windfall:r:a:run:clock", "windfall:r:b:run:clock"),
            ("MSET", "windfall:r:b:site:heartbeat", "{}"),
            ("MSET", "windfall:r:ab:site:heartbeat", "{}"),
            # What the run says to it is the run's to say, and what it has said itself is for the run alone to read.
            ("XADD", "windfall:r:a:commands:x", "*", "id", "1", "entry", "{}"),
            ("MSET", "windfall:r:a:run:clock", "{}"),
            ("XREADGROUP", "GROUP", "run", "x", "STREAMS", "windfall:r:a:events", ">"),
            # The run's own, and another run's.
            ("MGET", "windfall:r:instance"),
            ("MSET", "windfall:r:coordinator", "me"),
            ("MGET", "windfall:other:a:run:clock"),
            # Whatever is for administrators, or for nobody.
            ("GET", "windfall:r:a:site:heartbeat"),
            ("KEYS", "*"),
            ("SCAN", "0"),
            ("CONFIG", "GET", "*"),
            ("CONFIG", "SET", "requirepass", ""),
            ("FLUSHALL",),
            ("FLUSHDB",),
            ("ACL", "SETUSER", user_of("r", "a"), "allkeys"),
            ("ACL", "LIST"),
            ("EVAL", "return 1", "0"),
            ("DEL", "windfall:r:a:commands"),
            ("XGROUP", "DESTROY", "windfall:r:a:commands", "site"),
            ("SUBSCRIBE", "x"),
            ("PUBLISH", "x", "y"),
            ("CLIENT", "LIST"),
            ("SHUTDOWN", "NOSAVE"),
            ("MONITOR",),
        ]
        for command in denied:
            with pytest.raises(redis.exceptions.NoPermissionError):
                a.execute_command(*command)
    with place.server.client() as admin:
        assert admin.exists("windfall:r:b:site:heartbeat", "windfall:r:ab:site:heartbeat", "windfall:r:coordinator") == 0
        assert admin.xlen("windfall:r:b:events") == 0


def test_a_next_life_ends_the_last_ones_connections_and_its_password(place: Place) -> None:
    place.admit("a", 1, "token-1")
    with place.client("a", "token-1") as old:
        assert old.ping()
        place.admit("a", 2, "token-2")
        assert not place.lets_in("a", "token-1")
        with pytest.raises((redis.ConnectionError, redis.AuthenticationError)):
            old.ping()
    site = place.site("a", "token-1")
    wait_for("the refusal", lambda: site.commands() == [] and site.health())
    assert "does not let this site's user in; it was revoked, or this life of the site is over" in site.health()


def test_a_revoked_life_is_shut_out_within_seconds_and_the_next_one_is_let_in(place: Place) -> None:
    place.admit("a", 3, "token-3")
    place.admit("b", 1, "token-b")
    place.revoked["a"] = 3
    wait_for("the user to be gone", lambda: place.run.poll("a") == [] and not place.lets_in("a", "token-3"))
    assert place.lets_in("b", "token-b")
    place.admit("a", 4, "token-4")


def test_a_redis_that_comes_back_empty_is_told_of_its_users_again_by_the_next_coordinator_too(place: Place) -> None:
    place.admit("a", 1, "token-a")
    place.server.kill()
    place.server.start()
    place.wait("a", "token-a")
    place.run.close()
    place.server.kill()
    place.server.start()
    place.users = place.another()
    place.run = RedisBus(place.server.url, "r", place.users)
    place.open.append(place.run)
    place.wait("a", "token-a")
    assert "token-a" not in "".join(place.kept)
    assert password_of("token-a") not in "".join(place.kept)
    assert list(json.loads(place.kept[-1])) == ["a"]


def test_users_of_other_runs_stay_and_those_of_a_run_that_is_over_go(place: Place) -> None:
    place.admit("a", 1, "token-a")
    with place.server.client() as admin:
        admin.execute_command("ACL SETUSER", user_of("r2", "a"), "on")
        admin.execute_command("ACL SETUSER", "somebody", "on")
        place.run.close()
        assert forget(admin, "r", dry_run=True) == 1
        assert forget(admin, "r") == 1
        assert sorted(admin.acl_users()) == ["default", "somebody", user_of("r2", "a")]


def test_an_account_that_may_make_no_users_is_told_so(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    with place.server.client() as admin:
        admin.execute_command("ACL SETUSER", "default", "-acl")
        place.users.admit("a", 1, "token-a")
        wait_for("the refusal", lambda: place.run.poll("a") == [] and place.run.health())
        assert "does not let this account do what it has to" in place.run.health()
        assert "acl" in place.run.health()


def test_a_redis_that_lets_anybody_in_is_told(tmp_path: Path) -> None:
    made = make(tmp_path / "certs", ["localhost"], clock.wall(), days=10)
    server = RedisServer(tmp_path, tls=(made.ca, made.endpoint, made.endpoint_key))
    users = SiteUsers("r", None, lambda text: None)
    run = RedisBus(server.url, "r", users)
    wait_for("a look", lambda: run.poll("a") == [] and users.warning)
    assert users.warning.startswith("its default user needs no password")
    run.close()
    server.kill()
