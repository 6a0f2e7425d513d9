"""Answers that are worked out once for all who ask at the same time, kept while they hold, and never more than so many bytes."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

from starlette.concurrency import run_in_threadpool

from windfall import clock

#: Smaller ones are not worth compressing.
_LEAST = 600
_KEPT_BYTES = 24 * 2**20
#: An answer that took long to work out is kept for so many times as long, so that work takes a bounded share of the machine.
_TIMES_ITS_COST = 4.0


@dataclass(slots=True)
class KeptAnswer:
    """A body, and the same compressed. ``made``: monotonic time; ``cost_s``: how long it took; ``mark``: what it was made of."""

    body: bytes
    mark: Hashable
    made: float
    cost_s: float
    etag: str = ""
    packed: bytes | None = None

    def __post_init__(self) -> None:
        self.etag = '"' + hashlib.blake2b(self.body, digest_size=9).hexdigest() + '"'
        self.packed = gzip.compress(self.body, 5) if len(self.body) >= _LEAST else None

    @property
    def size(self) -> int:
        """Bytes of both."""
        return len(self.body) + len(self.packed or b"")


@dataclass
class Answers:
    """All that are kept."""

    most_bytes: int = _KEPT_BYTES
    _kept: OrderedDict[Hashable, KeptAnswer] = field(default_factory=OrderedDict)
    _working: dict[Hashable, asyncio.Task[KeptAnswer]] = field(default_factory=dict)
    _bytes: int = 0

    async def get(
        self, key: Hashable, mark: Hashable, make: Callable[[], bytes], *, least_s: float = 0.3, most_s: float = 3600.0
    ) -> KeptAnswer:
        """The answer to ``key``, worked out in a thread by ``make`` unless the one that is kept still holds.

        It holds while ``mark`` (of the files that it was made of) is the same, for ``most_s`` at most; and for ``least_s``, or
        a few times what it cost, whatever has been written meanwhile (0: not at all). What
        ``make`` raises is raised to all who wait.
        """
        old = self._kept.get(key)
        if old is not None:
            age = clock.monotonic() - old.made
            if (old.mark == mark and age < most_s) or (least_s and age < max(least_s, _TIMES_ITS_COST * old.cost_s)):
                self._kept.move_to_end(key)
                return old
        task = self._working.get(key)
        if task is None:
            task = asyncio.create_task(self._work(key, mark, make))
            task.add_done_callback(lambda t: t.cancelled() or t.exception())  # nobody may be left to hear of it
            self._working[key] = task
        # One who leaves must not end the work that others wait for.
        return await asyncio.shield(task)

    async def _work(self, key: Hashable, mark: Hashable, make: Callable[[], bytes]) -> KeptAnswer:
        began = clock.monotonic()
        try:
            body = await run_in_threadpool(make)
        finally:
            self._working.pop(key, None)
        now = clock.monotonic()
        answer = KeptAnswer(body, mark, now, now - began)
        old = self._kept.pop(key, None)
        self._bytes += answer.size - (old.size if old else 0)
        self._kept[key] = answer
        while self._bytes > self.most_bytes and len(self._kept) > 1:
            self._bytes -= self._kept.popitem(last=False)[1].size
        return answer
