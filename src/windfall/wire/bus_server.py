"""The bus over HTTP, the coordinator's end: what lies in a site's folder here, for a site on another machine.

| request | |
|---|---|
| ``GET /bus?at=N&tag=TAG&wait_s=S`` | commands from place N on, and all registers; waits S seconds for something new |
| ``POST /bus`` | the site's entries and registers |

The coordinator has its end in files as ever, so a run's other sites, and the coordinator itself, notice nothing of it.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from windfall import clock
from windfall.store.bus import Entry, FileRelay
from windfall.store.records import Token
from windfall.wire.bulk_server import Denied, bearer

#: How often a waiting request's files are looked at, and how long one may wait.
_LOOK_S, _LONGEST_WAIT_S = 0.05, 30.0
#: What a site may send at once.
MOST_BYTES, MOST_ENTRIES = 2_000_000, 2_000
_REGISTER = re.compile(r"[a-z][a-z_]{0,31}")


class BusServer:
    """The requests' answers. ``tokens``: as ``BulkServer`` has it; ``over``: whether requests that wait are to be answered now."""

    def __init__(self, sites_dir: Path, tokens: Callable[[], Iterable[Token]], over: Callable[[], bool] = lambda: False) -> None:
        self._sites = sites_dir
        self._over = over
        self._tokens = tokens

    def routes(self) -> list[Route]:
        """What it answers."""
        return [Route("/bus", self._news, methods=["GET"]), Route("/bus", self._take, methods=["POST"])]

    async def _news(self, request: Request) -> Response:
        token = bearer(request, self._tokens)
        at, tag = whole_number(request, "at"), request.query_params.get("tag", "")
        until = clock.monotonic() + min(_LONGEST_WAIT_S, whole_number(request, "wait_s"))
        relay = FileRelay(self._sites / token.site)
        seen: object = None
        while True:
            stamp = await run_in_threadpool(_stamp, self._sites / token.site / "bus")
            if stamp != seen:
                seen = stamp
                commands, now_at = relay.commands(at, token.generation)
                registers = relay.registers()
                now_tag = hashlib.sha256(json.dumps(registers, sort_keys=True).encode()).hexdigest()[:16]
                if commands or now_tag != tag or now_at < at:
                    return JSONResponse({"commands": commands, "at": now_at, "registers": registers, "tag": now_tag})
            if clock.monotonic() >= until or self._over() or await request.is_disconnected():
                return JSONResponse({"commands": [], "at": now_at, "registers": None, "tag": now_tag})
            await asyncio.sleep(_LOOK_S)

    async def _take(self, request: Request) -> Response:
        token = bearer(request, self._tokens)
        sent = _parsed(await body(request, MOST_BYTES))
        relay = FileRelay(self._sites / token.site)
        try:
            await run_in_threadpool(
                relay.take, token.generation, sent["entries"], sent["registers"], life=sent["life"], batch=sent["batch"]
            )
        except OSError as e:
            raise Denied(507, f"the coordinator's disk takes no more ({e.strerror})") from None
        return Response(status_code=204)


async def body(request: Request, most_bytes: int) -> bytes:
    """A request's body. Raises Denied for one that is larger, before it is read."""
    length = request.headers.get("content-length", "")
    if not length.isdecimal() or int(length[:15]) > most_bytes:
        raise Denied(413, f"a body of at most {most_bytes:,} bytes is expected, with its length")
    whole = bytearray()
    try:
        async for piece in request.stream():
            whole += piece
            if len(whole) > most_bytes:
                raise Denied(413, f"the body is longer than {most_bytes:,} bytes")
    except ClientDisconnect:
        raise Denied(400, "the body is not whole") from None
    return bytes(whole)


def _parsed(raw: bytes) -> dict[str, Any]:
    """What a site sends. Raises Denied."""
    try:
        sent = json.loads(raw)
    except (ValueError, RecursionError):
        raise Denied(400, "the body is not JSON") from None
    entries, registers = (sent.get("entries"), sent.get("registers")) if isinstance(sent, dict) else (None, None)
    well = (
        isinstance(entries, list) and len(entries) <= MOST_ENTRIES and all(isinstance(e, dict) for e in entries)
        and isinstance(registers, Mapping) and all(_REGISTER.fullmatch(r) and isinstance(v, dict) for r, v in registers.items())
        and type(sent.get("batch")) is int and isinstance(sent.get("life"), str) and len(sent["life"]) <= 64
    )  # fmt: skip
    if not well:
        raise Denied(400, "the body is not what a site sends over the bus")
    kept: list[Entry] = entries  # type: ignore[assignment]
    return {"entries": kept, "registers": registers, "batch": sent["batch"], "life": sent["life"]}


def whole_number(request: Request, name: str) -> int:
    """A parameter of a request. Raises Denied."""
    text = request.query_params.get(name, "")
    if not text.isascii() or not text.isdecimal() or len(text) > 15:
        raise Denied(400, f"{name} has to be a whole number")
    return int(text)


def _stamp(folder: Path) -> list[tuple[str, int, int, int]]:
    """What changes with what the coordinator has written."""
    found = []
    for path in [folder / "commands.jsonl", *sorted(folder.glob("run-*.json"))]:
        try:
            stat = path.stat()
        except FileNotFoundError:
            continue
        found.append((path.name, stat.st_size, stat.st_mtime_ns, stat.st_ino))
    return found
