"""What plants behind a meter deliver: files of other sizes and units, several together, and what cannot be one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from grid.asking import Clock, Script, T, live, news
from windfall.config.microgrid import MicrogridTable, SourceTable
from windfall.config.signals import SignalTable
from windfall.energy.microgrid import Microgrid
from windfall.errors import SignalError
from windfall.grid.build import make_signal
from windfall.grid.signal import Signal, StepSignal
from windfall.grid.supply import make_source, supply

START = 1_767_225_600.0  # 2026-01-01T00:00Z


def made(table: SignalTable, region: str) -> tuple[Signal, list[str]]:
    return make_signal(table, region, START)


def source(folder: Path, rows: str, **keys: object) -> SourceTable:
    path = folder / f"{len(list(folder.iterdir()))}.csv"
    lines = [f"2026-01-01T{i // 4:02d}:{i % 4 * 15:02d}Z,{v}" for i, v in enumerate(rows.split()) if v != "-"]
    path.write_text("time_utc,p\n" + "\n".join(lines) + "\n", encoding="utf-8")
    return SourceTable.model_validate({"path": str(path), "column": "p", "period_s": 900.0, **keys})


def watts(found: Signal) -> list[float]:
    assert isinstance(found, StepSignal)
    return [round(v, 6) for v in found.rows()[1].tolist()]


@pytest.mark.parametrize(
    ("rows", "keys", "expected"),
    [
        ("0 250 500", {}, [0, 250, 500]),
        ("0 0.25 0.5", {"unit": "kW"}, [0, 250, 500]),
        ("0 0.25 0.5", {"unit": "share", "peak_power_w": 4000.0}, [0, 1000, 2000]),
        ("0 25 50", {"unit": "MW", "peak_power_w": 2000.0}, [0, 1000, 2000]),
        ("-3 250 500", {}, [0, 250, 500]),
    ],
)
def test_a_plants_values_are_watts_whatever_size_its_file_is_of(
    tmp_path: Path, rows: str, keys: dict[str, object], expected: list[float]
) -> None:
    found, said = make_source(source(tmp_path, rows, **keys), "R", made)
    assert watts(found) == expected
    assert found.unit == "W"
    assert ("count as 0" in " ".join(said)) == rows.startswith("-3")


@pytest.mark.parametrize("rows", ["0 0 0", "-200 -500 -300", "-400 500 100"])
def test_what_no_plant_can_deliver_is_refused(tmp_path: Path, rows: str) -> None:
    with pytest.raises(SignalError, match="check column and scale"):
        make_source(source(tmp_path, rows, name="roof"), "R", made)


def test_several_plants_are_their_sum_and_not_known_where_one_is_not(tmp_path: Path) -> None:
    sun = source(tmp_path, "0 100 200 300 400 500 600 700")
    wind = source(tmp_path, "1000 1000 1000 1000 - - - - - 1000 1000")  # holds to 01:30 and begins again at 02:15
    found, _ = supply([sun, wind], "R", made)
    assert isinstance(found, StepSignal)
    c = found.between(START, START + 8 * 900.0)
    known = {int(a - START) // 900: v for a, v in zip(c.starts.tolist(), c.values.tolist(), strict=True)}
    assert [known[i] for i in range(6)] == [1000, 1100, 1200, 1300, 1400, 1500]
    assert np.isnan(known[6]), "the wind's last row has lapsed, and is not taken for calm"
    assert found.ends_at() == START + 8 * 900.0
    reading = found.at(START + 7 * 900.0)
    assert reading is not None
    assert not reading.is_fresh(START + 7 * 900.0)


def test_plants_that_have_no_time_in_common_are_refused(tmp_path: Path) -> None:
    early, late = source(tmp_path, "1 2 3"), source(tmp_path, "- - - - - - - - 5 6")
    with pytest.raises(SignalError, match="no time in common"):
        supply([early, late], "R", made)


def test_an_inverter_that_falls_silent_is_no_surplus_and_no_calm() -> None:
    """A dead source of Vessim's own reads 0; here nothing is known any more, and the grid is booked."""
    clock = Clock()
    signal = live(Script(news((T, 3000.0))), clock, type="surplus_power")
    signal.step(clock.t)
    m = Microgrid(MicrogridTable(source=[SourceTable(path="x", column="y")]), signal, T)
    first = m.use(2000.0, T, T + 60.0)
    assert first.own_w.tolist() == [2000.0]
    reading = signal.at(T + 60.0)
    assert reading is not None
    m.use(2000.0, T + 60.0, reading.stale_at + 7200.0)
    assert "not known" in m.trouble
    assert m.sums.unknown > 0
    assert m.sums.generated < 3000.0 * (reading.stale_at - T + 1.0)
