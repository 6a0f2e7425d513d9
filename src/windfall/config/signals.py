"""`[site.signal]`: where a region's readings come from. One table for every kind; keys of another kind are errors."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from windfall.config.base import Instant, Name, NonNegative, Positive, Table
from windfall.units import conversion, quantity, time_zone

#: A text. A number is taken as it is written.
Text = Annotated[str, BeforeValidator(lambda v: str(v) if isinstance(v, int | float) and not isinstance(v, bool) else v)]

SignalType = Literal["marginal_co2", "average_co2", "price", "curtailed_power", "surplus_power", "state_of_charge"]
LayoutName = Literal["watttime", "electricity_maps", "entsoe", "caiso_oasis", "aemo", "gridstatus"]
SignalKind = Literal[
    "trace", "synthetic", "watttime", "electricity_maps", "openelectricity", "gridstatus", "http", "vessim", "microgrid"
]
#: Kinds that are asked over a network while a run goes on.
LIVE = ("watttime", "electricity_maps", "openelectricity", "gridstatus", "http", "vessim")

#: What the values of each layout are, unless another type or currency is set.
_LAYOUTS: dict[str, dict[str, str]] = {
    "watttime": {"type": "marginal_co2"},
    "electricity_maps": {"type": "average_co2"},
    "entsoe": {"type": "price", "currency": "EUR"},
    "caiso_oasis": {"type": "price", "currency": "USD"},
    "aemo": {"type": "price", "currency": "AUD"},
    "gridstatus": {"type": "price", "currency": "USD"},
}
_REQUEST = {"timeout_s", "poll_s"}
_PROVIDER = {*_REQUEST, "zone", "base_url", "credentials_file", "horizon_h"}
#: Which keys belong to which kind, besides those that belong to all.
_KEYS: dict[str, set[str]] = {
    "trace": {
        "path", "layout", "time_column", "column", "region_column", "region_value", "where", "repeated", "unit", "scale",
        "timezone", "trust_offset", "stamp", "time_format", "hour_column", "hours_from", "quarter_column",
        "repeated_hour_column", "decimal", "until", "forecast_columns",
    },
    "synthetic": {"seed", "days"},
    "watttime": {*_PROVIDER, "latitude", "longitude"},
    "electricity_maps": {*_PROVIDER, "latitude", "longitude"},
    "openelectricity": {*_PROVIDER, "network"},
    "gridstatus": {*_REQUEST, "iso", "market", "location", "published"},
    "http": {
        *_REQUEST, "url", "value_path", "time_path", "unit", "scale", "headers_from_env", "credentials_file", "published",
        "timezone", "trust_offset", "stamp", "time_format",
    },
    "vessim": {*_REQUEST, "url", "microgrid", "field", "unit", "scale"},
    "microgrid": set(),
}  # fmt: skip
_COMMON = {"kind", "name", "type", "currency", "period_s", "publication_delay_s", "stale_periods", "forecast"}
#: What each kind can deliver.
_TYPES: dict[str, tuple[str, ...]] = {
    "watttime": ("marginal_co2",),
    "electricity_maps": ("average_co2",),
    "openelectricity": ("price", "curtailed_power"),
    "gridstatus": ("price",),
    "microgrid": ("surplus_power", "state_of_charge"),
}


class SignalTable(Table):
    """`[site.signal]`: where a region's readings come from."""

    kind: SignalKind = Field(
        "trace", description="trace (a file), generated, a provider, any HTTP address with JSON, or the site's own microgrid"
    )
    name: Name | None = Field(None, description="what triggers call it (default: its type)")
    type: SignalType = Field("marginal_co2", description="what the values mean")
    currency: Annotated[str, Field(pattern=r"^[A-Z]{3}$")] = Field("USD", description="price: of the values, as three letters")
    path: str | None = Field(
        None, description="trace: .csv, .csv.gz, .parquet or .json beside the config (`windfall trace show` says what is in it); "
        "or `bundled:paper_day`, `bundled:caiso`",
    )  # fmt: skip
    layout: LayoutName | None = Field(
        None, description="trace: whose export it is; then column, times, unit and pace need not be named (entsoe-py's frames are "
        "entsoe, nemosis's aemo)",
    )  # fmt: skip
    time_column: str = Field("time_utc", description="trace: column of instants, or of dates beside an hour_column")
    column: str | None = Field(None, description="trace: column of values")
    region_column: str | None = Field(None, description="trace: rows of one region are chosen by this column")
    region_value: str | None = Field(None, description="trace: and this value (default: the site's region)")
    where: dict[str, Text] = Field(
        default_factory=dict, description='trace: rows are chosen by these columns and values, { NODE = "X", LMP_TYPE = "LMP" } say'
    )
    repeated: Literal["refuse", "last"] = Field(
        "refuse", description="trace: rows of one instant with different values: refuse, or last (the last in the file counts)"
    )
    unit: str | None = Field(
        None, description="trace, http, vessim: of the values, converted to the type's own: g/kWh, kg/MWh, t/MWh, lb/MWh; "
        "EUR/MWh, EUR/kWh, ct/kWh; W, kW, MW, GW; share, % (default: what a trace's column says, else g/kWh, currency/MWh, MW "
        "curtailed, W surplus)",
    )  # fmt: skip
    timezone: str | None = Field(
        None, description="trace, http: of instants without an offset: Europe/Berlin (IANA), or all year +10:00 (default: UTC)"
    )
    trust_offset: bool = Field(
        True, description="trace, http: false: the Z or offset of instants, or Unix time, is wrong: they are on timezone's clock"
    )
    stamp: Literal["start", "end"] | None = Field(
        None, description="trace, http: whether an instant is the start or the end of what its value describes (default: start, or "
        "what a trace's column says)",
    )  # fmt: skip
    time_format: str | None = Field(
        None, description="trace, http: how instants are written, for strptime: %d/%m/%Y %H:%M (default: as they look; http: ISO "
        "8601, or Unix time)",
    )  # fmt: skip
    hour_column: str | None = Field(
        None, description="trace: beside a column of dates: hour (0 to 23, 1 to 24, 2A and 2B), time (00:00 to 24:00), or number "
        "of the half or quarter hour of the day",
    )  # fmt: skip
    hours_from: Literal[0, 1] | None = Field(
        None, description="trace: hours are numbered from 0, or from 1 (the hour that ends at 1) (default: as they look)"
    )
    quarter_column: str | None = Field(
        None, description="trace: beside hour_column: quarter of the hour (1 to 4; 1 to 12 of five minutes), or minute"
    )
    repeated_hour_column: str | None = Field(
        None, description="trace: marks (Y, 1, true) rows of the second of two equal hours in autumn (default: by order)"
    )
    decimal: Literal[".", ","] | None = Field(
        None, description="trace: decimals follow a point (1,234.5) or a comma (1.234,5) (default: as they look)"
    )
    forecast_columns: dict[str, Positive] = Field(
        default_factory=dict, description="trace: columns of forecasts made in each row, and how many seconds ahead each looks"
    )
    period_s: NonNegative = Field(300.0, description="how long a reading is fresh; 0: holds until the next row")
    until: Instant | None = Field(None, description="trace: when the last reading stops holding (default: one period on)")
    publication_delay_s: NonNegative = Field(0.0, description="when a reading becomes known, after valid_from")
    stale_periods: Positive = Field(3.0, description="past this many periods without news the site is turned off")
    forecast: Literal["provider", "perfect", "none"] = Field(
        "provider", description="which forecast policies see: the source's own, what will really be (traces), or none"
    )
    seed: int = Field(0, ge=0, description="synthetic: seed")
    days: Positive = Field(7.0, description="synthetic: length")
    zone: str | None = Field(None, description="providers: their name of the region (default: the site's region)")
    latitude: Annotated[float, Field(ge=-90, le=90)] | None = Field(
        None, description="watttime, electricity_maps: the zone is looked up from the place instead"
    )
    longitude: Annotated[float, Field(ge=-180, le=180)] | None = Field(None, description="with latitude")
    base_url: str | None = Field(None, description="providers: another address than the provider's own (a proxy)")
    credentials_file: str | None = Field(
        None, description="file with NAME=value lines, for what is not in the environment (see `windfall signals`)"
    )
    poll_s: Positive | None = Field(None, description="live: how often to ask (default: every period_s)")
    timeout_s: Positive = Field(10.0, description="live: how long one request may take")
    horizon_h: Positive = Field(24.0, description="providers with forecasts: how far to look ahead")
    network: str = Field("NEM", description="openelectricity: NEM or WEM")
    iso: str | None = Field(None, description="gridstatus: the operator's class, CAISO or Ercot for example")
    market: str = Field("REAL_TIME_5_MIN", description="gridstatus: which market's prices")
    location: str | None = Field(None, description="gridstatus: pricing node or hub")
    url: str | None = Field(None, description="http: the address to ask; vessim: the broker's address")
    value_path: str | None = Field(
        None, description="http: where the value is in the JSON, `data.0.value` for example; `data.*.value`: a list of them"
    )
    time_path: str | None = Field(None, description="http: where its instant is (default: it holds from when it was asked for)")
    published: Literal["observed", "ahead"] | None = Field(
        None, description="http, gridstatus: whether values are told once they hold, or ahead (day-ahead prices) (default: as the "
        "provider does; http: observed)"
    )  # fmt: skip
    scale: float = Field(1.0, description="trace, http, vessim: what the value is multiplied with to give the type's unit")
    headers_from_env: dict[str, str] = Field(
        default_factory=dict, description="http: header names, and the environment variable that holds each value"
    )
    microgrid: str | None = Field(None, description="vessim: name of the microgrid")
    field: str = Field("p_delta", description="vessim: which figure of the microgrid's state")

    @model_validator(mode="before")
    @classmethod
    def _implied(cls, raw: Any) -> Any:
        """A layout says what its values are; a unit that names a currency says it for `currency` too."""
        if isinstance(raw, dict) and raw.get("layout") in _LAYOUTS:
            implied = _LAYOUTS[raw["layout"]]
            if raw.get("type", implied["type"]) != implied["type"]:
                implied = {"type": raw["type"]}
            unit = quantity(raw["unit"]) if isinstance(raw.get("unit"), str) else None
            raw = {**implied, **({"currency": unit.currency} if unit and unit.currency else {}), **raw}
        if isinstance(raw, dict) and isinstance(raw.get("unit"), str) and raw.get("type") == "price" and "currency" not in raw:
            found = quantity(raw["unit"])
            return {**raw, "currency": found.currency} if found is not None and found.currency else raw
        return raw

    @model_validator(mode="after")
    def _complete(self) -> SignalTable:
        # A resolved configuration has every key, so a key of another kind is allowed at its default.
        fields = type(self).model_fields
        strangers = sorted(
            k for k in self.model_fields_set & set(SignalTable.model_fields) - _COMMON - _KEYS[self.kind]
            if getattr(self, k) != fields[k].get_default(call_default_factory=True)
        )  # fmt: skip
        if strangers:
            of = next((k for k, keys in _KEYS.items() if strangers[0] in keys), "another kind")
            raise ValueError(f'kind = "{self.kind}" has no {", ".join(strangers)} (it belongs to {of}); remove it')
        return self

    @model_validator(mode="after")
    def _needs(self) -> SignalTable:
        if self.kind == "trace" and self.path is None:
            raise ValueError("a trace needs path and column" if self.layout is None else "a trace needs path")
        if self.kind == "trace" and self.column is None and self.layout is None:
            raise ValueError(f"a trace needs path and column, or path and layout ({', '.join(_LAYOUTS)})")
        needs = {"http": ("url", "value_path"), "vessim": ("url", "microgrid"), "gridstatus": ("iso", "location")}
        missing = [k for k in needs.get(self.kind, ()) if getattr(self, k) is None]
        if missing:
            raise ValueError(f'kind = "{self.kind}" needs {" and ".join(missing)}')
        return self

    @model_validator(mode="after")
    def _delivers(self) -> SignalTable:
        if self.type not in _TYPES.get(self.kind, (self.type,)):
            raise ValueError(f'kind = "{self.kind}" delivers {" or ".join(_TYPES[self.kind])}; set type')
        return self

    @model_validator(mode="after")
    def _place(self) -> SignalTable:
        if (self.latitude is None) != (self.longitude is None):
            raise ValueError("latitude and longitude go together; give both or neither")
        return self

    @model_validator(mode="after")
    def _known(self) -> SignalTable:
        if self.forecast == "perfect" and self.live:
            raise ValueError('forecast = "perfect" is for traces: nobody knows a live signal\'s future')
        return self

    # Each rule is a method of its own, so that all broken ones are reported at once.

    @model_validator(mode="after")
    def _instants(self) -> SignalTable:
        """Keys about the instants of an address do not go together."""
        if self.timezone is not None:
            time_zone(self.timezone)
        if not self.trust_offset and self.timezone is None:
            raise ValueError("trust_offset = false needs timezone: on which clock its instants are")
        about = [k for k in ("timezone", "time_format", "stamp") if getattr(self, k) is not None]
        if self.kind == "http" and self.time_path is None and about:
            raise ValueError(f"{about[0]} is about the instants at time_path; give time_path, or remove {about[0]}")
        if self.kind == "http" and self.stamp == "end" and self.period_s == 0:
            raise ValueError('stamp = "end" needs period_s: how long before it an interval begins')
        return self

    @model_validator(mode="after")
    def _unit(self) -> SignalTable:
        """A unit that is not known, or not of the type."""
        if self.unit is not None:
            conversion(self.unit, self.type)
            found = quantity(self.unit)
            if self.type == "price" and found and found.currency not in ("", self.currency):
                raise ValueError(f'unit = "{self.unit}" and currency = "{self.currency}" differ; correct one')
        return self

    @model_validator(mode="after")
    def _values(self) -> SignalTable:
        """Keys of traces do not go together, or say what is not known."""
        if self.kind == "trace" and self.stamp == "end" and self.period_s == 0:
            raise ValueError('stamp = "end" needs a period_s: a row that holds until the next has no end of its own')
        if self.scale == 0 and self.kind == "trace":
            raise ValueError("scale = 0 makes every value 0; give another")
        if self.kind == "trace" and self.time_format is not None and "%" not in self.time_format:
            raise ValueError(f'time_format = "{self.time_format}" has no %; write as for strptime, %d.%m.%Y %H:%M')
        if self.time_format is not None and "%p" in self.time_format and re.search("%-?H", self.time_format):
            raise ValueError(
                f'time_format = "{self.time_format}" has %p (AM or PM) with %H, which disregards it; write %I for the hour'
            )
        if self.hour_column is None and (self.quarter_column or self.hours_from is not None):
            raise ValueError("hour_column is needed for quarter_column and hours_from; name the column of hours")
        if self.region_column is not None and self.region_column in self.where:
            raise ValueError("region_column and where name one column; keep one")
        if self.region_value is not None and self.region_column is None and self.kind == "trace":
            raise ValueError("region_value needs region_column; name the column that it is in")
        return self

    @property
    def live(self) -> bool:
        """Whether readings arrive while the run goes on."""
        return self.kind in LIVE

    @property
    def simulated(self) -> bool:
        """Whether readings are made by what the run itself does: the state of charge of a site's own battery."""
        return self.kind == "microgrid" and self.type == "state_of_charge"

    @property
    def factor(self) -> float:
        """What values are multiplied with to be in the unit of their type, as `unit` and `scale` say."""
        return self.scale * (conversion(self.unit, self.type) if self.unit is not None else 1.0)

    @property
    def label(self) -> str:
        """What triggers and reports call it."""
        return self.name or self.type
