"""A site's meter: what the agent reads arrives on the bus, and a meter that fails is told and never a zero."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from windfall.energy.meters.base import PowerMeter, PowerSample, Uptime
from windfall.errors import MeterError
from windfall.federation.reports import Metered
from windfall.site.metering import METER_NAME, Metering, MeterRelay
from windfall.store.bus import MemoryBus
from windfall.wire.fields import Fields


class Plug:
    """A meter that does as it is told."""

    what = "a plug"

    def __init__(self) -> None:
        self.samples: list[PowerSample | MeterError] = []

    def read(self) -> PowerSample:
        found = self.samples.pop(0)
        if isinstance(found, MeterError):
            raise found
        return found

    def notes(self) -> list[str]:
        return []

    def close(self) -> None:
        return None


def test_samples_reach_the_coordinator_and_trouble_is_told_once(tmp_path: Path) -> None:
    plug = Plug()
    gone = MeterError("the meter at plug does not answer")
    plug.samples = [PowerSample(10.0, 100.0, 500.0, 400.0), gone, gone, PowerSample(25.0, 100.0, 2000.0, 1600.0, 1)]
    (tmp_path / METER_NAME).write_text("of an earlier life\n")
    tried: list[float] = []

    def make(told: Mapping[str, Any], uptime: Uptime) -> PowerMeter:
        tried.append(uptime())
        if len(tried) == 1:
            raise MeterError("meter nvml: no driver")
        return plug

    metering = Metering(tmp_path, {"interval_s": 5.0}, uptime=lambda: 10.0, make=make)
    assert [metering.sample() for _ in range(5)] == [False, True, False, False, True]
    bus = MemoryBus()
    relay = MeterRelay(tmp_path, bus.site("a", 1))
    relay.look()
    relay.look()
    entries = bus.poll("a")
    assert [e["kind"] for e in entries] == ["meter_trouble", "meter", "meter_trouble", "meter"]
    assert [e["reason"] for e in entries[::2]] == ["meter nvml: no driver", "the meter at plug does not answer"]
    first, last = (Metered.read(Fields(e)) for e in entries[1::2])
    assert (first.at, first.joules, first.measured_joules, first.what) == (10.0, 500.0, 400.0, "a plug")
    assert first.boot != last.boot, "its epoch is part of its identity"
    assert first.boot.split("/")[0] == last.boot.split("/")[0]


@pytest.mark.parametrize(
    "wrong",
    [{"at": float("nan")}, {"joules": -1.0}, {"measured_joules": 9e9}, {"boot": 7}, {"joules": "many"}, {"at": None}],
)
def test_what_no_meter_says_is_refused(wrong: dict[str, Any]) -> None:
    from windfall.errors import Refused

    well = {"boot": "x/1", "at": 1.0, "joules": 10.0, "measured_joules": 5.0, "what": "a plug"}
    Metered.read(Fields(well))
    with pytest.raises(Refused):
        Metered.read(Fields(json.loads(json.dumps({**well, **wrong}))))
