"""Runs of sites with power levels: rounds at the level that the surplus covers, commits by work, the account, replays."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from energy.capped import Gpus
from federation.fake import counting
from federation.fixtures import data as data
from federation.fixtures import no_waiting_for_the_disk as no_waiting_for_the_disk
from federation.harness import BATCH, BLOCK, T0, TICK, TOKENS_PER_STEP, Run
from federation.test_federation_replay import assert_replays
from windfall.energy.account import Account
from windfall.run.present import Present
from windfall.simulate.replay import replay
from windfall.site.power_cap import PowerCap
from windfall.units import iso_utc
from windfall.view.account import run_account
from windfall.view.events import what_happened

#: Steps a minute at full power, and (W, share of full pace).
PACE = 1.0
LEVELS = [(800.0, 0.5), (1400.0, 0.75), (2000.0, 1.0)]
STEPS = 105
ALWAYS = [(0.0, 1e5)]


def farm(folder: Path, watts: list[float], *, more: dict[str, Any] | None = None) -> dict[str, dict[str, Any]]:
    """Site `a` with three levels, whose surplus is ``watts``, five minutes each."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = "".join(f"{iso_utc(T0 - 300.0 + i * 300.0)},{w},300\n" for i, w in enumerate([watts[0], *watts]))
    (folder / "sun.csv").write_text(f"time_utc,w,g\n{rows}", encoding="utf-8")
    path, full = str(folder / "sun.csv"), PACE * TOKENS_PER_STEP / 60
    return {
        "a": {
            "power_levels": [{"power_w": w, "tokens_per_s": share * full} for w, share in LEVELS],
            "signal": {"type": "surplus_power", "path": path, "column": "w"}, "signals": [{"path": path, "column": "g"}],
            **(more or {}),
        }
    }  # fmt: skip


@pytest.fixture
def runs() -> Iterator[list[Run]]:
    found: list[Run] = []
    yield found
    for run in found:
        run.crash()


def lived(
    root: Path, data: Path, watts: list[float], *, sites: tuple[str, ...] = ("a", "b"), steps: int = STEPS, **keys: Any
) -> Run:
    more = farm(root.parent / "sun", watts, more=keys.pop("site", None))
    given = {"round_min": 10, "solo_min": 10, "spin_up_s": 60.0, "steps_per_min": PACE} | keys
    return Run(root, data, dict.fromkeys(sites, ALWAYS), steps=steps, more=more, **given)


def paced(run: Run) -> list[tuple[float, float, float]]:
    """(minute, W, steps a minute) of each change of a's level."""
    return [
        (at, d["power_w"], d["tokens_per_s"] * 60 / TOKENS_PER_STEP) for at, _, site, d in run.events("power_level") if site == "a"
    ]


#: 20 minutes of weak surplus, 20 of full, 15 of middling, and weak from then on.
SUN = [900.0] * 4 + [2500.0] * 4 + [1500.0] * 3 + [850.0] * 200


def test_rounds_are_trained_at_the_level_of_their_begin_committed_by_work_and_done_again_bit_for_bit(
    tmp_path: Path, data: Path, runs: list[Run]
) -> None:
    run = lived(tmp_path / "r", data, SUN, overlap=True, batch="global")
    runs.append(run)
    assert run.serve() == "done"
    rounds = [(at, d["round"]) for at, _, _, d in run.events("round")]
    changes = paced(run)
    assert [(w, pace) for _, w, pace in changes] == [(800.0, 0.5), (2000.0, 1.0), (1400.0, 0.75)]
    assert {at for at, _, _ in changes} <= {at for at, _ in rounds}, "a level changes where a round begins"
    assert all(b - a <= 10 + 1e-6 for a, b in zip([0.0, 20.0, 40.0], [at for at, _, _ in changes], strict=True))

    # What `a` has trained is the integral of its pace, to a step, and what it took that of its level.
    versions = [v for v in run.ledger.versions() if v.sites]
    ended = max(at for at, _, site, d in run.events("contribution") if site == "a")
    spans = [(a, b, w, p) for (a, w, p), b in zip(changes, [*(at for at, _, _ in changes[1:]), ended], strict=True)]
    steps = sum((b - a) * p for a, b, _, p in spans)
    trained = sum(v.sites.get("a", 0) for v in versions) / TOKENS_PER_STEP
    assert trained == pytest.approx(steps, abs=3)
    assert sum(sum(v.sites.values()) for v in versions) == STEPS * TOKENS_PER_STEP
    kept = run.loop.account
    assert isinstance(kept, Account)
    by_power: dict[float, float] = {}
    run.telemetry.flush()
    for row in run.telemetry.energy():
        if row.site == "a" and row.phase == "training":
            by_power[row.watts] = by_power.get(row.watts, 0.0) + row.t1 - row.t0
    assert set(by_power) == {w for w, _ in LEVELS}
    for watts, _ in LEVELS:
        assert by_power[watts] == pytest.approx(sum(60 * (b - a) for a, b, w, _ in spans if w == watts), abs=2 * TICK)
    assert kept.total("a", "training").joules == pytest.approx(sum(w * s for w, s in by_power.items()))

    # A joint version weighs its sites by what they have trained.
    joint = [v for v in versions if len(v.sites) == 2]
    shares = [v.sites["a"] / v.sites["b"] for v in joint]
    assert min(shares) < 0.65
    assert max(shares) > 0.9
    assert_replays(run)
    assert replay(run.dir).differences == []
    # Of a site whose disk is gone the tokens are estimated from its energy, at the levels that it was at.
    real = run_account(run.dir).tokens
    shutil.rmtree(run.dir.sites / "a")
    estimated = run_account(run.dir).tokens
    assert (real.estimated, estimated.estimated) == ((), ("a",))
    assert estimated.paid == pytest.approx(real.paid, rel=0.03)
    assert what_happened(next(e for _, e in run.telemetry.events() if e.kind == "power_level")) == (
        "trains at 800 W, 0.5 tokens/s: its surplus is 900 W"
    )


