"""A site that watches its own signal: when its window is open."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from windfall.config.load import loads
from windfall.run.sites import own_signal
from windfall.site.own_window import own_window
from windfall.units import parse_utc

CONFIG = """
[run]
name = "own"
budget_tokens = 1_000
clock = "scaled"
start = "2026-01-12T00:00Z"
threshold_g_per_kwh = 100
threshold_price_per_mwh = 5
[model]
sequence_length = 16
[[site]]
name = "a"
region = "A"
spin_up_s = 60
train_power_w = 2000
idle_power_w = 500
tokens_per_s = 1000
own_signal = true
[site.signal]
path = "a.csv"
column = "v"
"""


@pytest.mark.parametrize(
    ("signal", "values", "opened"),
    [
        ("", (99.0, 100.0, 2500.0), (True, False, False)),
        ('type = "price"\ncurrency = "EUR"\n', (4.9, 5.0, 99.0), (True, False, False)),
        ('type = "surplus_power"\n', (50.0, 1999.0, 2000.0), (False, False, True)),
        ('type = "curtailed_power"\n', (0.0, 0.0019, 0.002), (False, False, True)),
    ],
)
def test_its_window_is_open_where_the_runs_is(
    tmp_path: Path, signal: str, values: tuple[float, ...], opened: tuple[bool, ...]
) -> None:
    rows = [f"2026-01-12T00:{5 * i:02}Z,{v}" for i, v in enumerate(values)]
    (tmp_path / "a.csv").write_text("\n".join(["time_utc,v", *rows]) + "\n", encoding="utf-8")
    given = json.loads(json.dumps(own_signal(loads(CONFIG + signal, "own.toml", tmp_path), "a")))
    open_at = own_window(given)
    begin = parse_utc("2026-01-12T00:00Z")
    assert tuple(open_at(begin + 300.0 * i + 1.0) for i in range(len(values))) == opened
    assert not open_at(begin + 86400.0)  # long after the last reading
    assert not open_at(begin - 1.0)
