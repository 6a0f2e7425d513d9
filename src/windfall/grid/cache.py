"""Keeps on disk what live sources said last, so that a restarted process does not ask again for what it has just been told.

One JSON file per source under ``$XDG_CACHE_HOME/windfall/signals`` (``~/.cache/...``), named by a hash of the source's
identity. No secret is in it. A file that cannot be read or written, or makes no sense, is ignored.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from windfall.grid.source import PLAUSIBLE, ForecastPoints, Point, Published
from windfall.store.files import read_json, write_atomic

_SCHEMA = 1


class SignalCache:
    """The cache of one source. ``folder`` None: nothing is kept."""

    def __init__(self, folder: Path | None, identity: Mapping[str, str], kind: str) -> None:
        self._identity = dict(identity)
        self._kind = kind
        digest = hashlib.sha256(json.dumps(self._identity, sort_keys=True).encode()).hexdigest()[:32]
        self._file = folder / f"{digest}.json" if folder else None

    def save(
        self, fetched_at: float, points: list[Point], expected: ForecastPoints | None, published: Published = "observed"
    ) -> None:
        """Keep what was heard at ``fetched_at``, besides what else is kept."""
        self._put(
            fetched_at=fetched_at, published=published, points=[[p.valid_from, p.value, p.period_s, p.source] for p in points],
            forecast=None if expected is None else {
                "points": [[p.valid_from, p.value] for p in expected.points], "ends_at": expected.ends_at,
            },
        )  # fmt: skip

    def load(self, now: float) -> tuple[float, list[Point], ForecastPoints | None, Published] | None:
        """When something was last heard, what it was, and how it is published.

        None if there is nothing, or its time is in the future.
        """
        found = self._all()
        try:
            fetched = float(found["fetched_at"])
            points = [Point(float(t), self._value(v), float(p), str(s)) for t, v, p, s in found["points"]]
            forecast = found.get("forecast")
            expected = forecast and ForecastPoints(
                tuple(Point(float(t), self._value(v)) for t, v in forecast["points"]), float(forecast["ends_at"])
            )
        except (KeyError, TypeError, ValueError):
            return None
        instants = [fetched, *(p.valid_from for p in points), *(p.period_s for p in points)]
        if not 0 <= now - fetched < math.inf or not all(math.isfinite(x) for x in instants):
            return None
        published = found.get("published")
        return fetched, points, expected or None, published if published in ("forecast", "ahead") else "observed"

    def save_zone(self, zone: str, now: float) -> None:
        """Keep the zone that a place was found to be in."""
        self._put(zone=zone, zone_at=now)

    def zone(self, now: float, max_age_s: float) -> str | None:
        """The zone kept, unless it is older than ``max_age_s``."""
        found = self._all()
        zone, at = found.get("zone"), found.get("zone_at")
        known = isinstance(zone, str) and isinstance(at, int | float) and 0 <= now - at < max_age_s
        return str(zone) if known else None

    def _value(self, value: Any) -> float:
        low, high = PLAUSIBLE[self._kind]
        if not low <= float(value) <= high:
            raise ValueError("not a value of this signal")
        return float(value)

    def _all(self) -> dict[str, Any]:
        if self._file is None:
            return {}
        try:
            found = read_json(self._file)
        except OSError:
            return {}
        whole = isinstance(found, dict) and found.get("schema") == _SCHEMA and found.get("identity") == self._identity
        return dict(found) if whole else {}  # type: ignore[arg-type]

    def _put(self, **changes: Any) -> None:
        if self._file is None:
            return
        content = {**self._all(), "schema": _SCHEMA, "identity": self._identity, **changes}
        # A full or read-only disk costs a request, not a run.
        with suppress(OSError):
            self._file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_atomic(self._file, [json.dumps(content).encode()], durable=False)


def cache_folder(environ: Mapping[str, str] | None = None) -> Path | None:
    """Where caches are; None on a machine without a home."""
    env = os.environ if environ is None else environ
    base = env.get("XDG_CACHE_HOME", "")
    try:
        root = Path(base) if base and Path(base).is_absolute() else Path.home() / ".cache"
    except RuntimeError:
        return None
    return root / "windfall" / "signals"
