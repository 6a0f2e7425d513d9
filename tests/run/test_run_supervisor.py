"""`windfall run` keeps a coordinator there until one of them ends the run, and says why where none can."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from federation.fixtures import no_waiting_for_the_disk as no_waiting_for_the_disk
from federation.harness import T0, configured
from run.test_run_compose import changed
from run.test_run_coordinator import trained
from windfall.config.schema import Config
from windfall.errors import ConfigError, RunError, StoreError
from windfall.fleet.drivers.local import LocalDriver
from windfall.processes import marked
from windfall.run import supervisor
from windfall.run.prepare import begin_run
from windfall.run.superlink import SuperLink
from windfall.run.supervisor import DISK_STATUS, NoView, Supervisor
from windfall.store.ledger import Ledger
from windfall.store.rundir import RunDir


class NoSuperLink(SuperLink):
    """What is started here speaks with no site."""

    def start(self) -> None:
        return None


class Scripted(Supervisor):
    """Its coordinators are shell scripts, a few milliseconds each."""

    def make_superlink(self, run_id: str) -> SuperLink:
        return NoSuperLink(self._run, run_id, 0)


@dataclass
class Watch(NoView):
    """A view that does something again and again."""

    then: Callable[[], None] = lambda: None

    def update(self) -> None:
        self.then()


@dataclass
class Stage:
    """A run, and what its coordinators do one after the other: the last script goes for all further ones."""

    run: RunDir
    config: Config
    folder: Path
    view: Watch = field(default_factory=Watch)
    said: list[str] = field(default_factory=list)
    made: list[Supervisor] = field(default_factory=list)

    def supervisor(self, *scripts: str, **tables: dict[str, Any]) -> Supervisor:
        for i, text in enumerate(scripts):
            (self.folder / f"{i}.sh").write_text(text)
        last = len(scripts) - 1
        script = self.folder / "coordinator.sh"
        script.write_text(
            f'RUN=$1; n=$(cat {self.folder}/count 2>/dev/null || echo 0); echo $((n + 1)) > {self.folder}/count\n'
            f'[ $n -gt {last} ] && n={last}\n. {self.folder}/$n.sh\n'
        )  # fmt: skip
        once = lambda: self.said.append("meanwhile")  # noqa: E731
        made = Scripted(changed(self.config, **tables), self.run, self.view, self.said.append, once)
        made.coordinator = ("sh", str(script))
        self.made.append(made)
        return made

    def serve(self, *scripts: str, **tables: dict[str, Any]) -> int:
        made = self.supervisor(*scripts, **tables)
        made.prepare()
        return made.serve()

    @property
    def lives(self) -> int:
        """How many coordinators there have been."""
        count = self.folder / "count"
        return int(count.read_text() or 0) if count.exists() else 0


def ends(outcome: str, status: int, message: str = "", **more: str) -> str:
    """A script that leaves an outcome."""
    said = f'"outcome": "{outcome}", "message": "{message}"' + "".join(f', "{k}": {v}' for k, v in more.items())
    return f"echo '{{{said}}}' > $RUN/logs/outcome.json; exit {status}\n"


DONE = ends("done", 0)
DIES = "kill -9 $$\n"
#: Serves until a file says that it has been seen to.
SERVES = """rm -f $RUN/logs/seen
echo '{"beat": 1, "serves": true}' > $RUN/logs/new; mv $RUN/logs/new BEAT
while [ ! -f $RUN/logs/seen ]; do sleep 0.01; done
exit 3
"""


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCONT)
    kept = {number: signal.getsignal(number) for number in numbers}
    monkeypatch.setattr(supervisor, "_POLL_S", 0.01)
    run = RunDir(tmp_path / "run")
    run.make()
    config = configured(run, tmp_path / "no-corpus", {"a": []}, calendar=False)
    begin_run(config, run, {"count": np.zeros(240, np.float32)}, manifest="m", folder=tmp_path / "no-corpus", start=T0)
    folder = tmp_path / "scripts"
    folder.mkdir()
    made = Stage(run, config, folder)
    yield made
    for s in made.made:
        s._lock.release()
    for number, handler in kept.items():
        signal.signal(number, handler)


# -- how it ends ---------------------------------------------------------------------------------------------


def test_a_run_is_done_when_its_coordinator_says_so(stage: Stage) -> None:
    assert stage.serve(DONE) == 0
    assert (stage.lives, stage.said) == (1, ["meanwhile"])


def test_a_failure_that_is_final_is_told_and_no_site_is_left(stage: Stage) -> None:
    ledger = Ledger.open(stage.run.ledger)
    run_id = str(ledger.meta("run_id"))
    ledger.close()
    site = LocalDriver(stage.run.sites, run_id, lambda _: {}, agent=("sh", "-c", "exec sleep 1000"))
    site.ensure_up("a", 1)
    with pytest.raises(RunError, match=r"^every trace has ended$"):
        stage.serve(ends("failed", 1, "every trace has ended", again="false"))
    assert stage.lives == 1
    site._agents["a"].child.wait()  # type: ignore[union-attr]
    assert not marked(run_id, stage.run.root)


def test_a_failure_of_the_configuration_has_its_own_exit_code(stage: Stage) -> None:
    with pytest.raises(ConfigError, match="no such policy"):
        stage.serve(ends("failed", 2, "no such policy", exit_code="2"))


def test_a_coordinator_that_could_not_write_why_it_ended_is_not_followed_by_another(stage: Stage) -> None:
    with pytest.raises(RunError, match=r"cannot be written .* nothing is lost\. Make room, then run again"):
        stage.serve(f"exit {DISK_STATUS}\n")
    assert stage.lives == 1


# -- one after the other -------------------------------------------------------------------------------------


def test_one_that_dies_or_hands_over_is_followed_by_the_next_and_the_user_hears_why(stage: Stage) -> None:
    assert stage.serve(DIES, ends("failed", 1, "the SuperLink is gone", again="true"), DONE) == 0
    assert stage.lives == 3
    next_one = "a new coordinator is started, sites go on"
    assert stage.said == ["meanwhile", f"the coordinator ended with status -9; {next_one}", f"the SuperLink is gone; {next_one}"]


def test_one_that_never_gets_as_far_as_to_serve_is_given_up_soon(stage: Stage) -> None:
    with pytest.raises(RunError, match=r"the coordinator ended with status 3; see .*coordinator\.log"):
        stage.serve("echo no room for it; exit 3\n")
    assert stage.lives == supervisor._STILLBORN + 1
    assert (stage.run.logs / "coordinator.log").read_text() == stage.lives * "no room for it\n"


def test_one_that_serves_and_dies_is_followed_for_longer_and_for_good_while_versions_are_made(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "_STILLBORN", 1)
    monkeypatch.setattr(supervisor, "_FRUITLESS", 5)
    seen: list[int] = []

    def end_each_once_it_has_served() -> None:
        if stage.lives in seen:  # and its sign of life was read in between
            (stage.run.logs / "seen").touch()
        elif stage.run.beat.exists():
            seen.append(stage.lives)
            if seen == [1, 2, 3, 4]:
                trained(stage.run, 2)

    stage.view.then = end_each_once_it_has_served
    with pytest.raises(RunError, match="ended with status 3"):
        stage.serve(SERVES.replace("BEAT", str(stage.run.beat)))
    assert stage.lives == 4 + 5 + 1


def test_a_silent_one_is_ended(stage: Stage) -> None:
    assert stage.serve("exec sleep 1000\n", DONE, fleet={"coordinator_timeout_s": 0.2}) == 0
    assert stage.lives == 2
    assert "the coordinator has been silent for 0 s; ending it" in stage.said


# -- the user ------------------------------------------------------------------------------------------------


def strikes(stage: Stage, *when: Path) -> None:
    """Press Ctrl-C as soon as each of these files is there."""
    left = list(when)

    def look() -> None:
        if left and left[0].exists():
            left.pop(0)
            os.kill(os.getpid(), signal.SIGINT)

    stage.view.then = look


WAITS = "while :; do touch $RUN/logs/waits; sleep 0.01; done\n"


def test_ctrl_c_is_passed_on_and_the_coordinator_hands_in_what_there_is(stage: Stage) -> None:
    strikes(stage, stage.run.logs / "waits")
    assert stage.serve(f"hand_in() {{ {ends('interrupted', 130).strip()}; }}; trap hand_in INT\n{WAITS}") == 130
    assert stage.lives == 1


def test_one_that_an_operator_stopped_is_not_followed_by_another(stage: Stage) -> None:
    assert stage.serve(ends("interrupted", 130), DIES) == 130
    assert (stage.folder / "count").read_text() == "1\n"


def test_an_address_for_alerts_that_is_not_there_is_said_before_anything_starts(stage: Stage) -> None:
    stage.supervisor(alerts={"webhook": "env:NOT_THERE"}).prepare()
    assert "the variable NOT_THERE, which alerts.webhook names, is not set; alerts are kept as events, and not sent" in stage.said


def test_the_second_ctrl_c_ends_it_at_once(stage: Stage) -> None:
    heard = stage.run.logs / "heard"
    strikes(stage, stage.run.logs / "waits", heard)
    assert stage.serve(f"trap 'echo asked >> $RUN/logs/heard' INT\n{WAITS}") == 130
    assert heard.read_text() == "asked\n", "the second one did not come to it"
    assert stage.said == ["meanwhile", "stopping: sites hand in their work (again to stop at once)"]
    assert stage.lives == 1


def test_a_run_has_one_supervisor_at_a_time(stage: Stage) -> None:
    stage.supervisor(DONE).prepare()
    another = stage.supervisor(DONE)
    with pytest.raises(StoreError, match=f"another coordinator \\(process {os.getpid()}\\) is running this run"):
        another.prepare()
