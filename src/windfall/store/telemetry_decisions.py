"""What was decided and why: the tables of decisions, and of the readings and forecasts that they were made on."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from windfall import clock
from windfall.store.telemetry_file import TelemetryFile


@dataclass(frozen=True, slots=True)
class DecisionRow:
    """A decision with its whole input. What is stored as JSON is read when it is asked for."""

    t_run: float
    t_wall: float
    site: str
    wanted: bool
    reason: str
    until: float | None
    numbers_json: str
    input_json: str
    memory_json: str

    @property
    def numbers(self) -> dict[str, Any]:
        """The figures that the reason speaks of."""
        return dict(json.loads(self.numbers_json))

    @property
    def given(self) -> dict[str, Any]:
        """What the policy was given."""
        return dict(json.loads(self.input_json))

    @property
    def memory(self) -> dict[str, Any]:
        """What the policy remembered from it."""
        return dict(json.loads(self.memory_json))


class ReadingRow(NamedTuple):
    """A reading that a decision was made on. ``stale_at`` is None where nothing is known of it."""

    site: str
    valid_from: float
    known_at: float
    stale_at: float | None
    value: float
    unit: str
    source: str
    t_run: float
    t_wall: float


class ForecastRow(NamedTuple):
    """A forecast that a decision was made on: values [n] at times [n]; None is unknown."""

    site: str
    made_at: float
    times: list[float]
    values: list[float | None]
    ends_at: float


_COLUMNS = "t_run, t_wall, site, wanted, reason, until, numbers, input, memory"


class DecisionTable(TelemetryFile):
    """Writes and reads decisions, readings and forecasts."""

    def decision(
        self, t_run: float, site: str, wanted: bool, reason: str, *, numbers: Mapping[str, Any], until: float | None,
        given: Mapping[str, Any], memory: Mapping[str, Any],
    ) -> None:  # fmt: skip
        """Queue a decision. Infinity is no JSON number, but Python reads back what it writes."""
        self.put(
            "INSERT OR REPLACE INTO decisions (t_run, t_wall, site, wanted, reason, numbers, until, input, memory)"
            " VALUES (?,?,?,?,?,?,?,?,?)",
            t_run, clock.wall(), site, wanted, reason, json.dumps(dict(numbers)), until, json.dumps(dict(given)),
            json.dumps(dict(memory)),
        )  # fmt: skip

    def decisions(self) -> list[DecisionRow]:
        """All decisions, in order of run time and, of one instant, as they were made."""
        return [_decision(r) for r in self.rows(f"SELECT {_COLUMNS} FROM decisions ORDER BY t_run, rowid")]

    def newest_decision(self, site: str) -> DecisionRow | None:
        """A site's last decision. Read by the table's key, because a long run has a decision per site and tick."""
        found = self.rows(f"SELECT {_COLUMNS} FROM decisions WHERE site = ? ORDER BY t_run DESC LIMIT 1", site)
        return _decision(found[0]) if found else None

    def wanted_s(self, site: str, t0: float, t1: float) -> float:
        """Seconds of ``[t0, t1)`` in which a site's policy wanted it on, those in which only a limit of power kept it off too."""
        found = self.rows(
            "SELECT t_run, wanted OR (reason LIKE 'off: % W are allowed (the policy: %') FROM decisions"
            " WHERE site = ?1 AND t_run < ?3"
            " AND t_run >= COALESCE((SELECT MAX(t_run) FROM decisions WHERE site = ?1 AND t_run <= ?2), ?2) ORDER BY t_run",
            site, t0, t1,
        )  # fmt: skip
        ends = [*(float(t) for t, _ in found[1:]), t1]
        return math.fsum(end - max(float(t), t0) for (t, wanted), end in zip(found, ends, strict=True) if wanted) if found else 0.0

    def reading(
        self, t_run: float, site: str, value: float, unit: str, *, valid_from: float, known_at: float, source: str,
        stale_at: float | None,
    ) -> None:  # fmt: skip
        """Queue a reading."""
        self.put(
            "INSERT OR REPLACE INTO readings (t_run, t_wall, site, value, unit, valid_from, known_at, source, stale_at)"
            " VALUES (?,?,?,?,?,?,?,?,?)",
            t_run, clock.wall(), site, value, unit, valid_from, known_at, source, stale_at,
        )  # fmt: skip

    def readings(self) -> list[ReadingRow]:
        """All readings, by site in order of what they are about."""
        return [ReadingRow(*r) for r in self.select("readings", ReadingRow._fields, "ORDER BY site, valid_from")]

    def readings_after(self, number: int) -> tuple[list[tuple[str, float]], int]:
        """Site and value of what has been noted since ``number`` (0: of everything), and the number to ask with next time."""
        found = self.rows("SELECT rowid, site, value FROM readings WHERE rowid > ? ORDER BY rowid", number)
        return [(str(s), float(v)) for _, s, v in found], int(found[-1][0]) if found else number

    def forecast(self, site: str, made_at: float, times: list[float], values: list[float | None], ends_at: float) -> None:
        """Queue a forecast."""
        self.put(
            "INSERT OR REPLACE INTO forecasts VALUES (?,?,?,?,?)",
            site, made_at, json.dumps(times), json.dumps(values), ends_at,
        )  # fmt: skip

    def forecasts(self) -> list[ForecastRow]:
        """All forecasts, by site in the order in which they were made."""
        found = self.select("forecasts", ("site", "made_at", "times", "vals", "ends_at"), "ORDER BY site, made_at")
        return [ForecastRow(str(s), float(m), json.loads(t), json.loads(v), float(e)) for s, m, t, v, e in found]


def _decision(r: tuple[Any, ...]) -> DecisionRow:
    return DecisionRow(r[0], r[1], str(r[2]), bool(r[3]), str(r[4]), r[5], r[6], r[7], r[8])
