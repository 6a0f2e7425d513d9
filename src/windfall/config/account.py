"""`[account]` and `[site.embodied]`: what the account assumes where nothing is measured, each figure named as an assumption."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from windfall.config.base import NonNegative, Positive, Table

Share = Annotated[float, Field(gt=0, le=1)]
Error = Annotated[float, Field(ge=0, lt=1)]


class AccountTable(Table):
    """`[account]`: how far off what the account is made of may be. The range of its headline comes from these."""

    meter_lag_s: NonNegative = Field(
        30.0, description="how long a site's meter is waited for; then the model stands in, and a late measurement corrects it"
    )
    measured_error: Error = Field(0.02, description="assumed: share by which measured energy may be off")
    modelled_error: Error = Field(0.1, description="assumed: share by which modelled energy may be off")
    signal_error: Error = Field(0.1, description="assumed: share by which readings of the intensity may be off")
    pue_low: float = Field(1.0, ge=1.0, description="assumed: overhead of the buildings, where it is not in the sites' power")
    pue_high: float = Field(1.3, ge=1.0, description="assumed: the same at most")
    network_kwh_per_gb: NonNegative = Field(
        0.002, description="assumed: energy of moving a GB between a site and the coordinator, on top of what meters see"
    )
    network_error: Error = Field(0.9, description="assumed: share by which that may be off")
    embodied_error: Error = Field(0.3, description="assumed: share by which embodied emissions may be off")

    @model_validator(mode="after")
    def _order(self) -> AccountTable:
        if self.pue_low > self.pue_high:
            raise ValueError(f"pue_low = {self.pue_low:g} is above pue_high = {self.pue_high:g}; exchange them")
        return self


class EmbodiedTable(Table):
    """`[site.embodied]`: emissions of making the site's hardware. Shown beside those of running it, never scheduled on."""

    kg_co2: Positive = Field(description="of making the whole site: about 164 kg a card of an 8-GPU H100 board, 318 with server")
    life_years: Positive = Field(4.0, description="how long it will be in service")
    used_share: Share = Field(1.0, description="share of its life in which it does useful work")
