"""A site as a microgrid: what Vessim itself says of the same traces, what closes, and what happens when it cannot balance."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import vessim
from hypothesis import given
from hypothesis import strategies as st
from vessim.metrics import GridImportEmissions

from windfall.config.microgrid import MicrogridBatteryTable, MicrogridTable, SourceTable
from windfall.energy.account import Account
from windfall.energy.books import Books
from windfall.energy.microgrid import Microgrid
from windfall.energy.phases import PHASES
from windfall.energy.power import PowerModel
from windfall.energy.tariff import Tariff
from windfall.grid.signal import StepSignal

#: A whole number of hours.
START = 1_768_150_800.0
DAY = 86400.0
POWER = PowerModel(2000.0, 400.0, 50.0)


def plants(values: list[float], period: float = 900.0) -> StepSignal:
    return StepSignal(START + np.arange(len(values)) * period, np.array(values), unit="W", source="sun", period_s=period)


def co2(values: list[float], period: float = 300.0) -> StepSignal:
    times = START + np.arange(len(values)) * period
    return StepSignal(times, np.array(values), unit="gCO2/kWh", source="co2", period_s=period)


def table(battery: MicrogridBatteryTable | None = None, **keys: Any) -> MicrogridTable:
    return MicrogridTable(source=[SourceTable(path="sun.csv", column="w")], battery=battery, **keys)


def sunny_day(days: float = 1.0) -> list[float]:
    """From morning on: 15 minutes each, with clouds."""
    steps = int(days * 96)
    return [max(0.0, 3500 * math.sin(math.pi * i / 48) * (0.7 + 0.3 * math.sin(i * 2.3))) for i in range(steps)]


def one(microgrid: Microgrid, intensity: StepSignal) -> Account:
    return Account({"a": POWER}, {"a": Tariff.plain(intensity, 100.0)}, {"a": microgrid})


class Steps(vessim.Signal):  # type: ignore[misc]
    """One of our signals as one of Vessim's."""

    def __init__(self, signal: StepSignal, scale: float = 1.0) -> None:
        self._signal, self._scale = signal, scale

    def at(self, elapsed: Any = None) -> float:
        seconds = elapsed.total_seconds() if hasattr(elapsed, "total_seconds") else float(elapsed)
        reading = self._signal.at(START + seconds)
        assert reading is not None
        return reading.value * self._scale


@pytest.mark.parametrize(
    ("policy", "battery", "step_s"),
    [
        ("battery_first", MicrogridBatteryTable(capacity_wh=4000.0, initial_soc=0.3), 60),
        ("battery_first", MicrogridBatteryTable(capacity_wh=900.0, initial_soc=1.0, min_soc=0.0, charge_rate_c=0.4), 300),
        ("grid_first", MicrogridBatteryTable(capacity_wh=4000.0), 60),
        ("battery_first", None, 60),
    ],
)
def test_the_account_is_what_vessim_itself_says_of_the_same_traces_and_load(
    policy: str, battery: MicrogridBatteryTable | None, step_s: int
) -> None:
    """An environment of Vessim, run by Vessim, with its own metric of imported emissions."""
    sun, intensity = plants(sunny_day(2)), co2([250 + 200 * math.sin(i / 30) for i in range(2 * 288)])
    loads = [("off", 0.0), ("provisioning", 50.0), ("idle", 400.0), ("training", 2000.0), ("draining", 400.0), ("training", 2000.0)]
    hours = [3, 1, 1, 15, 2, 26]
    load = StepSignal(
        START + 3600.0 * np.cumsum([0, *hours[:-1]]), np.array([w for _, w in loads]), unit="W", source="load", period_s=0.0,
        until=START + 2 * DAY,
    )  # fmt: skip
    cells: Any = None
    if battery is not None:
        n = round(battery.capacity_wh / 19.14)
        cells = vessim.ClcBattery(
            "cells", number_of_cells=n, v_2=battery.capacity_wh / n, initial_soc=battery.initial_soc, min_soc=battery.min_soc,
            alpha_c=battery.charge_rate_c, eta_d=1 / battery.discharge_efficiency,
        )  # fmt: skip
    theirs = [d for d in (cells, vessim.GridConnection()) if d is not None]
    emissions = GridImportEmissions("m", "co2")
    environment = vessim.Environment("2026-01-11T17:00Z", step_size=step_s)
    environment.add_microgrid(
        actors=[vessim.Producer("sun", Steps(sun)), vessim.Consumer("site", Steps(load))],
        dispatchables=theirs if policy == "battery_first" else theirs[::-1], grid_signals={"co2": Steps(intensity, 1e-3)}, name="m",
    )  # fmt: skip
    recorder = environment.add_controller(vessim.Recorder(timeseries=False, custom_metrics={"emissions": emissions}))
    environment.run(until=2 * DAY)
    assert recorder is not None

    ours = Microgrid(table(battery, policy=policy, step_s=step_s), sun, START)
    account = one(ours, intensity)
    t = START
    for (phase, _), h in zip(loads, hours, strict=True):
        account.book("a", phase, t, t + h * 3600.0)
        t += h * 3600.0
    assert emissions.value > 0.5
    assert account.total().grams / 1000 == pytest.approx(emissions.value, rel=1e-9)
    if cells is not None:
        assert ours.soc == pytest.approx(float(cells.soc()), rel=1e-9)


