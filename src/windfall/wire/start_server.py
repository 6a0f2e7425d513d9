"""How sites on other machines begin, the coordinator's end.

| request | who | |
|---|---|---|
| ``POST /join`` | nobody yet | ``{"token": ...}`` -> ``{"site": ..., "key": ...}``: a join token, good once, for a machine's key |
| ``GET /assignment?generation=N&wait_s=S`` | a machine's key | what it is to do; waits until that is another generation than N |
| ``PUT /presence`` | a machine's key | what it says of itself |
| ``GET /start`` | a generation's token | what the site has to know: the contents of its ``site.json`` |
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from windfall import clock
from windfall.errors import Refused
from windfall.store.files import read_json
from windfall.store.records import Token
from windfall.store.residents import Presence, Resident
from windfall.wire.bulk_server import Denied, bearer
from windfall.wire.bus_server import body, whole_number

#: How often a waiting request's file is looked at, and how long one may wait.
_LOOK_S, _LONGEST_WAIT_S = 0.1, 30.0
_MOST_BYTES, _MOST_WORDS = 20_000, 500
_STATES = ("absent", "starting", "up", "stopping", "failed")


class StartServer:
    """The requests' answers. ``tokens``, ``over``: as ``BusServer`` has them; ``residents``: the sites whose machines join."""

    def __init__(
        self, sites_dir: Path, tokens: Callable[[], Iterable[Token]], residents: Iterable[str],
        over: Callable[[], bool] = lambda: False,
    ) -> None:  # fmt: skip
        self._over = over
        self._sites = sites_dir
        self._tokens = tokens
        self._residents = {site: Resident(sites_dir, site) for site in residents}
        #: By site: a generation's token, which is nowhere on the disk any more. Kept, as an answer may be lost on its way.
        self._taken: dict[str, tuple[int, str]] = {}

    def routes(self) -> list[Route]:
        """What it answers."""
        return [
            Route("/join", self._join, methods=["POST"]),
            Route("/assignment", self._assignment, methods=["GET"]),
            Route("/presence", self._presence, methods=["PUT"]),
            Route("/start", self._start, methods=["GET"]),
        ]

    async def _start(self, request: Request) -> Response:
        token = bearer(request, self._tokens)
        told = await run_in_threadpool(read_json, self._sites / token.site / "site.json")
        if not isinstance(told, dict) or told.get("generation") != token.generation:
            raise Denied(409, f"what {token.site} has to know is not there for generation {token.generation}")
        return JSONResponse({**told, "time": clock.wall()})

    async def _join(self, request: Request) -> Response:
        sent = await _object(request)
        token = str(sent.get("token", ""))
        resident = next((r for r in self._residents.values() if r.invited(token)), None)
        if resident is None:
            raise Denied(401, "this join token is none of this run's, or has been used; make one with `windfall site invite`")
        try:
            key = await run_in_threadpool(resident.join, token, clock.wall())
        except Refused as e:
            raise Denied(401, str(e)) from None
        return JSONResponse({"site": resident.site, "key": key, "time": clock.wall()})

    async def _assignment(self, request: Request) -> Response:
        resident = self._machine(request)
        known = whole_number(request, "generation")
        until = clock.monotonic() + min(_LONGEST_WAIT_S, whole_number(request, "wait_s"))
        while True:
            now = await run_in_threadpool(resident.assignment)
            if now.generation != known or clock.monotonic() >= until or self._over() or await request.is_disconnected():
                break
            await asyncio.sleep(_LOOK_S)
        told = {**vars(now), "time": clock.wall()}
        if now.generation and now.generation != known:
            if token := resident.take_token():
                self._taken[resident.site] = now.generation, token
            generation, token = self._taken.get(resident.site, (0, ""))
            told["token"] = token if generation == now.generation else ""
        return JSONResponse(told)

    async def _presence(self, request: Request) -> Response:
        resident = self._machine(request)
        sent = await _object(request)
        generation, state, words = sent.get("generation"), sent.get("state"), sent.get("words", "")
        if type(generation) is not int or state not in _STATES or not isinstance(words, str):
            raise Denied(400, "that is not what a machine says of itself")
        presence = Presence(generation, state, words[:_MOST_WORDS], sent.get("asleep") is True, clock.wall())
        await run_in_threadpool(resident.said, presence)
        return Response(status_code=204)

    def _machine(self, request: Request) -> Resident:
        """Who asks, by its key. Raises Denied."""
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and key:
            for resident in self._residents.values():
                if resident.has_key(key.strip()):
                    return resident
        raise Denied(401, "this key is none of this run's: it was revoked, or the run is another one; join again")


async def _object(request: Request) -> dict[str, Any]:
    try:
        sent = json.loads(await body(request, _MOST_BYTES))
    except (ValueError, RecursionError):
        sent = None
    if not isinstance(sent, dict):
        raise Denied(400, "the body is not a JSON object")
    return sent
