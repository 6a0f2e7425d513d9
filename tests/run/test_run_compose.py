"""What a run is put together from: each key reaches whom it is for, and what an earlier coordinator left is gone on with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from federation.fake import counting
from federation.fixtures import no_waiting_for_the_disk as no_waiting_for_the_disk
from federation.harness import BATCH, BLOCK, SEQ, T0, TOKENS_PER_STEP, Run, configured
from store.redis_server import RedisServer
from windfall import clock
from windfall.config.schema import Config
from windfall.energy.levels import PowerLevels
from windfall.energy.phases import PHASES
from windfall.federation.members import Settings
from windfall.fleet.loop import SiteProfile
from windfall.fleet.machine import Patience
from windfall.run.compose import patience, profiles, settings, take_lease, work_kwh
from windfall.run.prepare import begin_run
from windfall.store.ledger import Ledger
from windfall.store.rundir import RunDir

STEPS = 60
BLOCKS = STEPS * BATCH // BLOCK
ALWAYS = [(0.0, 1e5)]


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    made = RunDir(tmp_path / "run")
    made.make()
    return made


def changed(config: Config, **tables: dict[str, Any]) -> Config:
    """``config`` with other values, by table; those of ``site`` are of its first site."""
    raw = config.model_dump(mode="json", exclude_none=True)
    for table, values in tables.items():
        (raw[table][0] if table == "site" else raw[table]).update(values)
    return Config.model_validate(raw)


def plain(run: RunDir, **options: Any) -> Config:
    return configured(run, run.root / "corpus", {"a": ALWAYS, "b": ALWAYS}, calendar=False, steps=STEPS, **options)


@pytest.fixture
def ledger(run: RunDir) -> Iterator[Ledger]:
    begin_run(
        plain(run), run, {"count": np.zeros(BLOCKS, np.float32)}, manifest="of the data", folder=run.root / "corpus", start=T0
    )
    made = Ledger.open(run.ledger)
    yield made
    made.close()


# -- who is told what ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("gated", [True, False])
def test_the_federation_is_told_every_setting_of_its_configuration(run: RunDir, ledger: Ledger, gated: bool) -> None:
    config = changed(
        plain(
            run, round_min=7, round_min_s=70, solo_min=9, grace_s=11, codec="int4", overlap=True, batch="global", round_steps=5,
            inline_limit_mb=3.5, steps_per_min={"a": 2.0, "b": 1.0},
        ),
        federation={"quorum": 0.75}, fleet={"heartbeat_timeout_s": 13.0}, run={"tick_s": 17.0}, data={"eval_every_tokens": 19},
        site={"ranks": 2, "transfer_s": 23.0}, train={"micro_batch_sequences": 2},
    )  # fmt: skip
    evaluated_s = config.data.eval_sequences * SEQ / 3 / (TOKENS_PER_STEP / 60)  # a third of a step's work, at a step a minute
    assert settings(config, ledger, PowerLevels(config.site), gated=gated) == Settings(
        round_s=420.0, round_min_s=70.0, solo_cut_s=540.0, quorum=0.75, grace_s=11.0, heartbeat_timeout_s=13.0, tick_s=17.0,
        gated=gated, codec="int4", blocks_per_step=BATCH // BLOCK, tokens_per_block=SEQ * BLOCK, overlap=True, batch="global",
        transfer_s={"a": 23.0}, eval_every_tokens=19, inline_bytes=3_500_000, blocks_at_once={"a": 2, "b": 1},
        budget_tokens=STEPS * TOKENS_PER_STEP, manifest="of the data", round_blocks=5 * BATCH // BLOCK,
        tokens_per_s={"a": 2 * TOKENS_PER_STEP / 60, "b": TOKENS_PER_STEP / 60},
        network_j_per_byte=pytest.approx(0.002 * 3.6e6 / 1e9),
        evaluation_j=pytest.approx({"a": 1000.0 * evaluated_s, "b": 2000.0 * evaluated_s}) if gated else {},
    )  # fmt: skip


def test_a_25th_of_the_budget_lies_between_evaluations_where_nothing_else_is_configured(run: RunDir, ledger: Ledger) -> None:
    raw = plain(run).model_dump(mode="json", exclude_none=True)
    del raw["data"]["eval_every_tokens"]
    c = Config.model_validate(raw)
    assert settings(c, ledger, PowerLevels(c.site), gated=True).eval_every_tokens == STEPS * TOKENS_PER_STEP // 25


def test_a_site_has_the_patience_and_the_profile_that_are_configured(run: RunDir) -> None:
    times = {"start_timeout_s": 1.0, "drain_timeout_s": 2.0, "backoff_s": 3.0, "backoff_max_s": 4.0, "step_timeout_s": 5.0}
    config = changed(plain(run, spin_up_s=90.0), fleet=times, site={"load_s": 30.0, "train_power_w": 900.0})
    assert patience(config, 90.0) == Patience(90.0, 1.0, 2.0, 3.0, 4.0, busy_s=5.0)
    rate = TOKENS_PER_STEP / 60
    assert profiles(config) == {"a": SiteProfile(90.0, 30.0, rate, 900.0), "b": SiteProfile(90.0, 0.0, rate, 2000.0)}


def test_work_takes_what_the_model_says_on_a_gated_clock_and_its_time_on_the_calendar(run: RunDir) -> None:
    config = plain(run, steps_per_min=1.0)
    hour = 60 * TOKENS_PER_STEP  # tokens of it, at a step a minute
    levels = PowerLevels(config.site)
    assert work_kwh(config, levels, gated=True)("a", hour, 1.0) == pytest.approx(2.0)
    assert work_kwh(config, levels, gated=False)("a", hour, 1800.0) == pytest.approx(1.0)
    assert work_kwh(config, levels, gated=True)("removed", hour, 1.0) == 0.0


# -- what is gone on with ------------------------------------------------------------------------------------


def evaluations(run: Run) -> dict[int, int]:
    """How often each version was evaluated."""
    run.telemetry.flush()
    return dict(run.telemetry.rows("SELECT version, COUNT(*) FROM metrics WHERE name = 'val_bpb' GROUP BY version"))  # type: ignore[arg-type]


def test_the_next_coordinator_knows_what_was_booked_started_evaluated_and_decided(
    tmp_path: Path, data: Path, runs: list[Run]
) -> None:
    windows = {"a": [(0.0, 20.0), (40.0, 1e5)], "b": [(10.0, 1e5)]}
    first = Run(tmp_path / "r", data, windows, steps=STEPS, trainer=counting(BLOCKS), solo_min=5, round_min=5)
    assert first.serve(until_min=45) == "until"
    account, sites, loop = first.loop.account, first.loop.controller.sites, first.loop
    assert evaluations(first).get(first.ledger.head().version) == 1
    first.close()
    second = Run(tmp_path / "r", data, windows, steps=STEPS, trainer=counting(BLOCKS), solo_min=5, round_min=5)
    runs.append(second)
    assert {n: (s.generation, s.starts) for n, s in second.loop.controller.sites.items()} == {
        n: (s.generation, s.starts) for n, s in sites.items()
    }
    assert sites["a"].starts == 2, "it had been away"
    for site in windows:
        for phase in PHASES:
            was, now = account.total(site, phase), second.loop.account.total(site, phase)
            assert (now.joules, now.grams) == pytest.approx((was.joules, was.grams))
        assert second.loop.wanted[site].on == loop.wanted[site].on
        assert second.loop.wanted[site].since == loop.wanted[site].since
        assert second.loop.starts[site].spin_up_s == pytest.approx(loop.starts[site].spin_up_s)
    assert second.loop.begun == T0
    assert second.serve() == "done"
    assert set(evaluations(second).values()) == {1}, "no version is evaluated twice"


def test_the_policy_is_the_configured_one(tmp_path: Path, data: Path, runs: list[Run]) -> None:
    run = Run(tmp_path / "r", data, {"a": [(5.0, 1e5)]}, steps=STEPS, trainer=counting(BLOCKS))
    runs.append(run)
    run.serve(until_min=3)
    assert not run.loop.wanted["a"].on
    assert "500 g is at or over 100 g" in run.loop.decisions["a"].reason


# -- the lease in Redis --------------------------------------------------------------------------------------


def test_a_run_without_redis_needs_no_lease(run: RunDir, ledger: Ledger) -> None:
    assert take_lease(plain(run), run, ledger, "r", 1) is None


def test_the_next_coordinator_of_a_directory_has_the_lease_at_once_by_what_the_ledger_knows(
    tmp_path: Path, run: RunDir, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(clock, "pause", pauses.append)
    folder = tmp_path / "redis"
    folder.mkdir()
    server = RedisServer(folder)
    try:
        config = changed(plain(run), run={"bus": server.url})
        first = take_lease(config, run, ledger, "r", 1)  # and dies
        assert first is not None
        assert ledger.meta("redis_token") == first.token
        pauses.clear()
        second = take_lease(config, run, ledger, "r", 2)
        assert second is not None
        assert pauses == [], "nothing was waited for"
        assert ledger.meta("redis_token") == second.token != first.token
        first._thread.close()  # type: ignore[union-attr]
        second.release()
    finally:
        server.kill()
