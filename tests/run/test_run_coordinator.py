"""The coordinator as a process: it has the run alone, goes on where the last one was, and ends so that the next one knows why."""

from __future__ import annotations

import hashlib
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from federation.fixtures import no_waiting_for_the_disk as no_waiting_for_the_disk
from federation.harness import BATCH, BLOCK, T0, configured
from run.test_run_compose import changed
from windfall import clock
from windfall.config.schema import Config
from windfall.errors import FederationError, HandOver, RunError
from windfall.fleet.machine import Action, State
from windfall.processes import marked
from windfall.run import coordinator
from windfall.run.asking import ask
from windfall.run.coordinator import Coordinator
from windfall.run.endpoint import EndpointProcess
from windfall.run.prepare import begin_run
from windfall.run.recorder import LedgerJournal
from windfall.run.requests import Request, outcome
from windfall.run.settings import in_force
from windfall.store.files import read_json
from windfall.store.ledger import Ledger
from windfall.store.records import Consumed
from windfall.store.residents import Resident
from windfall.store.rundir import RunDir, RunLock
from windfall.store.telemetry import Telemetry
from windfall.units import iso_utc
from windfall.view.state import summarise
from windfall.wire.bulk import TOKEN_NAME
from windfall.wire.transport import MemoryTransport

STEPS = 60
BLOCKS = STEPS * BATCH // BLOCK
ALWAYS, NEVER = [(0.0, 1e5)], list[tuple[float, float]]()
SLEEPS = ("sh", "-c", "exec sleep 1000")


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    made = RunDir(tmp_path / "run")
    made.make()
    return made


@pytest.fixture
def begun(run: RunDir, data: Path) -> Callable[..., Config]:
    def begin(windows: list[tuple[float, float]] = NEVER, **tables: dict[str, Any]) -> Config:
        config = changed(configured(run, data, {"a": windows}, calendar=False, steps=STEPS), **{"run": {"speed": 1e4}, **tables})
        begin_run(config, run, {"count": np.zeros(BLOCKS, np.float32)}, manifest="m", folder=data, start=T0)
        return config

    return begin


class Looked(Coordinator):
    """A coordinator that does something once ``when`` is true, which is asked whenever it waits."""

    when: Callable[[], bool] = staticmethod(lambda: False)
    then: Callable[[], None] = staticmethod(lambda: None)

    def idle(self) -> None:
        if self.when():
            self.then()
        super().idle()

    def leave_when(self, when: Callable[[], bool]) -> None:
        def leave() -> None:
            self.leaving = True

        self.when, self.then = when, leave  # type: ignore[method-assign]


@pytest.fixture
def life(run: RunDir) -> Iterator[Callable[..., Looked]]:
    """Makes lives of the coordinator. What is left of the last one, and of its sites, is ended."""
    made: list[Looked] = []

    def make(config: Config, agent: tuple[str, ...] = SLEEPS) -> Looked:
        made.append(Looked(config, run, 1, connect=lambda _: MemoryTransport(), agent=agent))
        return made[-1]

    yield make
    if made:
        made[-1].driver.kill_all()
        made[-1].close(end_sites=True)
    for agent in (a for one in made for a in one.driver._local._agents.values() if a.child is not None):
        agent.child.wait()


def kinds(run: RunDir) -> list[str]:
    telemetry = Telemetry.open(run.telemetry)
    try:
        return [e.kind for _, e in telemetry.events()]
    finally:
        telemetry.close()


# -- one after the other -------------------------------------------------------------------------------------


def test_the_next_one_goes_on_at_the_run_time_to_which_the_last_one_came(
    run: RunDir, begun: Callable[..., Config], life: Callable[..., Looked]
) -> None:
    config = begun()
    first = life(config)
    assert first.clock.now() == T0
    first.leave_when(lambda: first.clock.now() >= T0 + 600)
    with pytest.raises(HandOver, match="asked to end"):
        first.serve()
    came = first.clock.now()
    first.close(end_sites=False)
    second = life(config)
    assert second.clock.now() == came >= T0 + 600
    second.telemetry.flush()
    assert [k for k in kinds(run) if k in ("started", "resumed")] == ["started", "resumed"]
    assert second.loop.begun == T0
    assert second.fence == first.fence + 1


