"""Meters that are asked over HTTP: a Prometheus exporter such as DCGM's, and what answers with JSON (a smart plug, a PDU)."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from windfall import proxies
from windfall.energy.meters.base import Checked, Counter, Integral, PowerSample, Uptime
from windfall.errors import MeterError

if TYPE_CHECKING:
    import httpx

#: From a URL and headers to the answer's text. Raises MeterError.
Ask = Callable[[str, Mapping[str, str]], str]
#: More than this no site behind one counter takes (W).
_MOST_W = 1e9
_ENERGY_J = {"J": 1.0, "mJ": 1e-3, "kJ": 1e3, "Wh": 3600.0, "kWh": 3.6e6}
_POWER_W = {"W": 1.0, "mW": 1e-3, "kW": 1e3}
_LINE = re.compile(r"^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})?\s+(\S+)(?:\s+\d+)?$")
_LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\.)*)"')
_TIMEOUT_S = 10.0
_MOST_BYTES = 8_000_000


class Asking:
    """Asks over the network, on a connection that is kept: a new one for each reading costs more than the reading."""

    def __init__(self) -> None:
        self._client: httpx.Client | None = None

    def __call__(self, url: str, headers: Mapping[str, str]) -> str:
        """The answer's text. Raises MeterError, without what may be secret in the address."""
        import httpx  # takes a moment to import, and most sites have no such meter

        where = url.split("?")[0].split("@")[-1]
        if self._client is None:
            way = proxies.way(url)
            if way.fault:
                raise MeterError(f"the meter at {where} cannot be asked: {way.fault}")
            secure = url.startswith("https:")
            self._client = httpx.Client(timeout=_TIMEOUT_S, proxy=way.proxy, trust_env=False, verify=secure)
        try:
            answer = self._client.get(url, headers=dict(headers))
        except (httpx.HTTPError, httpx.InvalidURL) as e:
            raise MeterError(f"the meter at {where} does not answer ({type(e).__name__})") from None
        if answer.status_code != 200:
            raise MeterError(f"the meter at {where} answers with status {answer.status_code}")
        if len(answer.content) > _MOST_BYTES:
            raise MeterError(f"the meter at {where} answers with {len(answer.content) / 1e6:.0f} MB; name a smaller page")
        return answer.text

    def close(self) -> None:
        """Close the connection."""
        if self._client is not None:
            self._client.close()


class ExporterMeter:
    """GPUs as an exporter of Prometheus' text format shows them, DCGM's by default."""

    def __init__(
        self, uptime: Uptime, interval_s: float, url: str, *, host: str | None = None,
        energy: str = "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", energy_unit: str = "mJ",
        power: str = "DCGM_FI_DEV_POWER_USAGE", power_unit: str = "W", ask: Ask | None = None,
    ) -> None:  # fmt: skip
        """``host``: only its rows, where the page has several machines'."""
        self._uptime, self._interval_s, self._url, self._host = uptime, interval_s, url, host
        self._asking = Asking()
        self._ask: Ask = ask or self._asking
        self._energy, self._power = (energy, _ENERGY_J[energy_unit]), (power, _POWER_W[power_unit])
        self._each: dict[str, Checked] = {}
        self._epoch = 0
        self._told: set[str] = set()
        self.what = f"exporter, {energy}"

    def read(self) -> PowerSample:
        """Raises MeterError if there is no answer, or no such row in it."""
        page = self._ask(self._url, {})
        at = self._uptime()
        counted = self._rows(page, *self._energy)
        watts = self._rows(page, *self._power)
        if not counted and not watts:
            host = f" of host {self._host}" if self._host else ""
            raise MeterError(
                f"the exporter shows neither {self._energy[0]} nor {self._power[0]}{host}; correct energy, power or host"
            )
        devices = set(counted) | set(watts)
        known = not self._each or devices == set(self._each)
        for device in sorted(devices):
            one = self._each.setdefault(device, Checked(Counter(most_w=_MOST_W), Integral(self._interval_s), f"device {device}"))
            known = one.add(at, counted.get(device), watts.get(device)) and known
        self._epoch += not known
        joules = sum(c.joules for c in self._each.values())
        return PowerSample(at, sum(watts.values()), joules, joules, self._epoch)

    def _rows(self, page: str, name: str, factor: float) -> dict[str, float]:
        """By device, a metric's value. A MIG instance's row repeats the whole device's figure, so a device counts once."""
        found: dict[str, float] = {}
        for line in page.splitlines():
            if not line.startswith(name):
                continue
            row = _LINE.match(line)
            if row is None or row[1] != name:
                continue
            labels = dict(_LABEL.findall(row[2] or ""))
            host = labels.get("Hostname", labels.get("hostname", labels.get("instance", "")))
            if self._host is not None and host != self._host:
                continue
            value = _figure(row[3])
            if value is not None:
                device = labels.get("UUID") or labels.get("uuid") or f"{host}/{labels.get('gpu', labels.get('device', ''))}"
                found[device] = max(value * factor, found.get(device, 0.0))
        return found

    def notes(self) -> list[str]:
        found = [c.note for c in self._each.values() if c.note and c.note not in self._told]
        self._told.update(found)
        return found

    def close(self) -> None:
        self._asking.close()


