"""From a site's meter to the account of a run: over the bus, into the books, onto the disk, and on in the next coordinator."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from windfall.energy.account import Account
from windfall.energy.books import LATE, Books
from windfall.energy.power import PowerModel
from windfall.energy.tariff import Tariff
from windfall.federation.reports import SiteReports
from windfall.grid.signal import StepSignal
from windfall.run.recorder import TelemetryRecorder, position
from windfall.run.run_meters import RunMeters
from windfall.store.bus import MemoryBus
from windfall.store.telemetry import Telemetry

SIGNAL = StepSignal(np.array([0.0, 1e6]), np.array([360.0, 360.0]), unit="gCO2/kWh", source="t", period_s=0.0)


class Run:
    """A coordinator's part in it, at a time of its own."""

    def __init__(self, path: Path) -> None:
        self.t = 0.0
        self.telemetry = Telemetry.open(path)
        account = Account({"a": PowerModel(2000.0, 400.0, 0.0)}, {"a": Tariff.plain(SIGNAL, 100.0)})
        self.books = Books(account, ["a"], lag_s=30.0)
        recorder = TelemetryRecorder(self.telemetry)
        recorder.booked(self.books.restore(self.telemetry.now().get("books", {})))
        self.meters = RunMeters(self.books, recorder, self.telemetry, lambda: self.t, lag_s=0.0)
        self.bus = MemoryBus()
        self.site = self.bus.site("a", 1)
        self.reports = SiteReports(self.bus, self.telemetry, cast(Any, None), 60.0)
        self.reports.metered = self.meters.heard

    def tell(self, at: float, joules: float) -> None:
        self.site.emit({"kind": "meter", "boot": "b/1/0", "at": at, "joules": joules, "measured_joules": joules, "what": "a plug"})

    def tick(self, t: float, phase: str = "training") -> None:
        before, self.t = self.t, t
        self.reports.listen(t, 0.0, ["a"], {"a": 1}, "local")
        self.books.book("a", phase, before, t)
        self.meters.settle()
        self.telemetry.present({"t_run": t, "books": self.books.as_json()})
        self.telemetry.flush()

    def kinds(self) -> list[str]:
        return [e.kind for _, e in self.telemetry.events()]


def test_a_metered_run_ends_with_what_the_counter_says_and_names_what_stayed_modelled(tmp_path: Path) -> None:
    run = Run(tmp_path / "telemetry.db")
    for i in range(20):
        run.tell(100.0 + 10.0 * i, 1500.0 * 10.0 * i)
        run.tick(10.0 * i)
    assert sum(e.joules for e in run.telemetry.energy()) == pytest.approx(1500.0 * 190.0)
    assert len(run.telemetry.energy()) == 1, "what goes on unchanged is one entry"
    # The coordinator dies; the next one goes on with the meter's last word.
    later = Run(tmp_path / "telemetry.db")
    assert position(later.telemetry) == 190.0
    later.t = 190.0
    later.tell(300.0, 1500.0 * 200.0)
    later.tick(200.0)
    later.tick(300.0)
    later.tick(331.0)  # not a word for more than the lag
    assert later.kinds()[-1] == "meter_silent"
    later.tell(400.0, 1500.0 * 300.0)
    later.tick(340.0)
    assert later.kinds()[-1] == "meter_back"
    later.meters.close(lambda: None)
    later.telemetry.flush()
    assert later.kinds()[-1] == "meter_closed"
    rows = later.telemetry.energy()
    fixes = [e for e in rows if e.cause]
    assert [(e.t0, e.t1, e.joules, e.cause) for e in fixes] == [(200.0, 300.0, pytest.approx(-500.0 * 100.0), LATE)]
    (sums,) = later.telemetry.energy_sums()
    assert sums.joules == pytest.approx(1500.0 * 300.0 + 2000.0 * 40.0)
    assert sums.measured_joules == pytest.approx(1500.0 * 300.0)
    assert sums.grams == pytest.approx(sums.joules / 3.6e6 * 360.0)
    assert sums.seconds == pytest.approx(340.0)
    total = later.books.account.total()
    assert total.joules == pytest.approx(sums.joules - 1500.0 * 190.0), "and the sums of before are restored beside it"


def test_a_meter_that_fails_is_an_event_and_a_malformed_sample_is_refused(tmp_path: Path) -> None:
    run = Run(tmp_path / "telemetry.db")
    run.site.emit({"kind": "meter_trouble", "reason": "meter nvml: GPU 3 tells neither"})
    run.site.emit({"kind": "meter", "boot": "b", "at": 1.0, "joules": -5.0, "measured_joules": 0.0})
    run.tick(10.0)
    assert run.kinds() == ["meter_lost", "refused"]
    run.tick(100.0)
    assert sum(e.joules for e in run.telemetry.energy()) == pytest.approx(2000.0 * 10.0), "its model, never zero"
