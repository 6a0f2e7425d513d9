"""Long tables read as short ones: what a figure of so many pixels needs, thinned where the rows are. Extremes are kept."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from windfall.store.telemetry_events import COLUMNS, Event, event_of
from windfall.store.telemetry_file import TelemetryFile


class ReadingBin(NamedTuple):
    """Readings that came in one part of a time: from ``t`` on, the least and the greatest value, and when the last one is stale."""

    t: float
    low: float
    high: float
    stale_at: float | None
    unit: str


class EnergyBin(NamedTuple):
    """What a site booked in one phase within one part of a time, clipped to it: from the first begin to the last end."""

    site: str
    phase: str
    t0: float
    t1: float
    seconds: float
    joules: float
    grams: float


class LossBin(NamedTuple):
    """Training losses of one part of the tokens that were made in one mode. ``first`` and ``last``: ids of its rows."""

    bin: int
    mode: str
    low: float
    high: float
    mean: float
    rows: int
    first: int
    last: int


class CutBin(NamedTuple):
    """What a site handed in within one part of a time, the last of it at ``t1``."""

    site: str
    t1: float
    tokens: int


class ThinnedTable(TelemetryFile):
    """Reads only."""

    def reading_bins(self, site: str, t0: float, t1: float, most: int) -> list[ReadingBin]:
        """A site's readings valid in ``[t0, t1]``, at most ``most`` rows and the one that held at ``t0``, in order."""
        columns = ("valid_from", "value", "value", "stale_at", "unit")
        before = self.select(
            "readings", columns, "WHERE site = ? AND valid_from <= ? ORDER BY valid_from DESC LIMIT 1", site, t0
        )  # fmt: skip
        where = "WHERE site = ? AND valid_from > ? AND valid_from <= ?"
        count = int(self.rows(f"SELECT COUNT(*) FROM readings {where}", site, t0, t1)[0][0])
        if count <= most:
            rest = self.select("readings", columns, f"{where} ORDER BY valid_from", site, t0, t1)
        else:
            grouped = ("MIN(valid_from)", "MIN(value)", "MAX(value)", "MAX(stale_at)", "MAX(unit)")
            rest = self.rows(
                f"SELECT {', '.join(grouped)} FROM readings {where} GROUP BY CAST((valid_from - ?) / ? AS INTEGER) ORDER BY 1",
                site, t0, t1, t0, (t1 - t0) / most,
            )  # fmt: skip
        return [ReadingBin(*r) for r in [*before, *rest]]

    def windows(self, site: str, level: float, *, under: bool, t0: float, t1: float) -> list[tuple[float, float]]:
        """Where a site's readings were under ``level`` (else: at it or over it), from and to; unknown time is in none of them.

        An end at infinity is that of a reading which holds until the next one.
        """
        sign = "<" if under else ">="
        found = self.rows(
            f"""SELECT valid_from, stale_at, inside, following FROM (
              SELECT valid_from, stale_at, value {sign} ? AS inside, LAG(value {sign} ?) OVER w AS before,
                     LAG(stale_at) OVER w AS ended, LEAD(valid_from) OVER w AS following
              FROM readings WHERE site = ? AND valid_from <= ? AND valid_from >=
                COALESCE((SELECT MAX(valid_from) FROM readings WHERE site = ? AND valid_from <= ?), ?)
              WINDOW w AS (ORDER BY valid_from))
            WHERE inside IS NOT before OR ended < valid_from OR stale_at < following OR following IS NULL ORDER BY 1""",
            level, level, site, t1, site, t0, t0,
        )  # fmt: skip
        spans: list[tuple[float, float]] = []
        begun: float | None = None
        for valid_from, stale_at, inside, following in found:
            if inside and begun is None:
                begun = valid_from
            elif not inside and begun is not None:
                spans.append((begun, valid_from))
                begun = None
            end = math.inf if stale_at is None else stale_at
            if begun is not None and (following is None or end < following):
                spans.append((begun, end))
                begun = None
        return spans

    def latest_forecasts(self, site: str, upto: float, most: int) -> list[tuple[float, str, str]]:
        """When a site's newest forecasts known at ``upto`` were made, their instants and values (JSON), newest first."""
        rest = "WHERE site = ? AND made_at <= ? ORDER BY made_at DESC LIMIT ?"
        return [(float(m), t, v) for m, t, v in self.select("forecasts", ("made_at", "times", "vals"), rest, site, upto, most)]

    def energy_bins(self, t0: float, t1: float, parts: int) -> list[EnergyBin]:
        """The account over ``[t0, t1)`` by site, phase and part of it; entries across a border count by their share of time."""
        there = {str(c[1]) for c in self.rows("PRAGMA table_info(energy)")}
        booked = "COALESCE(cause, '') = ''" if "cause" in there else "1"
        # An entry that takes no time (bytes that moved) is whole where it stands.
        share = "(CASE WHEN t1 > t0 THEN (MIN(t1, ?2) - MAX(t0, ?1)) / (t1 - t0) ELSE 1.0 END)"
        found = self.rows(
            f"""SELECT site, phase, MIN(MAX(t0, ?1)), MAX(MIN(t1, ?2)),
              TOTAL(CASE WHEN {booked} THEN MIN(t1, ?2) - MAX(t0, ?1) END), TOTAL(joules * {share}), TOTAL(grams * {share})
            FROM energy WHERE t0 < ?2 AND (t1 > ?1 OR t0 = t1 AND t0 >= ?1)
            GROUP BY site, phase, CAST((MAX(t0, ?1) - ?1) / ?3 AS INTEGER) ORDER BY 3""",
            t0, t1, (t1 - t0) / parts,
        )  # fmt: skip
        return [EnergyBin(*r) for r in found]

    def grams_before(self, t: float) -> float:
        """What had been emitted by ``t``."""
        found = self.rows(
            "SELECT TOTAL(grams * (CASE WHEN t1 <= ?1 THEN 1.0 ELSE (?1 - t0) / (t1 - t0) END)) FROM energy WHERE t0 < ?1", t
        )
        return float(found[0][0])

    def last_metric_id(self) -> int:
        """The id of the newest figure of any name; 0 if there is none."""
        return int(self.rows("SELECT COALESCE(MAX(id), 0) FROM metrics")[0][0])

    def loss_bins(self, name: str, after: int, upto: int, offset: int, width: float) -> list[LossBin]:
        """Figures of ids in ``(after, upto]`` by mode and by their token count less ``offset``, in parts of ``width`` tokens."""
        found = self.rows(
            """SELECT CAST((tokens - ?) / ? AS INTEGER), COALESCE(json_extract(detail, '$.mode'), ''), MIN(value), MAX(value),
              AVG(value), COUNT(*), MIN(id), MAX(id) FROM metrics
            WHERE name = ? AND id > ? AND id <= ? AND tokens IS NOT NULL GROUP BY 1, 2""",
            offset, width, name, after, upto,
        )  # fmt: skip
        return [LossBin(*r) for r in found]

    def cut_bins(self, t0: float, t1: float, parts: int) -> list[CutBin]:
        """What sites handed in within ``[t0, t1]``, by site and part of it, in order."""
        found = self.rows(
            """SELECT site, MAX(t_run), TOTAL(json_extract(detail, '$.tokens')) FROM events
            WHERE kind = 'contribution' AND t_run >= ?1 AND t_run <= ?2 AND site IS NOT NULL
            GROUP BY site, CAST((t_run - ?1) / ?3 AS INTEGER) ORDER BY 2""",
            t0, t1, (t1 - t0) / parts,
        )  # fmt: skip
        return [CutBin(str(s), float(t), int(n)) for s, t, n in found]

    def metric_bins(self, name: str, t0: float, t1: float, parts: int) -> list[tuple[str, int, float]]:
        """Sums of figures of one name within ``[t0, t1]``: site, number of the part, sum."""
        found = self.rows(
            """SELECT site, CAST((t_run - ?1) / ?3 AS INTEGER), TOTAL(value) FROM metrics
            WHERE name = ?4 AND t_run >= ?1 AND t_run <= ?2 GROUP BY 1, 2""",
            t0, t1, (t1 - t0) / parts, name,
        )  # fmt: skip
        return [(str(s), min(parts - 1, int(i)), float(v)) for s, i, v in found]

    def last_cuts(self, before: float) -> dict[str, float]:
        """By site, when it handed in something for the last time before run time ``before``."""
        found = self.rows(
            "SELECT site, MAX(t_run) FROM events WHERE kind = 'contribution' AND t_run < ? AND site IS NOT NULL GROUP BY site",
            before,
        )
        return {str(s): float(t) for s, t in found}

    def events_upto(
        self, before_id: int | None, most: int, *, kinds: Sequence[str] = (), site: str | None = None
    ) -> list[tuple[int, Event]]:
        """The newest events with an id under ``before_id`` (None: any), newest first; ``site`` "run" are those of no site."""
        where: list[str] = ["1"]
        values: list[Any] = []
        if before_id is not None:
            where.append("id < ?")
            values.append(before_id)
        if kinds:
            where.append(f"kind IN ({','.join('?' * len(kinds))})")
            values += kinds
        if site is not None:
            where.append("site IS NULL" if site == "run" else "site = ?")
            values += [] if site == "run" else [site]
        # With few kinds the index has them in order of id for each kind; the limit keeps what is read small either way.
        found = self.rows(
            f"SELECT {COLUMNS} FROM events WHERE {' AND '.join(where)} ORDER BY id DESC LIMIT ?",
            *values, most,
        )  # fmt: skip
        return [event_of(r) for r in found]

    def event_kinds(self) -> dict[str, int]:
        """How many events there are of each kind."""
        return {str(k): int(n) for k, n in self.rows("SELECT kind, COUNT(*) FROM events GROUP BY kind ORDER BY kind")}

    def event_id_after(self, t: float) -> int:
        """The id of the first event later than run time ``t``, found by halving: events are in order of time but for a few."""
        low, high = 0, self._last_id() + 1
        while high - low > 1:
            middle = (low + high) // 2
            found = self.rows("SELECT t_run FROM events WHERE id >= ? ORDER BY id LIMIT 1", middle)
            low, high = (middle, high) if found and found[0][0] <= t else (low, middle)
        return high

    def _last_id(self) -> int:
        return int(self.rows("SELECT COALESCE(MAX(id), 0) FROM events")[0][0])

    def decision_at(self, site: str, t: float) -> tuple[Any, ...] | None:
        """A site's last decision by ``t``: when, wanted, why, until, and its numbers (JSON)."""
        found = self.rows(
            "SELECT t_run, wanted, reason, until, numbers FROM decisions WHERE site = ? AND t_run <= ? ORDER BY t_run DESC LIMIT 1",
            site, t,
        )  # fmt: skip
        return found[0] if found else None
