"""What changes in a run, told as it does: server-sent events. One watcher a run serves all who listen to it.

A listener is told the newest state, not every one, and events one by one; one that has fallen too far behind is told to ask anew.
One that reads nothing is dropped, and costs no more than a buffer until then.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from windfall import clock
from windfall.errors import WindfallError
from windfall.store.files import to_json
from windfall.ui.web.look import RunLook, unreadable
from windfall.ui.web.looks import Looks
from windfall.ui.web.said import said
from windfall.view.event_pages import shown
from windfall.view.moment import one_moment

#: How often files are looked at (s), and how often a listener hears at least something.
_LOOK_S, _BEAT_S = 0.2, 10.0
#: Events that are kept to be told; who has missed more asks for a page of them.
_KEPT = 400
#: A listener has so long to take what it is sent (s).
_SLOW_S = 20.0
#: As the dashboard ends, who still listens has so long to take the last word.
_LAST_S = 1.0
#: At most so many listeners; others ask again and again instead.
MOST_LISTENERS = 400


def frame(kind: str, data: bytes, number: int | None = None) -> bytes:
    """A message of the stream."""
    head = b"" if number is None else b"id: %d\n" % number
    return head + b"event: " + kind.encode() + b"\ndata: " + data + b"\n\n"


class Watcher:
    """Follows one run while somebody listens."""

    def __init__(self, looks: Looks, look: RunLook) -> None:
        self._looks, self._look = looks, look
        self.state = b""
        self.state_number = 0
        self.events: deque[tuple[int, bytes]] = deque(maxlen=_KEPT)
        self.last_event = -1
        self.changed = asyncio.Condition()
        self.listeners = 0
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to follow."""
        if self._task is None:
            self._task = asyncio.create_task(self._follow())

    async def close(self) -> None:
        """Follow no more."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    async def _follow(self) -> None:
        seen: Any = None
        told_at = -1e9
        etag = ""
        while True:
            mark = self._look.mark()
            if mark != seen or clock.monotonic() - told_at > 2.0:
                seen = mark
                try:
                    fresh = await run_in_threadpool(self._new_events)
                    if fresh:
                        await self._tell()
                    answer = await said(self._looks, self._look)
                    body, name = answer.body, answer.etag
                except WindfallError as e:
                    body, name = to_json({"error": unreadable(e)}).encode(), f"error {e}"
                told_at = clock.monotonic()
                if name != etag:
                    etag, self.state = name, frame("words", body)
                    self.state_number += 1
                    await self._tell()
            await asyncio.sleep(_LOOK_S)

    async def _tell(self) -> None:
        async with self.changed:
            self.changed.notify_all()

    def _new_events(self) -> bool:
        """Take in what has happened since; whether anything has."""
        with one_moment(self._look.run) as at:
            if at.telemetry is None:
                return False
            last = at.telemetry.last_event_id()
            if self.last_event < 0 or last < self.last_event:  # telemetry may have been begun anew
                self.events.clear()
                self.last_event = last
                return False
            if last == self.last_event:
                return False
            for number, e in reversed(at.telemetry.events_upto(None, min(_KEPT, last - self.last_event))):
                self.events.append(
                    (number, frame("happened", to_json(asdict(shown(number, e)), ensure_ascii=False).encode(), number))
                )
            self.last_event = last
        return True


class Streams:
    """All watchers."""

    def __init__(self, looks: Looks) -> None:
        self._looks = looks
        self._watchers: dict[str, Watcher] = {}
        self.listeners = 0
        self.closing = asyncio.Event()

    def open(self, name: str, after: int | None) -> Listener | None:
        """A stream of a run from event ``after`` on (default: from now on); None where there are too many listeners."""
        look = self._looks.get(name)
        if self.listeners >= MOST_LISTENERS:
            return None
        return Listener(self, look, after)

    def watcher(self, look: RunLook) -> Watcher:
        """The watcher of a run, begun if there is none."""
        found = self._watchers.get(look.name)
        if found is None:
            found = self._watchers[look.name] = Watcher(self._looks, look)
            found.start()
        return found

    async def leave(self, look: RunLook, watcher: Watcher) -> None:
        """One listener less; the last one ends the watcher."""
        if watcher.listeners == 0 and self._watchers.get(look.name) is watcher:
            del self._watchers[look.name]
            await watcher.close()

    async def close(self) -> None:
        """End all."""
        self.closing.set()
        for watcher in list(self._watchers.values()):
            await watcher._tell()
            await watcher.close()


class Listener(Response):
    """One listener's stream."""

    media_type = "text/event-stream"

    def __init__(self, streams: Streams, look: RunLook, after: int | None) -> None:
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._streams, self._look, self._after = streams, look, after

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Tell until the listener goes, is too slow, or the dashboard ends."""
        watcher = self._streams.watcher(self._look)
        watcher.listeners += 1
        self._streams.listeners += 1
        try:
            gone = asyncio.create_task(_gone(receive))
            telling = asyncio.create_task(self._tell(watcher, send))
            ending = asyncio.create_task(self._streams.closing.wait())
            await asyncio.wait({gone, telling, ending}, return_when=asyncio.FIRST_COMPLETED)
            over = ending.done() and not gone.done() and not telling.done()
            for task in (gone, telling, ending):
                task.cancel()
            await asyncio.gather(gone, telling, ending, return_exceptions=True)
            if over:  # the dashboard ends, and so does the answer, in order
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_LAST_S):
                        await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            watcher.listeners -= 1
            self._streams.listeners -= 1
            await self._streams.leave(self._look, watcher)

    async def _tell(self, watcher: Watcher, send: Send) -> None:
        async def put(data: bytes, more: bool = True) -> None:
            async with asyncio.timeout(_SLOW_S):
                await send({"type": "http.response.body", "body": data, "more_body": more})

        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        await put(b": windfall\nretry: 2000\n\n")
        after, known = self._after, 0
        while True:
            parts: list[bytes] = []
            if after is None and watcher.last_event >= 0:
                after = watcher.last_event
            if watcher.state_number != known:
                known = watcher.state_number
                parts.append(watcher.state)
            if after is not None and watcher.last_event not in (after, -1):
                first = watcher.events[0][0] if watcher.events else watcher.last_event + 1
                if watcher.last_event < after or first > after + 1:
                    parts.append(frame("missed", to_json({"last_event": watcher.last_event}).encode(), watcher.last_event))
                parts += [data for number, data in watcher.events if number > after]
                after = watcher.last_event
            await put(b"".join(parts) or b": still here\n\n")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_BEAT_S), watcher.changed:
                    if watcher.state_number == known and watcher.last_event in (after, -1):
                        await watcher.changed.wait()


async def _gone(receive: Callable[[], Awaitable[Any]]) -> None:
    while True:
        if (await receive())["type"] == "http.disconnect":
            return
