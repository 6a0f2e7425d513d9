"""A coordinator that is being built says that it lives, and goes on where the last one was."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from federation.fixtures import no_waiting_for_the_disk as no_waiting_for_the_disk
from federation.harness import T0, configured
from run.test_run_coordinator import trained
from windfall import clock
from windfall.config.load import to_toml
from windfall.revision import revision
from windfall.run import life
from windfall.run.life import begin, signs_of_life
from windfall.run.prepare import begin_run
from windfall.store.files import read_json
from windfall.store.ledger import Ledger
from windfall.store.rundir import RunDir
from windfall.store.telemetry import Telemetry


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    made = RunDir(tmp_path / "run")
    made.make()
    return made


@pytest.fixture
def telemetry(run: RunDir) -> Iterator[Telemetry]:
    made = Telemetry.open(run.telemetry)
    yield made
    made.close()


def test_while_it_is_built_it_gives_signs_of_life_for_so_long_and_no_longer(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(life, "BEAT_S", 0.001)
    with signs_of_life(run, 1e9):
        while (beat := read_json(run.beat)) is None:
            clock.pause(0.001)
    assert (beat["pid"], beat["serves"]) == (os.getpid(), False)
    assert beat["beat"] < 0
    run.beat.unlink()
    with signs_of_life(run, 0.0):
        clock.pause(0.01)
    assert not run.beat.exists()


def test_run_time_begins_at_the_start_and_goes_on_at_the_newest_that_is_known_of(run: RunDir, telemetry: Telemetry) -> None:
    config = configured(run, run.root / "corpus", {"a": []}, calendar=False)
    begin_run(config, run, {"count": np.zeros(240, np.float32)}, manifest="m", folder=run.root / "corpus", start=T0)
    ledger = Ledger.open(run.ledger)
    assert begin(config, ledger, telemetry, 1) == T0
    trained(run, 2)
    assert begin(config, ledger, telemetry, 2) == T0 + 60, "a version is later than what telemetry has kept"
    telemetry.put("INSERT OR REPLACE INTO meta VALUES ('now', ?)", f'{{"t_run": {T0 + 90}}}')
    telemetry.flush()
    assert begin(config, ledger, telemetry, 3) == T0 + 90
    on_the_calendar = configured(run, run.root / "corpus", {"a": []}, calendar=True)
    before = clock.wall()
    assert before <= begin(on_the_calendar, ledger, telemetry, 4) <= clock.wall()
    telemetry.flush()
    told = [(e.kind, e.version, e.detail["fence"]) for _, e in telemetry.events()]
    assert told == [("started", 0, 1), ("resumed", 1, 2), ("resumed", 1, 3), ("resumed", 1, 4)]
    assert {e.detail["windfall"] for _, e in telemetry.events()} == {str(revision())}
    ledger.close()


def test_a_change_of_the_configuration_is_told_once_and_holds_from_then_on(run: RunDir, telemetry: Telemetry) -> None:
    config = configured(run, run.root / "corpus", {"a": []}, calendar=False)
    begin_run(config, run, {"count": np.zeros(240, np.float32)}, manifest="m", folder=run.root / "corpus", start=T0)
    ledger = Ledger.open(run.ledger)
    change = {"site": None, "key": "run.speed", "old": 1.0, "new": 2.0}
    ledger.configure(to_toml(config), "f", changes=[change], budget_blocks=ledger.budget_blocks, t_wall=0)
    for fence in (1, 2):
        begin(config, ledger, telemetry, fence)
    telemetry.flush()
    (told,) = [e for _, e in telemetry.events() if e.kind == "configuration_changed"]
    assert (told.t_run, told.detail["key"], told.detail["new"]) == (T0, "run.speed", 2.0)
    assert ledger.configurations()[-1].t_run == T0
    ledger.close()