@given(
    cuts=st.lists(st.tuples(st.floats(1, 9000), st.sampled_from(PHASES)), min_size=1, max_size=12),
    soc=st.floats(0.1, 1.0), export=st.sampled_from([None, 0.0, 700.0]), policy=st.sampled_from(["battery_first", "grid_first"]),
)  # fmt: skip
def test_kilowatt_hours_close_exactly_and_no_joule_of_the_plants_is_lost(
    cuts: list[tuple[float, str]], soc: float, export: float | None, policy: str
) -> None:
    battery = MicrogridBatteryTable(capacity_wh=1500.0, initial_soc=soc)
    m = Microgrid(table(battery, max_export_w=export, policy=policy, step_s=300), plants(sunny_day()), START)
    account = one(m, co2([100.0, 300.0] * 200))
    t, entries = START, []
    for length, phase in cuts:
        entries += account.book("a", phase, t, t + length)
        t += length
    total, s = account.total(), m.sums
    assert total.own_joules + total.stored_joules + total.grid_joules == pytest.approx(total.joules, rel=1e-14)
    assert min(total.own_joules, total.stored_joules, total.grid_joules) >= -1e-6
    assert (total.own_joules, total.stored_joules) == pytest.approx((s.own, s.discharged), rel=1e-9, abs=1e-6)
    assert total.grid_joules == pytest.approx(s.imported, rel=1e-9, abs=1e-3)
    assert sum(e.joules for e in entries) == pytest.approx(total.joules, rel=1e-12)
    assert sum(e.own_joules + e.stored_joules for e in entries) == pytest.approx(s.own + s.discharged, rel=1e-9, abs=1e-6)
    assert s.generated == pytest.approx(s.own + s.charged + s.exported + s.curtailed, rel=1e-9, abs=1e-3)
    known = t <= START + DAY
    assert s.generated == pytest.approx(float((plants(sunny_day()).between(START, t).values
           * np.diff(np.append(plants(sunny_day()).between(START, t).starts, t))).sum()), rel=1e-9) if known else True  # fmt: skip
    assert m.lost_j >= -1e-6
    assert export is not None or s.curtailed == 0.0
    for e in entries:
        assert e.grams == pytest.approx((e.joules - e.own_joules - e.stored_joules) / 3.6e6 * (e.g_per_kwh or 0.0), abs=1e-9)


