"""Any HTTP address that answers JSON with a number in it, or with lists of them."""

from __future__ import annotations

from typing import Any

from windfall.config.signals import SignalTable
from windfall.errors import SignalError
from windfall.grid.http import host_of, public_url, url_secrets
from windfall.grid.providers.base import Provider, Tools
from windfall.grid.source import News, Point, decimal, finite, in_words, one_series, plausible, reach
from windfall.grid.stamps import StampReader
from windfall.units import UNITS

#: Keys that change what an answer means.
_MEANING = ("timezone", "trust_offset", "stamp", "time_format", "published")


class HttpJson(Provider):
    """The value at ``value_path``, in ``unit``, times ``scale``; from the instant at ``time_path``, else from when it was heard.

    Numbers may be given as text, as Prometheus and Home Assistant do. Where the paths lead to lists, each value has its instant.
    """

    kind = "http"

    def __init__(self, table: SignalTable, region: str, tools: Tools) -> None:
        super().__init__(table, region, tools)
        self.url = table.url or ""
        self.who = self.http.who = f"http:{host_of(self.url)} {table.label}"
        self.http.hide(*url_secrets(self.url))
        self._stamps = StampReader(table)

    def identity(self) -> dict[str, str]:
        table = self.table
        meaning = {k: str(getattr(table, k)) for k in _MEANING if getattr(table, k) != type(table).model_fields[k].default}
        return {
            "kind": self.kind, "type": table.type, "url": public_url(self.url), "value_path": table.value_path or "",
            "time_path": table.time_path or "", "scale": str(table.factor), "headers": ",".join(table.headers_from_env.values()),
            **meaning,
        }  # fmt: skip

    def require(self) -> None:
        self.tools.credentials.need(tuple(self.table.headers_from_env.values()), self.who)

    def fetch(self, now: float) -> News:
        names = self.table.headers_from_env
        values = self.tools.credentials.need(tuple(names.values()), self.who)
        self.http.hide(*values)
        answer = self.http.get(self.url, headers=dict(zip(names, values, strict=True)))
        found = self._at(answer, self.table.value_path or "", "value_path")
        when = self._at(answer, self.table.time_path, "time_path") if self.table.time_path else None
        many = isinstance(found, list)
        if many and found and (not isinstance(when, list) or len(when) != len(found)):
            raise SignalError(
                f"{self.who}: {len(found)} values at value_path `{self.table.value_path}` need as many instants at time_path; set "
                "time_path to a list too, or choose one value (`.0`: the first, `.-1`: the last)"
            )
        read, dropped, told = [], 0, ""
        self._stamps.changed = False
        for what, stamp in zip(found, when or [], strict=True) if many else [(found, when)]:
            point = self._point(what, stamp)
            if isinstance(point, str):
                dropped, told = dropped + 1, told or point
                continue
            read.append(point)
            if not plausible(point.value, self.table.type):
                told = told or self._odd(what, point.value)
        mend = f"value_path `{self.table.value_path}` chooses several series, lead it to one"
        if self._stamps.changed:
            mend += "; or stamps are local time of the hour in which clocks are changed, and need an offset"
        points, odd = one_series(read, self.table.type, self.who, mend)
        if not points:
            nothing = f"the empty list at value_path `{self.table.value_path}` is no plausible {self.table.type}"
            raise SignalError(f"{self.who}: {told or nothing}")
        naive = self._stamps.naive if self.table.time_path else None
        return News(points, dropped=dropped + odd, published=self.table.published or "observed", naive=naive)

    def _point(self, what: Any, stamp: Any) -> Point | str:
        """A reading, plausible or not, or why there is none."""
        value = finite(decimal(what), self.table.factor)
        if value is None:
            return self._odd(what, None)
        now = self.tools.now()
        if not self.table.time_path:
            return Point(now, value)
        t = self._stamps.read(stamp, now)
        if t is not None:
            return Point(t, value)
        how = f"as time_format {self.table.time_format}" if self.table.time_format else "ISO 8601, or Unix seconds or milliseconds"
        mend = "" if self.table.time_format else "; set time_format if it is written otherwise"
        return f"no instant at time_path `{self.table.time_path}` ({how}): {self._shown(stamp)}; the value is not used{mend}"

    def _odd(self, what: Any, value: float | None) -> str:
        """Why ``what`` is not used; ``value`` is what it is in our unit, if it is a number."""
        kind, limits = self.table.type, ""
        if value is not None:
            ours = f"{value:.12g} {UNITS[kind]} by unit and scale; " if self.table.factor != 1.0 else ""
            limits = f" ({ours}{reach(kind)} is)"
        hint = "" if value is not None else self._comma(what)
        return f"{self._shown(what)} at value_path `{self.table.value_path}` is no plausible {kind}{limits}; it is not used{hint}"

    def _at(self, answer: Any, path: str, key: str) -> Any:
        """What is at a dotted path; numbers choose from lists, negative ones from the end, `*` takes all of a list.

        Raises:
            SignalError: there is nothing.
        """
        found, parts = answer, path.split(".")
        for i, part in enumerate(parts):
            if part == "*" and isinstance(found, list):
                rest = ".".join(parts[i + 1 :])
                return [self._at(row, rest, key) for row in found] if rest else found
            try:
                found = found[int(part)] if isinstance(found, list) else found[part]
            except (KeyError, IndexError, ValueError, TypeError):
                raise SignalError(
                    f"{self.who}: there is nothing at {key} `{path}` (not beyond `{part}`){self.says(answer)}; correct it, or the "
                    "service"
                ) from None
        return found

    def _shown(self, value: Any) -> str:
        """A value in words, without secrets."""
        return in_words(self.http.public(value) if isinstance(value, str) else value)

    @staticmethod
    def _comma(value: Any) -> str:
        return " (a number is digits with a point: 1234.5)" if isinstance(value, str) and any(c.isdecimal() for c in value) else ""
