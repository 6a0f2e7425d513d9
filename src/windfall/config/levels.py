"""`[[site.power_levels]]`: powers that a site can train at, its own adapter takes the highest that its surplus covers."""

from __future__ import annotations

from pydantic import Field

from windfall.config.base import Positive, Table


class PowerLevelTable(Table):
    """`[[site.power_levels]]`: one power that the site can train at. Only for sites that are judged by their surplus power."""

    power_w: Positive = Field(description="whole site while it trains at this level; the highest is train_power_w")
    tokens_per_s: Positive | None = Field(
        None, description="its speed at this level (default: measured, on clock real; of the highest: the site's)"
    )
    gpu_power_w: Positive | None = Field(
        None, description="clock real: what each of its GPUs is held to, by NVML (the highest is not held to anything)"
    )

    @property
    def label(self) -> str:
        """What messages call it."""
        return f"{self.power_w:g}W"


def level_faults(
    levels: list[PowerLevelTable], *, train_power_w: float, idle_power_w: float, tokens_per_s: float
) -> list[tuple[tuple[str | int, ...], str]]:
    """What is wrong with a site's levels among each other and with its own figures: path below ``power_levels``, and a message."""
    found: list[tuple[tuple[str | int, ...], str]] = []
    for i in range(1, len(levels)):
        low, high = levels[i - 1], levels[i]
        if high.power_w <= low.power_w:
            told = f"{high.power_w:g} W comes after {low.power_w:g} W; write levels in the order of their power, each once"
            found.append(((i, "power_w"), told))
        if low.tokens_per_s is not None and high.tokens_per_s is not None and high.tokens_per_s < low.tokens_per_s:
            told = (
                f"{high.tokens_per_s:g} is slower than the level below, {low.tokens_per_s:g}; correct one, or leave this level out"
            )
            found.append(((i, "tokens_per_s"), told))
        if low.gpu_power_w is not None and high.gpu_power_w is not None and high.gpu_power_w <= low.gpu_power_w:
            told = f"{high.gpu_power_w:g} W is not above that of the level below, {low.gpu_power_w:g} W; correct one"
            found.append(((i, "gpu_power_w"), told))
    least, most = levels[0], levels[-1]
    if least.power_w <= idle_power_w:
        told = f"a site that idles at {idle_power_w:g} W (idle_power_w) cannot train at {least.power_w:g} W; raise it"
        found.append(((0, "power_w"), told))
    if most.power_w != train_power_w:
        told = f"the highest level is the site at full power, train_power_w = {train_power_w:g}, not {most.power_w:g}; correct one"
        found.append(((len(levels) - 1, "power_w"), told))
    if most.tokens_per_s is not None and most.tokens_per_s != tokens_per_s:
        told = (
            f"the highest level is the site at full speed, tokens_per_s = {tokens_per_s:g}, not {most.tokens_per_s:g}; leave it out"
        )
        found.append(((len(levels) - 1, "tokens_per_s"), told))
    slower = [i for i, x in enumerate(levels[:-1]) if x.tokens_per_s is not None and x.tokens_per_s > tokens_per_s]
    found += [
        ((i, "tokens_per_s"), f"{levels[i].tokens_per_s:g} is faster than the site at full power, {tokens_per_s:g}; correct one")
        for i in slower
    ]
    if most.gpu_power_w is not None:
        told = "the highest level holds GPUs to nothing: what they were held to before counts; leave gpu_power_w out there"
        found.append(((len(levels) - 1, "gpu_power_w"), told))
    return found