def test_it_does_not_matter_how_time_is_cut_into_bookings() -> None:
    """A run books at each tick and a backtest from event to event: both must see one state of charge."""

    def simulated(ticks: list[float]) -> tuple[Account, Microgrid]:
        battery = MicrogridBatteryTable(capacity_wh=700.0, initial_soc=0.2)
        m = Microgrid(table(battery, max_export_w=0.0), plants(sunny_day()), START)
        account = one(m, co2([100.0] * 288))
        t = START
        for change, phase in ((7000.0, "off"), (7130.0, "idle"), (41000.0, "training"), (60000.0, "off"), (DAY, "training")):
            for end in [*(x for x in ticks if t - START < x < change), change]:
                account.foresee("a", phase, t, START + end - 1.0)
                account.add("a", phase, t, START + end)
                t = START + end
        return account, m

    (a, m), (b, n) = simulated([]), simulated([10.0 * i for i in range(8640)])
    assert m.soc == pytest.approx(n.soc, rel=1e-9)
    for one_, other in zip(vars(m.sums).values(), vars(n.sums).values(), strict=True):
        assert one_ == pytest.approx(other, rel=1e-9)
    assert a.total().own_joules == pytest.approx(b.total().own_joules, rel=1e-9)
    assert a.total().stored_joules == pytest.approx(b.total().stored_joules, rel=1e-9)
    # A battery that rests is not stepped, so there are fewer entries; at each step its state is the same.
    for k in range(0, 1440, 7):
        assert m.log.by(START + 60.0 * k)[1] == pytest.approx(n.log.by(START + 60.0 * k)[1], rel=1e-9)  # type: ignore[index]


def test_a_microgrid_that_cannot_balance_has_stale_signals_and_no_surplus_until_it_balances_again() -> None:
    sun = plants([1000.0] * 4 + [2500.0] * 4)
    m = Microgrid(table(max_import_w=500.0), sun, START)
    account = one(m, co2([100.0] * 96))
    signals = m.signals(_site(), {"surplus_power": sun})
    account.book("a", "off", START, START + 600.0)
    reading = signals["surplus_power"].at(START + 600.0)
    assert reading is not None
    assert reading.value == 1000.0
    assert reading.is_fresh(START + 600.0)
    account.book("a", "training", START + 600.0, START + 1200.0)  # 2,000 W of 1,000 own and 500 from the grid
    assert "cannot be balanced" in m.trouble
    assert "500 W" in m.trouble
    for label in ("surplus_power", "state_of_charge"):
        reading = signals[label].at(START + 1200.0)
        assert reading is not None
        assert reading.is_stale(START + 1200.0), label
        assert not reading.is_fresh(START + 1200.0), label
    total = account.total("a", "training")
    assert (total.own_joules, total.grid_joules) == (600_000.0, 600_000.0)
    assert m.sums.unserved == pytest.approx(300_000.0)
    account.book("a", "draining", START + 1200.0, START + 1260.0)
    assert not m.trouble
    found = signals["surplus_power"].at(START + 1260.0)
    assert found is not None
    assert found.is_fresh(START + 1260.0)


def test_where_nobody_knows_what_the_plants_deliver_the_grid_is_booked_and_the_battery_rests() -> None:
    times = START + np.array([0.0, 900.0, 7200.0])
    holed = StepSignal(times, np.array([3000.0, 3000.0, 3000.0]), unit="W", source="sun", period_s=900.0)
    m = Microgrid(table(MicrogridBatteryTable(capacity_wh=4000.0)), holed, START)
    account = one(m, co2([100.0] * 96))
    entries = account.book("a", "training", START, START + 8100.0)
    # The second row holds for three periods: from 3,600 s to 7,200 s nothing is known.
    blind = [e for e in entries if START + 3600.0 <= e.t0 < START + 7200.0]
    assert sum(e.joules for e in blind) == pytest.approx(2000.0 * 3600.0)
    assert all(e.own_joules == e.stored_joules == 0.0 for e in blind)
    assert m.sums.unknown == pytest.approx(2000.0 * 3600.0)
    assert m.sums.generated == pytest.approx(3000.0 * 4500.0)
    assert m.sums.charged == pytest.approx(1000.0 * 4500.0)
    assert not m.trouble


