"""Models of power: what a site takes in each phase, as configured."""

from __future__ import annotations

from dataclasses import dataclass

from windfall.config.schema import SiteTable


@dataclass(frozen=True, slots=True)
class PowerModel:
    """The power (W) of a whole site by phase, as configured: modelled, not measured."""

    train_w: float
    idle_w: float
    provisioning_w: float
    #: A machine that stays on takes idle power when the site is off.
    off_w: float = 0.0

    @classmethod
    def of(cls, site: SiteTable) -> PowerModel:
        """The model that a site's table describes."""
        stays_on = site.driver == "resident" and not (site.resident is not None and site.resident.sleeps)
        return cls(site.train_power_w, site.idle_power_w, site.provisioning_power_w, site.idle_power_w if stays_on else 0.0)

    def watts(self, phase: str) -> float:
        """Power (W) in ``phase``. A draining site writes files and waits for the network, which takes idle power.

        What moves between sites is booked by its bytes.
        """
        return {
            "off": self.off_w,
            "provisioning": self.provisioning_w,
            "idle": self.idle_w,
            "training": self.train_w,
            "evaluation": self.train_w,
            "stall": self.idle_w,
            "draining": self.idle_w,
            "terminating": self.idle_w,
            "network": 0.0,
        }[phase]
