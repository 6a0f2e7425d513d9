"""The only place that constructs a run's drivers, so that a new kind of driver is added here and nowhere else."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from windfall.config.drivers import ELSEWHERE, ResidentTable
from windfall.config.schema import Config, SiteTable
from windfall.errors import ConfigError
from windfall.fleet.driver import Driver
from windfall.fleet.drivers import kubernetes_manifest
from windfall.fleet.drivers.by_site import DriversBySite
from windfall.fleet.drivers.command import CommandDriver
from windfall.fleet.drivers.kubernetes_manifest import Reached
from windfall.fleet.drivers.local import AGENT, Describe, LocalDriver, TokenFor
from windfall.fleet.drivers.resident import ResidentDriver
from windfall.fleet.drivers.slurm import SlurmDriver
from windfall.fleet.drivers.start import Start, Starts
from windfall.fleet.drivers.threaded import LookIntervals, ThreadedDriver
from windfall.grid.credentials import variables
from windfall.site.nursery import Nursery
from windfall.store.rundir import RunDir

__all__ = [
    "AGENT", "Reached", "Start", "Starts", "build_driver", "driver_of_what_lives", "look_intervals", "manifest_of",
    "platform_driver",
]  # fmt: skip


def build_driver(
    config: Config, run: RunDir, run_id: str, describe: Describe, starts: Starts, *, environment: dict[str, str] | None = None,
    agent: Sequence[str] = AGENT, token_for: TokenFor | None = None, nursery: Nursery | None = None,
) -> DriversBySite:  # fmt: skip
    """The drivers of all sites of a run.

    ``describe`` gives what a site is told at its start, by its name; ``starts`` what machines elsewhere are given. The rest is for
    local sites: ``environment`` is added to that of every one; ``agent`` is the command that runs a site, to which its folder is
    added; ``token_for`` makes a generation's token; ``nursery`` is what makes some of them sooner.
    """
    local = LocalDriver(
        run.sites, run_id, describe, environment=environment, agent=agent, token_for=token_for, nursery=nursery,
        withheld=variables(config),
    )  # fmt: skip
    others: dict[str, Driver] = {
        s.name: ThreadedDriver(platform_driver(config.settled(s), run, run_id, starts), s.name, look_intervals(s))
        for s in config.site
        if s.driver in ELSEWHERE
    }
    return DriversBySite(local, others, starts)


def platform_driver(site: SiteTable, run: RunDir, run_id: str, starts: Starts) -> Driver:
    """The driver of one site that is elsewhere. Raises ConfigError where it needs what is not installed."""
    match site.driver:
        case "resident":
            table = site.resident or ResidentTable()  # type: ignore[call-arg]
            return ResidentDriver(
                site.name, run.sites, run_id, starts, away_after_s=table.away_after_s, on_command=table.on_command
            )  # fmt: skip
        case "slurm":
            assert site.slurm is not None
            return SlurmDriver(site.name, site.slurm, run_id, starts)
        case "command":
            assert site.command is not None
            return CommandDriver(site.name, site.command, run_id, starts, run.sites / site.name)
        case "kubernetes":
            return _kubernetes(site, run_id, starts)
        case "exalsius":
            return _exalsius(site, run_id, starts)
    raise AssertionError(f"{site.driver}: a driver that is not built here")


def look_intervals(site: SiteTable) -> LookIntervals:
    """How often a site that is elsewhere is looked at. A program or several requests a second are more than administrators like."""
    slow = site.slurm or site.command or site.exalsius
    return LookIntervals() if slow is None else LookIntervals(moving_s=2.0, steady_s=15.0, silent_s=60.0 + slow.timeout_s)


def _kubernetes(site: SiteTable, run_id: str, starts: Starts) -> Driver:
    assert site.kubernetes is not None
    with _extra(site):
        from windfall.fleet.drivers.kubernetes import KubernetesDriver
    return KubernetesDriver(site.name, site.kubernetes, run_id, starts)


def _exalsius(site: SiteTable, run_id: str, starts: Starts) -> Driver:
    assert site.exalsius is not None
    with _extra(site):
        from windfall.fleet.drivers.exalsius import ExalsiusDriver
    return ExalsiusDriver(site.name, site.exalsius, run_id, starts)


@contextmanager
def _extra(site: SiteTable) -> Iterator[None]:
    """Raise ConfigError where a driver cannot be imported because its extra is not installed."""
    try:
        yield
    except ModuleNotFoundError as e:
        raise ConfigError(
            f'{site.name}: driver = "{site.driver}" needs {e.name}, which is not installed; pip install "windfall[{site.driver}]"'
        ) from None


def manifest_of(
    site: SiteTable, run_id: str | None, reached: Reached, *, image: str | None = None
) -> dict[str, list[dict[str, Any]]]:
    """What a Kubernetes cluster needs for a site, by the kind of thing: ``namespace``, ``access``, ``network``, ``site``.

    ``run_id``: of a run that there is; None, and what belongs to one is left out. ``image``: in place of the configured one.
    """
    assert site.kubernetes is not None
    table = site.kubernetes if image is None else site.kubernetes.model_copy(update={"image": image})
    return {
        **kubernetes_manifest.of_cluster(table),
        "network": [kubernetes_manifest.network_policy(table, site.name, reached, own_signal=site.own_signal)],
        "site": kubernetes_manifest.of_run(table, site.name, run_id, reached) if run_id is not None else [],
    }


def driver_of_what_lives(run: RunDir, run_id: str) -> LocalDriver:
    """A driver that only finds and ends living local sites of a run. It cannot start one, as it does not know what to tell it."""
    return LocalDriver(run.sites, run_id, _nothing)


def _nothing(site: str) -> dict[str, Any]:
    return {}
