"""The bus: one suite for the one in memory, the one in files and the one over a real Redis."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from patience import wait_for
from store.redis_server import RedisServer
from windfall.store.bus import Bus, Entry, FileBus, FileSiteBus, MemoryBus, SiteBus
from windfall.store.records import Token
from windfall.store.redis_bus import RedisBus, RedisSiteBus
from windfall.wire.bulk_server import application
from windfall.wire.bus_server import BusServer
from windfall.wire.http_bus import HttpSiteBus
from wire.served import Served


class Kind:
    """One kind of bus: its ends, and rubbish in its streams."""

    def __init__(self) -> None:
        self.open: list[Bus | SiteBus] = []

    def keep(self, end: Bus | SiteBus) -> None:
        self.open.append(end)

    def run(self) -> Bus: ...  # type: ignore[empty-body]
    def site(self, name: str, generation: int) -> SiteBus: ...  # type: ignore[empty-body]
    def rubbish(self, name: str, stream: str) -> None: ...

    def close(self) -> None:
        for end in self.open:
            end.close()


class InMemory(Kind):
    def __init__(self) -> None:
        super().__init__()
        self.bus = MemoryBus()

    def run(self) -> Bus:
        return self.bus

    def site(self, name: str, generation: int) -> SiteBus:
        return self.bus.site(name, generation)


class InFiles(Kind):
    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def run(self) -> Bus:
        return FileBus(self.folder)

    def site(self, name: str, generation: int) -> SiteBus:
        return FileSiteBus(self.folder / name, generation)

    def rubbish(self, name: str, stream: str) -> None:
        with open(self.folder / name / "bus" / f"{stream}.jsonl", "ab") as f:
            f.write(b"\xff\xfe{\n[1]\n3\n\n")


class OverRedis(Kind):
    def __init__(self, server: RedisServer) -> None:
        super().__init__()
        self.server = server

    def run(self) -> Bus:
        self.keep(bus := RedisBus(self.server.url, "r"))
        return bus

    def site(self, name: str, generation: int) -> SiteBus:
        self.keep(bus := RedisSiteBus(self.server.url, "r", name, generation))
        return bus

    def rubbish(self, name: str, stream: str) -> None:
        with self.server.client() as client:
            for fields in ({"x": "y"}, {"entry": "{", "id": "1"}, {"entry": "[1]", "id": "2"}, {"entry": "{}"}):
                client.xadd(f"windfall:r:{name}:{stream}", fields)


class OverHttp(Kind):
    """The coordinator's end in files, and a site that has it over the endpoint."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        self.tokens: list[Token] = []
        self.served = Served(application(BusServer(folder, lambda: self.tokens).routes()))

    def run(self) -> Bus:
        return FileBus(self.folder)

    def site(self, name: str, generation: int) -> SiteBus:
        secret = f"{name}-{generation}"
        self.tokens.append(Token(name, generation, hashlib.sha256(secret.encode()).hexdigest(), True))
        self.keep(bus := HttpSiteBus(self.served.url, secret, environ={}))
        return bus

    def rubbish(self, name: str, stream: str) -> None:
        with open(self.folder / name / "bus" / f"{stream}.jsonl", "ab") as f:
            f.write(b"\xff\xfe{\n[1]\n3\n\n")

    def close(self) -> None:
        super().close()
        self.served.stop()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    yield server
    server.kill()


@pytest.fixture(params=["memory", "files", "redis", "http"])
def kind(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Kind]:
    if request.param == "redis":
        server = request.getfixturevalue("server")
        with server.client() as client:
            client.flushall()
        made: Kind = OverRedis(server)
    elif request.param == "http":
        made = OverHttp(tmp_path)
    else:
        made = InMemory() if request.param == "memory" else InFiles(tmp_path)
    yield made
    made.close()


class Collected:
    """What a call has given so far."""

    def __init__(self, take: Callable[[], list[Entry]]) -> None:
        self._take, self.all = take, list[Entry]()

    def wait(self, count: int) -> list[Entry]:
        def enough() -> bool:
            self.all += self._take()
            return len(self.all) >= count

        wait_for(f"{count} entries", enough)
        return self.all