def test_it_takes_over_sites_that_live_and_ends_them_only_when_it_is_told_to(
    run: RunDir, begun: Callable[..., Config], life: Callable[..., Looked]
) -> None:
    config = begun(ALWAYS)
    first = life(config)
    first.leave_when(lambda: bool(first.driver.list_owned(first.run_id)))
    with pytest.raises(HandOver):
        first.serve()
    assert len(marked(first.run_id, run.root)) == 1
    first.close(end_sites=False)
    second = life(config)
    assert [o.generation for o in second.driver.list_owned(second.run_id)] == [1]
    assert second.loop.controller.sites["a"].generation == 1
    second.telemetry.flush()
    assert "adopted" in kinds(run)
    second.close(end_sites=True)
    first.driver._local._agents["a"].child.wait()  # its parent is this process, for the system
    assert not marked(second.run_id, run.root)


def test_of_a_sites_token_it_keeps_the_hash_alone(run: RunDir, begun: Callable[..., Config], life: Callable[..., Looked]) -> None:
    config = begun(ALWAYS)
    one = life(config)
    one.leave_when(lambda: bool(one.driver.list_owned(one.run_id)))
    with pytest.raises(HandOver):
        one.serve()
    file = run.sites / "a" / TOKEN_NAME
    assert file.stat().st_mode & 0o077 == 0
    token = file.read_text()
    (known,) = one.ledger.tokens()
    assert (known.site, known.generation, known.sha256) == ("a", 1, hashlib.sha256(token.encode()).hexdigest())
    assert token.encode() not in run.ledger.read_bytes() + run.telemetry.read_bytes()


# -- what is asked of it -------------------------------------------------------------------------------------


def test_a_stop_that_is_asked_for_ends_it_as_ctrl_c_does(
    run: RunDir, begun: Callable[..., Config], life: Callable[..., Looked]
) -> None:
    one = life(begun())
    lock = RunLock(run)
    lock.acquire()
    id = ask(run, Request("stop", None, "ann@desk", "night", expect="paused"))
    lock.release()
    assert one.serve() == "interrupted"
    found = outcome(run, id)
    assert found is not None
    assert found.state == "applied"
    assert "stop_asked" in kinds(run)


def test_a_larger_budget_is_begun_by_the_next_one(run: RunDir, begun: Callable[..., Config], life: Callable[..., Looked]) -> None:
    config = begun()
    one = life(config)
    more = config.run.budget_tokens + 5 * config.tokens_per_step
    id = ask(run, Request("set", None, "ann@desk", key="run.budget_tokens", value=more, expect=str(config.run.budget_tokens)))
    with pytest.raises(HandOver, match=f"run.budget_tokens = {more}, as ann@desk has asked"):
        one.serve()
    one.close(end_sites=False)
    found = outcome(run, id)
    assert found is not None
    assert found.state == "applied"
    assert "configuration_changed" in kinds(run)
    second = life(in_force(config, run))
    assert second.config.run.budget_tokens == more
    assert second.loop.work.left() == more
    assert second.operator.pausing == ""


def test_a_stop_that_comes_with_a_larger_budget_leaves_the_budget_to_the_next_run(
    run: RunDir, begun: Callable[..., Config], life: Callable[..., Looked]
) -> None:
    config = begun()
    one = life(config)
    more = config.run.budget_tokens + 5 * config.tokens_per_step
    ask(run, Request("set", None, "ann@desk", key="run.budget_tokens", value=more))
    one.leave_when(lambda: False)
    one.interrupted = "stopped by the operator"
    assert one.serve() == "interrupted"
    one.close(end_sites=True)
    assert in_force(config, run).run.budget_tokens == more


