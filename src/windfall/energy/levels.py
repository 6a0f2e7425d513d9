"""Power levels: what a site may take at most, by its own surplus, and how fast it trains then.

A site with levels takes the highest that its surplus covers. Its adapter chooses, and no policy: a policy says on or off, by the
lowest level. Where a policy keeps a site on without a surplus that covers even that, and where nothing is known of the surplus
(a stale reading is no surplus), it is the lowest. When a choice begins to count is the workload's: a round is trained at one level
where a clock waits for sites.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from windfall.config.schema import SiteTable
from windfall.errors import ConfigError
from windfall.grid.signal import Reading, StepSignal

#: Phases in which a site takes the power of its level.
_AT_LEVEL = ("training", "evaluation")
#: Weight of the newest measurement in the moving average of a level's pace, as in that of starts.
_ALPHA = 0.3


class PowerLevels:
    """At which level each site is, and what that makes of its power and pace. Times are run time."""

    def __init__(
        self, sites: Sequence[SiteTable], *, tokens_per_s: Mapping[str, float] | None = None, measured: bool = False,
        changing: Callable[[float, str], None] = lambda t, site: None,
    ) -> None:  # fmt: skip
        """``tokens_per_s``: by site, its pace at full power, if that is not counted as its table does. ``measured``: paces that are
        not configured are measured while the run goes on. ``changing`` is called before a site's level changes.

        Raises:
            ConfigError: a level has no pace, and nothing measures it.
        """
        full = tokens_per_s if tokens_per_s is not None else {s.name: s.tokens_per_s for s in sites}
        #: Of every site, tokens per second at the level that it is at. It changes with levels.
        self.tokens_per_s: dict[str, float] = dict(full)
        #: Of the sites with levels, at full power.
        self.full_tokens_per_s: Mapping[str, float] = {s.name: full[s.name] for s in sites if s.power_levels}
        self._changing = changing
        self._measured = measured
        self._tables = {s.name: s for s in sites if s.power_levels}
        self._watts = {n: [x.power_w for x in s.power_levels] for n, s in self._tables.items()}
        self._paces = {n: _paces(s, full[n]) for n, s in self._tables.items()}
        self._at = {n: len(w) - 1 for n, w in self._watts.items()}
        self._wanted = dict(self._at)
        self._since = dict.fromkeys(self._at, -math.inf)
        self._surplus_w: dict[str, float] = {}
        #: Measured paces, by site and the level's power.
        self._seen: dict[str, dict[float, float]] = {n: {} for n in self._at}
        #: Sites whose power cannot be held to a level, and why: they train at full power, and only where their surplus covers that.
        self.unheld: dict[str, str] = {}
        if not measured:
            _require_paces(self._tables.values())

    def __contains__(self, site: str) -> bool:
        return site in self._at

    # -- the adapter's choice

    def look(self, t: float, site: str, reading: Reading | None) -> None:
        """The newest reading of the site's surplus at ``t``: what its adapter makes of it counts when it is taken."""
        surplus = _known_w(t, reading)
        self._surplus_w[site] = surplus
        self._wanted[site] = len(self._watts[site]) - 1 if site in self.unheld else self._covered(site, surplus)

    def take(self, t: float, site: str) -> bool:
        """What was chosen last counts from ``t`` on. Whether that is another level."""
        if site not in self._at or self._wanted[site] == self._at[site]:
            return False
        self._changing(t, site)
        self._set(site, self._wanted[site])
        self._since[site] = t
        return True

    def next_look(self, t: float, site: str, signal: StepSignal) -> float:
        """The first instant after ``t`` at which another level may be chosen, by a signal that is known to its end."""
        reading, watts = signal.at(t), self._watts[site]
        if reading is None or reading.is_stale(t):
            return signal.leaves(t, math.inf, math.inf)
        i = self._covered(site, reading.value)
        low = watts[i] if i else -math.inf
        high = watts[i + 1] if i + 1 < len(watts) else math.inf
        return min(signal.leaves(t, low, high), reading.stale_at)

    def keeps_off(self, site: str) -> str:
        """Why the site may not train now, whatever its policy says, or an empty string."""
        why = self.unheld.get(site)
        if why is None or self._surplus_w.get(site, -math.inf) >= self._watts[site][-1]:
            return ""
        return f"its surplus does not cover full power, {self._watts[site][-1]:,.0f} W, and it cannot be held to less: {why}"

    def _covered(self, site: str, surplus_w: float) -> int:
        return max(0, bisect_right(self._watts[site], surplus_w) - 1)

    def _set(self, site: str, level: int) -> None:
        self._at[site] = level
        self.tokens_per_s[site] = self._paces[site][level]

    # -- what it makes of power and pace

    def watts(self, site: str, phase: str) -> float | None:
        """What the site takes (W) in a phase at its level; None where levels say nothing of that."""
        return self._watts[site][self._at[site]] if site in self._at and phase in _AT_LEVEL else None

    def surplus_w(self, site: str) -> float | None:
        """The surplus by which its level was chosen; None: nothing was known of it."""
        found = self._surplus_w.get(site, -math.inf)
        return found if math.isfinite(found) else None

    def told(self, site: str) -> dict[str, Any]:
        """What a site's machine is told on the calendar, before it trains too: what to hold each GPU to (None: to nothing)."""
        if site not in self._at or not self._measured:
            return {}
        return {"gpu_power_w": self._tables[site].power_levels[self._wanted[site]].gpu_power_w}

    def learn(self, site: str, tokens_per_s: float, since: float) -> bool:
        """A site has trained at this pace from ``since`` until now. Whether that is the first that is known of its level.

        No level counts as faster than full power.
        """
        if site not in self._at or not self._measured or not tokens_per_s > 0 or since < self._since[site]:
            return False
        level = self._at[site]
        if level == len(self._watts[site]) - 1 or self._tables[site].power_levels[level].tokens_per_s is not None:
            return False
        was, tokens_per_s = self._seen[site].get(self._watts[site][level]), min(tokens_per_s, self.full_tokens_per_s[site])
        self._measure(site, level, tokens_per_s if was is None else (1 - _ALPHA) * was + _ALPHA * tokens_per_s)
        self._set(site, level)
        return was is None

    def _measure(self, site: str, level: int, tokens_per_s: float) -> None:
        self._seen[site][self._watts[site][level]] = self._paces[site][level] = tokens_per_s

    # -- going on after a restart

    def powers_w(self, sites: Iterable[str]) -> dict[str, float]:
        """Of those of the sites that have levels: the power of the one that each is at."""
        return {n: self._watts[n][self._at[n]] for n in sites if n in self._at}

    def put(self, powers_w: Mapping[str, float]) -> None:
        """Sites are at these levels already. One that a site does not have any more is left out."""
        for site, power_w in powers_w.items():
            if site in self._at and power_w in self._watts[site]:
                self._wanted[site] = self._watts[site].index(power_w)
                self._set(site, self._wanted[site])

    def as_json(self) -> dict[str, Any]:
        """What the next coordinator needs to go on; empty if no site has levels."""
        if not self._at:
            return {}
        return {"powers_w": self.powers_w(self._at), "measured": {n: list(x.items()) for n, x in self._seen.items()}}

    def restore(self, said: Mapping[str, Any]) -> None:
        """Go on from what ``as_json`` gave."""
        for site, seen in said.get("measured", {}).items():
            for power_w, pace in seen:
                if self._measured and site in self._at and power_w in self._watts[site][:-1]:
                    level = self._watts[site].index(power_w)
                    if self._tables[site].power_levels[level].tokens_per_s is None:
                        self._measure(site, level, float(pace))
        self.put(said.get("powers_w", {}))


