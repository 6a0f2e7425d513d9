"""Meters: whatever a counter does, what comes out are joules that never fall, and the true ones to a thousandth."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from windfall.energy.meters.base import Checked, Counter, Integral, PowerSample
from windfall.energy.meters.build import build_meter
from windfall.energy.meters.compose import MeterSum, ModelledPart
from windfall.energy.meters.nvml import NvmlMeter
from windfall.energy.meters.over_http import ExporterMeter, JsonMeter
from windfall.energy.meters.rapl import RaplMeter
from windfall.errors import MeterError


class Time:
    """An uptime that moves when told."""

    def __init__(self) -> None:
        self.t = 1000.0

    def __call__(self) -> float:
        return self.t


def load(t: float) -> float:
    """A site's power (W) that goes up and down, and its integral from 0 is ``used``."""
    return 900.0 + 600.0 * math.sin(t / 97.0)


def used(t: float) -> float:
    return 900.0 * t - 600.0 * 97.0 * (math.cos(t / 97.0) - 1.0)


class Gpus:
    """NVML's interface over simulated GPUs: energy in mJ, power in mW."""

    class NVMLError(Exception):
        pass

    def __init__(self, time: Time, count: int = 2, *, energy: Callable[[int, float], float | None] | None = None) -> None:
        self.time, self.count = time, count
        self.energy = energy or (lambda i, t: used(t) * (i + 1))
        self.open = False

    def nvmlInit(self) -> None:
        self.open = True

    def nvmlShutdown(self) -> None:
        self.open = False

    def nvmlDeviceGetCount(self) -> int:
        return self.count

    def nvmlDeviceGetHandleByIndex(self, i: int) -> int:
        if i >= self.count:
            raise self.NVMLError("invalid argument")
        return i

    def nvmlDeviceGetPowerUsage(self, i: int) -> float:
        return 1000.0 * load(self.time.t) * (i + 1)

    def nvmlDeviceGetTotalEnergyConsumption(self, i: int) -> float:
        found = self.energy(i, self.time.t)
        if found is None:
            raise self.NVMLError("not supported")
        return 1000.0 * found


def through(meter: Any, time: Time, seconds: float, every: float = 5.0) -> list[PowerSample]:
    found = [meter.read()]
    for _ in range(int(seconds / every)):
        time.t += every
        found.append(meter.read())
    joules = [s.joules for s in found]
    assert joules == sorted(joules), "cumulative joules never fall"
    return found


def test_nvml_sums_the_counters_of_all_gpus_and_lets_go_of_the_library() -> None:
    time = Time()
    gpus = Gpus(time)
    meter = NvmlMeter(time, 5.0, library=gpus)
    last = through(meter, time, 1800.0)[-1]
    assert last.joules == pytest.approx(3 * (used(2800.0) - used(1000.0)), rel=1e-9)
    assert (last.measured_joules, last.epoch, meter.notes()) == (pytest.approx(last.joules), 0, [])
    assert last.watts == pytest.approx(3 * load(2800.0))
    meter.close()
    assert not gpus.open
    only = NvmlMeter(time, 5.0, [1], library=gpus)
    assert through(only, time, 600.0)[-1].joules == pytest.approx(2 * (used(3400.0) - used(2800.0)), rel=1e-9)


@pytest.mark.parametrize(
    ("counter", "said"),
    [
        (lambda i, t: used(1000.0), "counted 0 J"),  # frozen
        (lambda i, t: 0.6 * used(t), "counted"),  # reads 40 % low
        (lambda i, t: 1.5 * used(t), "counted"),  # reads too high: what has been told is not taken back
        (lambda i, t: 9.0 * used(t), "again and again"),  # leaps
        (lambda i, t: None, ""),  # the GPU is older than such counters
    ],
)
def test_a_counter_that_is_broken_is_seen_by_its_power_which_counts_instead(
    counter: Callable[[int, float], Any], said: str
) -> None:
    time = Time()
    meter = NvmlMeter(time, 5.0, library=Gpus(time, 1, energy=counter))
    last = through(meter, time, 36000.0)[-1]
    true = used(37000.0) - used(1000.0)
    slack = 0.5 * (used(1300.0) - used(1000.0)) if counter(0, 5000.0) == 1.5 * used(5000.0) else 0.0
    assert last.joules - slack <= true * 1.001
    assert last.joules >= true * 0.999
    notes = meter.notes()
    assert bool(notes) == bool(said)
    assert all(said in n and "integrated instead" in n for n in notes), notes
    assert meter.notes() == [], "it is told once"


