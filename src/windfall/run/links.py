"""What sites' links were measured to carry, and whether a site can leave in time over its own."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from windfall.config.schema import Config
from windfall.run.sharing import STAYS, Leaving, notice_key
from windfall.store.telemetry import Telemetry

#: A link is told of again when it carries so many times more, or less.
_WORTH_A_WORD = 1.5


class Links:
    """Tells of each site's link once, and again where it has changed."""

    def __init__(self, config: Config, telemetry: Telemetry) -> None:
        """Goes on with what ``telemetry`` holds."""
        self._codec = config.federation.codec
        self._limits = {k: getattr(config.fleet, k) for k in ("drain_timeout_s", "stop_grace_s")}
        #: By site: what its platform gives it to hand in where that ends it, and the key that says so.
        self._notices = {s.name: (k, config.notice_s(s) - config.fleet.stop_grace_s) for s in config.site if (k := notice_key(s))}
        self._telemetry = telemetry
        self._told = {str(e.site): float(e.detail["mbit_s"]) for _, e in telemetry.events_of("link_measured")}

    def measured(self, t: float, site: str, bytes_per_s: float, sizes: Callable[[], tuple[int, int | None]]) -> None:
        """A site has sent so many bytes per second. ``sizes``: of the model and of an inner state that leaves, if known (bytes)."""
        mbit_s = bytes_per_s * 8 / 1e6
        told = self._told.get(site)
        if told is not None and told / _WORTH_A_WORD < mbit_s < told * _WORTH_A_WORD:
            return
        self._told[site] = mbit_s
        weights, inner = sizes()
        leaving = Leaving.over(bytes_per_s, codec=self._codec, weights=weights, inner=inner)
        detail: dict[str, Any] = {"work_s": leaving.work_s, "joint_s": leaving.joint_s, "inner_s": leaving.inner_s, **self._limits}
        self._telemetry.event(
            t, "link_measured", site=site, mbit_s=mbit_s, reason=f"{leaving.takes()}, {self._compared(site, leaving)}",
            **{k: v for k, v in detail.items() if v is not None},
        )  # fmt: skip

    def _compared(self, site: str, leaving: Leaving) -> str:
        over = [f"fleet.{k} = {v:g}" for k, v in self._limits.items() if leaving.total_s > v]
        key, given_s = self._notices.get(site, ("", math.inf))
        if leaving.total_s > given_s:
            over.append(f"the {given_s:g} s of site.{key}")
        if over:
            return f"longer than {' and '.join(over)}: {STAYS}"
        return "and has " + ", then ".join(f"fleet.{k} = {v:g}" for k, v in self._limits.items())
