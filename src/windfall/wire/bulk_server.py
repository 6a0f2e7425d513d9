"""Bulk transport, the coordinator's end: files over HTTP, each site's own and nobody else's.

| request | |
|---|---|
| ``GET /offers/NAME`` (``Range``) | a file that is offered to the site |
| ``PUT /uploads/NAME``, ``Upload-Length`` | announces a file: ``Upload-Offset`` of the answer says how much of it is here |
| ``PATCH /uploads/NAME``, ``Upload-Length``, ``Upload-Offset``, a body | sends what comes at that place |

Who asks is known by a bearer token, and sees the folders of the site that has it: no address names a site. Every refusal is one
sentence of plain text. What has come of an upload stays when its connection ends, and when this process does.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.routing import Route

from windfall.errors import StoreError
from windfall.store.blobs import CHUNK
from windfall.store.files import DISK_ERRORS
from windfall.store.records import Token
from windfall.wire.bulk import (
    COMPLETE,
    LENGTH,
    OFFSET,
    OtherBytes,
    Receiving,
    Shelf,
    TooLong,
    is_name,
    parts_in,
    received,
    whole,
)

#: Unfinished uploads that are kept for a site; the oldest go first.
_UNFINISHED = 16


@dataclass(frozen=True)
class Limits:
    """What the server puts up with. A piece of ``piece_bytes`` has to come within ``piece_s``, or the sender is too slow."""

    largest_bytes: int = 1 << 40
    piece_bytes: int = 256 * 1024
    piece_s: float = 60.0
    #: Room that uploads leave on the disk for everything else of the run.
    reserve_bytes: int = 64 * 1024 * 1024


class Denied(HTTPException):
    """Answered with a status and a sentence."""


def whose(authorization: str | None, tokens: Iterable[Token]) -> Token:
    """The token in an ``Authorization`` header, which is that of its site's current generation. Raises Denied (401 or 403)."""
    scheme, _, secret = (authorization or "").partition(" ")
    if scheme.lower() != "bearer" or not secret:
        raise Denied(401, "no token: a site's requests bear the one that it was started with")
    digest = hashlib.sha256(secret.strip().encode()).hexdigest()
    found = None
    for token in tokens:  # all of them, each in constant time: how long it takes tells nothing
        if hmac.compare_digest(token.sha256, digest):
            found = token
    if found is None:
        raise Denied(401, "this token is none of this run's")
    if found.revoked:
        raise Denied(403, f"this token of site {found.site} has been revoked")
    if not found.current:
        raise Denied(403, f"this token is of generation {found.generation} of site {found.site}, which is over")
    return found


class _Bytes(FileResponse):
    chunk_size = CHUNK


