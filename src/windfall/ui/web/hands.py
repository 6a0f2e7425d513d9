"""What is asked of a run from a page or a program: requests, left where coordinators find them. Nothing here turns a site on."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Route

from windfall.errors import ConfigError
from windfall.run.asking import ask
from windfall.run.requests import Request, RequestOutcome, live_key, outcome, outcomes, seconds, waits_for
from windfall.store.files import to_json
from windfall.store.rundir import RunDir
from windfall.ui.web.api import check, whole
from windfall.ui.web.guard import Bad, Gate
from windfall.ui.web.look import unreadable
from windfall.ui.web.looks import Looks
from windfall.view.text import safe

#: Bytes of a request.
_LARGEST = 8192
_TAKEN = frozenset({"kind", "site", "who", "why", "for", "for_s", "key", "value", "extend", "expect", "id"})
_TEXTS = ("kind", "site", "who", "why", "for", "key", "extend", "expect", "id")


class Hands:
    """Takes requests, and says what has become of them."""

    def __init__(self, looks: Looks, guard: Gate) -> None:
        self._looks, self._guard = looks, guard

    def routes(self) -> list[Route]:
        """What it answers."""
        of = "/api/v1/runs/{run}/requests"
        return [
            Route(of, self._ask, methods=["POST"]), Route(of, self._all, methods=["GET"]),
            Route(of + "/{id}", self._one, methods=["GET"]),
        ]  # fmt: skip

    async def _ask(self, request: HttpRequest) -> Response:
        self._guard.require_actor(request)
        check(request)
        look = self._looks.get(request.path_params["run"])
        asked = _request(await _body(request))

        def leave() -> dict[str, Any]:
            number = ask(look.run, asked)
            found = outcome(look.run, number)
            return {"request": _shown(found), "waits_for": _waits_for(look.run, [found])}

        try:
            return Response(to_json(await run_in_threadpool(leave)), status_code=202, media_type="application/json")
        except ConfigError as e:
            raise Bad(422, unreadable(e)) from None

    async def _all(self, request: HttpRequest) -> Response:
        check(request, "limit")
        look, most = self._looks.get(request.path_params["run"]), whole(request, "limit", 1, 500, 100) or 100

        def made() -> dict[str, Any]:
            found = outcomes(look.run, most)
            return {"requests": [_shown(x) for x in found], "waits_for": _waits_for(look.run, found)}

        return await self._answer(made)

    async def _one(self, request: HttpRequest) -> Response:
        check(request)
        look, number = self._looks.get(request.path_params["run"]), request.path_params["id"]

        def made() -> dict[str, Any]:
            found = outcome(look.run, number)
            if found is None:
                raise Bad(404, "nobody has heard of a request with that id")
            return {"request": _shown(found), "waits_for": _waits_for(look.run, [found])}

        return await self._answer(made)

    async def _answer(self, made: Callable[[], dict[str, Any]]) -> Response:
        return Response(
            to_json(await run_in_threadpool(made)), media_type="application/json", headers={"Cache-Control": "no-store"}
        )


def _waits_for(run: RunDir, found: Sequence[RequestOutcome | None]) -> str:
    """What those of them wait for that still wait; empty where none does."""
    return waits_for(run) if any(x is not None and x.state == "waiting" for x in found) else ""


def _shown(found: RequestOutcome | None) -> dict[str, Any]:
    """A request and what has become of it, without anything that looks like a credential."""
    if found is None:  # it was taken up and set aside in the same moment
        raise Bad(503, "the request has just been taken up; ask what has become of it")
    said = {**found.as_json(), "what": found.request.what()}
    return {k: safe(v) if isinstance(v, str) and k in ("who", "why", "reason", "what") else v for k, v in said.items()}


async def _body(request: HttpRequest) -> dict[str, Any]:
    """The request's JSON object. Raises Bad."""
    if request.headers.get("content-type", "").split(";")[0].strip().lower() != "application/json":
        raise Bad(415, "a request is JSON: send Content-Type: application/json")
    body = b""
    async for piece in request.stream():
        body += piece
        if len(body) > _LARGEST:
            raise Bad(413, f"a request has at most {_LARGEST} bytes")
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        raise Bad(400, "the request is no JSON") from None
    if not isinstance(found, dict):
        raise Bad(400, "the request has to be an object")
    return found


def _request(body: dict[str, Any]) -> Request:
    """Raises Bad."""
    unknown = sorted(set(body) - _TAKEN)
    if unknown:
        raise Bad(400, f"{safe(unknown[0])[:60]}: nothing of a request; there are {', '.join(sorted(_TAKEN))}")
    for name in _TEXTS:
        if not isinstance(body.get(name), str | None):
            raise Bad(400, f"{name} has to be a text")
    for_s = body.get("for_s")
    if for_s is not None and (isinstance(for_s, bool) or not isinstance(for_s, int | float)):
        raise Bad(400, "for_s has to be a number of seconds")
    try:
        for_s = seconds(body["for"], "for") if body.get("for") else for_s
        given = {f.name: body[f.name] for f in fields(Request) if f.name in body and f.name not in ("for_s", "at")}
        who = " ".join(str(body.get("who") or "").split())
        texts = {k: v or "" for k, v in given.items() if k in ("why", "key", "id")}
        if given.get("kind") == "set":
            texts["key"] = live_key(texts.get("key", ""))
        asked = Request.of(
            {**given, **texts, "for_s": for_s, "who": f"{who} (dashboard)" if who else "dashboard", "id": given.get("id") or "new"}
        )
    except ConfigError as e:
        raise Bad(422, unreadable(e)) from None
    except ValueError as e:
        raise Bad(422, safe(str(e))) from None
    # Who gives no id asks once: one is made up when it is left.
    return asked if body.get("id") else Request(**{**asked.as_json(), "id": ""})