class JsonMeter:
    """One counter or power at a path of a JSON answer: a smart plug, a power distribution unit, a building's meter."""

    def __init__(
        self, uptime: Uptime, interval_s: float, url: str, *, energy_path: str | None = None, energy_unit: str = "Wh",
        power_path: str | None = None, power_unit: str = "W", headers_from_env: Mapping[str, str] | None = None,
        environ: Mapping[str, str] = os.environ, ask: Ask | None = None,
    ) -> None:  # fmt: skip
        """Raises MeterError if a header's variable is not set."""
        self._uptime, self._url = uptime, url
        self._asking = Asking()
        self._ask: Ask = ask or self._asking
        self._energy = (energy_path, _ENERGY_J[energy_unit])
        self._power = (power_path, _POWER_W[power_unit])
        missing = sorted(v for v in (headers_from_env or {}).values() if not environ.get(v))
        if missing:
            raise MeterError(f"meter http needs {', '.join(missing)} in the environment of the site's agent")
        self._headers = {name: environ[v] for name, v in (headers_from_env or {}).items()}
        # A plug counts in steps of a watt-hour: over a minute that says little of a small load, so an hour is compared.
        self._one = Checked(Counter(most_w=_MOST_W), Integral(interval_s), "the meter", window_s=3600.0)
        self._watts = 0.0
        self._last: tuple[float, float] | None = None
        self._epoch = 0
        self._told = ""
        self.what = f"JSON at {url.split('?')[0].split('@')[-1]}"

    def read(self) -> PowerSample:
        """Raises MeterError if there is no answer, or nothing at its paths."""
        text = self._ask(self._url, self._headers)
        at = self._uptime()
        try:
            answer = json.loads(text)
        except ValueError:
            raise MeterError(f"{self.what}: the answer is not JSON") from None
        counted = self._at(answer, *self._energy)
        watts = self._at(answer, *self._power)
        self._epoch += not self._one.add(at, counted, watts)
        joules = self._one.joules
        last, self._last = self._last, (at, joules)
        if watts is not None:
            self._watts = watts
        elif last is not None and at > last[0]:
            self._watts = (joules - last[1]) / (at - last[0])
        return PowerSample(at, self._watts, joules, joules, self._epoch)

    def _at(self, answer: Any, path: str | None, factor: float) -> float | None:
        if path is None:
            return None
        found = answer
        for part in path.split("."):
            try:
                found = found[int(part)] if isinstance(found, list) else found[part]
            except (KeyError, IndexError, ValueError, TypeError):
                raise MeterError(f"{self.what}: there is nothing at `{path}` (not beyond `{part}`); correct the path") from None
        value = _figure(found)
        if value is None or value < 0:
            raise MeterError(f"{self.what}: {str(found)[:40]!r} at `{path}` is no number of energy or power")
        return value * factor

    def notes(self) -> list[str]:
        if self._one.note == self._told:
            return []
        self._told = self._one.note
        return [self._told]

    def close(self) -> None:
        self._asking.close()


def _figure(value: Any) -> float | None:
    """A finite number of what was sent; None for everything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        found = float(value)
    except ValueError:
        return None
    return found if found == found and abs(found) != float("inf") else None
