"""The files that pages load: style, script and uPlot, compressed once and kept by the browser until they change."""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import dataclass
from functools import cache
from importlib import resources

from starlette.requests import Request
from starlette.responses import Response

from windfall.ui.web.guard import Bad

#: What each is made of, in order.
_MADE_OF = {
    "page.css": ("assets/report.css", "web/assets/uPlot.min.css", "web/assets/dashboard.css"),
    "uplot.js": ("web/assets/uPlot.iife.min.js",),
    "dashboard.js": ("web/assets/charts.js", "web/assets/dashboard.js"),
    "icon.svg": ("web/assets/icon.svg",),
}
_TYPES = {"css": "text/css; charset=utf-8", "js": "text/javascript; charset=utf-8", "svg": "image/svg+xml"}


@dataclass(frozen=True, slots=True)
class Asset:
    """A file as it is sent; ``tag`` is of its bytes."""

    body: bytes
    packed: bytes
    tag: str


@cache
def asset(name: str) -> Asset:
    """Raises KeyError where there is none of that name."""
    folder = resources.files("windfall.ui")
    body = b"\n".join(folder.joinpath(part).read_bytes() for part in _MADE_OF[name])
    return Asset(body, gzip.compress(body, 9), hashlib.blake2b(body, digest_size=6).hexdigest())


def address(name: str) -> str:
    """Where a page loads it from; it changes when the file does."""
    return f"/assets/{name}?{asset(name).tag}"


async def answer(request: Request) -> Response:
    """Send one."""
    name = request.path_params["name"]
    if name not in _MADE_OF:
        raise Bad(404, "there is no such file")
    found = asset(name)
    headers = {"Cache-Control": "public, max-age=31536000, immutable", "ETag": f'"{found.tag}"', "Vary": "Accept-Encoding"}
    if f'"{found.tag}"' in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    if "gzip" in request.headers.get("accept-encoding", ""):
        return Response(found.packed, headers={**headers, "Content-Encoding": "gzip"}, media_type=_TYPES[name.rsplit(".")[-1]])
    return Response(found.body, headers=headers, media_type=_TYPES[name.rsplit(".")[-1]])
