"""What SuperNodes on other machines say to the SuperLink goes through the endpoint: by HTTPS, with the site's token.

The SuperLink listens on this machine alone. Its port has more than the nodes' part: whoever reached that could begin runs of their
own, which nodes would carry out. So only the nodes' part is passed on, and only for sites of the run in their current life. Which
site a node was registered by is written down, so that none can claim to be another one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path

import httpx
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from windfall.store.records import Token
from windfall.wire.bulk_server import Denied, bearer
from windfall.wire.bus_server import body

#: The nodes' part of the SuperLink's port.
FLEET = "/v1/fleet/"
REGISTER = "register-node"
_TIMEOUT_S = 60.0
#: Headers that concern one connection alone, and what is ours.
_OWN = {
    "connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "te", "trailer", "transfer-encoding", "upgrade",
    "authorization", "host", "date", "server", "content-encoding",
}  # fmt: skip


class FleetProxy:
    """Passes requests on. ``tokens``: as ``BulkServer`` has it; ``nodes``: the file of registrations."""

    def __init__(self, superlink: str, tokens: Callable[[], Iterable[Token]], nodes: Path, *, largest_bytes: int) -> None:
        """``superlink``: its URL; ``largest_bytes``: of a request."""
        self._tokens = tokens
        self._nodes = nodes
        self._largest = largest_bytes
        # Requests wait in threads: the SuperLink answers each at once.
        self._client = httpx.Client(
            base_url=superlink, timeout=_TIMEOUT_S, trust_env=False, limits=httpx.Limits(max_connections=64)
        )

    def close(self) -> None:
        """Let go of connections."""
        self._client.close()

    def routes(self) -> list[Route]:
        """What it answers."""
        return [
            Route(f"{FLEET}{{name}}", self._pass, methods=["POST"]),
            Route("/superlink", self._awake, methods=["GET"]),
        ]

    async def _awake(self, request: Request) -> Response:
        bearer(request, self._tokens)
        try:
            await run_in_threadpool(self._client.get, "/", timeout=5.0)
        except httpx.HTTPError:
            raise Denied(502, "the run's SuperLink does not answer") from None
        return Response(status_code=204)

    async def _pass(self, request: Request) -> Response:
        token = bearer(request, self._tokens)
        name = request.path_params["name"]
        content = await body(request, self._largest)
        headers = [(k, v) for k, v in request.headers.items() if k.lower() not in _OWN]
        try:
            answer = await run_in_threadpool(self._client.post, f"{FLEET}{name}", content=content, headers=headers)
        except httpx.HTTPError as e:
            raise Denied(502, f"the run's SuperLink does not answer ({type(e).__name__})") from None
        if name == REGISTER and answer.status_code == 200 and (node := node_id(answer.content)):
            register(self._nodes, node, token)
        kept = {k: v for k, v in answer.headers.items() if k.lower() not in _OWN and k.lower() != "content-length"}
        return Response(answer.content, status_code=answer.status_code, headers=kept)


def node_id(message: bytes) -> int:
    """Of a RegisterNodeFleetResponse: field 1, a varint. 0 if there is none."""
    if not message or message[0] != 0x08:
        return 0
    value = 0
    for place, byte in enumerate(message[1:11]):
        value |= (byte & 0x7F) << (7 * place)
        if not byte & 0x80:
            return value
    return 0


def register(path: Path, node: int, token: Token) -> None:
    """Note that a node was registered by a site."""
    with open(path, "a", encoding="utf-8") as f:
        f.write(json.dumps({"node": str(node), "site": token.site, "generation": token.generation}) + "\n")


class Registrations:
    """Which site registered a node through the endpoint, as far as that was written down."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._at = 0
        self._site: dict[str, str] = {}

    def site(self, node: str) -> str:
        """The site; empty for a node that did not come through the endpoint, as local ones do not."""
        if node not in self._site:
            self._read()
        return self._site.get(node, "")

    def _read(self) -> None:
        try:
            with open(self._path, "rb") as f:
                f.seek(self._at)
                data = f.read()
        except FileNotFoundError:
            return
        whole = data.rfind(b"\n") + 1
        self._at += whole
        for line in data[:whole].splitlines():
            try:
                entry = json.loads(line)
                self._site[str(entry["node"])] = str(entry["site"])
            except (ValueError, KeyError, TypeError):
                continue