def test_commands_arrive_in_order_once_and_only_at_their_generation(kind: Kind) -> None:
    run, site = kind.run(), kind.site("a", 2)
    got = Collected(site.commands)
    for n in range(5):
        run.send("a", {"kind": "cut", "n": n, "generation": 1 if n == 2 else 2})
        run.send("b", {"kind": "cut", "n": 100 + n, "generation": 2})
    got.wait(4)
    run.send("a", {"kind": "drain", "n": 9, "generation": 2})
    assert [c["n"] for c in got.wait(5)] == [0, 1, 3, 4, 9]


def test_a_command_that_was_sent_before_its_site_came_up_arrives(kind: Kind) -> None:
    run = kind.run()
    run.send("a", {"kind": "drain", "generation": 1})
    assert [c["kind"] for c in Collected(kind.site("a", 1).commands).wait(1)] == ["drain"]


def test_events_arrive_in_order_once_and_say_their_generation(kind: Kind) -> None:
    run, site = kind.run(), kind.site("a", 3)
    got = Collected(lambda: run.poll("a"))
    for n in range(1200):
        site.emit({"kind": "step", "n": n})
    got.wait(1200)
    site.emit({"kind": "step", "n": 1200})
    assert [e["n"] for e in got.wait(1201)] == list(range(1201))
    assert {e["generation"] for e in got.all} == {3}


def test_registers_hold_the_newest_value_each_way(kind: Kind) -> None:
    run, site = kind.run(), kind.site("a", 1)
    assert run.get("a", "heartbeat") is None
    for n in range(3):
        site.set("heartbeat", {"n": n})
        run.set("a", "clock", {"beat": n})
    wait_for("the heartbeat", lambda: run.get("a", "heartbeat") == {"n": 2, "generation": 1})
    wait_for("the clock", lambda: site.get("clock") == {"beat": 2})
    assert run.get("b", "heartbeat") is None


def test_what_was_said_while_no_coordinator_was_there_is_heard_by_the_next_one_and_nothing_twice(kind: Kind) -> None:
    first, site = kind.run(), kind.site("a", 1)
    got = Collected(lambda: first.poll("a"))
    site.emit({"n": 0})
    got.wait(1)
    first.poll("a")  # coming back for more acknowledges what it had
    if kind.open:  # let the acknowledgement reach Redis
        first.close()
    site.emit({"n": 1})
    second = kind.run()
    after = Collected(lambda: second.poll("a"))
    after.wait(1)
    site.emit({"n": 2})
    assert [e["n"] for e in after.wait(2)] == [1, 2]


def test_rubbish_in_a_stream_is_passed_over(kind: Kind) -> None:
    run, site = kind.run(), kind.site("a", 1)
    events, commands = Collected(lambda: run.poll("a")), Collected(site.commands)
    site.emit({"n": 0})
    run.send("a", {"n": 0, "generation": 1})
    events.wait(1)
    commands.wait(1)
    kind.rubbish("a", "events")
    kind.rubbish("a", "commands")
    site.emit({"n": 1})
    run.send("a", {"n": 1, "generation": 1})
    assert [e["n"] for e in events.wait(2)] == [0, 1]
    assert [c["n"] for c in commands.wait(2)] == [0, 1]
    assert run.health() == ""


def test_a_long_stream_that_has_been_read_is_emptied_when_its_site_begins_anew(tmp_path: Path) -> None:
    run, site = FileBus(tmp_path), FileSiteBus(tmp_path / "a", 1)
    for n in range(40):
        site.emit({"n": n, "text": "x" * 50_000})
    assert len(run.poll("a")) == 40
    site.emit({"n": 40})
    FileSiteBus(tmp_path / "a", 2)
    assert [e["n"] for e in run.poll("a")] == [40], "what has not been read stays"
    site = FileSiteBus(tmp_path / "a", 3)
    assert (tmp_path / "a" / "bus" / "events.jsonl").stat().st_size == 0
    site.emit({"n": 41})
    assert [e["n"] for e in run.poll("a")] == [41]
    assert [e["n"] for e in FileBus(tmp_path).poll("a")] == [], "nor does the next coordinator hear it again"
