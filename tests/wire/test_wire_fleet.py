"""What SuperNodes say goes through tunnel and endpoint: only the nodes' part, only with a token, and known by whom."""

from __future__ import annotations

import functools
import hashlib
import json
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from patience import PATIENCE_S
from windfall.site.tunnel import Tunnel
from windfall.store.records import Token
from windfall.wire.bulk_server import application
from windfall.wire.fleet_proxy import FleetProxy, Registrations, node_id, register
from windfall.wire.probe import answers
from wire.served import Served

post = functools.partial(httpx.post, trust_env=False, timeout=PATIENCE_S)


class Link:
    """A SuperLink as far as this goes, an endpoint before it, and a site's tunnel."""

    def __init__(self, folder: Path) -> None:
        self.heard: list[tuple[str, bytes, dict[str, str]]] = []
        self.nodes = folder / "nodes.jsonl"
        self.tokens = [Token("a", 2, hashlib.sha256(b"of a").hexdigest(), True)]

        async def hear(request: Request) -> Response:
            body = await request.body()
            self.heard.append((request.url.path, body, dict(request.headers)))
            # Node id 300, as a varint of field 1.
            return Response(b"\x08\xac\x02" if request.url.path.endswith("register-node") else body[::-1], headers={"x-flwr": "7"})

        everything = [Route("/{path:path}", hear, methods=["GET", "POST"])]
        self.superlink = Served(Starlette(routes=everything))
        self.proxy = FleetProxy(self.superlink.url, lambda: self.tokens, self.nodes, largest_bytes=1_000_000)
        self.endpoint = Served(application(self.proxy.routes()))
        self.tunnel = Tunnel(self.endpoint.url, "of a", environ={})
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{self.tunnel.port}", trust_env=False, timeout=PATIENCE_S)

    def close(self) -> None:
        self.client.close()
        self.tunnel.close()
        self.endpoint.stop()
        self.proxy.close()
        self.superlink.stop()


@pytest.fixture
def link(tmp_path: Path) -> Iterator[Link]:
    made = Link(tmp_path)
    yield made
    made.close()


def test_what_a_supernode_says_arrives_as_it_is_and_its_token_does_not(link: Link) -> None:
    body = bytes(range(256)) * 100
    answer = link.client.post("/v1/fleet/push-messages", content=body, headers={"x-flwr-version": "1.41.0"})
    assert (answer.status_code, answer.content, answer.headers["x-flwr"]) == (200, body[::-1], "7")
    path, heard, headers = link.heard[0]
    assert (path, heard, headers["x-flwr-version"]) == ("/v1/fleet/push-messages", body, "1.41.0")
    assert "authorization" not in headers


@pytest.mark.parametrize(
    "path", ["/v1/control/start-run", "/v1/runtime/acquire-task", "/", "/v1/fleet/../control/start-run", "/v1/fleet/a/b"]
)
def test_nothing_else_of_the_superlink_can_be_reached(link: Link, path: str) -> None:
    with socket.create_connection(("127.0.0.1", link.endpoint.port)) as s:
        headers = "Host: x\r\nAuthorization: Bearer of a\r\nContent-Length: 0\r\nConnection: close\r\n"
        s.sendall(f"POST {path} HTTP/1.1\r\n{headers}\r\n".encode())
        assert s.recv(100).split()[1] in (b"404", b"405")
    assert not link.heard
    assert post(f"http://127.0.0.1:{link.tunnel.port}/v1/control/start-run", content=b"").status_code == 404


def test_a_token_of_no_site_or_of_an_earlier_life_opens_nothing(link: Link) -> None:
    def status(token: str) -> int:
        headers = {"Authorization": f"Bearer {token}"}
        return post(f"{link.endpoint.url}/v1/fleet/pull-messages", content=b"", headers=headers).status_code

    assert [status("of a"), status("of b")] == [200, 401]
    link.tokens[0] = Token("a", 2, link.tokens[0].sha256, False)
    assert status("of a") == 403
    assert len(link.heard) == 1


def test_a_request_that_is_too_large_or_does_not_say_how_large_is_refused(link: Link) -> None:
    headers = {"Authorization": "Bearer of a"}
    url = f"{link.endpoint.url}/v1/fleet/push-object"
    assert post(url, content=b"x" * 1_000_001, headers=headers).status_code == 413
    assert post(url, content=iter([b"x"]), headers=headers).status_code == 413
    assert not link.heard


def test_which_site_registered_a_node_is_written_down(link: Link) -> None:
    known = Registrations(link.nodes)
    assert known.site("300") == ""
    link.client.post("/v1/fleet/register-node", content=b"")
    assert json.loads(link.nodes.read_text()) == {"node": "300", "site": "a", "generation": 2}
    assert (known.site("300"), known.site("301")) == ("a", "")


@pytest.mark.parametrize(
    ("message", "node"),
    [
        (b"", 0),
        (b"\x08\x01", 1),
        (b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 2**64 - 1),
        (b"\x10\x01", 0),
        (b"\x08\x80", 0),
        (b"\x08" + b"\x80" * 20, 0),
    ],
)
def test_a_nodes_number_is_read_from_what_the_superlink_answers(message: bytes, node: int) -> None:
    assert node_id(message) == node


def test_it_is_the_number_that_flower_writes(tmp_path: Path) -> None:
    from flwr.proto.fleet_pb2 import RegisterNodeFleetResponse

    number = 15_834_299_012_345_678_901
    assert node_id(RegisterNodeFleetResponse(node_id=number).SerializeToString()) == number
    register(tmp_path / "n", number, Token("b", 1, "", True))
    with open(tmp_path / "n", "a", encoding="utf-8") as f:
        f.write("{rubbish\n")
    assert Registrations(tmp_path / "n").site(str(number)) == "b"


def test_a_probe_is_answered_while_the_superlink_is_there(link: Link) -> None:
    assert answers("127.0.0.1", link.tunnel.port, 60)
    link.superlink.stop()
    assert not answers("127.0.0.1", link.tunnel.port, 60), "as if it were the SuperLink itself that is away"
