"""Any HTTP address that answers JSON with a number in it."""

from __future__ import annotations

from typing import Any

from windfall.config.signals import SignalTable
from windfall.errors import SignalError
from windfall.grid.http import host_of, public_url
from windfall.grid.providers.base import Provider, Tools
from windfall.grid.source import News, Point, moment, number


class HttpJson(Provider):
    """The value at ``value_path``, times ``scale``; from the instant at ``time_path``, else from when it was asked for."""

    kind = "http"

    def __init__(self, table: SignalTable, region: str, tools: Tools) -> None:
        super().__init__(table, region, tools)
        self.url = table.url or ""
        self.who = self.http.who = f"http:{host_of(self.url)} {table.label}"

    def identity(self) -> dict[str, str]:
        table = self.table
        return {
            "kind": self.kind, "type": table.type, "url": public_url(self.url), "value_path": table.value_path or "",
            "time_path": table.time_path or "", "scale": str(table.scale), "headers": ",".join(table.headers_from_env.values()),
        }  # fmt: skip

    def require(self) -> None:
        self.tools.credentials.need(tuple(self.table.headers_from_env.values()), self.who)

    def fetch(self, now: float) -> News:
        names = self.table.headers_from_env
        values = self.tools.credentials.need(tuple(names.values()), self.who)
        self.http.hide(*values)
        answer = self.http.get(self.url, headers=dict(zip(names, values, strict=True)))
        found = self._at(answer, self.table.value_path or "", "value_path")
        value = number(found, self.table.type, self.table.scale)
        if value is None:
            raise SignalError(
                f"{self.who}: {_what(found)} at value_path `{self.table.value_path}` is no plausible {self.table.type}; "
                "it is not used"
            )
        t: float | None = self.tools.now()
        if self.table.time_path:
            t = moment(self._at(answer, self.table.time_path, "time_path"))
            if t is None:
                raise SignalError(
                    f"{self.who}: no instant at time_path `{self.table.time_path}` (ISO 8601, or Unix seconds or milliseconds); "
                    "the value is not used"
                )
        assert t is not None
        return News([Point(t, value)])

    def _at(self, answer: Any, path: str, key: str) -> Any:
        """What is at a dotted path; numbers choose from lists, negative ones from the end.

        Raises:
            SignalError: there is nothing.
        """
        found = answer
        for part in path.split("."):
            try:
                found = found[int(part)] if isinstance(found, list) else found[part]
            except (KeyError, IndexError, ValueError, TypeError):
                raise SignalError(
                    f"{self.who}: nothing at {key} `{path}` (not beyond `{part}`); correct it, or the service"
                ) from None
        return found


def _what(value: Any) -> str:
    """A value in words that hold none of it: it may be anything."""
    names = {str: "text", bool: "true or false", type(None): "null", dict: "an object", list: "a list"}
    return names.get(type(value), "the number")
