"""Files beside messages, over real sockets: cut anywhere, refused in one sentence, resumed, never half there."""

from __future__ import annotations

import errno
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest

from patience import PATIENCE_S
from windfall.errors import TransferError
from windfall.store.blobs import FileBlob, MemoryBlob
from windfall.wire import bulk
from windfall.wire.bulk import COMPLETE, LENGTH, OFFSET, Receiving, Shelf, entries, received, tidy, whole
from windfall.wire.bulk_client import Bucket, BulkClient
from windfall.wire.bulk_server import Limits
from wire.bulk_bench import TOKENS, Relay, Server, digest, running, some_bytes, until

DATA = some_bytes(300_000)
NAME = digest(DATA)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with running(tmp_path / "bulk") as made:
        yield made


def ask(server: Server, method: str, path: str, *, token: str | None = TOKENS["a", 2], body: bytes = b"", **headers: str):  # type: ignore[no-untyped-def]
    bearer = {"Authorization": f"Bearer {token}"} if token is not None else {}
    named = {k.replace("_", "-"): v for k, v in headers.items()}
    with httpx.Client(trust_env=False, verify=False, timeout=PATIENCE_S) as client:
        return client.request(method, f"{server.url}{path}", headers={**bearer, **named}, content=body)


def send(server: Server, data: bytes, *, name: str = "", size: int | None = None, at: int = 0, token: str | None = TOKENS["a", 2]):  # type: ignore[no-untyped-def]
    announced = str(len(data) if size is None else size)
    path = f"/uploads/{name or digest(data)}"
    return ask(server, "PATCH", path, token=token, body=data, Upload_Length=announced, Upload_Offset=str(at))


# -- there and back ----------------------------------------------------------------------------------------------


def test_a_file_goes_there_and_comes_back_whole_and_only_then_has_its_name(server: Server, tmp_path: Path) -> None:
    client = server.client()
    told: list[tuple[int, str]] = []
    client.give(MemoryBlob(DATA), lambda done, trouble: told.append((done, trouble)))
    assert (server.shelf.sent("a") / NAME).read_bytes() == DATA
    assert told[0] == (0, "")
    assert told[-1] == (len(DATA), "")
    server.offer("a", DATA)
    found = client.fetch(NAME, len(DATA), tmp_path / "site")
    assert found == FileBlob(tmp_path / "site" / NAME, len(DATA), NAME)
    assert found.read() == DATA
    assert [p.name for p in (tmp_path / "site").iterdir()] == [NAME]
    client.close()


def test_what_is_there_already_is_not_sent_again(server: Server, tmp_path: Path) -> None:
    client = server.client()
    client.give(MemoryBlob(DATA))
    server.offer("a", DATA)
    client.fetch(NAME, len(DATA), tmp_path)
    server.bulk._receive = None  # type: ignore[method-assign, assignment]
    client.give(MemoryBlob(DATA))
    server.stop()
    client.fetch(NAME, len(DATA), tmp_path)
    server.again()
    client.close()


def test_an_empty_file_is_a_file(server: Server, tmp_path: Path) -> None:
    client = server.client()
    client.give(MemoryBlob(b""))
    assert whole(server.shelf.sent("a"), digest(b""), 0)
    assert client.fetch(server.offer("a", b""), 0, tmp_path).read() == b""
    client.close()


@pytest.mark.parametrize("cut", [0, 1, 50, 200, 400, 1000, 65_536, 150_000, 299_999, 300_150, 300_400])
def test_a_download_that_is_cut_at_any_byte_goes_on_there(server: Server, tmp_path: Path, cut: int) -> None:
    server.offer("a", DATA)
    relay = Relay(server.port, down=cut)
    client = server.client(url=relay.url)
    assert client.fetch(NAME, len(DATA), tmp_path).read() == DATA
    assert relay.connections in (1, 2)  # the last cut is behind the last byte
    client.close()
    relay.close()


@pytest.mark.parametrize("cut", [0, 1, 100, 300, 500, 700, 65_536, 150_000, 299_999, 300_300, 300_600])
def test_an_upload_that_is_cut_at_any_byte_goes_on_there(server: Server, cut: int) -> None:
    relay = Relay(server.port, up=cut)
    client = server.client(url=relay.url)
    client.give(MemoryBlob(DATA))
    assert (server.shelf.sent("a") / NAME).read_bytes() == DATA
    client.close()
    relay.close()


