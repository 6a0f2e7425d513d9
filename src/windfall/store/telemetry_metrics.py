"""What was measured of training: the table of metrics."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from windfall import clock
from windfall.store.files import to_json
from windfall.store.telemetry_file import TelemetryFile

LOSS, VAL_BPB = "loss", "val_bpb"
#: What moved between the coordinator and a site, both ways.
NETWORK_BYTES = "network_bytes"


class MetricRow(NamedTuple):
    """One figure by name; ``detail`` is JSON or None."""

    id: int
    t_run: float
    t_wall: float
    site: str
    name: str
    value: float
    tokens: int | None
    version: int | None
    detail: str | None

    @property
    def more(self) -> dict[str, Any]:
        """The details."""
        return dict(json.loads(self.detail)) if self.detail else {}


class MetricTable(TelemetryFile):
    """Writes and reads figures."""

    def metric(
        self, t_run: float, site: str, name: str, value: float, *, tokens: int | None = None,
        version: int | None = None, detail: dict[str, Any] | None = None,
    ) -> None:  # fmt: skip
        """Queue one figure."""
        self.put(
            "INSERT INTO metrics (t_run, t_wall, site, name, value, tokens, version, detail) VALUES (?,?,?,?,?,?,?,?)",
            t_run, clock.wall(), site, name, value, tokens, version, to_json(detail) if detail else None,
        )  # fmt: skip

    def metrics(self, name: str | None = None, *, every: int = 1) -> list[MetricRow]:
        """Figures in the order in which they came, all or those of one name. ``every``: each n-th alone (a run has millions)."""
        where = ("WHERE id % ? = 0", every) if name is None else ("WHERE name = ? AND id % ? = 0", name, every)
        return [MetricRow(*r) for r in self.select("metrics", MetricRow._fields, f"{where[0]} ORDER BY id", *where[1:])]

    def metrics_after(self, number: int, most: int) -> list[MetricRow]:
        """The figures after the one with this number, at most so many, in the order in which they came."""
        return [MetricRow(*r) for r in self.select("metrics", MetricRow._fields, "WHERE id > ? ORDER BY id LIMIT ?", number, most)]

    def metric_totals(self, name: str) -> dict[str, float]:
        """By site, the sum of all figures of one name."""
        found = self.rows("SELECT site, TOTAL(value) FROM metrics WHERE name = ? GROUP BY site", name)
        return {str(site): float(total) for site, total in found}

    def metric_count(self, name: str) -> int:
        """How many figures have this name."""
        return int(self.rows("SELECT COUNT(*) FROM metrics WHERE name = ?", name)[0][0])

    def newest_metrics(self, name: str, most: int, site: str | None = None) -> list[MetricRow]:
        """The newest figures of one name, the newest first, of all sites or of one."""
        of, values = ("", (name, most)) if site is None else ("AND site = ?", (name, site, most))
        rest = f"WHERE name = ? {of} ORDER BY id DESC LIMIT ?"
        return [MetricRow(*r) for r in self.select("metrics", MetricRow._fields, rest, *values)]

    def evaluations(self) -> list[tuple[int, float]]:
        """Version and validation loss (bits per byte) of each evaluation, in the order of versions."""
        found = self.rows("SELECT version, value FROM metrics WHERE name = ? ORDER BY version, id", VAL_BPB)
        return [(int(v), float(x)) for v, x in found]
