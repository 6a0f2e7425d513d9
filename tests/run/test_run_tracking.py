"""What sends figures to trackers is kept apart: its failures are said once, and nothing waits for it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from patience import wait_for
from windfall.cli.demo import bundled
from windfall.config.load import loads
from windfall.grid.credentials import variables
from windfall.run import tracking
from windfall.run.tracking import TrackingProcess
from windfall.store.rundir import RunDir

TABLES = '\n[[tracker]]\nkind = "wandb"\n'


SHORT = """
import os, sys
with open(sys.argv[1] + "/seen", "a") as f:
    f.write(",".join(k for k in sorted(os.environ) if k.endswith("_KEY")) + chr(10))
"""
DEAF = """
import signal, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
open(sys.argv[1] + "/up", "w").close()
while True:
    signal.pause()
"""


class Short(TrackingProcess):
    """One that writes down which secrets it sees, and ends."""

    command = (sys.executable, "-c", SHORT)


class Deaf(TrackingProcess):
    """One that hears nothing."""

    command = (sys.executable, "-c", DEAF)


def made(cls: type[TrackingProcess], root: Path) -> TrackingProcess:
    run = RunDir(root)
    run.make()
    return cls(run, "r-1", loads(bundled("demo.toml") + TABLES, "demo.toml", root))


def test_one_that_ends_is_said_once_and_started_again_with_its_own_secrets_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "_BACKOFF_S", 0.0)
    for name in ("WANDB_API_KEY", "ELECTRICITY_MAPS_API_KEY"):
        monkeypatch.setenv(name, "hunter2hunter2")
    process = made(Short, tmp_path)
    monkeypatch.setattr(tracking, "variables", lambda config: variables(config) | {"ELECTRICITY_MAPS_API_KEY"})
    assert process.start() == ""
    said: list[str] = []

    def lives() -> int:
        said.extend(x for x in [process.keep()] if x)
        return len((tmp_path / "seen").read_text().splitlines()) if (tmp_path / "seen").exists() else 0

    wait_for("a third life", lambda: lives() >= 3)
    process.stop()
    assert len(said) == 1
    assert "The run goes on" in said[0]
    for line in (tmp_path / "seen").read_text().splitlines():
        assert "WANDB_API_KEY" in line.split(",")
        assert "ELECTRICITY_MAPS_API_KEY" not in line.split(",")


def test_sites_and_the_superlink_do_not_get_a_trackers_secrets(tmp_path: Path) -> None:
    config = loads(bundled("demo.toml") + TABLES, "demo.toml", tmp_path)
    assert "WANDB_API_KEY" in variables(config)


def test_one_that_does_not_end_is_ended_and_what_to_do_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "_LAST_S", 0.1)
    process = made(Deaf, tmp_path)
    process.start()
    wait_for("its start", (tmp_path / "up").exists)
    assert "windfall track" in process.stop()
    assert process.stop() == ""


def test_a_folder_that_cannot_be_written_ends_no_run(tmp_path: Path) -> None:
    process = made(Short, tmp_path)
    (tmp_path / "logs").rmdir()
    (tmp_path / "logs").write_text("")
    assert "nothing is sent to trackers" in process.start()
    assert process.keep() == ""