def noted(run: Run) -> None:
    """As the coordinator does from time to time."""
    Present(run.telemetry, run.bus, run.loop, run.federation, files=False).write(run.clock.now())
    run.telemetry.flush()


def test_the_next_coordinator_goes_on_at_the_level_of_the_last(tmp_path: Path, data: Path, runs: list[Run]) -> None:
    sun, trainer = [900.0] * 200, counting(STEPS * BATCH // BLOCK)
    first = lived(tmp_path / "r", data, sun, trainer=trainer)
    first.serve(until_min=15)
    noted(first)
    first.crash()
    second = lived(tmp_path / "r", data, sun, trainer=trainer, earlier=first)
    runs.append(second)
    assert second.loop.levels.watts("a", "training") == 800.0, "what it books before the first round of its own"
    assert second.serve() == "done"
    assert len(second.events("power_level")) == 1
    second.telemetry.flush()
    assert {r.watts for r in second.telemetry.energy() if (r.site, r.phase) == ("a", "training")} == {800.0}


def test_a_round_of_fixed_tokens_is_gone_on_with_at_its_own_level(tmp_path: Path, data: Path, runs: list[Run]) -> None:
    """It is in the ledger with the round, so it does not depend on what else was written in time."""
    sun, trainer = [900.0] * 3 + [2500.0] * 200, counting(STEPS * BATCH // BLOCK)
    first = lived(tmp_path / "r", data, sun, trainer=trainer, round_steps=10, batch="global")
    first.serve(until_min=16)
    (begun,) = first.events("power_level")
    assert begun[3]["power_w"] == 800.0, "its round goes on past the change of the surplus"
    first.crash()
    second = lived(tmp_path / "r", data, sun, trainer=trainer, round_steps=10, batch="global", earlier=first)
    runs.append(second)
    assert second.loop.levels.watts("a", "training") == 800.0
    assert second.serve() == "done"
    assert [d["power_w"] for _, _, _, d in second.events("power_level")] == [800.0, 2000.0]
    assert set(second.weights()["count"].tolist()) == {0.5}, "every block once, at one of two sites that did as much"


def on_the_calendar(root: Path, data: Path, watts: list[float], gpus: Gpus) -> Run:
    """Site `a` alone; of its lowest level no pace is configured."""
    middling = {"power_w": 1400.0, "gpu_power_w": 250.0, "tokens_per_s": 0.8}
    levels = [{"power_w": 800.0, "gpu_power_w": 150.0}, middling, {"power_w": 2000.0}]
    run = lived(
        root, data, watts, sites=("a",), steps=400, calendar=True, trainer=counting(400 * BATCH // BLOCK),
        site={"power_levels": levels, "signal": {"type": "surplus_power", "path": f"{root.parent}/sun/sun.csv", "column": "w"}},
    )  # fmt: skip
    run.world.power["a"] = PowerCap(root, library=gpus)
    return run


def test_on_the_calendar_the_site_holds_its_gpus_to_the_level_at_each_tick_and_paces_are_measured(
    tmp_path: Path, data: Path, runs: list[Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("windfall.site.worker.BEAT_S", 0.0)
    gpus = Gpus()
    run = on_the_calendar(tmp_path / "r", data, [900.0] * 6 + [1500.0] * 3 + [2500.0] * 6, gpus)
    runs.append(run)
    run.serve(until_min=60)
    changes = run.events("power_level")
    assert [d["power_w"] for _, _, _, d in changes] == [800.0, 1400.0, 2000.0]
    assert [at for at, _, _, _ in changes[1:]] == pytest.approx([30.0, 45.0], abs=1.0)
    assert changes[0][3]["tokens_per_s"] == pytest.approx(0.4 * PACE * TOKENS_PER_STEP / 60), "in proportion, until it is measured"
    assert [limit for i, limit in gpus.asked if i == 0] == [150_000, 250_000, 350_000], "and given back at full power"
    (measured,) = run.events("power_level_measured")
    assert measured[3]["power_w"] == 800.0
    assert measured[0] < 30.0
    run.telemetry.flush()
    kept = {r.watts for r in run.telemetry.energy() if r.phase == "training"}
    assert kept == {800.0, 1400.0, 2000.0}
    noted(run)
    assert run.telemetry.now()["levels"]["powers_w"] == {"a": 2000.0}


def test_a_site_whose_gpus_cannot_be_held_trains_only_where_its_surplus_covers_full_power(
    tmp_path: Path, data: Path, runs: list[Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("windfall.site.worker.BEAT_S", 0.0)
    gpus = Gpus(refuses=(0,))
    run = on_the_calendar(tmp_path / "r", data, [900.0] * 6 + [2500.0] * 3 + [1500.0] * 6, gpus)
    runs.append(run)
    run.serve(until_min=70)
    (failed,) = run.events("power_level_failed")
    assert "Insufficient Permissions" in failed[3]["reason"]
    states = [(at, d["now"]) for at, _, _, d in run.events("state")]
    (late,) = (at for at, now in states if now == "training" and at > 10)
    assert late == pytest.approx(31.0, abs=1.5), "off from the first refusal on, until the surplus covers all of it"
    off = [at for at, now in states if now == "off"]
    assert off[0] < 10
    assert off[-1] == pytest.approx(46.0, abs=2.5)
    assert any("cannot be held to less" in d["reason"] for _, _, _, d in run.events("state"))
    assert replay(run.dir).differences == [], "its policy decided as it would anywhere"