def powers_text(site: SiteTable) -> str:
    """What a site may take while it trains, in words: ``800, 1,400 or 2,024 W``."""
    each = [f"{w:,.0f}" for w in [x.power_w for x in site.power_levels] or [site.train_power_w]]
    return f"{' or '.join([', '.join(each[:-1]), each[-1]] if len(each) > 1 else each)} W"


def tokens_per_s_at(site: SiteTable, watts: float) -> float:
    """How fast a site trains where it takes so many watts: as at that of its levels which is next to that."""
    levels = site.power_levels
    if not levels:
        return site.tokens_per_s
    nearest = min(range(len(levels)), key=lambda i: abs(levels[i].power_w - watts))
    return _paces(site, site.tokens_per_s)[nearest]


def _known_w(t: float, reading: Reading | None) -> float:
    """A surplus, as far as anything is known of it."""
    usable = reading is not None and math.isfinite(reading.value) and not reading.is_stale(t)
    return reading.value if usable and reading is not None else -math.inf


def _paces(site: SiteTable, full: float) -> list[float]:
    """By level, its pace, if it is ``full`` at the highest; of which nothing is said or measured, in proportion to power."""
    scale = full / site.tokens_per_s
    below = [
        full * x.power_w / site.train_power_w if x.tokens_per_s is None else scale * x.tokens_per_s for x in site.power_levels[:-1]
    ]
    return [*below, full]


def _require_paces(sites: Iterable[SiteTable]) -> None:
    for site in sites:
        for level in site.power_levels[:-1]:
            if level.tokens_per_s is None:
                raise ConfigError(
                    f"site {site.name}: its level of {level.power_w:g} W has no tokens_per_s, and nothing measures it in replayed "
                    "time; give it (a run on the calendar tells in its events what it has measured)"
                )