# -- what it shows -------------------------------------------------------------------------------------------


def test_views_see_that_it_lives_and_what_it_waits_for(
    run: RunDir, begun: Callable[..., Config], life: Callable[..., Looked]
) -> None:
    one = life(begun(ALWAYS))
    seen: list[dict[str, Any]] = []

    def look() -> None:
        one._flush(one.clock.now())
        seen.append(summarise(run))
        one.leaving = len(seen) == 2

    one.when, one.then = lambda: bool(one.loop.waiting), look  # type: ignore[method-assign]
    with pytest.raises(HandOver):
        one.serve()
    assert seen[-1]["state"] == "running"
    assert seen[-1]["waiting"]["for"] == "a: its processes are starting"
    assert seen[-1]["sites"]["a"]["state"] == "provisioning"
    beat = read_json(run.beat)
    assert beat == {"pid": os.getpid(), "fence": one.fence, "beat": beat["beat"], "serves": True}


# -- why it ends ---------------------------------------------------------------------------------------------


def test_a_lost_superlink_is_left_to_the_next_one(run: RunDir, begun: Callable[..., Config], life: Callable[..., Looked]) -> None:
    one = life(begun())
    one.transport.failure = "the SuperLink has forgotten this run"  # type: ignore[misc]
    with pytest.raises(HandOver, match=r"the SuperLink has forgotten this run; see .*superlink\.log"):
        one.serve()


@pytest.mark.parametrize("speed", [1e4, 1e9], ids=["waits a little at each tick", "waits for nothing"])
def test_a_run_whose_traces_have_all_ended_says_where_it_stands(
    run: RunDir, begun: Callable[..., Config], life: Callable[..., Looked], speed: float
) -> None:
    signal_ = {"path": str(run.root.parent / "run-signals" / "a.csv"), "column": "g_per_kwh", "period_s": 0.0}
    one = life(begun(site={"signal": {**signal_, "until": iso_utc(T0 + 600)}}, run={"speed": speed}))
    with pytest.raises(RunError, match=r"every trace has ended by 1970-01-12T13:5\d.*the run is at version 0.*run again to resume"):
        one.serve()


def test_a_run_of_which_every_site_fails_every_time_is_given_up_with_the_reason(
    run: RunDir, begun: Callable[..., Config], life: Callable[..., Looked]
) -> None:
    one = life(begun(ALWAYS, fleet={"max_failures": 2}), agent=("false",))
    with pytest.raises(RunError, match="every site has failed 2 times in a row; the last reason at a: "):
        one.serve()
    assert one.ledger.generations() == {"a": 2}


# -- the process ---------------------------------------------------------------------------------------------


@pytest.fixture
def process(run: RunDir) -> Iterator[Callable[..., tuple[int, Any]]]:
    """Runs the process's main function in this one: its status, and the outcome that it leaves."""
    kept = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCONT)}

    def serve(connect: Callable[[str], Any] = lambda _: MemoryTransport()) -> tuple[int, Any]:
        return coordinator.main([str(run.root), "1"], connect=connect, agent=SLEEPS), read_json(run.logs / "outcome.json")

    yield serve
    for number, handler in kept.items():
        signal.signal(number, handler)


def trained(run: RunDir, blocks: int) -> None:
    """Version 1: these blocks of version 0, and its weights."""
    ledger = Ledger.open(run.ledger)
    lease = ledger.lease("a", 1, blocks, T0, T0 + 3600)
    assert lease is not None
    used = [Consumed(lease.epoch, 0, blocks)]
    header = {"consumed": [{"epoch": lease.epoch, "start": 0, "end": blocks, "skipped": False}]}
    c = ledger.receive("a", 1, 1, 0, blocks * ledger.tokens_per_block, used, header, "f", T0, 0)
    head = ledger.head()
    ledger.commit(t_run=T0 + 60, t_wall=0, file=head.file, sha256=head.sha256, mode="local", contributions=[c])
    ledger.close()