class BulkServer:
    """The requests' answers. ``tokens`` reads all that are known, each time anew; it may raise StoreError."""

    def __init__(
        self, shelf: Shelf, tokens: Callable[[], Iterable[Token]], limits: Limits | None = None,
        shared: Callable[[], Mapping[str, Path]] = dict,
    ) -> None:  # fmt: skip
        """``shared``: files, by the SHA-256 of their bytes, that are offered to every site."""
        self._shelf = shelf
        self._tokens = tokens
        self._limits = limits or Limits()
        self._shared = shared
        #: Uploads that a connection is sending at present.
        self._busy: set[Path] = set()

    def routes(self) -> list[Route]:
        """What it answers."""
        return [
            Route("/offers/{name}", self._offer, methods=["GET"]),
            Route("/uploads/{name}", self._announce, methods=["PUT"]),
            Route("/uploads/{name}", self._upload, methods=["PATCH"]),
        ]

    def app(self) -> Starlette:
        """As an application of its own."""
        return application(self.routes())

    def _site(self, request: Request) -> str:
        return bearer(request, self._tokens).site

    async def _offer(self, request: Request) -> Response:
        folder = self._shelf.offered(self._site(request))
        name = request.path_params["name"]
        try:
            path = self._shared().get(name, folder / name) if is_name(name) else None
            stat = os.stat(path) if path else None
        except FileNotFoundError:
            stat = None
        if path is None or stat is None:
            raise Denied(404, "no file of that name is offered to this site")
        return _Bytes(path, media_type="application/octet-stream", stat_result=stat)

    async def _announce(self, request: Request) -> Response:
        folder, name, size = self._announced(request)
        if whole(folder, name, size):
            return _there(size)
        here = received(folder, name, size)
        self._require_room(folder, size - here)
        return Response(status_code=204, headers={OFFSET: str(here)})

    def _announced(self, request: Request) -> tuple[Path, str, int]:
        """Folder, name and length of what is announced. Raises Denied."""
        folder = self._shelf.sent(self._site(request))
        name, size = request.path_params["name"], _count(request, LENGTH)
        if not is_name(name):
            raise Denied(400, "a file's name is the SHA-256 of its bytes, 64 hex digits")
        if size > self._limits.largest_bytes:
            raise Denied(
                413, f"{size:,} bytes are announced, and no file of this run is larger than {self._limits.largest_bytes:,}"
            )
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as e:
            raise _no_room(e, 0, size) from None
        return folder, name, size

    def _require_room(self, folder: Path, missing: int) -> None:
        room = os.statvfs(folder)
        free = room.f_bavail * room.f_frsize
        if missing and free < missing + self._limits.reserve_bytes:
            raise Denied(507, f"the coordinator's disk has room for {free:,} bytes, and {missing:,} are to come; make room there")

    async def _upload(self, request: Request) -> Response:
        folder, name, size = self._announced(request)
        at, length = _count(request, OFFSET), request.headers.get("content-length")
        if length is not None and length.isdecimal() and at + int(length) > size:
            raise Denied(413, f"the body is longer than the {size:,} bytes that were announced")
        if whole(folder, name, size):
            return _there(size)
        path = folder / name
        if path in self._busy:
            raise Denied(
                409, "another connection is sending this file at present", headers={OFFSET: str(received(folder, name, size))}
            )
        self._busy.add(path)
        try:
            return await self._receive(request, folder, name, size, at)
        finally:
            self._busy.discard(path)

    async def _receive(self, request: Request, folder: Path, name: str, size: int, at: int) -> Response:
        for old in parts_in(folder)[: -(_UNFINISHED - 1)]:
            if name not in old.name and not any(p.name in old.name for p in self._busy):
                old.unlink(missing_ok=True)
        try:
            part = await run_in_threadpool(Receiving, folder, name, size)
        except OSError as e:
            raise _no_room(e, 0, size) from None
        try:
            if part.offset != at:
                raise Denied(409, f"{part.offset:,} bytes are here, not {at:,}", headers={OFFSET: str(part.offset)})
            await self._fill(part, request)
            if part.offset == size:
                await run_in_threadpool(part.finish)
                return _there(size)
            return Response(status_code=204, headers={OFFSET: str(part.offset)})
        except TimeoutError:
            slow = f"slower than {self._limits.piece_bytes:,} bytes in {self._limits.piece_s:g} s"
            raise Denied(408, f"{slow}; what has come is kept", headers={"Connection": "close"}) from None
        except OSError as e:
            if e.errno not in DISK_ERRORS:
                raise
            raise _no_room(e, part.offset, size) from None
        except TooLong as e:
            part.drop()  # who sends too much has sent something else
            raise Denied(413, f"{e}; nothing of it is kept", headers={"Connection": "close"}) from None
        except OtherBytes as e:
            raise Denied(422, str(e)) from None
        finally:
            part.close()

    async def _fill(self, part: Receiving, request: Request) -> None:
        """Take in the body. Raises TimeoutError, OSError, TooLong; a connection that ends is no error here."""
        stream = request.stream()
        more = True
        while more:
            piece = bytearray()
            try:
                async with asyncio.timeout(self._limits.piece_s):
                    while len(piece) < self._limits.piece_bytes:
                        chunk = await anext(stream, None)
                        if chunk is None:
                            more = False
                            break
                        piece += chunk
            except ClientDisconnect:
                more = False
            except TimeoutError:
                with contextlib.suppress(OSError, TooLong):
                    await run_in_threadpool(part.write, piece)
                raise
            await run_in_threadpool(part.write, piece)


def _there(size: int) -> Response:
    return Response(status_code=204, headers={OFFSET: str(size), COMPLETE: "?1"})


def _count(request: Request, name: str) -> int:
    text = request.headers.get(name, "")
    if not text.isascii() or not text.isdecimal() or len(text) > 15:
        raise Denied(400, f"the header {name} has to be a number of bytes")
    return int(text)


def _no_room(e: OSError, offset: int, size: int) -> Denied:
    kept = f"{offset:,} of {size:,} bytes are kept"
    return Denied(
        507, f"the coordinator's disk takes no more ({e.strerror}); {kept}, make room there", headers={"Connection": "close"}
    )


def bearer(request: Request, tokens: Callable[[], Iterable[Token]]) -> Token:
    """Who asks. Raises Denied."""
    try:
        return whose(request.headers.get("authorization"), tokens())
    except StoreError:
        raise Denied(503, "the run's ledger cannot be read at present") from None


async def _hello(request: Request) -> Response:
    return PlainTextResponse("windfall endpoint\n")


def application(routes: Iterable[Route]) -> Starlette:
    """An application that answers these; every refusal is one sentence of plain text."""
    return Starlette(routes=[Route("/", _hello, methods=["GET"]), *routes], exception_handlers={HTTPException: _refusal})


async def _refusal(request: Request, e: Exception) -> Response:
    assert isinstance(e, HTTPException)
    return PlainTextResponse(f"{e.detail}\n", status_code=e.status_code, headers=e.headers)


def serving(app: Starlette, host: str, port: int, **more: Any) -> uvicorn.Server:
    """A server of ``app``; ``more`` goes to uvicorn as it is (``ssl_certfile`` and ``ssl_keyfile`` make it one of HTTPS)."""
    return uvicorn.Server(
        uvicorn.Config(
            app, host=host, port=port, access_log=False, log_level="warning", lifespan="off", ws="none", server_header=False,
            timeout_graceful_shutdown=1, **more,
        )
    )  # fmt: skip