def test_a_state_of_charge_is_known_from_step_to_step_and_grows_old() -> None:
    m = Microgrid(table(MicrogridBatteryTable(capacity_wh=1000.0, initial_soc=0.5, min_soc=0.0)), plants([0.0] * 96), START)
    charge = m.signals(_site(), {"surplus_power": m.supply})["state_of_charge"]
    first = charge.at(START)
    assert first is not None
    assert (first.value, first.unit) == (0.5, "share")
    assert charge.at(START - 1.0) is None
    m.use(200.0, START, START + 90.0)
    now = charge.at(START + 90.0)
    assert now is not None
    assert now.valid_from == START + 60.0
    assert now.value == pytest.approx(0.5 - 200.0 / 60 / 1000 * (1 / 0.98619), rel=1e-6)
    assert now.is_fresh(START + 90.0)
    assert not now.is_fresh(START + 200.0)
    assert now.is_stale(START + 600.0)
    assert charge.forecast(START + 90.0, 3600.0) is None
    c = charge.history(START + 90.0, 3600.0)
    assert c.starts[0] == START
    assert c.values[0] == 0.5


def test_what_a_meter_tells_late_is_of_what_the_load_was_made_of_then() -> None:
    """The model stood in; the site took half of that. The correction takes back own and grid energy as they were booked."""
    m = Microgrid(table(), plants([1000.0] * 96), START)
    account = one(m, co2([100.0] * 288))
    books = Books(account, ["a"], lag_s=30.0)
    assert books.book("a", "training", START, START + 100.0) == []
    assert books.book("a", "off", START + 100.0, START + 110.0) == [], "in order: a microgrid is not told of later time first"
    booked = books.settle(START + 130.0)
    assert [(e.phase, e.own_joules, e.measured_joules) for e in booked] == [("training", 100_000.0, 0.0)]
    books.settle(START + 200.0)
    for uptime, joules in ((0.0, 0.0), (100.0, 100_000.0)):
        books.heard("a", "boot", uptime, joules, joules, START + 200.0 if uptime else START)
    books.meters["a"].heard("boot", 0.0, 0.0, 0.0, START)
    corrections = [e for e in books.settle(START + 201.0) if e.cause]
    total = account.total("a", "training")
    assert corrections
    assert total.own_joules + total.stored_joules + total.grid_joules == total.joules
    assert total.own_joules / total.joules == pytest.approx(0.5)
    assert total.grams == pytest.approx(total.grid_joules / 3.6e6 * 100.0)


def test_it_goes_on_after_a_restart_where_it_was() -> None:
    def made() -> Microgrid:
        return Microgrid(table(MicrogridBatteryTable(capacity_wh=3000.0), max_export_w=100.0), plants(sunny_day()), START)

    whole, first, second = made(), made(), made()
    whole.use(1200.0, START, START + DAY)
    first.use(1200.0, START, START + 36000.0)
    second.restore(first.as_json())
    second.use(1200.0, START + 36000.0, START + DAY)
    assert second.soc == pytest.approx(whole.soc, rel=1e-9)
    assert second.lost_j == pytest.approx(whole.lost_j, rel=1e-6)
    for a, b in zip(vars(second.sums).values(), vars(whole.sums).values(), strict=True):
        assert a == pytest.approx(b, rel=1e-9)


def _site() -> Any:
    from windfall.config.schema import SiteTable

    return SiteTable.model_validate(
        {
            "name": "a", "region": "R", "spin_up_s": 0.0, "train_power_w": 2000.0, "idle_power_w": 400.0, "tokens_per_s": 1.0,
            "signal": {"kind": "microgrid", "type": "surplus_power"},
            "signals": [{"kind": "microgrid", "type": "state_of_charge"}],
            "microgrid": {"source": [{"path": "sun.csv", "column": "w"}]},
        }
    )  # fmt: skip