def test_what_came_before_the_cut_is_kept_but_for_the_last_piece(server: Server) -> None:
    data = some_bytes(3_000_000)
    head = (
        f"PATCH /uploads/{digest(data)} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKENS['a', 2]}\r\n{LENGTH}: {len(data)}\r\n"
    )
    with socket.create_connection(("127.0.0.1", server.port)) as s:
        s.sendall(f"{head}{OFFSET}: 0\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data[:2_900_001])
    kept = server.shelf.sent("a")
    until(lambda: not server.bulk._busy and received(kept, digest(data), len(data)) > 2_000_000)
    there = received(kept, digest(data), len(data))
    begun: list[int] = []
    client = server.client()
    client.give(MemoryBlob(data), lambda done, trouble: begun.append(done))
    assert begun[0] == there <= 2_900_001
    assert (kept / digest(data)).read_bytes() == data
    client.close()


def test_many_at_once_each_get_and_give_their_own(server: Server, tmp_path: Path) -> None:
    common = server.offer("a", DATA)
    failed: list[str] = []

    def one(number: int) -> None:
        client = server.client()
        mine = some_bytes(100_000, number + 1)
        try:
            client.give(MemoryBlob(mine))
            client.give(MemoryBlob(DATA))  # all of them the same one: who comes first sends it, the others wait
            client.fetch(common, len(DATA), tmp_path / str(number))
            if not whole(server.shelf.sent("a"), digest(mine), len(mine)):
                failed.append(f"{number}: not there")
        except TransferError as e:
            failed.append(str(e))
        finally:
            client.close()

    threads = [threading.Thread(target=one, args=(n,)) for n in range(12)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert failed == []
    assert len(list(server.shelf.sent("a").iterdir())) == 13


# -- who may what ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("token", "status", "said"),
    [
        (None, 401, "no token"),
        ("0" * 64, 401, "none of this run's"),
        (TOKENS["a", 1], 403, "of generation 1 of site a, which is over"),
    ],
)
@pytest.mark.parametrize("method", ["GET", "PUT", "PATCH"])
def test_without_the_token_of_a_current_generation_nothing_is_given_or_taken(
    server: Server, token: str | None, status: int, said: str, method: str
) -> None:
    server.offer("a", DATA)
    path = f"/offers/{NAME}" if method == "GET" else f"/uploads/{NAME}"
    answer = ask(server, method, path, token=token, body=DATA if method == "PATCH" else b"", Upload_Length=str(len(DATA)))
    assert (answer.status_code, said in answer.text) == (status, True)
    assert answer.text.count("\n") == 1
    assert not server.shelf.sent("a").exists()
    assert not token or token not in answer.text


def test_a_site_gets_what_is_offered_to_it_and_nothing_of_another(server: Server, tmp_path: Path) -> None:
    server.offer("b", DATA)
    client = server.client("a")
    with pytest.raises(TransferError, match="no file of that name is offered to this site"):
        client.fetch(NAME, len(DATA), tmp_path)
    client.give(MemoryBlob(DATA))
    assert not server.shelf.sent("b").exists()
    client.close()


def test_a_token_that_is_over_is_not_tried_again(server: Server) -> None:
    client = server.client("a", 1)
    with pytest.raises(TransferError, match="generation 1 of site a, which is over"):
        client.give(MemoryBlob(DATA))
    client.close()


TRICKS = [
    "..", "../to/b", "..%2f..%2fledger.db", "/etc/passwd", NAME.upper(), NAME[:-1], NAME + "0", NAME + "\0", "\0", "a" * 5000,
    "CON", "C:\\x", f"{NAME}:stream", f".{NAME}.5.part", NAME + ".", NAME + " ", "%2e%2e", "é" * 64, "-" * 64, NAME[:-1] + "٣",
]  # fmt: skip


@pytest.mark.parametrize("name", TRICKS, ids=range(len(TRICKS)))
def test_a_name_that_is_no_hash_is_refused_and_leads_nowhere(server: Server, tmp_path: Path, name: str) -> None:
    server.offer("b", DATA)
    server.offer("a", DATA)
    before = sorted(p for p in tmp_path.rglob("*") if p.is_file())
    quoted = quote(name, safe="").replace(".", "%2E")
    assert ask(server, "GET", f"/offers/{quoted}").status_code in (400, 404)
    answer = ask(server, "PATCH", f"/uploads/{quoted}", body=b"x", Upload_Length="1", Upload_Offset="0")
    assert answer.status_code in (400, 404, 405)
    assert sorted(p for p in tmp_path.rglob("*") if p.is_file()) == before


# -- what is sent and was not announced --------------------------------------------------------------------------


def test_a_body_longer_than_announced_is_refused_and_nothing_of_it_is_kept(server: Server) -> None:
    answer = send(server, DATA, size=1000)
    assert (answer.status_code, answer.text) == (413, "the body is longer than the 1,000 bytes that were announced\n")
    with socket.create_connection(("127.0.0.1", server.port)) as s:  # one that does not say its length
        head = f"PATCH /uploads/{NAME} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKENS['a', 2]}\r\n{LENGTH}: 1000\r\n"
        s.sendall(f"{head}{OFFSET}: 0\r\nTransfer-Encoding: chunked\r\n\r\n7d0\r\n".encode() + DATA[:2000] + b"\r\n0\r\n\r\n")
        answered = b""
        while piece := s.recv(65536):
            answered += piece
    assert b" 413 " in answered
    assert b"more than the 1,000 bytes that were announced; nothing of it is kept\n" in answered
    assert list(server.shelf.sent("a").iterdir()) == []


def test_a_body_of_another_hash_is_refused_and_nothing_of_it_is_kept(server: Server) -> None:
    answer = send(server, DATA, name=digest(b"other"))
    assert (answer.status_code, answer.text) == (422, "its SHA-256 is another than announced; nothing of it is kept\n")
    assert list(server.shelf.sent("a").iterdir()) == []


def test_a_part_that_was_damaged_at_the_server_is_sent_again_from_its_beginning(server: Server) -> None:
    folder = server.shelf.sent("a")
    folder.mkdir(parents=True)
    (folder / f".{NAME}.{len(DATA)}.part").write_bytes(bytes(1000))
    client = server.client()
    client.give(MemoryBlob(DATA))
    assert (folder / NAME).read_bytes() == DATA
    client.close()


def test_a_part_that_was_damaged_at_the_site_is_fetched_again_from_its_beginning(server: Server, tmp_path: Path) -> None:
    server.offer("a", DATA)
    (tmp_path / f".{NAME}.{len(DATA)}.part").write_bytes(bytes(1000))
    client = server.client()
    assert client.fetch(NAME, len(DATA), tmp_path).read() == DATA
    client.close()


def test_a_file_that_never_has_the_right_bytes_is_given_up(server: Server, tmp_path: Path) -> None:
    server.offer("a", DATA)
    (server.shelf.offered("a") / NAME).write_bytes(bytes(len(DATA)))
    client = server.client()
    with pytest.raises(TransferError, match="SHA-256 is another than announced"):
        client.fetch(NAME, len(DATA), tmp_path)
    (server.shelf.offered("a") / NAME).write_bytes(DATA + b"more")
    with pytest.raises(TransferError, match="more than the 300,000 bytes"):
        client.fetch(NAME, len(DATA), tmp_path)
    assert list(tmp_path.glob("[.0-9a-f]*.part")) == []
    client.close()


@pytest.mark.parametrize("length", ["", "-1", "1e3", "٣", "1" * 30, "nan"])
def test_a_length_that_is_no_number_is_refused(server: Server, length: str) -> None:
    raw = [(b"Authorization", f"Bearer {TOKENS['a', 2]}".encode()), (LENGTH.encode(), length.encode())]
    with httpx.Client(trust_env=False, verify=False, timeout=PATIENCE_S) as client:
        answer = client.put(f"{server.url}/uploads/{NAME}", headers=raw)
    assert (answer.status_code, answer.text) == (400, "the header Upload-Length has to be a number of bytes\n")


def test_a_place_that_is_not_where_the_file_ends_is_refused_with_the_right_one(server: Server) -> None:
    assert send(server, DATA[:1000], name=NAME, size=len(DATA)).headers[OFFSET] == "1000"
    answer = send(server, DATA[500:], name=NAME, size=len(DATA), at=500)
    assert (answer.status_code, answer.headers[OFFSET]) == (409, "1000")
    assert send(server, DATA[1000:], name=NAME, size=len(DATA), at=1000).headers[COMPLETE]


def test_a_file_larger_than_any_of_the_run_is_refused_before_it_is_sent(tmp_path: Path) -> None:
    with running(tmp_path, Limits(largest_bytes=1000, reserve_bytes=0)) as server:
        client = server.client()
        with pytest.raises(TransferError, match="300,000 bytes are announced, and no file of this run is larger than 1,000"):
            client.give(MemoryBlob(DATA))
        client.close()


def test_a_sender_slower_than_the_limit_is_refused_and_what_has_come_is_kept(tmp_path: Path) -> None:
    with running(tmp_path, Limits(piece_s=0.05, reserve_bytes=0)) as server:
        with socket.create_connection(("127.0.0.1", server.port)) as s:
            head = (
                f"PATCH /uploads/{NAME} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKENS['a', 2]}\r\n{LENGTH}: {len(DATA)}\r\n"
            )
            s.sendall(f"{head}{OFFSET}: 0\r\nContent-Length: {len(DATA)}\r\n\r\n".encode() + DATA[:77])
            answered = b""
            while piece := s.recv(65536):
                answered += piece
        assert b" 408 " in answered
        assert b"slower than 262,144 bytes in 0.05 s; what has come is kept\n" in answered
        assert received(server.shelf.sent("a"), NAME, len(DATA)) == 77


def test_unfinished_uploads_of_a_site_do_not_pile_up(server: Server) -> None:
    for n in range(30):
        send(server, b"x", name=digest(bytes([n])), size=10)
    assert len(list(server.shelf.sent("a").iterdir())) == 16


# -- full disks --------------------------------------------------------------------------------------------------


class Full:
    """A disk with room for so many bytes more: the system's own write fails behind them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, room: int) -> None:
        self.room = room
        self._write = os.write
        monkeypatch.setattr(bulk.os, "write", self.write)

    def write(self, fd: int, data: memoryview) -> int:
        if not self.room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        done = self._write(fd, data[: self.room])
        self.room -= done
        return done


def test_a_disk_that_fills_at_the_coordinator_is_told_and_the_upload_goes_on_when_there_is_room(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Full(monkeypatch, 123_456)
    client = server.client()
    told: list[tuple[int, str]] = []
    thread = threading.Thread(target=client.give, args=(MemoryBlob(DATA), lambda *x: told.append(x)))
    thread.start()
    kept = f"disk takes no more ({os.strerror(errno.ENOSPC)}); 123,456 of 300,000 bytes are kept, make room there"
    until(lambda: any(f"the coordinator's {kept}" == trouble for _, trouble in told))
    disk.room = 10_000_000
    thread.join()
    assert (server.shelf.sent("a") / NAME).read_bytes() == DATA
    assert told[-1] == (len(DATA), "")
    client.close()


def test_a_disk_that_fills_at_the_site_is_told_and_the_download_goes_on_when_there_is_room(
    server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    server.offer("a", DATA)
    disk = Full(monkeypatch, 123_456)
    client = server.client()
    told: list[tuple[int, str]] = []
    thread = threading.Thread(target=client.fetch, args=(NAME, len(DATA), tmp_path, lambda *x: told.append(x)))
    thread.start()
    sentence = f"this site's disk takes no more ({os.strerror(errno.ENOSPC)}); make room here"
    until(lambda: (123_456, sentence) in told)
    disk.room = 10_000_000
    thread.join()
    assert (tmp_path / NAME).read_bytes() == DATA
    client.close()


def test_an_upload_for_which_there_is_no_room_is_not_begun(tmp_path: Path) -> None:
    with running(tmp_path, Limits(reserve_bytes=1 << 60)) as server:
        answer = ask(server, "PUT", f"/uploads/{NAME}", Upload_Length=str(len(DATA)))
    assert answer.status_code == 507
    assert "and 300,000 are to come; make room there\n" in answer.text


# -- the parts ---------------------------------------------------------------------------------------------------


def test_a_bucket_lets_through_what_its_rate_allows() -> None:
    now, waited = [0.0], []

    def wait(seconds: float) -> None:
        waited.append(seconds)
        now[0] += seconds

    bucket = Bucket(1000.0, wait, lambda: now[0])
    for _ in range(100):
        bucket.take(100)
    assert now[0] == pytest.approx((10_000 - 250) / 1000)
    now[0] += 1000.0  # a pause is no credit for what comes after it, but for a quarter of a second's worth
    bucket.take(1250)
    assert waited[-1] == pytest.approx(1.0)


def test_what_is_under_way_ends_when_the_client_is_closed(server: Server, tmp_path: Path) -> None:
    data = some_bytes(2_000_000)
    server.offer("a", data)
    client = server.client(bandwidth_mbit_s=1)
    seen: list[int] = []
    said: list[str] = []

    def fetch() -> None:
        try:
            client.fetch(digest(data), len(data), tmp_path, lambda done, trouble: seen.append(done))
        except TransferError as e:
            said.append(str(e))

    thread = threading.Thread(target=fetch)
    thread.start()
    until(lambda: seen and seen[-1])
    client.close()
    thread.join()
    assert said == ["ended before it was done; what has been transferred is kept"]
    assert received(tmp_path, digest(data), len(data)) >= seen[-1]


def test_a_client_never_asks_a_proxy_for_this_machine(server: Server, tmp_path: Path) -> None:
    server.offer("a", DATA)
    environ = {"HTTP_PROXY": "http://127.0.0.1:9", "ALL_PROXY": "http://127.0.0.1:9"}
    client = BulkClient(server.url, TOKENS["a", 2], environ=environ)
    assert client.fetch(NAME, len(DATA), tmp_path).read() == DATA
    client.close()


def test_a_proxy_that_cannot_be_used_is_told_when_the_client_is_made() -> None:
    with pytest.raises(TransferError, match="HTTP_PROXY"):
        BulkClient("http://far.example:80", "x", environ={"HTTP_PROXY": "http://a b"})


@pytest.mark.parametrize(
    "raw",
    [
        "x", {}, [1], [{}], [{"blob": "w", "file": NAME, "sha256": NAME, "size": -1}],
        [{"blob": "w", "file": NAME, "sha256": NAME, "size": True}], [{"blob": "w", "file": NAME, "sha256": NAME, "size": 1 << 60}],
        [{"blob": "w", "file": "../x", "sha256": NAME, "size": 1}], [{"blob": "w", "file": "../x", "sha256": "../x", "size": 1}],
        [{"blob": "w", "file": NAME, "sha256": NAME, "size": 1}] * 2, [{"blob": 1, "file": NAME, "sha256": NAME, "size": 1}],
    ],
)  # fmt: skip
def test_a_list_of_files_that_is_malformed_is_an_error(raw: object) -> None:
    with pytest.raises(bulk.DataError):
        entries({"bulk": raw})


def test_files_that_nobody_has_written_for_long_are_removed_unless_they_are_named(tmp_path: Path) -> None:
    for name in (NAME, digest(b"1"), digest(b"2"), f".{NAME}.9.part"):
        (tmp_path / name).write_bytes(b"x")
    for name in (NAME, digest(b"1"), f".{NAME}.9.part"):
        os.utime(tmp_path / name, (1.0, 1.0))
    gone = tidy(tmp_path, older_than_s=3600.0, but={NAME})
    assert sorted(p.name for p in gone) == sorted([digest(b"1"), f".{NAME}.9.part"])
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([NAME, digest(b"2")])
    assert tidy(tmp_path / "none", older_than_s=0) == []


def test_what_is_received_is_never_more_than_announced_and_never_half_named(tmp_path: Path) -> None:
    part = Receiving(tmp_path, NAME, 10)
    part.write(b"12345")
    with pytest.raises(bulk.TooLong):
        part.write(b"678901")
    part.close()
    again = Receiving(tmp_path, NAME, 10)
    assert again.offset == 5
    again.write(b"67890")
    with pytest.raises(bulk.OtherBytes):
        again.finish()
    assert list(tmp_path.iterdir()) == []
    assert Shelf(tmp_path).sent("a") != Shelf(tmp_path).offered("a")