def test_a_counter_that_begins_anew_costs_no_joule() -> None:
    time = Time()
    anew = 2003.0  # the driver is loaded again
    meter = NvmlMeter(time, 5.0, library=Gpus(time, 1, energy=lambda i, t: used(t) - (used(anew) if t > anew else 0.0)))
    last = through(meter, time, 3600.0)[-1]
    assert last.joules == pytest.approx(used(4600.0) - used(1000.0), rel=1e-3)
    assert (last.epoch, meter.notes()) == (0, [])


def test_a_gpu_that_tells_nothing_is_no_zero() -> None:
    time = Time()
    gpus = Gpus(time, 1)
    meter = NvmlMeter(time, 5.0, library=gpus)
    meter.read()

    def nothing(handle: int) -> float:
        raise gpus.NVMLError("gpu is lost")

    gpus.nvmlDeviceGetPowerUsage = gpus.nvmlDeviceGetTotalEnergyConsumption = nothing  # type: ignore[method-assign]
    with pytest.raises(MeterError, match="GPU 0 tells neither"):
        meter.read()
    with pytest.raises(MeterError, match="are the devices there"):
        NvmlMeter(time, 5.0, [7], library=Gpus(time, 1))


def zone(root: Path, path: str, name: str, value: float, most: float = 262_143_328_850) -> Path:
    folder = root / path
    folder.mkdir(parents=True)
    (folder / "name").write_text(name + "\n")
    (folder / "max_energy_range_uj").write_text(f"{most:.0f}\n")
    (folder / "energy_uj").write_text(f"{value:.0f}\n")
    return folder / "energy_uj"


def test_rapl_adds_packages_and_memory_and_never_what_a_package_contains_and_wraps(tmp_path: Path) -> None:
    time, most = Time(), 262_143_328_850.0
    files = {
        (p, part): zone(tmp_path, f"intel-rapl:{p}{sub}", name, most - 1e9)
        for p in (0, 1)
        for part, sub, name in (("package", "", f"package-{p}"), ("core", ":0", "core"), ("dram", ":1", "dram"))
    }  # fmt: skip
    zone(tmp_path, "intel-rapl:9", "psys", 5e9)
    meter = RaplMeter(time, tmp_path)
    assert meter.what == "RAPL, 4 zones"
    meter.read()
    for _ in range(720):
        time.t += 5.0
        for (_, part), file in files.items():
            watts = {"package": 200.0, "core": 150.0, "dram": 20.0}[part]
            file.write_text(f"{(most - 1e9 + watts * 1e6 * (time.t - 1000.0)) % most:.0f}\n")
        last = meter.read()
    assert last.joules == pytest.approx(2 * 220.0 * 3600.0, rel=1e-3), "three wraps of each package"
    assert last.watts == pytest.approx(440.0, rel=1e-3)
    assert last.epoch == 0
    time.t += 3000.0  # nobody knows how often it has wrapped
    assert meter.read().epoch == 1


def test_rapl_that_is_not_there_or_may_not_be_read_is_said(tmp_path: Path) -> None:
    with pytest.raises(MeterError, match="most virtual machines have none"):
        RaplMeter(Time(), tmp_path)
    zone(tmp_path, "intel-rapl:0", "package-0", 1.0).write_text("what")
    meter = RaplMeter(Time(), tmp_path)
    with pytest.raises(MeterError, match="'what', not a number"):
        meter.read()


PAGE = """# HELP DCGM_FI_DEV_POWER_USAGE Power draw (in W).
# TYPE DCGM_FI_DEV_POWER_USAGE gauge
DCGM_FI_DEV_POWER_USAGE{{gpu="0",UUID="GPU-a",device="nvidia0",{host}="node-1"}} {watts}
DCGM_FI_DEV_POWER_USAGE{{gpu="1",UUID="GPU-b",device="nvidia1",{host}="node-1",GPU_I_ID="1"}} {watts}
DCGM_FI_DEV_POWER_USAGE{{gpu="1",UUID="GPU-b",device="nvidia1",{host}="node-1",GPU_I_ID="2"}} {watts}
DCGM_FI_DEV_POWER_USAGE{{gpu="0",UUID="GPU-z",device="nvidia0",{host}="node-2"}} 999
DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION{{gpu="0",UUID="GPU-a",{host}="node-1"}} {mj}
DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION{{gpu="1",UUID="GPU-b",{host}="node-1",GPU_I_ID="1"}} {mj}
DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION{{gpu="1",UUID="GPU-b",{host}="node-1",GPU_I_ID="2"}} {mj}
DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION{{gpu="0",UUID="GPU-z",{host}="node-2"}} 5
"""


