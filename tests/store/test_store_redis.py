"""What becomes of the bus and of the lease when Redis is killed, comes back empty, hangs or refuses us."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from store.redis_server import RedisServer, wait_for
from store.test_store_bus import Collected
from windfall import clock
from windfall.errors import StoreError
from windfall.store import redis_lease
from windfall.store.redis_bus import RedisBus, RedisSiteBus
from windfall.store.redis_lease import RedisLease
from windfall.wire.certificates import make


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path)
    yield server
    server.go_on()
    server.kill()


@pytest.fixture
def ends(server: RedisServer) -> Iterator[tuple[RedisBus, RedisSiteBus]]:
    run, site = RedisBus(server.url, "r"), RedisSiteBus(server.url, "r", "a", 1)
    yield run, site
    run.close()
    site.close()


def talk(run: RedisBus, site: RedisSiteBus, n: int, commands: Collected, events: Collected) -> None:
    """Something each way has arrived, and all of what was said before."""
    wait_for("commands", lambda: commands.wait(0) is not None and any(c["n"] == n for c in commands.all))
    wait_for("events", lambda: events.wait(0) is not None and any(e["n"] == n for e in events.all))


def test_redis_killed_and_restarted_empty_delivers_afterwards_and_nothing_twice(
    server: RedisServer, ends: tuple[RedisBus, RedisSiteBus]
) -> None:
    run, site = ends
    commands, events = Collected(site.commands), Collected(lambda: run.poll("a"))
    run.set("a", "clock", {"beat": 7})
    site.set("heartbeat", {"n": 3})
    for n in range(3):
        run.send("a", {"n": n, "generation": 1})
        site.emit({"n": n})
    talk(run, site, 2, commands, events)
    site.commands()
    wait_for("the acknowledgement", lambda: not run._open and run.poll("a") == [])
    server.kill()
    for n in (3, 4):
        run.send("a", {"n": n, "generation": 1})
        site.emit({"n": n})
    wait_for("the trouble to be noticed", lambda: run.poll("a") == [] and "cannot be reached" in run.health())
    server.start()
    talk(run, site, 4, commands, events)
    assert [c["n"] for c in commands.all] == [0, 1, 2, 3, 4]
    assert [e["n"] for e in events.all] == [0, 1, 2, 3, 4]
    assert run.health() == ""
    # Registers are there again although nobody has set them anew: they are in the coordinator's memory.
    wait_for("the clock", lambda: site.get("clock") == {"beat": 7})


def test_a_command_that_no_site_had_acknowledged_is_sent_again_to_an_empty_redis(
    server: RedisServer, ends: tuple[RedisBus, RedisSiteBus]
) -> None:
    run, site = ends
    commands = Collected(site.commands)
    site.close()  # the site is not there when the command is sent
    run.send("a", {"n": 1, "generation": 2})
    wait_for("the command to be in Redis", lambda: run._open)
    server.kill()
    server.start()
    later = RedisSiteBus(server.url, "r", "a", 2)
    commands = Collected(later.commands)
    wait_for("the coordinator to notice", lambda: run.health() == "" and (commands.wait(0) or run.get("a", "x") or commands.all))
    assert [c["n"] for c in commands.wait(1)] == [1]
    later.close()


def test_a_redis_that_comes_back_from_an_older_copy_is_told_again(server: RedisServer, ends: tuple[RedisBus, RedisSiteBus]) -> None:
    run, site = ends
    site.close()
    run.send("a", {"n": 1, "generation": 2})
    wait_for("the command to be in Redis", lambda: run._open)
    server.kill()
    wait_for("the trouble to be noticed", lambda: run.poll("a") == [] and "cannot be reached" in run.health())
    server.start()
    with server.client() as client:
        client.setnx("windfall:r:instance", run._token)  # it knows the coordinator, and not its last command any more
    later = RedisSiteBus(server.url, "r", "a", 2)
    commands = Collected(later.commands)
    wait_for("the command", lambda: run.poll("a") == [] and (commands.wait(0) or commands.all))
    assert [c["n"] for c in commands.all] == [1]
    later.close()


def test_a_redis_that_hangs_blocks_nobody_and_what_was_said_arrives(
    server: RedisServer, ends: tuple[RedisBus, RedisSiteBus]
) -> None:
    run, site = ends
    commands, events = Collected(site.commands), Collected(lambda: run.poll("a"))
    site.emit({"n": 0})
    run.send("a", {"n": 0, "generation": 1})
    talk(run, site, 0, commands, events)
    server.stop()
    for n in range(1, 300):
        run.send("a", {"n": n, "generation": 1})
        site.emit({"n": n})
        run.set("a", "clock", {"beat": n})
        assert commands.all == commands.wait(0)
    wait_for("the trouble to be noticed", run.health)
    assert "does not answer" in run.health()
    server.go_on()
    talk(run, site, 299, commands, events)
    assert [c["n"] for c in commands.all] == list(range(300))
    assert [e["n"] for e in events.all] == list(range(300))


def test_a_wrong_password_is_said_without_saying_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = RedisServer(tmp_path, password="open-sesame")
    try:
        monkeypatch.setenv("WINDFALL_REDIS_PASSWORD", "not-sesame")
        bus = RedisBus(server.url, "r")
        wait_for("the refusal", lambda: bus.poll("a") == [] and bus.health())
        assert "refuses the password; set WINDFALL_REDIS_PASSWORD" in bus.health()
        assert "sesame" not in bus.health()
        bus.close()
        with pytest.raises(StoreError, match="refuses the password"):
            RedisLease(server.url, "r", holder="h", place="p", known_token="t").acquire(1)
        monkeypatch.setenv("WINDFALL_REDIS_PASSWORD", "open-sesame")
        lease = RedisLease(server.url, "r", holder="h", place="p", known_token=None)
        lease.acquire(1)
        lease.release()
    finally:
        server.kill()


def test_rediss_talks_tls(tmp_path: Path) -> None:
    made = make(tmp_path / "certs", ["localhost"], clock.wall(), days=10)
    server = RedisServer(tmp_path, tls=(made.ca, made.endpoint, made.endpoint_key))
    try:
        run, site = RedisBus(server.url, "r"), RedisSiteBus(server.url, "r", "a", 1)
        run.send("a", {"n": 1, "generation": 1})
        assert [c["n"] for c in Collected(site.commands).wait(1)] == [1]
        run.close()
        site.close()
    finally:
        server.kill()


# -- the lease -----------------------------------------------------------------------------------------------


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    # A lease is renewed in time also where a thread has to wait for its turn.
    monkeypatch.setattr(redis_lease, "_TTL_S", 3.0)
    monkeypatch.setattr(redis_lease, "_RENEW_S", 0.1)
    monkeypatch.setattr(redis_lease, "_LOOK_S", 0.05)


def lease(server: RedisServer, place: str, known: str | None = None) -> RedisLease:
    return RedisLease(server.url, "r", holder=f"process at {place}", place=place, known_token=known)


@pytest.mark.usefixtures("quick")
def test_a_copy_of_a_run_directory_does_not_get_the_lease_while_the_original_lives(server: RedisServer) -> None:
    one = lease(server, "here")
    one.acquire(1)
    stop: list[int] = []
    import threading

    def renew() -> None:
        while not stop:
            assert one.lost() == ""
            server_pause.wait(0.02)

    server_pause = threading.Event()
    keeper = threading.Thread(target=renew)
    keeper.start()
    try:
        with pytest.raises(StoreError, match=r"another coordinator \(process at here, here\) is running this run.*stop that one"):
            lease(server, "there", known=one.token).acquire(2)
    finally:
        stop.append(1)
        keeper.join()
    one.release()
    other = lease(server, "there", known=one.token)
    other.acquire(2)
    other.release()


@pytest.mark.usefixtures("quick")
def test_the_next_coordinator_of_the_same_directory_takes_over_at_once_and_the_old_one_notices(server: RedisServer) -> None:
    one = lease(server, "here")
    one.acquire(1)
    two = lease(server, "here", known=one.token)
    two.acquire(2)
    wait_for("the loser to notice", one.lost)
    assert "another coordinator has taken this run over (process at here" in one.lost()
    assert two.lost() == ""
    one.release()
    wait_for("the winner to look", lambda: two.lost() == "" and two._renewed_at > 0)
    two.release()


@pytest.mark.usefixtures("quick")
def test_without_redis_a_new_run_does_not_start_and_an_old_one_goes_on(server: RedisServer) -> None:
    server.kill()
    with pytest.raises(StoreError, match=r"Redis at 127\.0\.0\.1:\d+ cannot be reached; start it, or correct run.bus"):
        lease(server, "here").acquire(1)
    again = lease(server, "here", known="taken before")
    again.acquire(2)
    assert again.lost() == ""
    server.start()
    with server.client() as client:
        wait_for("the lease to be taken up", lambda: again.lost() == "" and client.get("windfall:r:coordinator"))
    again.release()


def test_many_unacknowledged_commands_are_all_known_of_and_all_read_again(
    server: RedisServer, ends: tuple[RedisBus, RedisSiteBus]
) -> None:
    """More than one request brings: none is taken for acknowledged, and a site's next reader gets every one of them."""
    run, site = ends
    many = 1203
    for n in range(many):
        run.send("a", {"n": n, "generation": 1})
    wait_for("all of them to be handed out", lambda: site._thread.wake() or len(site._reader._fresh) == many)
    site.close()  # it dies before it could say that it has them
    run.poll("a")
    wait_for("the coordinator to look", lambda: run.poll("a") == [] and len(run._open) == many)
    for _ in range(5):
        run.send("a", {"n": many, "generation": 2})
        wait_for("another look", lambda: run.poll("a") == [] and not run._writer.waiting)
    assert len([n for n, (_, _, text) in run._open.items() if '"generation": 1' in text]) == many
    again = RedisSiteBus(server.url, "r", "a", 1)
    got = Collected(again.commands)
    wait_for("every one again", lambda: got.wait(0) is not None and len(got.all) == many)
    assert [c["n"] for c in got.all] == list(range(many))
    again.close()
