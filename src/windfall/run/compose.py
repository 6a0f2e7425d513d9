"""The composition root: puts together a loop, from a configuration and the parts that differ between machines and in tests."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import suppress
from typing import TYPE_CHECKING

from windfall.clock import Clock, wall
from windfall.config.drivers import ELSEWHERE
from windfall.config.load import stored
from windfall.config.schema import Config
from windfall.energy.account import Account
from windfall.energy.books import Books
from windfall.energy.levels import PowerLevels
from windfall.energy.microgrid import microgrids
from windfall.energy.power import PowerModel
from windfall.energy.tariff import Tariff
from windfall.errors import ConfigError
from windfall.federation.checkpoints import Checkpoints
from windfall.federation.departed import departed, take_leave
from windfall.federation.engine import Federation
from windfall.federation.intake import Intake, WorkKwh
from windfall.federation.members import Settings
from windfall.federation.membership import Registered
from windfall.federation.merge import Outer
from windfall.federation.recovery import recover
from windfall.fleet.controller import Controller, Observer
from windfall.fleet.driver import Driver
from windfall.fleet.loop import Loop, OperatorHolds, SiteProfile
from windfall.fleet.machine import Patience
from windfall.grid.build import Grid
from windfall.policy.build import build_policy
from windfall.run.changes import decides_alike
from windfall.run.recorder import Carried, Carries, LedgerJournal, TelemetryRecorder, begun, restore
from windfall.store.bus import Bus
from windfall.store.bus_factory import with_users
from windfall.store.ledger import Ledger
from windfall.store.residents import revoked_lives
from windfall.store.rundir import RunDir
from windfall.store.telemetry import Telemetry
from windfall.units import J_PER_KWH
from windfall.wire.fleet_proxy import Registrations
from windfall.wire.transport import Transport

if TYPE_CHECKING:
    from windfall.store.redis_access import SiteUsers
    from windfall.store.redis_lease import RedisLease


def compose(
    config: Config, run: RunDir, *, ledger: Ledger, telemetry: Telemetry, grid: Grid, clock: Clock, driver: Driver,
    bus: Bus, transport: Transport, recorder: TelemetryRecorder, fence: int, observer: Observer, executor: Executor | None = None,
    holds: OperatorHolds, registrations: Registrations | None = None, calendar: Callable[[], float] = wall,
) -> tuple[Loop, Federation]:  # fmt: skip
    """The loop of a run and its federation, which go on with what the run's ledger and telemetry hold.

    ``executor`` merges (default: the loop waits for each merge). ``calendar``: as `Federation` has it.
    """
    names = [s.name for s in config.site]
    gone = departed(ledger, run.sites, names)
    f = config.federation
    levels = PowerLevels(config.site, measured=not clock.gated)
    levels.restore(telemetry.now().get("levels", {}))
    checkpoints = Checkpoints(run, ledger, keep=f.keep_versions, keep_every=f.keep_every)
    intake = Intake(
        ledger, checkpoints, Outer(f.outer, f.outer_lr, f.outer_momentum), telemetry,
        sites={*names, *gone}, base_max_age_tokens=f.base_max_age * config.budget_blocks * config.tokens_per_block,
        work_kwh=work_kwh(config, levels, gated=clock.gated), codec=f.codec,
        average_inner_every=f.average_inner_every, clip_delta_norm=f.clip_delta_norm, executor=executor,
    )  # fmt: skip
    recover(clock.now(), ledger, checkpoints, intake, telemetry)
    take_leave(clock.now(), gone, ledger, intake, telemetry, run.sites)
    work = Federation(
        ledger=ledger, checkpoints=checkpoints, intake=intake, bus=bus, transport=transport, events=telemetry,
        settings=settings(config, ledger, levels, gated=clock.gated), fence=fence, now=clock.now(), sites=names,
        generations=ledger.generations(), registered=registered_by(config, registrations), calendar=calendar,
        levels=levels,
    )  # fmt: skip
    work.evaluated_before({version for version, _ in telemetry.evaluations()})
    controller = Controller(
        {s.name: patience(config, s.spin_up_s) for s in config.site}, driver, LedgerJournal(ledger),
        gated=clock.gated, seed=config.run.seed, stop_grace_s=config.fleet.stop_grace_s,
        gone_after_s=config.fleet.dead_man_s + config.fleet.stop_grace_s, observer=observer,
        teller=lambda t, kind, site, reason: telemetry.event(t, kind, site=site, reason=reason),
    )  # fmt: skip
    starts = ledger.starts()
    for name, generation in ledger.generations().items():
        if name in controller.sites:
            controller.sites[name].generation = generation
            controller.sites[name].starts = starts.get(name, 0)
    metered = [s.name for s in config.site if s.meter is not None] if not clock.gated else []
    behind = microgrids(config.site, grid.supplies, clock.now(), dict.fromkeys(metered, config.account.meter_lag_s))
    for name, said in telemetry.now().get("microgrids", {}).items():
        if name in behind:
            behind[name].restore(said)
    account = Account(
        {s.name: PowerModel.of(s) for s in config.site},
        {s.name: Tariff.of(s, grid.signals[s.name], config.run) for s in config.site},
        behind,
    )
    seen = {n: m.signals(config.site_named(n), grid.signals[n]) for n, m in behind.items()}
    books = Books(account, metered, config.account.meter_lag_s)
    loop = Loop(
        clock=clock, signals={**grid.signals, **seen}, profiles=profiles(config), policy=build_policy(config),
        controller=controller, work=work, account=books if metered else account, recorder=recorder,
        begun=begun(telemetry, clock.now()), tick_s=config.run.tick_s, holds=holds, levels=levels,
    )  # fmt: skip
    restore(telemetry, account, loop, carries_of(config, ledger))
    recorder.booked(books.restore(telemetry.now().get("books", {})))
    return loop, work


def registered_by(config: Config, registrations: Registrations | None) -> Registered | None:
    """Says of a node whether it may be a site's: one elsewhere is known by whom it was registered by, and a local one by nobody."""
    away = {s.name for s in config.site if s.driver in ELSEWHERE}
    if not away or registrations is None:
        return None
    return lambda node, site: registrations.site(node) == (site if site in away else "")


