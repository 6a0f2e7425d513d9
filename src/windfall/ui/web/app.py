"""The dashboard as an application: pages, JSON, streams and files, each behind the guard."""

from __future__ import annotations

import asyncio
import contextlib
import resource
from collections.abc import Sequence
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import parse_qs

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from windfall.errors import WindfallError
from windfall.ui.web import assets, page, page_list, page_tables
from windfall.ui.web.api import Api, check, number, refusal, sent, span, told, warm, whole
from windfall.ui.web.guard import Bad, Gate
from windfall.ui.web.hands import Hands
from windfall.ui.web.looks import Looks
from windfall.ui.web.metrics import CONTENT_TYPE, Exposition
from windfall.ui.web.said import said
from windfall.ui.web.stream import Streams
from windfall.view.run_folders import RunFolders

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS = (
    (b"content-security-policy", _POLICY.encode()), (b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"), (b"cross-origin-resource-policy", b"same-origin"),
)  # fmt: skip
#: Runs in `/metrics`, the ones last written to: a folder may hold ten thousand.
_MEASURED = 50
#: Open files that a thousand clients need.
_FILES = 8192


class Dashboard:
    """Everything that `windfall dashboard` serves."""

    def __init__(self, folders: RunFolders, guard: Gate, *, compares: bool = True) -> None:
        """``compares``: whether runs are measured against baselines and the oracle, by processes of their own."""
        self.looks = Looks(folders, compares=compares)
        self.streams = Streams(self.looks)
        self.guard = guard
        self._exposition, self._rendering = Exposition(), asyncio.Lock()
        self._folders = folders

    def app(self, more: Sequence[BaseRoute] = ()) -> ASGIApp:
        """The application; ``more``: routes besides these, behind the same guard."""
        routes = [
            Route("/", self._runs, methods=["GET"]), Route("/runs/{run}", self._run, methods=["GET"]),
            Route("/runs/{run}/words", self._words, methods=["GET"]),
            Route("/login", self._login, methods=["GET", "POST"]), Route("/assets/{name}", assets.answer, methods=["GET"]),
            Route("/runs/{run}/moment", self._moment, methods=["GET"]), *Api(self.looks).routes(),
            *Hands(self.looks, self.guard).routes(), Route("/metrics", self._metrics, methods=["GET"]),
            Route("/api/v1/runs/{run}/stream", self._stream, methods=["GET"]), *more,
        ]  # fmt: skip

        @asynccontextmanager
        async def lives(_: Starlette) -> Any:
            _raise_files()
            warming = asyncio.create_task(self._warm())
            yield
            warming.cancel()
            await self.streams.close()
            await self.looks.close()

        handlers: Any = {HTTPException: _refused, WindfallError: _cannot}
        app = Starlette(routes=routes, lifespan=lives, exception_handlers=handlers)
        return _Guarded(app, self.guard)

    async def _warm(self) -> None:
        """Read what the page of a single run begins with before anybody has asked for it."""
        if not self._folders.single:
            return
        with contextlib.suppress(WindfallError, HTTPException):
            look = self.looks.get(self._folders.all()[0].name)
            for key, make in warm(look):
                await self.looks.answer(look, key, make)
            while look.loading:
                await run_in_threadpool(look.loss, None, None, 600)
            await said(self.looks, look)

    async def _runs(self, request: Request) -> Response:
        tables = bool(request.query_params.get("tables"))
        if self._folders.single and not set(request.query_params) - {"tables"}:
            return RedirectResponse(f"/runs/{self._folders.all()[0].name}{'?tables=1' if tables else ''}", status_code=307)
        check(request, "search", "offset", "tables")
        search, offset = request.query_params.get("search", "")[:200], whole(request, "offset", 0, 10**9, 0) or 0
        return HTMLResponse(await page_list.made(self.looks, search, offset, tables))

    async def _run(self, request: Request) -> Response:
        check(request, "tables", "from", "to", "at", "before", "search", "site", "a", "b", "log")
        look = self.looks.get(request.path_params["run"])
        look.look_against()
        t0, t1 = span(request)
        signed_in = self.guard.signed_in(request)
        return HTMLResponse(
            await page.made(
                self.looks, look, tables=bool(request.query_params.get("tables")), t0=t0, t1=t1,
                before=whole(request, "before", 0, 2**53, None), search=request.query_params.get("search", "")[:200],
                proof=self.guard.proof if signed_in else "", many=not self._folders.single,
            ),
            headers={"Cache-Control": "no-store"},
        )  # fmt: skip

    async def _words(self, request: Request) -> Response:
        check(request)
        return sent(request, await said(self.looks, self.looks.get(request.path_params["run"])))

    async def _metrics(self, request: Request) -> Response:
        check(request)
        runs = [f.run for f in self._folders.all()[:_MEASURED]]

        async with self._rendering:
            body = await run_in_threadpool(self._exposition.render, runs)
        return Response(body, media_type=CONTENT_TYPE)

    async def _moment(self, request: Request) -> Response:
        check(request, "t")
        t = number(request, "t")
        if t is None:
            raise Bad(400, "t is needed: a run time")
        look = self.looks.get(request.path_params["run"])
        return HTMLResponse(page_tables.moment(await run_in_threadpool(look.instant, t)), headers={"Cache-Control": "no-store"})

    async def _stream(self, request: Request) -> Response:
        check(request, "after")
        after = whole(request, "after", 0, 2**53, None)
        text = request.headers.get("last-event-id", "")
        if text.isascii() and text.isdecimal() and len(text) < 16:
            after = int(text)
        stream = self.streams.open(request.path_params["run"], after)
        return stream or refusal(503, "too many pages listen at present; ask again and again instead")

    async def _login(self, request: Request) -> Response:
        token, wrong = request.query_params.get("token"), ""
        if request.method == "POST":
            self.guard.require_own_page(request)
            token = await _posted(request)
        if token:
            if self.guard.is_token(token):
                response = RedirectResponse("/", status_code=303)
                response.set_cookie(
                    self.guard.cookie, self.guard.token, httponly=True, samesite="strict", secure=self.guard.tls, path="/"
                )
                return response
            wrong = "That is not the token that windfall dashboard printed."
        return HTMLResponse(page_list.login(wrong), status_code=401 if wrong else 200, headers={"Cache-Control": "no-store"})


async def _posted(request: Request) -> str:
    """The field ``token`` of a posted form of at most a few hundred bytes."""
    body = b""
    async for piece in request.stream():
        body += piece
        if len(body) > 4096:
            raise Bad(413, "a token is not that long")
    return parse_qs(body.decode("utf-8", errors="replace")).get("token", [""])[0].strip()


class _Guarded:
    """Adds what every response says to browsers, and refuses requests before anything looks at them."""

    def __init__(self, app: ASGIApp, guard: Gate) -> None:
        self._app, self._guard = app, guard

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), *_HEADERS]
            await send(message)

        request = Request(scope)
        try:
            self._guard.require_host(request)
            path = scope["path"]
            if path != "/login" and not path.startswith("/assets/"):
                self._guard.require_reader(request)
        except Bad as e:
            await (await _refused(request, e))(scope, receive, send_with)
            return
        await self._app(scope, receive, send_with)


async def _refused(request: Request, e: Exception) -> Response:
    assert isinstance(e, HTTPException)
    if f"{request.url.path}/".startswith("/api/"):
        if e.status_code == 404 and not isinstance(e, Bad):  # no route leads there
            return refusal(404, "nothing is at this address: /api/v1/openapi.json says what there is, /api/v1/runs has the runs")
        return _with(refusal(e.status_code, e.detail), e)
    if e.status_code == 401:
        return RedirectResponse("/login", status_code=303)
    return _with(HTMLResponse(page_list.problem(e.status_code, e.detail), status_code=e.status_code), e)


def _with(response: Response, e: HTTPException) -> Response:
    response.headers.update(e.headers or {})
    return response


async def _cannot(request: Request, e: Exception) -> Response:
    assert isinstance(e, WindfallError)
    if request.url.path.startswith("/api/"):
        return told(e)
    return HTMLResponse(page_list.problem(503, str(e)), status_code=503)


def _raise_files() -> None:
    """Let this process have as many open files as it may, up to what a thousand clients need."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _FILES if hard == resource.RLIM_INFINITY else min(_FILES, hard)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
