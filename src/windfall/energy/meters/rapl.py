"""RAPL: the energy counters of a machine's processors and memory, as Linux shows them under ``/sys/class/powercap``."""

from __future__ import annotations

from pathlib import Path

from windfall.energy.meters.base import Counter, PowerSample, Uptime
from windfall.errors import MeterError

#: More than this no package takes (W): so it is known how often a counter can have wrapped.
_MOST_W = 1500.0
ROOT = Path("/sys/class/powercap")


class RaplMeter:
    """Packages and their memory. A package contains its cores and graphics, which are never added to it; ``psys`` contains all."""

    def __init__(self, uptime: Uptime, root: Path = ROOT) -> None:
        """Raises MeterError where there are no counters, or they may not be read."""
        self._uptime = uptime
        self._zones: list[tuple[Path, Counter]] = []
        for zone in sorted(root.glob("intel-rapl:*")):
            name = _text(zone / "name")
            if name.startswith("package-") or (name == "dram" and zone.name.count(":") > 1):
                self._zones.append((zone / "energy_uj", Counter(_number(zone / "max_energy_range_uj") / 1e6, _MOST_W)))
        if not self._zones:
            raise MeterError(f"meter rapl: {root} has no package; most virtual machines have none, take another meter there")
        self.what = f"RAPL, {len(self._zones)} zone{'s' if len(self._zones) > 1 else ''}"
        self._epoch = 0
        self._last: tuple[float, float] | None = None

    def read(self) -> PowerSample:
        """Raises MeterError if a counter cannot be read."""
        at, known = self._uptime(), True
        for path, counter in self._zones:
            known = counter.add(at, _number(path) / 1e6) and known
        self._epoch += not known
        joules = sum(c.joules for _, c in self._zones)
        last, self._last = self._last, (at, joules)
        watts = (joules - last[1]) / (at - last[0]) if last is not None and at > last[0] else 0.0
        return PowerSample(at, watts, joules, joules, self._epoch)

    def notes(self) -> list[str]:
        return []

    def close(self) -> None:
        return None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except PermissionError:
        raise MeterError(
            f"meter rapl: {path} may not be read; give the site's user read access (it is root's by default)"
        ) from None
    except OSError as e:
        raise MeterError(f"meter rapl: {path}: {e.strerror}") from None


def _number(path: Path) -> float:
    text = _text(path)
    if not text.isdecimal():
        raise MeterError(f"meter rapl: {path} has {text[:40]!r}, not a number")
    return float(text)