def carries_of(config: Config, ledger: Ledger) -> Carries:
    """A function that says what of a decision under an earlier configuration counts under ``config``."""
    kept: dict[int, Config] = {}
    for c in ledger.configurations():
        with suppress(ConfigError):  # this Windfall cannot read it any more, so nothing decided under it counts
            kept[c.number] = stored(c.text)

    def carries(number: int, site: str) -> Carried:
        if not kept or number not in kept:
            return Carried(memory=not kept, spin_up=not kept)
        was = next((s.spin_up_s for s in kept[number].site if s.name == site), None)
        stayed = all(any(s.name == site for s in c.site) for n, c in kept.items() if n >= number)
        alike = decides_alike(kept[number], config)
        return Carried(on=stayed, memory=stayed and alike, spin_up=was == config.site_named(site).spin_up_s)

    return carries


def profiles(config: Config) -> dict[str, SiteProfile]:
    """By site, what is configured of it that the loop needs."""
    return {s.name: SiteProfile(s.spin_up_s, s.load_s, s.tokens_per_s, s.train_power_w) for s in config.site}


def work_kwh(config: Config, levels: PowerLevels, *, gated: bool) -> WorkKwh:
    """A function that estimates what a site has used for its work, by its power model and the level that it is at."""
    sites = {s.name: s for s in config.site}

    def estimate(site: str, tokens: int, train_s: float) -> float:
        s = sites.get(site)
        if s is None:  # no part of the run any more
            return 0.0
        # On a gated clock a site takes what its model says, whatever this machine does.
        watts = levels.watts(site, "training") or s.train_power_w
        return watts * (tokens / levels.tokens_per_s[site] if gated else train_s) / J_PER_KWH

    return estimate


def settings(config: Config, ledger: Ledger, levels: PowerLevels, *, gated: bool) -> Settings:
    """What is configured that the federation needs. ``levels``: whose paces are the sites'."""
    f, t = config.federation, config.train
    # Forward alone, which is a third of a step's work.
    evaluated = config.data.eval_sequences * config.model.sequence_length / 3.0
    return Settings(
        round_s=f.round_s, round_min_s=f.round_min_s, inline_bytes=f.inline_limit_bytes,
        solo_cut_s=f.solo_cut_s, quorum=f.quorum, grace_s=f.grace_s,
        heartbeat_timeout_s=config.fleet.heartbeat_timeout_s, tick_s=config.run.tick_s, gated=gated, codec=f.codec,
        blocks_per_step=t.batch_sequences // t.block_sequences, tokens_per_block=config.tokens_per_block, batch=t.batch,
        overlap=f.overlap,
        transfer_s={s.name: s.transfer_s for s in config.site if s.transfer_s is not None},
        eval_every_tokens=every if (every := config.data.eval_every_tokens) is not None else config.run.budget_tokens // 25,
        blocks_at_once={s.name: s.ranks * (t.micro_batch_sequences or 1) // t.block_sequences for s in config.site},
        budget_tokens=config.budget_blocks * config.tokens_per_block, manifest=ledger.meta("manifest") or "",
        tokens_per_s=levels.tokens_per_s, full_tokens_per_s=levels.full_tokens_per_s,
        round_blocks=f.round_tokens // config.tokens_per_block if f.round_tokens else None,
        average_inner_every=f.average_inner_every, inner_max_age=f.inner_max_age,
        network_j_per_byte=config.account.network_kwh_per_gb * J_PER_KWH / 1e9,
        # On the calendar an evaluation takes time, and is a phase of its own.
        evaluation_j={s.name: s.train_power_w * evaluated / s.tokens_per_s for s in config.site} if gated else {},
    )  # fmt: skip


def take_lease(config: Config, run: RunDir, ledger: Ledger, run_id: str, fence: int) -> RedisLease | None:
    """Take the run's lease in Redis, where Redis is used: it keeps a copy of the run directory from running beside the original.

    Raises:
        StoreError: another coordinator holds it.
    """
    if config.run.bus == "embedded":
        return None
    from windfall.store.redis_lease import RedisLease

    host = socket.gethostname()
    lease = RedisLease(
        config.run.bus, run_id, holder=f"process {os.getpid()} on {host}", place=f"{host}:{run.root.resolve()}",
        known_token=ledger.meta("redis_token"),
    )  # fmt: skip
    lease.acquire(fence)
    ledger.set_meta(redis_token=lease.token)
    return lease


def redis_users(config: Config, run: RunDir, ledger: Ledger, run_id: str) -> SiteUsers | None:
    """The sites' own users in Redis, as the last coordinator left them; None where the bus has none."""
    if not with_users(config.run.bus):
        return None
    from windfall.store.redis_access import SiteUsers

    return SiteUsers(
        run_id, ledger.meta("redis_users"), lambda text: ledger.set_meta(redis_users=text),
        revoked=lambda site: revoked_lives(run.sites, site),
    )  # fmt: skip


def patience(config: Config, spin_up_s: float) -> Patience:
    """How long a site may take for each thing."""
    f = config.fleet
    return Patience(spin_up_s, f.start_timeout_s, f.drain_timeout_s, f.backoff_s, f.backoff_max_s, busy_s=f.step_timeout_s)
