"""What the chart's pod runs, with a real shell and real runs."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.charts import CHART
from deploy.programs import environment
from patience import PATIENCE_S, wait_for
from run.real import windfall, write_config
from windfall import clock

RUN, ALIVE = CHART / "files" / "run.sh", CHART / "files" / "alive.sh"


class Pods:
    """What pods run, in turn, in one folder. None outlives its test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.children: list[subprocess.Popen[str]] = []

    def begin(self, file: Path) -> subprocess.Popen[str]:
        child = subprocess.Popen(
            ["sh", RUN, file, self.folder / "run"], env=environment(self.folder), text=True, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        self.children.append(child)
        return child


@pytest.fixture
def pods(tmp_path: Path) -> Iterator[Pods]:
    made = Pods(tmp_path)
    yield made
    for child in made.children:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)  # what is kept alive beside a run dies with it
        child.communicate()


def alive(folder: Path, minutes: int = 1) -> int:
    return subprocess.run(["sh", ALIVE, folder / "run", str(minutes)], env=environment(folder), check=False).returncode


def test_a_run_is_alive_while_its_coordinator_is_and_when_it_is_done(tmp_path: Path) -> None:
    assert alive(tmp_path) == 1
    beat = tmp_path / "run" / "logs" / "coordinator.json"
    beat.parent.mkdir(parents=True)
    beat.write_text("{}")
    assert alive(tmp_path) == 0
    old = clock.wall() - 600
    os.utime(beat, (old, old))
    assert (alive(tmp_path, 5), alive(tmp_path, 15)) == (1, 0)
    (tmp_path / "tmp" / "done").touch()
    assert alive(tmp_path, 5) == 0


def test_what_a_run_says_and_ends_with_is_the_containers(tmp_path: Path, pods: Pods) -> None:
    (tmp_path / "run.toml").write_text("[run]\nbudget_tokens = 0\n")
    environment(tmp_path)
    left = tmp_path / "tmp" / "done"
    left.touch()  # by an earlier container of the same pod
    child = pods.begin(tmp_path / "run.toml")
    _, said = child.communicate(timeout=PATIENCE_S)
    assert (child.returncode, "run.budget_tokens" in said, left.exists()) == (2, True, False)


@pytest.mark.slow
def test_told_to_end_a_run_drains_and_the_next_pod_goes_on_and_stays_when_it_is_done(tmp_path: Path, pods: Pods) -> None:
    file = write_config(tmp_path, {"a": [(10, 500)]}, speed=200, budget=128 * 60)
    first = pods.begin(file)
    wait_for("a sign of life", (tmp_path / "run" / "logs" / "coordinator.json").exists)
    assert alive(tmp_path) == 0
    first.terminate()
    _, said = first.communicate(timeout=PATIENCE_S)
    assert first.returncode == 130, said
    assert "sites hand in their work" in said
    write_config(tmp_path, {"a": [(10, 500)]}, budget=128 * 60)
    second = pods.begin(file)
    wait_for("the run to be done", lambda: (tmp_path / "tmp" / "done").exists() or second.poll() is not None)
    assert second.poll() is None
    assert alive(tmp_path) == 0
    assert '"state": "done"' in windfall("status", tmp_path / "run", "--json").stdout
    second.terminate()
    _, said = second.communicate(timeout=PATIENCE_S)
    assert (second.returncode, "the run is done; this pod stays" in said) == (0, True)
