"""What a dead run has left on other machines: pods, jobs and whatever a user's commands have brought up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from windfall import clock
from windfall.config.drivers import ELSEWHERE
from windfall.config.load import stored
from windfall.errors import ConfigError, DriverError
from windfall.fleet.driver import Driver
from windfall.fleet.drivers.build import Start, Starts, platform_driver
from windfall.fleet.machine import Observed
from windfall.store.rundir import RunDir

#: How much longer than its grace a platform has to say that a site is gone (s).
_GONE_S, _LOOK_S = 30.0, 0.5


@dataclass
class Elsewhere:
    """What was (or, in a dry run, would be) ended, what could not be, and what nobody could look at."""

    ended: list[str] = field(default_factory=list)
    stuck: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def collect_elsewhere(run: RunDir, run_id: str, *, dry_run: bool, grace_s: float, look_s: float = _LOOK_S) -> Elsewhere:
    """Ask each site's own platform what there is of the run, and for that to be ended."""
    found = Elsewhere()
    try:
        config = stored(run.config.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ConfigError) as e:
        found.notes.append(f"{run.config}: cannot be read, so that nobody was asked what is on other machines ({e})")
        return found
    for site in config.site:
        if site.driver not in ELSEWHERE:
            continue
        try:
            driver = platform_driver(site, run, run_id, Starts(_nobody_starts))
            owned = driver.list_owned(run_id)
            if not owned:
                continue
            found.ended.append(f"{site.name}: {', '.join(o.handle for o in owned)} ({site.driver})")
            if not dry_run and not _ended(driver, site.name, grace_s, look_s):
                found.stuck.append(f"{site.name}: its platform has not said that it is gone; run this again")
        except (DriverError, ConfigError) as e:
            found.notes.append(f"{site.name}: what there is of it cannot be seen, or ended: {e}")
    return found


def _ended(driver: Driver, site: str, grace_s: float, look_s: float) -> bool:
    driver.ensure_down(site, grace_s, "left over by a run that is over")
    deadline = clock.monotonic() + grace_s + _GONE_S

    def gone() -> bool:
        return driver.observe([site])[site].state is Observed.ABSENT

    return _until(gone, deadline, look_s)


def _until(ready: Callable[[], bool], deadline: float, look_s: float) -> bool:
    while not ready():
        if clock.monotonic() > deadline:
            return False
        clock.pause(look_s)
    return True


def _nobody_starts(site: str, generation: int) -> Start:
    raise AssertionError("nothing is started here")
