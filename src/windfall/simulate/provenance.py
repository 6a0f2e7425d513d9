"""Where figures come from, so that another can make them again: Windfall's commit, the configuration, the traces, the command."""

from __future__ import annotations

import hashlib
import math
import platform
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np

from windfall.config.load import to_toml
from windfall.config.schema import Config
from windfall.config.signals import SignalTable
from windfall.grid.build import Grid
from windfall.grid.signal import Signal, StepSignal
from windfall.grid.trace import trace_file
from windfall.revision import Revision, revision
from windfall.store.files import sha256
from windfall.units import UNITS, iso_utc


@dataclass(frozen=True, slots=True)
class UsedTrace:
    """One signal of a site (or of a region that only baselines have): its file, and what is known of it as it was read.

    ``begins`` and ``ends`` are instants (UTC) of the whole file, ``ends`` None where its last row holds without end; holes are
    those between them.
    """

    site: str
    region: str
    signal: str
    type: str
    unit: str
    source: str
    sha256: str | None
    begins: str | None
    ends: str | None
    holes: int | None
    hole_h: float | None
    longest_hole_h: float | None


@dataclass(frozen=True)
class Provenance:
    """What figures were computed with."""

    windfall: Revision
    python: str
    numpy: str
    #: As it was typed, or the call in Python.
    command: str
    #: The resolved configuration, and its hash as TOML.
    config: dict[str, Any]
    config_toml: str
    config_sha256: str
    traces: tuple[UsedTrace, ...]

    def as_json(self) -> dict[str, Any]:
        """For `--json` and summary.json: an object of plain values."""
        w = self.windfall
        return {
            "windfall": {"version": w.version, "commit": w.commit, "changed": w.changed},
            "python": self.python, "numpy": self.numpy, "command": self.command or None,
            "config_sha256": self.config_sha256, "config": self.config, "traces": [asdict(t) for t in self.traces],
        }  # fmt: skip

    def __repr__(self) -> str:
        return f"Provenance(windfall {self.windfall}, config {self.config_sha256[:12]}, {len(self.traces)} traces)"


def as_asked(config: Config, policies: Sequence[str] | None, start: float | None, until: float | None) -> Config:
    """The configuration with what was asked for beside it, so that it makes the same figures by itself."""
    asked: dict[str, Any] = {"policies": list(policies)} if policies else {}
    for key, t in (("start", start), ("until", until)):
        if t is not None:
            asked[key] = datetime.fromtimestamp(t, UTC).isoformat().replace("+00:00", "Z")
    return config.model_copy(update={"backtest": config.backtest.model_copy(update=asked)})


def provenance(config: Config, grid: Grid | None, command: Sequence[str] | str = ()) -> Provenance:
    """What figures of ``config`` on ``grid`` are computed with.

    ``command``: the arguments, the program's name first, or a text as it is.

    Without a grid (traces have been moved) there are no traces.
    """
    traces = []
    if grid is not None:
        own = {s.region for s in config.site}
        traces = [
            _used(s.name, s.region, t, grid.signals[s.name][t.label])
            for s in config.site
            for t in s.all_signals
            if t.kind != "microgrid"
        ]
        traces += [
            _used(s.name, s.region, t, grid.supplies[s.name]) for s in config.site if s.microgrid for t in s.microgrid.source
        ]
        traces += [_used("", c.region, c.signal, grid.by_region[c.region]) for c in config.counterfactual if c.region not in own]
    text = to_toml(config)
    keys, digest = config.model_dump(mode="json", exclude_none=True), hashlib.sha256(text.encode()).hexdigest()
    by = command if isinstance(command, str) else shlex.join(command)
    return Provenance(revision(), platform.python_version(), np.__version__, by, keys, text, digest, tuple(traces))


def _used(site: str, region: str, table: SignalTable, signal: Signal) -> UsedTrace:
    digest: str | None = None
    source: str = table.kind
    if table.kind == "trace" and table.path is not None:
        source = table.path
        with trace_file(table.path) as file:
            digest = sha256(file)
    elif table.kind == "synthetic":
        source = f"synthetic, seed {table.seed}"
    begins = ends = holes = dark = longest = None
    if isinstance(signal, StepSignal):
        last = signal.ends_at()
        begins, ends = iso_utc(signal.starts_at()), iso_utc(last) if math.isfinite(last) else None
        found = signal.holes(signal.starts_at(), last if ends else signal.last_row_at())
        lengths = [(b - a) / 3600 for a, b in found]
        holes, dark, longest = len(found), sum(lengths), max(lengths, default=0.0)
    unit = UNITS[table.type].replace("currency", table.currency)
    return UsedTrace(site, region, table.label, table.type, unit, source, digest, begins, ends, holes, dark, longest)
