"""Meters made of others: a modelled rest, several parts together, and the overhead of the building."""

from __future__ import annotations

from collections.abc import Sequence

from windfall.energy.meters.base import PowerMeter, PowerSample, Uptime


class ModelledPart:
    """A part that takes the same power all the time and has no meter."""

    def __init__(self, uptime: Uptime, watts: float) -> None:
        self._uptime, self._watts, self._begun = uptime, watts, uptime()
        self.what = f"{watts:,.0f} W by the configuration"

    def read(self) -> PowerSample:
        at = self._uptime()
        return PowerSample(at, self._watts, self._watts * (at - self._begun), 0.0)

    def notes(self) -> list[str]:
        return []

    def close(self) -> None:
        return None


class MeterSum:
    """Parts that do not contain each other, with the overhead of what supplies them (``pue``), which is modelled."""

    def __init__(self, parts: Sequence[PowerMeter], pue: float = 1.0) -> None:
        self._parts, self._pue = parts, pue
        names = " and ".join(p.what for p in parts)
        self.what = f"{names}, times {pue:g} for the building" if pue != 1.0 else names

    def read(self) -> PowerSample:
        """Raises MeterError if one of the parts does: a sum without it would be less than what is used."""
        each = [p.read() for p in self._parts]
        # Parts are read one after the other; the sum is of the middle of that.
        at = sum(s.at for s in each) / len(each)
        return PowerSample(
            at, self._pue * sum(s.watts for s in each), self._pue * sum(s.joules for s in each),
            sum(s.measured_joules for s in each), sum(s.epoch for s in each),
        )  # fmt: skip

    def notes(self) -> list[str]:
        return [n for p in self._parts for n in p.notes()]

    def close(self) -> None:
        for p in self._parts:
            p.close()
