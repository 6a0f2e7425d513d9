"""Long pauses: a week without a site costs nothing and loses nothing; a site that nobody speaks to stops by itself."""

from __future__ import annotations

import hashlib
import math
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from federation import harness
from federation.fake import CountingTrainer
from federation.harness import BATCH, BLOCK, SEQ, T0, TOKENS_PER_STEP, Calendar, Run
from windfall import clock, faults
from windfall.policy.base import Decision
from windfall.run.asking import ask
from windfall.run.operator import Operator
from windfall.run.requests import Request
from windfall.site.worker import SiteWorker
from windfall.store.bus import MemoryBus
from windfall.store.files import Envelope
from windfall.store.tensors import to_bytes
from windfall.train.spec import TrainerSpec
from windfall.wire.messages import RoundOrder, name_of
from windfall.wire.transport import MemoryMailbox

STEPS = 60
BLOCKS = STEPS * BATCH // BLOCK
WEEK = 7 * 24 * 60.0
#: A tick of the weeks below, in minutes.
TICK_MIN = 10.0
#: On for half of the budget, off for a week, on again.
BROKEN_BY_A_WEEK = [(0.0, 40.0), (WEEK, WEEK + 100_000.0)]


@pytest.fixture(autouse=True)
def ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A week is a thousand ticks."""
    monkeypatch.setattr(harness, "TICK", TICK_MIN * 60)


class Weeks(Run):
    """A run of counting trainers that can be looked at afterwards."""

    def __init__(self, root: Path, data: Path, windows: dict[str, list[tuple[float, float]]], **options: Any) -> None:
        self.trainers: dict[str, list[CountingTrainer]] = {}

        def make(spec: TrainerSpec, site: str) -> CountingTrainer:
            self.trainers.setdefault(site, []).append(CountingTrainer(BLOCKS))
            return self.trainers[site][-1]

        super().__init__(root, data, windows, trainer=make, **{"steps": STEPS, "spin_up_s": 600.0, **options})

    def choices(self) -> list[tuple[str | None, str]]:
        """Whose inner state was taken, by start of a site."""
        return [(site, detail["choice"]) for _, _, site, detail in self.events("inner_state")]


def assert_exactly_once(run: Run) -> None:
    times = np.zeros(BLOCKS, int)
    for v in run.ledger.versions():
        for c in run.ledger.contributions(v.version):
            for used in c.header["consumed"]:
                times[used["start"] : used["end"]] += 1
    assert times.tolist() == [1] * BLOCKS
    assert run.ledger.counts().committed == BLOCKS
    assert run.ledger.head().tokens_total == BLOCKS * BLOCK * SEQ
    assert run.weights()["count"].tolist() == [1.0] * BLOCKS


# -- a week without a window ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("restarts", [[], [3.0], [0.1, 3.0, 6.9]], ids=["no restart", "one restart", "three restarts"])
def test_a_run_that_pauses_for_a_week_goes_on_where_it_was(
    tmp_path: Path, data: Path, runs: list[Run], restarts: list[float]
) -> None:
    run = Weeks(tmp_path / "r", data, {"a": BROKEN_BY_A_WEEK})
    for day in restarts:
        run.serve(until_min=day * 24 * 60)
        assert run.modes()[-1] == "paused"
        before = run.ledger.head(), run.ledger.spans()
        run.close()
        run = Weeks(tmp_path / "r", data, {"a": BROKEN_BY_A_WEEK})
        assert (run.ledger.head(), run.ledger.spans()) == before
        assert not run.ledger.live_leases()
    runs.append(run)
    assert run.serve() == "done"
    assert [m for m in run.modes() if m == "local"] == ["local"] * 2
    # Its inner state is old in days and new in tokens: the site's own is taken up again.
    assert run.choices() == [("a", "reset"), ("a", "own")]
    assert run.trainers["a"][-1]._steps == STEPS, "the optimizer has seen every step"
    assert_exactly_once(run)
    assert not run.events("refused", "lease_ended", "discarded", "tidied")


def test_a_pause_is_booked_as_off_and_leaves_no_trace_but_its_decisions(tmp_path: Path, data: Path, runs: list[Run]) -> None:
    run = Weeks(tmp_path / "r", data, {"a": BROKEN_BY_A_WEEK})
    runs.append(run)
    run.serve(until_min=60)
    seen, off = len(run.events()), run.loop.account.total("a", "off")
    joules, seconds = run.loop.account.total("a").joules, off.seconds
    run.serve(until_min=6 * 24 * 60)
    assert len(run.events()) == seen, "nothing happened in six days"
    assert run.loop.account.total("a").joules == joules
    assert run.loop.account.total("a", "off").seconds - seconds == 6 * 86400 - 3600
    (decided,) = run.telemetry.rows("SELECT COUNT(*) FROM decisions WHERE t_run >= ? AND NOT wanted", T0 + 3600)[0]
    assert decided == (6 * 24 * 60 - 60) / TICK_MIN, "why it was off is there for every tick"
    assert run.serve() == "done"
    assert run.loop.account.total("a").seconds == run.clock.now() - T0, "every second is accounted for once"


def test_a_calendar_that_jumps_a_week_is_a_pause_like_any_other(tmp_path: Path, data: Path, runs: list[Run]) -> None:
    """The machine was asleep, or suspended with everything on it."""
    run = Weeks(tmp_path / "r", data, {"a": [(0.0, 100_000.0)]}, calendar=True, steps_per_min=3, solo_min=10)
    runs.append(run)
    run.serve(until_min=20)
    assert isinstance(run.clock, Calendar)
    run.clock.wall += 7 * 86400
    assert run.serve() == "done"
    assert_exactly_once(run)


@pytest.mark.parametrize("calendar", [False, True])
def test_a_week_after_its_machine_was_replaced_a_site_gets_the_inner_state_that_was_stored(
    tmp_path: Path, data: Path, runs: list[Run], calendar: bool
) -> None:
    windows = {"a": [(0.0, 20.0 if calendar else 40.0), (WEEK, WEEK + 100_000.0)]}
    run = Weeks(tmp_path / "r", data, windows, calendar=calendar, solo_min=1000)
    run.serve(until_min=60)
    done = run.ledger.head().tokens_total
    assert 0 < done < STEPS * TOKENS_PER_STEP
    run.close()
    shutil.rmtree(run.dir.sites / "a")
    second = Weeks(tmp_path / "r", data, windows, calendar=calendar, solo_min=1000)
    runs.append(second)
    if isinstance(second.clock, Calendar):
        second.clock.wall += (WEEK - 120) * 60  # an hour on either side is played through
    assert second.serve() == "done"
    assert second.choices() == [("a", "reset"), ("a", "sent")]
    assert second.trainers["a"][-1]._steps == STEPS
    assert_exactly_once(second)


@pytest.mark.parametrize("calendar", [False, True])
def test_a_site_that_leaves_at_the_very_moment_of_its_cut_leaves_its_inner_state_too(
    tmp_path: Path, data: Path, runs: list[Run], calendar: bool
) -> None:
    windows = {"a": [(0.0, 20.0 if calendar else 30.0)], "b": [(40.0, 100_000.0)]}
    run = Weeks(tmp_path / "r", data, windows, calendar=calendar, solo_min=20)
    runs.append(run)
    assert run.serve() == "done"
    assert run.choices() == [("a", "reset"), ("b", "sent")]
    assert run.trainers["b"][-1]._steps == STEPS
    assert_exactly_once(run)


def test_tokens_and_not_days_make_an_inner_state_old(tmp_path: Path, data: Path, runs: list[Run]) -> None:
    """Much was trained elsewhere in an hour: the site that comes back is given the newer state and not its own."""
    windows = {"a": [(0.0, 30.0), (70.0, 100_000.0)], "b": [(30.0, 60.0)]}
    run = Weeks(tmp_path / "r", data, windows)
    runs.append(run)
    assert run.serve() == "done"
    assert run.choices() == [("a", "reset"), ("b", "sent"), ("a", "sent")]
    assert run.trainers["a"][-1]._steps == STEPS
    assert_exactly_once(run)


@pytest.mark.parametrize("restart", [False, True])
def test_a_site_that_died_as_the_pause_began_offers_its_work_a_week_later_and_no_block_is_lost(
    tmp_path: Path, data: Path, runs: list[Run], restart: bool
) -> None:
    run = Weeks(tmp_path / "r", data, {"a": BROKEN_BY_A_WEEK}, solo_min=100, snapshot_s=0.0)
    run.serve(until_min=40)
    held = run.ledger.live_leases()
    assert held
    run.kill("a")
    run.serve(until_min=2 * 24 * 60)
    assert not run.ledger.live_leases(), "its lease has expired"
    assert run.ledger.counts().free == BLOCKS
    assert [s for _, _, s, _ in run.events("lease_ended")] == ["a"] * len(held)
    if restart:
        run.close()
        run = Weeks(tmp_path / "r", data, {"a": BROKEN_BY_A_WEEK}, solo_min=100, snapshot_s=0.0)
    runs.append(run)
    assert run.serve() == "done"
    ((_, _, site, detail),) = run.events("refused")
    assert site == "a"
    assert detail["generation"] == 1
    assert "which it does not hold" in detail["reason"]
    assert not list((run.dir.sites / "a" / "outbox").iterdir())
    assert_exactly_once(run)


def test_work_that_waits_for_its_commit_survives_a_week_without_a_coordinator(tmp_path: Path, data: Path, runs: list[Run]) -> None:
    first = Weeks(tmp_path / "r", data, {"a": BROKEN_BY_A_WEEK})
    faults.arm("received", "raise", nth=2)
    with pytest.raises(faults.InjectedFault):
        first.serve()
    assert first.ledger.pending()
    received = first.ledger.counts().received
    first.close()
    second = Weeks(tmp_path / "r", data, {"a": BROKEN_BY_A_WEEK})
    runs.append(second)
    # The clock of this life begins a week later, as the calendar's would.
    second.clock.move_to(T0 + (WEEK - 60) * 60)
    second.serve(until_min=WEEK - 40)
    assert second.ledger.counts().received == 0
    assert second.ledger.counts().committed >= received
    assert second.serve() == "done"
    assert_exactly_once(second)


# -- the operator's holds over a pause -------------------------------------------------------------------------------


class Switch:
    """An operator whose run does not exist yet when the loop is built."""

    def __init__(self) -> None:
        self.run: Run | None = None
        self._operator: Operator | None = None

    def begin(self, t: float) -> None:
        return None

    def keeps_off(self, t: float, decisions: Mapping[str, Decision]) -> dict[str, str]:
        if self._operator is None:
            assert self.run
            self._operator = Operator(self.run.dir, self.run.ledger, self.run.telemetry, sites=set(self.run.loop.controller.sites))
        return self._operator.keeps_off(t, decisions)


@pytest.mark.parametrize("for_days", [3.0, None])
def test_a_hold_outlasts_a_restart_and_a_weeks_pause(tmp_path: Path, data: Path, runs: list[Run], for_days: float | None) -> None:
    windows = {"a": [(0.0, 40.0), (24 * 60.0, 100_000.0)]}

    def begin() -> Weeks:
        switch = Switch()
        switch.run = Weeks(tmp_path / "r", data, windows, holds=switch)
        return switch.run

    run = begin()
    run.serve(until_min=20)
    ask(run.dir, Request("hold", "a", "ann@desk", "a fuse", None if for_days is None else for_days * 86400))
    run.serve(until_min=12 * 60)
    held = run.ledger.head()
    assert held.version >= 1, "what it had trained was handed in"
    run.close()
    run = begin()
    run.serve(until_min=2 * 24 * 60)
    assert run.ledger.head() == held
    assert run.loop.controller.sites["a"].starts == 1, "its window is open, and it stays off"
    assert run.loop.decisions["a"].reason.startswith("held by ann@desk: a fuse")
    run.close()
    run = begin()
    runs.append(run)
    if for_days is None:
        run.serve(until_min=7 * 24 * 60)
        assert run.ledger.head() == held
        ask(run.dir, Request("release", "a", "bob@desk", "mended"))
    assert run.serve() == "done"
    ((released, _, _, by),) = run.events("released")
    if for_days is None:
        assert (by["who"], by["reason"]) == ("bob@desk", "mended")
    else:
        assert by["reason"] == "the hold is over"
        assert released == pytest.approx(20 + for_days * 24 * 60, abs=TICK_MIN)
    starts = [t for t, _, s, d in run.events("state") if s == "a" and d["now"] == "provisioning"]
    assert not [t for t in starts if 20 < t < released]
    assert_exactly_once(run)


# -- a site that nobody speaks to --------------------------------------------------------------------------------------

DEAD_MAN_S = 60.0
#: Steps, of one a second, in the lease of a site that is looked at alone.
LEASE = 200
LEASED = LEASE * BATCH // BLOCK


@dataclass
class Alone:
    """A site's worker in the hands of a test: wall time, run time, bus, mailbox and link."""

    folder: Path
    own_window: Callable[[float], bool] | None = None
    dead_man_s: float = DEAD_MAN_S
    wall: float = 1000.0
    linked: float = -math.inf
    bus: MemoryBus = field(default_factory=MemoryBus)
    box: MemoryMailbox = field(default_factory=MemoryMailbox)
    trainer: CountingTrainer = field(default_factory=lambda: CountingTrainer(LEASED))
    beats: int = 0

    def start(self, generation: int = 1) -> Alone:
        self.worker = SiteWorker(
            site="a", generation=generation, trainer=self.trainer, mailbox=self.box, bus=self.bus.site("a", generation),
            folder=self.folder, snapshot_s=1e9, dead_man_s=self.dead_man_s, calendar=lambda: T0 + self.wall,
            link=lambda: self.linked, own_window=self.own_window,
        )  # fmt: skip
        return self

    def order(self, *, for_s: float = 1e6, valid_s: float = 1e6, after: str = "continue") -> None:
        """The coordinator's order, from now: cut after ``for_s``, valid for ``valid_s``."""
        now = T0 + self.wall
        weights = to_bytes(self.trainer.weights())
        order = RoundOrder(
            fence=1, round=1, version=0, sha256=hashlib.sha256(weights).hexdigest(), model="full",
            inner="own", after=after, cut_at=now + for_s, begins_at=now,
            valid_until=now + valid_s, blocks_before=0, step_blocks=2, tokens_per_s=1.0, gated=False,
            leases=[{"epoch": 1, "start": 0, "end": LEASED}], progress_start=0.0, progress_rate=1.0,
        )  # fmt: skip
        self.box.incoming.append(("m1", Envelope(order.header(), {"weights": weights})))

    def beat(self) -> None:
        """A sign of life of the coordinator on the bus."""
        self.beats += 1
        self.bus.set("a", "clock", {"granted": T0, "beat": self.beats, "fence": 1})

    def live(self, seconds: float, *, beats: bool = False, linked: bool = False) -> None:
        """Let wall time pass, a step a second."""
        for _ in range(round(seconds)):
            self.wall += 1
            if beats:
                self.beat()
            if linked:
                self.linked = self.wall
            self.worker.pump()

    @property
    def steps(self) -> int:
        """Optimizer steps that its trainer has done."""
        return round(float(self.trainer.weights()["count"].sum())) // (BATCH // BLOCK)

    def kept(self) -> dict[str, Envelope]:
        """What is in its outbox."""
        return {p.name: Envelope.load(p) for p in (self.folder / "outbox").iterdir()}


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Alone:
    (tmp_path / "a").mkdir()
    site = Alone(tmp_path / "a")
    monkeypatch.setattr(clock, "monotonic", lambda: site.wall)
    return site


