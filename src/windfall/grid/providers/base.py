"""What providers have in common: a client, credentials, an identity, and how dropped values are told."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from windfall import proxies
from windfall.config.signals import SignalTable
from windfall.errors import SignalError
from windfall.grid.credentials import NEEDED, Credentials
from windfall.grid.http import Http, RateLimits, public_url, said_in
from windfall.grid.source import News


@dataclass(frozen=True)
class Tools:
    """What a provider works with: injected, so that tests neither sleep nor depend on time."""

    credentials: Credentials
    now: Callable[[], float]
    pause: Callable[[float], None]
    rng: random.Random
    limits: RateLimits
    folder: Path | None = None

    def http(self, who: str, table: SignalTable) -> Http:
        """A client of one service."""
        return Http(who, timeout_s=table.timeout_s, now=self.now, pause=self.pause, rng=self.rng, limits=self.limits)


class Provider:
    """Base of the providers that are asked over HTTP."""

    kind: ClassVar[str]
    #: The provider's own address; "" where a configuration has to give one.
    base: ClassVar[str] = ""
    #: What to say of an answer with several values for one instant.
    several: ClassVar[str] = "it holds several series (has the provider's API changed?)"

    def __init__(self, table: SignalTable, region: str, tools: Tools) -> None:
        self.table = table
        self.zone = table.zone or region
        self.who = f"{self.kind}:{self.zone}"
        self.tools = tools
        self.http = tools.http(self.who, table)
        self.url = (table.base_url or self.base).rstrip("/")

    @property
    def requests(self) -> int:
        return self.http.requests

    @property
    def patience_s(self) -> float:
        return self.http.patience_s

    @patience_s.setter
    def patience_s(self, seconds: float) -> None:
        self.http.patience_s = seconds

    def identity(self) -> dict[str, str]:
        return {"kind": self.kind, "type": self.table.type, "zone": self.zone, "url": public_url(self.url)}

    def require(self) -> None:
        self.tools.credentials.need(NEEDED.get(self.kind, ()), self.who)
        if fault := proxies.way(self.url).fault:
            raise SignalError(f"{self.who}: {public_url(self.url)} cannot be asked: {fault}")

    def past(self, now: float, span_s: float) -> News | None:
        return None

    def close(self) -> None:
        self.http.close()

    def malformed(self, what: str) -> SignalError:
        """What to raise where an answer has not the documented shape."""
        return SignalError(f"{self.who}: {what}; nothing of this answer is used (has the provider's API changed?)")

    def says(self, answer: Any) -> str:
        """The service's own words where it answers with an error as if that were an answer, to be put behind ours."""
        said = self.http.public(said_in(answer))[:200]
        return f" and says: {said}" if said else ""

    def rows(self, answer: Any, key: str) -> list[Any]:
        """The list under ``key`` of an answer.

        Raises:
            SignalError: there is none, or it is empty.
        """
        found = answer.get(key) if isinstance(answer, dict) else None
        if not isinstance(found, list):
            raise self.malformed(f"the answer has no list `{key}`{self.says(answer)}")
        if not found:
            raise SignalError(f"{self.who}: the answer is empty (no `{key}`); check the zone")
        return found
