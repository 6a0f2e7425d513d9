"""The JSON behind the page, versioned: ``/api/v1/...``. What it says is in the OpenAPI document (`openapi`)."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from windfall.errors import NoRun, WindfallError
from windfall.store.files import to_json
from windfall.ui.web.answers import KeptAnswer
from windfall.ui.web.guard import Bad
from windfall.ui.web.look import RunLook, as_json, unreadable
from windfall.ui.web.looks import Looks
from windfall.ui.web.openapi import document
from windfall.units import parse_utc

#: The least and the most that may be asked for.
POINTS, EVENTS, PARTS, RUNS = (10, 2000), (1, 500), (1, 500), (1, 100)
#: Instants (Unix seconds) that calendars can express.
_LATEST = 253402300799.0
_INTEGER = 2**53


class Api:
    """Answers its requests."""

    def __init__(self, looks: Looks) -> None:
        self._looks = looks

    def routes(self) -> list[Route]:
        """What it answers."""
        of = "/api/v1/runs/{run}"
        paths: dict[str, Callable[[Request], Any]] = {
            "/api/v1/runs": self._runs, of: self._run, f"{of}/lanes": self._lanes, f"{of}/loss": self._loss,
            f"{of}/emissions": self._emissions, f"{of}/rates": self._rates, f"{of}/events": self._events,
            f"{of}/moment": self._moment, f"{of}/samples/{{version}}": self._sample, "/api/v1/openapi.json": self._openapi,
        }  # fmt: skip
        return [Route(path, answer, methods=["GET"]) for path, answer in paths.items()]

    async def _runs(self, request: Request) -> Response:
        check(request, "search", "offset", "limit")
        search, offset = request.query_params.get("search", ""), whole(request, "offset", 0, _INTEGER, 0) or 0
        limit = whole(request, "limit", *RUNS, 25) or 25
        key = ("runs", search, offset, limit)
        return sent(
            request,
            await self._looks.answers.get(
                key, None, as_json(lambda: self._looks.listed(search, offset, limit)), least_s=1.0, most_s=1.0
            ),
        )

    async def _run(self, request: Request) -> Response:
        check(request)
        return sent(request, await self._looks.whole(request.path_params["run"]))

    async def _lanes(self, request: Request) -> Response:
        check(request, "from", "to", "points", "site")
        t0, t1 = span(request)
        points, sites = whole(request, "points", *POINTS, 600) or 600, request.query_params.getlist("site")
        return await self._answer(request, ("lanes", t0, t1, points, *sites), lambda x: x.lanes(t0, t1, points, sites))

    async def _loss(self, request: Request) -> Response:
        check(request, "from_tokens", "to_tokens", "points")
        a, b = whole(request, "from_tokens", 0, _INTEGER, None), whole(request, "to_tokens", 0, _INTEGER, None)
        if (a is None) != (b is None) or (a is not None and b is not None and b <= a):
            raise Bad(400, "from_tokens and to_tokens are given together, the second larger than the first")
        points = whole(request, "points", *POINTS, 600) or 600
        look = self._looks.get(request.path_params["run"])
        # While there is more to read every question reads on.
        least_s, most_s = (0.0, 0.0) if look.loading else (0.3, 3600.0)
        return await self._answer(request, ("loss", a, b, points), lambda x: x.loss(a, b, points), least_s=least_s, most_s=most_s)

    async def _emissions(self, request: Request) -> Response:
        check(request, "from", "to", "points")
        t0, t1 = span(request)
        points = whole(request, "points", *POINTS, 600) or 600
        look = self._looks.get(request.path_params["run"])
        look.look_against()
        key = ("emissions", t0, t1, points, look.against_mark)
        return await self._answer(request, key, lambda x: x.emissions(t0, t1, points))

    async def _rates(self, request: Request) -> Response:
        check(request, "from", "to", "parts")
        t0, t1 = span(request)
        parts = whole(request, "parts", *PARTS, 120) or 120
        return await self._answer(request, ("rates", t0, t1, parts), lambda x: x.rates(t0, t1, parts))

    async def _events(self, request: Request) -> Response:
        check(request, "before", "limit", "kind", "site", "search", "at")
        before, most = whole(request, "before", 0, _INTEGER, None), whole(request, "limit", *EVENTS, 100) or 100
        kinds, site = request.query_params.getlist("kind"), request.query_params.get("site")
        search, at = request.query_params.get("search", ""), number(request, "at")
        if len(search) > 200 or len(kinds) > 100:
            raise Bad(400, "search is at most 200 characters, and at most 100 kinds are named")
        key = ("events", before, most, *kinds, None, site, search, at)
        return await self._answer(request, key, lambda x: x.events(before, most, kinds, site, search, at))

    async def _moment(self, request: Request) -> Response:
        check(request, "t")
        t = number(request, "t")
        if t is None:
            raise Bad(400, "t is needed: a run time in Unix seconds, or as 2026-01-11T17:14Z")
        return await self._answer(request, ("moment", t), lambda x: x.instant(t))

    async def _sample(self, request: Request) -> Response:
        check(request)
        text = request.path_params["version"]
        if not re.fullmatch(r"[0-9]{1,15}", text):
            raise Bad(404, "a version is a number")

        def made(look: Any) -> dict[str, Any]:
            found: dict[str, Any] | None = look.sample(int(text))
            if found is None:
                raise Bad(404, f"nothing that version {int(text)} wrote is kept")
            return found

        return await self._answer(request, ("sample", int(text)), made)

    async def _openapi(self, request: Request) -> Response:
        check(request)
        return Response(to_json(document()), media_type="application/json")

    async def _answer(
        self, request: Request, key: tuple[Any, ...], make: Callable[[Any], Any], *, least_s: float = 0.3, most_s: float = 3600.0
    ) -> Response:  # fmt: skip
        look = self._looks.get(request.path_params["run"])
        return sent(request, await self._looks.answer(look, key, lambda: make(look), least_s=least_s, most_s=most_s))


def warm(look: RunLook) -> Iterator[tuple[tuple[Any, ...], Callable[[], Any]]]:
    """What a page of the whole run asks for first: keys, and how each is made."""
    yield ("lanes", None, None, 800), lambda: look.lanes(None, None, 800, [])
    yield ("rates", None, None, 140), lambda: look.rates(None, None, 140)
    yield ("emissions", None, None, 600, look.against_mark), lambda: look.emissions(None, None, 600)


def sent(request: Request, answer: KeptAnswer) -> Response:
    """An answer as a response: compressed where that is understood, nothing where the asker has it."""
    headers = {"ETag": answer.etag, "Cache-Control": "no-cache", "Vary": "Accept-Encoding"}
    if answer.etag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    if answer.packed is not None and "gzip" in request.headers.get("accept-encoding", ""):
        return Response(answer.packed, headers={**headers, "Content-Encoding": "gzip"}, media_type="application/json")
    return Response(answer.body, headers=headers, media_type="application/json")


def refusal(status: int, why: str) -> Response:
    """Why something cannot be answered, as JSON."""
    return Response(to_json({"error": why}), status_code=status, media_type="application/json")


def status_of(e: WindfallError) -> int:
    """404 for what is not there, 503 for what cannot be read (now)."""
    return 404 if isinstance(e, NoRun) else 503


def told(e: WindfallError) -> Response:
    """The refusal of a run that cannot be read."""
    return refusal(status_of(e), unreadable(e))


def check(request: Request, *names: str) -> None:
    """Raises Bad where the request has a parameter that is not among ``names``."""
    unknown = sorted(set(request.query_params) - set(names))
    if unknown:
        known = f"; there are {', '.join(names)}" if names else ""
        raise Bad(400, f"{unknown[0]}: no such parameter{known}")


def whole(request: Request, name: str, least: int, most: int, default: int | None) -> int | None:
    """A parameter that is a whole number. Raises Bad."""
    text = request.query_params.get(name)
    if text is None:
        return default
    if not re.fullmatch(r"-?[0-9]{1,16}", text) or not least <= int(text) <= most:
        raise Bad(400, f"{name} has to be a whole number from {least} to {most}")
    return int(text)


def number(request: Request, name: str) -> float | None:
    """A parameter that is an instant: Unix seconds, or ISO 8601. Raises Bad."""
    text = request.query_params.get(name)
    if text is None:
        return None
    try:
        found = float(text) if re.fullmatch(r"-?[0-9]+(\.[0-9]+)?", text) else parse_utc(text)
    except (ValueError, OverflowError):
        found = math.nan
    if not 0.0 <= found <= _LATEST:
        raise Bad(400, f"{name} has to be an instant: Unix seconds, or as 2026-01-11T17:14Z")
    return found


def span(request: Request) -> tuple[float | None, float | None]:
    """``from`` and ``to``, instants of run time. Raises Bad."""
    t0, t1 = number(request, "from"), number(request, "to")
    if t0 is not None and t1 is not None and t1 <= t0:
        raise Bad(400, "from has to be before to")
    return t0, t1
