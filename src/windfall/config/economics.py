"""`[economics]`: what a site costs to own, to run and to wait for: figures of one's own books."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from windfall.config.account import Share
from windfall.config.base import NonNegative, Positive, Table, Wrong
from windfall.units import time_zone

DAYS = ("weekdays", "weekends")
#: Borders of a day that are closer (h) than this are one: two seconds.
_SAME_H = 1 / 1800


class TariffTable(Table):
    """`[[economics.tariff]]`: what energy costs in some hours of the day. Together they cover every hour once."""

    from_h: Annotated[float, Field(ge=0, lt=24)] = Field(
        0.0, description="hour of the day from which it holds, on the tariff's clock"
    )
    until_h: Annotated[float, Field(gt=0, le=24)] = Field(24.0, description="until which it holds; before from_h: over midnight")
    days: Literal["all", "weekdays", "weekends"] = Field("all", description="on which days; weekends are Saturday and Sunday")
    region: str | None = Field(None, description="only in this region (default: in every region without tariffs of its own)")
    price_per_mwh: float = Field(description="all that a MWh costs then: energy, grid, levies; may be negative")

    def hours(self) -> list[tuple[float, float]]:
        """Its hours within one day; two parts where it goes over midnight."""
        if self.from_h < self.until_h:
            return [(self.from_h, self.until_h)]
        return [(self.from_h, 24.0), (0.0, self.until_h)]


class BatteryTable(Table):
    """`[economics.battery]`: a battery beside each site, which keeps some of a window's energy for the time after it."""

    capex_per_kwh: Positive = Field(description="price of a kWh of it, installed")
    life_years: Positive = Field(12.0, description="how long it will be in service")
    efficiency: Share = Field(0.85, description="share of the energy taken from the grid that comes back")
    charge_power_share: Positive = Field(1.0, description="power at which it is charged, in times of the site's training power")
    hours: list[Positive] = Field([1.0, 2.0, 4.0, 8.0], description="sizes to compare, in hours of the site's training power")


class EconomicsTable(Table):
    """`[economics]`: what sites cost. Read by `windfall economics` alone: nothing is decided by it."""

    currency: Annotated[str, Field(pattern=r"^[A-Z]{3}$")] = Field("USD", description="of every amount here, as three letters")
    capex_per_gpu: Positive = Field(description="what a GPU costs with its share of server, network and building, installed")
    gpus_per_site: int | None = Field(None, ge=1, description="GPUs of each site (default: the site's `ranks`)")
    life_years: Positive = Field(4.0, description="how long the hardware will be in service")
    used_share: Share | None = Field(
        None, description="share of that life in which it does useful work, this and other (default: only this run's)"
    )
    interest_share_per_year: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0, description="interest on what was paid for the hardware"
    )
    network_per_month: NonNegative = Field(0.0, description="rent of one site's link")
    network_per_gb: NonNegative = Field(0.0, description="price of a GB that leaves or enters a site")
    gb_per_site_hour: NonNegative = Field(0.0, description="GB that a site sends and receives in an hour of training")
    staff_per_year: NonNegative = Field(0.0, description="people, for all sites together")
    rented_per_gpu_h: Positive | None = Field(None, description="what an hour of such a GPU costs rented, power included")
    waiting_per_day: NonNegative = Field(0.0, description="what each day costs by which the model comes later than always on")
    open_share: Annotated[float, Field(gt=0, lt=1)] = Field(0.95, description="share of the time in which a site should be open")
    vary_share: Annotated[float, Field(gt=0, lt=1)] = Field(0.3, description="share by which sensitivity moves each figure")
    tariff_timezone: str = Field("UTC", description="clock of the tariffs: Europe/Berlin (IANA), or all year +10:00")
    tariff: list[TariffTable] = Field(default_factory=list, description="what energy costs (default: the sites' price signals)")
    battery: BatteryTable | None = Field(None, description="a battery beside each site (default: none is looked at)")

    @model_validator(mode="after")
    def _clock(self) -> EconomicsTable:
        try:
            time_zone(self.tariff_timezone)
        except ValueError as e:
            raise Wrong((("tariff_timezone",), str(e).replace("timezone =", "tariff_timezone =", 1))) from None
        return self

    @model_validator(mode="after")
    def _traffic(self) -> EconomicsTable:
        if (self.network_per_gb > 0) != (self.gb_per_site_hour > 0):
            raise ValueError("network_per_gb and gb_per_site_hour are multiplied with each other; give both or neither")
        return self

    @model_validator(mode="after")
    def _covered(self) -> EconomicsTable:
        wrong: list[tuple[tuple[str | int, ...], str]] = []
        for region in dict.fromkeys(t.region for t in self.tariff):
            own = [(i, t) for i, t in enumerate(self.tariff) if t.region == region]
            where = f" in {region}" if region else ""
            for days in DAYS:
                parts = sorted((a, b, i) for i, t in own if t.days in ("all", days) for a, b in t.hours())
                at, last = 0.0, own[0][0]
                for a, b, i in parts:
                    if a > at + _SAME_H:
                        wrong.append((("tariff", i), f"{days}{where} from {_clock(at)} to {_clock(a)} have no tariff; {_MORE}"))
                    elif a < at - _SAME_H:
                        end = _clock(min(at, b))
                        wrong.append((("tariff", i), f"{days}{where} from {_clock(a)} to {end} are in tariff[{last}] too; {_ONCE}"))
                    if b > at:
                        at, last = b, i
                if at < 24.0 - _SAME_H:
                    wrong.append((("tariff", last), f"{days}{where} from {_clock(at)} to 24:00 have no tariff; {_MORE}"))
        if wrong:
            raise Wrong(*dict.fromkeys(wrong))
        return self

    def tariffs_of(self, region: str) -> list[TariffTable]:
        """The tariffs of a region: its own, else those of all; none where price signals count."""
        own = [t for t in self.tariff if t.region == region]
        return own or [t for t in self.tariff if t.region is None]


_MORE = "give these hours one, or move from_h or until_h of a neighbour"
_ONCE = "end one where the other begins"


def _clock(hour: float) -> str:
    minutes = round(hour * 60)
    return f"{minutes // 60:02d}:{minutes % 60:02d}"
