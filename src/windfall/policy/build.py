"""From a configuration to a policy."""

from __future__ import annotations

from functools import partial

import numpy as np
import numpy.typing as npt

from windfall.config.schema import Config, SiteTable
from windfall.errors import ConfigError
from windfall.policy.base import PerSite, Policy
from windfall.policy.breakeven import Breakeven
from windfall.policy.budgeted import Budgeted
from windfall.policy.criterion import criteria, intensity
from windfall.policy.fixed import Always, RandomDuty
from windfall.policy.learned import Learned
from windfall.policy.limits import Limited, SiteLimits
from windfall.policy.lookahead import Lookahead
from windfall.policy.prior import prior_days
from windfall.policy.programme import SpinUp
from windfall.policy.threshold import Percentile, Threshold, paper
from windfall.units import parse_utc


def build_policy(config: Config, name: str | None = None, *, deadline_h: float | None = None) -> Policy:
    """The policy called ``name`` (default: the configuration's own), within the configuration's limits.

    ``deadline_h`` takes the place of the configuration's deadline.

    Raises:
        ConfigError: it cannot decide on these signals, or lacks a deadline.
    """
    policy = _bare(config, name or config.policy.name, deadline_h)
    limits = config.limits
    own = {s.name: SiteLimits(s.max_starts_per_h, s.ramp_w_per_min, _price_label(s)) for s in config.site}
    if not limits.model_dump(exclude_none=True) and all(
        x.max_starts_per_h is None and x.ramp_w_per_min is None for x in own.values()
    ):
        return policy
    return Limited(policy, limits, own, criteria(config, config.policy))


def _bare(config: Config, name: str, deadline_h: float | None) -> Policy:
    table = config.policy
    found = criteria(config, table)
    leveled = {s.name: s.trigger is None and intensity(s.signal.type) for s in config.site}
    match name:
        case "always":
            return Always()
        case "random_duty":
            return RandomDuty(table.duty, table.duty_period_s, config.run.seed)
        case "paper":
            return PerSite(paper(leveled), found)
        case "threshold":
            return PerSite(_threshold(config), found)
        case "percentile":
            _need_one_falling_signal(config, name)
            kinds = {s.name: (s.signal.type, s.signal.currency) for s in config.site}
            return PerSite(Percentile(table.percentile, table.window_days * 86400.0, _threshold(config), kinds), found)
        case "breakeven":
            return PerSite(Breakeven(table.a_on, table.a_off), found)
        case "learned":
            return PerSite(Learned(Breakeven(table.a_on, table.a_off), found), found)
        case "lookahead":
            _need_one_falling_signal(config, name)
            return PerSite(Lookahead(Learned(Breakeven(table.a_on, table.a_off), found), table.lookahead_h * 3600.0), found)
        case "budgeted":
            _need_one_falling_signal(config, name)
            return _budgeted(config, deadline_h)
    raise ConfigError(f"policy {name}: is made by a backtest, from what it knows of the future")


def _threshold(config: Config) -> Threshold:
    t = config.policy
    leveled = {s.name: s.trigger is None and intensity(s.signal.type) for s in config.site}
    return Threshold(t.start_g_per_kwh, t.stop_g_per_kwh, t.confirm_s, t.off_delay_s, t.min_up_s, leveled=leveled)


def _budgeted(config: Config, deadline_h: float | None) -> Budgeted:
    table = config.policy
    if deadline_h is None and table.deadline is None and table.deadline_h is None:
        raise ConfigError("policy budgeted needs a deadline: set policy.deadline (an instant) or policy.deadline_h (hours)")
    absolute = parse_utc(table.deadline) if table.deadline and deadline_h is None else None
    return Budgeted(
        criteria(config, table), {s.name: spin_up(config, s.name) for s in config.site}, deadline=absolute,
        deadline_h=deadline_h if deadline_h is not None else table.deadline_h, climatology_s=table.climatology_days * 86400.0,
        replan_s=table.replan_s, breakeven=Breakeven(table.a_on, table.a_off), prior=partial(_prior, config),
        sure={s.name for s in config.site if s.signal.forecast == "perfect"},
    )  # fmt: skip


def _prior(config: Config, site: str) -> npt.NDArray[np.float64]:
    """What a site's signal may be like of which nothing is known: days from all seasons of California (`prior`).

    Where the signal is a price, days that are as far from the worth, on its scale.
    """
    signal, policy = config.site_named(site).signal, config.policy
    values = prior_days()
    if intensity(signal.type):
        return values
    return policy.worth_per_mwh + (values / 100.0 - 1.0) * policy.value_scale_per_mwh


def spin_up(config: Config, site: str) -> SpinUp:
    """A start of ``site`` as its configuration describes it: provisioning, then loading at idle power."""
    s = config.site_named(site)
    parts = ((s.spin_up_s - s.load_s, s.provisioning_power_w / s.train_power_w), (s.load_s, s.idle_power_w / s.train_power_w))
    return SpinUp(tuple(p for p in parts if p[0] > 0))


def _need_one_falling_signal(config: Config, name: str) -> None:
    for s in config.site:
        if s.trigger is not None or s.signal.type in ("curtailed_power", "surplus_power"):
            by = "a trigger" if s.trigger else s.signal.type
            raise ConfigError(
                f"policy {name}: site {s.name} is judged by {by}, and {name} ranks hours by one intensity or price; give the site "
                "such a signal first, or use breakeven"
            )


def _price_label(site: SiteTable) -> str | None:
    return next((t.label for t in site.all_signals if t.type == "price"), None)
