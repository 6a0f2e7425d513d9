"""From what a site is told of its meter to the meter."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from windfall.energy.meters.base import PowerMeter, Uptime
from windfall.energy.meters.compose import MeterSum, ModelledPart
from windfall.energy.meters.nvml import NvmlMeter
from windfall.energy.meters.over_http import ExporterMeter, JsonMeter
from windfall.energy.meters.rapl import RaplMeter
from windfall.errors import MeterError


def build_meter(told: Mapping[str, Any], uptime: Uptime) -> PowerMeter:
    """The meter of a site's table ``[site.meter]`` (its keys and values).

    Raises:
        MeterError: it is not there, or not as the table says.
    """
    parts: list[PowerMeter] = []
    try:
        for source in told["sources"]:
            parts.append(_part(source, told, uptime))
        if told.get("rest_power_w"):
            parts.append(ModelledPart(uptime, float(told["rest_power_w"])))
        parts[0].read()  # here, so that what is not there is said at once, and counting begins
    except MeterError:
        for part in parts:
            part.close()
        raise
    return MeterSum(parts, float(told.get("pue") or 1.0))


def _part(source: str, told: Mapping[str, Any], uptime: Uptime) -> PowerMeter:
    interval_s = float(told["interval_s"])
    match source:
        case "nvml":
            return NvmlMeter(uptime, interval_s, told.get("gpus"))
        case "rapl":
            return RaplMeter(uptime)
        case "exporter":
            named = {k: told[k] for k in ("energy_unit", "power_unit") if told.get(k) is not None}
            named |= {k: told[f"{k}_metric"] for k in ("energy", "power") if told.get(f"{k}_metric") is not None}
            return ExporterMeter(uptime, interval_s, str(told["url"]), host=told.get("host"), **named)
        case "http":
            named = {k: told[k] for k in ("energy_path", "power_path", "energy_unit", "power_unit") if told.get(k) is not None}
            return JsonMeter(uptime, interval_s, str(told["url"]), headers_from_env=told.get("headers_from_env"), **named)
        case _:
            raise MeterError(f"meter {source} is not known here; upgrade Windfall on the site's machine")