@pytest.mark.parametrize("host", ["Hostname", "hostname"])
def test_an_exporter_counts_each_gpu_once_however_its_labels_are_written(host: str) -> None:
    time = Time()
    page = lambda url, headers: PAGE.format(host=host, watts=load(time.t), mj=1000.0 * used(time.t))  # noqa: E731
    meter = ExporterMeter(time, 5.0, "http://127.0.0.1:9400/metrics", host="node-1", ask=page)
    last = through(meter, time, 1200.0)[-1]
    assert last.joules == pytest.approx(2 * (used(2200.0) - used(1000.0)), rel=1e-9)
    assert last.watts == pytest.approx(2 * load(2200.0))
    with pytest.raises(MeterError, match="shows neither"):
        ExporterMeter(time, 5.0, "http://x", host="node-3", ask=page).read()


def test_a_plug_is_read_by_its_counter_and_without_one_by_its_power() -> None:
    time = Time()

    def answer(url: str, headers: Any) -> str:
        assert headers == {"X-Key": "open sesame"}
        return json.dumps({"aenergy": {"total": math.floor(used(time.t) / 3600.0)}, "apower": load(time.t)})

    told = {"headers_from_env": {"X-Key": "PLUG_KEY"}, "environ": {"PLUG_KEY": "open sesame"}, "ask": answer}
    counted = JsonMeter(time, 5.0, "http://plug/rpc", energy_path="aenergy.total", power_path="apower", **told)
    by_power = JsonMeter(time, 5.0, "http://plug/rpc", power_path="apower", **told)
    by_power.read()
    last = through(counted, time, 7200.0)[-1]
    assert last.joules == pytest.approx(used(8200.0) - used(1000.0), rel=1e-3)
    time.t = 1000.0
    by_power = JsonMeter(time, 5.0, "http://plug/rpc", power_path="apower", **told)
    assert through(by_power, time, 7200.0)[-1].joules == pytest.approx(used(8200.0) - used(1000.0), rel=1e-3)
    time.t += 600.0  # over ten minutes two powers say nothing
    assert by_power.read().epoch == 1
    with pytest.raises(MeterError, match=r"nothing at `a\.b`"):
        JsonMeter(time, 5.0, "http://plug/rpc", power_path="a.b", **told).read()
    with pytest.raises(MeterError, match="PLUG_KEY in the environment"):
        JsonMeter(time, 5.0, "http://plug", power_path="a", headers_from_env={"X": "PLUG_KEY"}, environ={})


def test_parts_are_added_and_what_is_modelled_of_them_is_told_apart() -> None:
    time = Time()
    parts = [NvmlMeter(time, 5.0, library=Gpus(time, 1)), ModelledPart(time, 200.0)]
    meter = MeterSum(parts, pue=1.1)
    last = through(meter, time, 3600.0)[-1]
    measured = used(4600.0) - used(1000.0)
    assert last.measured_joules == pytest.approx(measured)
    assert last.joules == pytest.approx(1.1 * (measured + 200.0 * 3600.0))
    assert meter.what == "NVML, 1 GPU and 200 W by the configuration, times 1.1 for the building"


def test_a_meter_that_is_not_there_is_said_when_it_is_built(tmp_path: Path) -> None:
    with pytest.raises(MeterError, match="not known here"):
        build_meter({"sources": ["tea leaves"], "interval_s": 5.0}, Time())
    with pytest.raises(MeterError, match="does not answer"):
        build_meter({"sources": ["http"], "interval_s": 5.0, "url": "http://127.0.0.1:9/x", "power_path": "a"}, Time())


def test_a_hole_in_both_is_unknown_and_nothing_is_made_up() -> None:
    one = Checked(Counter(), Integral(5.0), "GPU 0")
    assert one.add(0.0, 100.0, 10.0)
    assert one.add(5.0, 150.0, 10.0)
    assert not one.add(500.0, 20.0, 10.0), "the counter began anew, and its power was not read meanwhile"
    assert one.joules == 50.0
    assert one.add(505.0, None, 10.0), "a counter that is not to be had tells the next time"
    assert one.add(510.0, 120.0, 10.0)
    assert one.joules == 150.0
