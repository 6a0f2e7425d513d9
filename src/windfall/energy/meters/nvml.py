"""NVML: the energy counters of all GPUs of a machine.

Devices are summed, never MIG instances: an instance has no counter of its own. Each counter is compared with its GPU's power.
"""

from __future__ import annotations

from typing import Any

from windfall.energy.meters.base import Checked, Counter, Integral, PowerSample, Uptime
from windfall.errors import MeterError

#: More than this no GPU takes (W).
_MOST_W = 3000.0


class NvmlMeter:
    """All GPUs of this machine, or those with the given indices."""

    def __init__(self, uptime: Uptime, interval_s: float, devices: list[int] | None = None, library: Any = None) -> None:
        """``library``: NVML (default: the package nvidia-ml-py).

        Raises:
            MeterError: the package, the driver or a device is not there.
        """
        if library is None:
            try:
                import pynvml as library  # type: ignore[import-not-found,no-redef,unused-ignore]
            except ImportError:
                raise MeterError(
                    "meter nvml needs nvidia-ml-py, which is not installed; run: pip install 'windfall[nvidia]'"
                ) from None
        self._nvml, self._uptime = library, uptime
        try:
            library.nvmlInit()
            found = range(library.nvmlDeviceGetCount()) if devices is None else devices
            self._devices = [(i, library.nvmlDeviceGetHandleByIndex(i)) for i in found]
        except library.NVMLError as e:
            raise MeterError(f"meter nvml: {e}; is there an NVIDIA driver, and are the devices there?") from None
        if not self._devices:
            raise MeterError("meter nvml: this machine has no GPU")
        self._each = {
            i: Checked(Counter(most_w=_MOST_W), Integral(interval_s), f"GPU {i}") for i, _ in self._devices
        }  # fmt: skip
        self.what = f"NVML, {len(self._devices)} GPU{'s' if len(self._devices) > 1 else ''}"
        self._epoch = 0
        self._told: set[str] = set()

    def read(self) -> PowerSample:
        """Raises MeterError if any GPU gives neither its counter nor its power."""
        at, total, known = self._uptime(), 0.0, True
        for i, handle in self._devices:
            watts = self._asked(self._nvml.nvmlDeviceGetPowerUsage, handle)
            counted = self._asked(self._nvml.nvmlDeviceGetTotalEnergyConsumption, handle)
            if watts is None and counted is None:
                raise MeterError(f"meter nvml: GPU {i} tells neither its energy nor its power")
            known = self._each[i].add(at, counted, watts) and known
            total += watts or 0.0
        self._epoch += not known
        joules = sum(c.joules for c in self._each.values())
        return PowerSample(at, total, joules, joules, self._epoch)

    def _asked(self, question: Any, handle: Any) -> float | None:
        """Watts of milliwatts, joules of millijoules; None where NVML does not say."""
        try:
            return float(question(handle)) / 1000.0
        except self._nvml.NVMLError:
            return None

    def notes(self) -> list[str]:
        found = [c.note for c in self._each.values() if c.note and c.note not in self._told]
        self._told.update(found)
        return found

    def close(self) -> None:
        try:
            self._nvml.nvmlShutdown()
        except self._nvml.NVMLError:
            return  # the driver has gone before
