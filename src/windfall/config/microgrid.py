"""`[site.microgrid]`: sun and wind behind a site's meter, a battery, and its connection to the grid."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from windfall.config.base import NonNegative, Positive, Table
from windfall.config.signals import SignalTable

Soc = Annotated[float, Field(ge=0, le=1)]
Efficiency = Annotated[float, Field(gt=0, le=1)]
#: Kinds that a source's power can come from.
SOURCE_KINDS = ("trace", "http")
#: Discharged energy that a battery's cells have to give for each unit that comes out: Vessim's parameter of the cells it models.
_OWN_DISCHARGE_EFFICIENCY = 1 / 1.014


class SourceTable(SignalTable):
    """`[[site.microgrid.source]]`: what a plant behind the meter delivers: a trace, or an address that is asked (clock real)."""

    type: Literal["surplus_power"] = Field("surplus_power", description="a power: leave it out")
    peak_power_w: Positive | None = Field(
        None, description="the plant's peak: of values with unit = \"share\", or to which the trace's largest value is brought"
    )

    @model_validator(mode="after")
    def _source(self) -> SourceTable:
        if self.kind not in SOURCE_KINDS:
            raise ValueError(f'kind = "{self.kind}" is none that a source has; use trace (a file) or http (an inverter, asked)')
        return self

    @model_validator(mode="after")
    def _unit(self) -> SourceTable:
        if self.unit == "share":
            if self.peak_power_w is None:
                raise ValueError('unit = "share" needs peak_power_w: of what peak the values are shares')
        elif self.unit is not None:
            SignalTable._unit(self)  # type: ignore[operator]
        return self

    @model_validator(mode="after")
    def _peak(self) -> SourceTable:
        if self.peak_power_w is not None and self.kind == "http" and self.unit != "share":
            raise ValueError('peak_power_w of an address needs unit = "share": nobody knows what its largest value will be')
        return self

    @property
    def peak_of_largest_w(self) -> float | None:
        """The power that the trace's largest value stands for; None where values are taken as they are."""
        return None if self.unit == "share" else self.peak_power_w

    def as_signal(self) -> SignalTable:
        """The same as a signal in watts."""
        keys = {k: getattr(self, k) for k in SignalTable.model_fields if k in self.model_fields_set}
        if self.unit == "share":
            keys |= {"unit": "W", "scale": self.scale * (self.peak_power_w or 0.0)}
        return SignalTable(**{**keys, "type": "surplus_power"})


class MicrogridBatteryTable(Table):
    """`[site.microgrid.battery]`: lithium-ion cells, by Vessim's C-L-C model."""

    capacity_wh: Positive = Field(description="what its cells hold")
    initial_soc: Soc = Field(0.5, description="state of charge at the run's start")
    min_soc: Soc = Field(0.1, description="it is not discharged below this")
    charge_rate_c: Positive = Field(0.7, description="most power into it: this times its capacity, in an hour")
    discharge_rate_c: Positive = Field(1.5, description="most power out of it: this times its capacity, in an hour")
    charge_efficiency: Efficiency = Field(0.978, description="share of what goes in that its cells store")
    discharge_efficiency: Efficiency = Field(
        round(_OWN_DISCHARGE_EFFICIENCY, 5), description="share of what its cells give that comes out"
    )

    @model_validator(mode="after")
    def _order(self) -> MicrogridBatteryTable:
        if self.initial_soc < self.min_soc:
            raise ValueError(f"initial_soc = {self.initial_soc:g} is below min_soc = {self.min_soc:g}; raise it, or lower min_soc")
        return self

    @property
    def discharge_w(self) -> float:
        """The most power that comes out of it, as long as it is charged."""
        return self.discharge_rate_c * self.capacity_wh


class MicrogridTable(Table):
    """`[site.microgrid]`: the site is the load of a microgrid, which Vessim simulates beside the run."""

    source: list[SourceTable] = Field(min_length=1, description="plants behind the meter: sun, wind")
    battery: MicrogridBatteryTable | None = Field(None, description="a battery (default: none)")
    policy: Literal["battery_first", "grid_first"] = Field(
        "battery_first", description="what takes a surplus and covers a deficit first; the battery is never charged from the grid"
    )
    max_import_w: NonNegative | None = Field(None, description="most power from the grid; 0: an island (default: no limit)")
    max_export_w: NonNegative | None = Field(None, description="most power into the grid; more is curtailed (default: no limit)")
    step_s: int = Field(60, ge=1, le=3600, description="how often power is balanced anew, besides whenever the load changes")

    @model_validator(mode="after")
    def _sources(self) -> MicrogridTable:
        if len(self.source) > 1 and any(s.kind != "trace" for s in self.source):
            raise ValueError("source: several are added up only if all are traces; give one, or the inverters' sum at one address")
        labels = [s.name for s in self.source if s.name is not None]
        double = next((x for x in labels if labels.count(x) > 1), None)
        if double is not None:
            raise ValueError(f"source: two are called {double}; give each a name of its own")
        return self

    def lacking_w(self, load_w: float) -> float:
        """By how much the most that grid and battery can give falls short of a load; 0 where it does not."""
        if self.max_import_w is None:
            return 0.0
        return max(0.0, load_w - self.max_import_w - (self.battery.discharge_w if self.battery is not None else 0.0))