def test_a_run_that_is_trained_ends_as_done(run: RunDir, begun: Callable[..., Config], process: Any) -> None:
    begun()
    trained(run, BLOCKS)
    assert process() == (0, {"outcome": "done", "message": ""})
    assert kinds(run)[-1] == "done"


@pytest.mark.parametrize(
    ("number", "status", "kind"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 1, "leaving")], ids=["Ctrl-C", "SIGTERM"]
)
def test_a_signal_that_comes_while_it_is_built_is_obeyed_as_soon_as_it_serves(
    run: RunDir, begun: Callable[..., Config], process: Any, number: signal.Signals, status: int, kind: str
) -> None:
    begun()

    def signalled(_: str) -> MemoryTransport:
        os.kill(os.getpid(), number)
        return MemoryTransport()

    code, outcome = process(signalled)
    assert code == status
    assert kinds(run)[-1] == kind
    assert outcome.get("again", False) is (number == signal.SIGTERM), "the supervisor starts the next one at once"


def test_a_superlink_that_is_not_reached_is_tried_again_by_the_next_one(
    run: RunDir, begun: Callable[..., Config], process: Any
) -> None:
    begun()

    def unreached(address: str) -> MemoryTransport:
        raise FederationError(f"the SuperLink at {address} does not answer")

    code, outcome = process(unreached)
    assert code == 1
    assert (outcome["outcome"], outcome["again"], outcome["theirs"]) == ("failed", True, False)
    assert outcome["message"] == "the SuperLink at 127.0.0.1:1 does not answer"


def test_one_that_was_taken_for_dead_stops_and_leaves_the_sites_to_the_other(
    run: RunDir, begun: Callable[..., Config], process: Any
) -> None:
    begun(ALWAYS)

    def meanwhile(_: str) -> MemoryTransport:
        another = Ledger.open(run.ledger)
        another.new_fence()
        another.close()
        return MemoryTransport()

    code, outcome = process(meanwhile)
    assert code == 1
    assert (outcome["again"], outcome["theirs"]) == (False, True)
    assert "another coordinator has taken this run over" in outcome["message"]


def test_what_no_next_one_can_mend_is_final(run: RunDir, begun: Callable[..., Config], process: Any) -> None:
    begun()
    lock = RunLock(run)
    lock.acquire()
    code, outcome = process()
    lock.release()
    assert (code, outcome["again"], outcome["exit_code"]) == (1, False, 1)
    assert "is running this run" in outcome["message"]
    run.config.write_text("[run]\nbudget = 3\n")
    code, outcome = process()
    assert (code, outcome["again"], outcome["exit_code"]) == (1, False, 2)
    assert "budget" in outcome["message"]


@pytest.mark.parametrize(("last", "state"), [(Action.UP, State.PROVISIONING), (Action.DOWN, State.OFF)])
def test_a_site_that_cannot_be_seen_is_what_the_journal_says_last(
    run: RunDir, begun: Callable[..., Config], life: Callable[..., Looked], last: Action, state: State
) -> None:
    """Its machine has joined and is out of reach when the next coordinator begins: it may run, and says so itself if it does."""
    config = begun(NEVER)
    away = config.site[0].model_copy(update={"driver": "resident", "transfer_s": None})
    config = config.model_copy(update={"site": [away]})
    EndpointProcess(run, "r", config, 1)
    resident = Resident(run.sites, "a")
    resident.join(resident.invite(clock.wall() + 60), clock.wall())
    ledger = Ledger.open(run.ledger)
    LedgerJournal(ledger).asked(T0, "a", 4, last.value, "because")
    ledger.close()
    made = life(config)
    made.telemetry.flush()
    assert "driver_trouble" in kinds(run)
    site = made.loop.controller.sites["a"]
    assert (site.state, site.generation) == (state, 4)
    assert site.adopted == (state is State.PROVISIONING)
