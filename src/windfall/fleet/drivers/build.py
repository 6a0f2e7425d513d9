"""The only place that constructs a run's drivers, so that a new kind of driver is added here and nowhere else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from windfall.fleet.drivers.local import AGENT, Describe, LocalDriver, TokenFor
from windfall.site.nursery import Nursery
from windfall.store.rundir import RunDir

__all__ = ["AGENT", "build_driver", "driver_of_what_lives"]


def build_driver(
    run: RunDir, run_id: str, describe: Describe, *, environment: dict[str, str] | None = None, agent: Sequence[str] = AGENT,
    token_for: TokenFor | None = None, nursery: Nursery | None = None,
) -> LocalDriver:  # fmt: skip
    """The driver that starts and stops all sites of a run: every site's ``driver`` is `local` so far.

    ``describe`` gives what a site is told at its start, by its name; ``environment`` is added to that of every site; ``agent`` is
    the command that runs a site, to which the site's folder is added; ``token_for`` makes a generation's token; ``nursery`` is what
    makes some of them sooner.
    """
    return LocalDriver(run.sites, run_id, describe, environment=environment, agent=agent, token_for=token_for, nursery=nursery)


def driver_of_what_lives(run: RunDir, run_id: str) -> LocalDriver:
    """A driver that only finds and ends living sites of a run. It cannot start one, because it does not know what to tell it."""
    return LocalDriver(run.sites, run_id, _nothing)


def _nothing(site: str) -> dict[str, Any]:
    return {}