def test_a_site_out_of_touch_parks_by_itself_with_its_work_in_its_outbox(alone: Alone) -> None:
    alone.start().order()
    alone.live(20, beats=True)
    assert 15 <= alone.steps <= 20
    alone.live(DEAD_MAN_S - 5)
    assert not alone.worker.parked
    alone.live(10)
    assert alone.worker.parked.startswith("nothing heard from the coordinator for 6")
    done = alone.steps
    alone.live(1000)
    assert alone.steps == done, "it does no further step"
    ((name, kept),) = alone.kept().items()
    assert name == name_of(1, 1)
    assert kept.header["drained"]
    assert [(c["start"], c["end"]) for c in kept.header["consumed"]] == [(0, done * BATCH // BLOCK)]
    assert kept.header["tokens"] == done * TOKENS_PER_STEP
    # Its message is answered as well: a coordinator that was only slow loses nothing.
    ((message, answer),) = alone.box.outgoing
    assert message == "m1"
    assert answer.header == kept.header


def test_what_a_parked_site_kept_is_offered_by_its_next_life_with_its_inner_state(alone: Alone) -> None:
    alone.start().order()
    alone.live(30, beats=True)
    alone.live(2 * DEAD_MAN_S)
    done = alone.steps
    alone.trainer = CountingTrainer(LEASED)
    alone.box = MemoryMailbox()
    alone.wall += 7 * 86400
    alone.start(generation=2)
    alone.box.incoming.append(("m2", Envelope({"kind": "hello", "protocol": 2, "fence": 2})))
    alone.live(1)
    ((_, hello),) = alone.box.outgoing
    offered = Envelope.parse(hello.blobs[name_of(1, 1)], "offered")
    assert offered.header["tokens"] == done * TOKENS_PER_STEP
    assert hello.header["inner_tokens"] == done * TOKENS_PER_STEP


@pytest.mark.parametrize(("beats", "linked"), [(True, False), (False, True)], ids=["bus only", "link only"])
def test_one_way_to_the_coordinator_is_enough(alone: Alone, beats: bool, linked: bool) -> None:
    alone.start().order()
    alone.live(5 * DEAD_MAN_S, beats=beats, linked=linked)
    assert not alone.worker.parked
    assert alone.steps == LEASE, "the whole lease"
    alone.live(DEAD_MAN_S + 5)
    assert alone.worker.parked


def test_a_register_that_no_longer_changes_is_silence(alone: Alone) -> None:
    """On a bus that lives on, the last word of a dead coordinator stands there for ever."""
    alone.start().order()
    alone.beat()
    alone.live(DEAD_MAN_S + 10)
    assert alone.worker.parked


def test_a_site_without_work_parks_with_nothing_in_its_outbox(alone: Alone) -> None:
    alone.start()
    alone.live(DEAD_MAN_S + 10)
    assert alone.worker.parked
    assert not alone.kept()
    assert alone.steps == 0


def test_with_its_own_window_closing_a_site_out_of_touch_parks_sooner(alone: Alone) -> None:
    closes = T0 + alone.wall + 40
    alone.own_window = lambda t: t < closes
    alone.start().order()
    alone.live(20, beats=True)
    alone.live(19)
    assert not alone.worker.parked, "its own window is still open"
    alone.live(3)
    assert alone.worker.parked.startswith("its own signal has left the window")
    done = alone.steps
    alone.live(1000)
    assert alone.steps == done
    ((_, kept),) = alone.kept().items()
    assert kept.header["tokens"] == done * TOKENS_PER_STEP


def test_a_superlink_that_answers_is_no_coordinator_to_a_site_with_a_signal_of_its_own(alone: Alone) -> None:
    closes = T0 + alone.wall + 40
    alone.own_window = lambda t: t < closes
    alone.start().order()
    alone.live(20, beats=True, linked=True)
    alone.live(25, linked=True)
    assert alone.worker.parked.startswith("its own signal has left the window")


def test_while_the_coordinator_speaks_its_own_signal_decides_nothing(alone: Alone) -> None:
    alone.own_window = lambda t: False
    alone.start().order()
    alone.live(50, beats=True)
    assert not alone.worker.parked
    assert alone.steps >= 45
    alone.live(14)
    assert not alone.worker.parked, "a moment's silence is no loss of touch"
    alone.live(4)
    assert alone.worker.parked


def test_with_its_own_window_open_a_site_goes_on_until_the_dead_man_time_and_no_longer(alone: Alone) -> None:
    alone.own_window = lambda t: True
    alone.start().order()
    alone.live(5, beats=True)
    alone.live(50)
    assert not alone.worker.parked
    assert alone.steps >= 50
    alone.live(15)
    assert alone.worker.parked.startswith("nothing heard from the coordinator")


@pytest.mark.parametrize("after", ["continue", "wait"])
def test_past_its_orders_validity_a_site_takes_no_step_even_in_touch(alone: Alone, after: str) -> None:
    alone.start().order(valid_s=20, after=after)
    alone.live(100, beats=True, linked=True)
    assert not alone.worker.parked
    assert 17 <= alone.steps <= 20
    assert sum(e.header["tokens"] for e in alone.kept().values()) == alone.steps * TOKENS_PER_STEP, "what it did is kept"


def test_after_its_cut_a_site_alone_goes_on_no_longer_than_its_order_is_valid(alone: Alone) -> None:
    alone.start().order(for_s=10, valid_s=30)
    alone.live(15, beats=True)
    assert len(alone.kept()) == 1
    assert alone.steps >= 12, "it did not wait for an answer"
    alone.live(100, beats=True)
    assert alone.steps <= 30
    done = alone.steps
    # The rest has no message to travel with: parked, it is kept all the same.
    alone.live(2 * DEAD_MAN_S)
    assert alone.worker.parked
    assert sum(e.header["tokens"] for e in alone.kept().values()) == done * TOKENS_PER_STEP
    assert len(alone.kept()) == 2


def test_a_parked_site_takes_no_order_any_more(alone: Alone) -> None:
    """Its process is about to end: whatever still arrives must not set it to work again."""
    alone.start().order()
    alone.live(5, beats=True)
    alone.live(DEAD_MAN_S + 5)
    assert alone.worker.parked
    done = alone.steps
    alone.order()
    alone.live(50, beats=True)
    assert alone.steps == done


# -- and the run it belongs to ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("away_min", [5.0, WEEK], ids=["minutes", "a week"])
def test_sites_whose_coordinator_is_gone_park_and_the_next_one_finishes_the_run(
    tmp_path: Path, data: Path, runs: list[Run], monkeypatch: pytest.MonkeyPatch, away_min: float
) -> None:
    wall = [0.0]
    monkeypatch.setattr(clock, "monotonic", lambda: wall[0])
    options: dict[str, Any] = {"calendar": True, "steps_per_min": 3, "solo_min": 40}
    first = Weeks(tmp_path / "r", data, {"a": [(0.0, 100_000.0)]}, **options)
    first.serve(until_min=10)
    worker = first.workers["a"]
    worker.contact.dead_man_s = DEAD_MAN_S
    first.crash()
    while not worker.parked:
        wall[0] += 1
        worker.pump()
    trained = worker._tokens
    first.world.kill("a")
    assert isinstance(first.clock, Calendar)
    first.clock.wall += away_min * 60
    second = Weeks(tmp_path / "r", data, {"a": [(0.0, 100_000.0)]}, earlier=first, **options)
    runs.append(second)
    assert second.serve() == "done"
    offered = [d for _, _, _, d in second.events("contribution", "refused") if d["generation"] == 1]
    assert [d["tokens"] for d in offered] == [trained]
    if away_min < 60:
        assert not second.events("refused"), "what it trained on by itself counts"
    assert_exactly_once(second)
