"""`[site.meter]`: what measures a site's power. Without it energy is modelled from the site's phases."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from windfall.config.base import NonNegative, Positive, Table

Source = Literal["nvml", "rapl", "exporter", "http"]
#: Which keys belong to which source.
_KEYS: dict[str, set[str]] = {
    "nvml": {"gpus"},
    "exporter": {"url", "host", "energy_metric", "power_metric", "energy_unit", "power_unit"},
    "http": {"url", "energy_path", "power_path", "energy_unit", "power_unit", "headers_from_env"},
}
#: Sources that measure the same GPUs, or a whole site with everything in it.
_EXCLUSIVE = (("nvml", "exporter"), ("http", "nvml"), ("http", "rapl"), ("http", "exporter"))


class MeterTable(Table):
    """`[site.meter]`: what measures the site's power, on the site's machine (clock real)."""

    sources: list[Source] = Field(
        min_length=1, description="nvml (all GPUs), rapl (processors, memory), exporter (DCGM's), http (a plug, a PDU): their sum"
    )  # fmt: skip
    interval_s: Positive = Field(5.0, description="between two readings; counters themselves are renewed every 0.1 to 1 s")
    rest_power_w: NonNegative = Field(0.0, description="what the sources do not measure (boards, fans, disks): modelled, said so")
    pue: float = Field(1.0, ge=1.0, le=5.0, description="overhead of the building: multiplies all of it, and is modelled")
    gpus: list[int] | None = Field(None, min_length=1, description="nvml: indices of the site's own GPUs (default: all)")
    url: str | None = Field(
        None, min_length=1, description="exporter: its page, http://127.0.0.1:9400/metrics say; http: the address to ask"
    )
    host: str | None = Field(
        None, min_length=1, description="exporter: only rows of this host (label Hostname, hostname or instance)"
    )
    energy_metric: str | None = Field(
        None, min_length=1, description="exporter: name of the counter (default: DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION)"
    )
    power_metric: str | None = Field(
        None, min_length=1, description="exporter: name of the power (default: DCGM_FI_DEV_POWER_USAGE)"
    )
    energy_path: str | None = Field(None, min_length=1, description="http: where the counter is in the JSON, `aenergy.total` say")
    power_path: str | None = Field(None, min_length=1, description="http: where the power is in the JSON, `apower` say")
    energy_unit: Literal["J", "mJ", "kJ", "Wh", "kWh"] | None = Field(
        None, description="exporter, http: of the counter (default: mJ, Wh)"
    )
    power_unit: Literal["W", "mW", "kW"] | None = Field(None, description="exporter, http: of the power (default: W)")
    headers_from_env: dict[str, str] = Field(
        default_factory=dict, description="http: header names, and the environment variable of the agent that holds each value"
    )

    @model_validator(mode="after")
    def _once(self) -> MeterTable:
        if len(set(self.sources)) < len(self.sources):
            raise ValueError("sources names one source twice, which would count it twice; name each once")
        for a, b in _EXCLUSIVE:
            if a in self.sources and b in self.sources:
                why = "both measure the GPUs" if a == "nvml" else f"what http measures (a plug, a PDU) has what {b} measures in it"
                raise ValueError(f"sources has {a} and {b}: {why}, and it would count twice; take one of them")
        return self

    @model_validator(mode="after")
    def _keys(self) -> MeterTable:
        fields = type(self).model_fields
        mine = set().union(*(_KEYS.get(s, set()) for s in self.sources))
        strange = sorted(
            k for k in set().union(*_KEYS.values()) - mine
            if k in self.model_fields_set and getattr(self, k) != fields[k].get_default(call_default_factory=True)
        )  # fmt: skip
        if strange:
            of = next(s for s, keys in _KEYS.items() if strange[0] in keys)
            raise ValueError(f"{strange[0]} belongs to source {of}, which is not in sources; remove it, or name {of}")
        return self

    @model_validator(mode="after")
    def _needs(self) -> MeterTable:
        if ("exporter" in self.sources or "http" in self.sources) and self.url is None:
            raise ValueError("an exporter and http need url; give the address to ask")
        if "http" in self.sources and self.energy_path is None and self.power_path is None:
            raise ValueError("http needs energy_path or power_path: where its counter or its power is in the JSON")
        return self
