"""The logic of rounds by itself: whatever happens in whatever order, rounds close, and nobody is waited for who is gone."""

from __future__ import annotations

import math
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from windfall.federation.lengths import RoundLengths, Transfers
from windfall.federation.members import Settings
from windfall.federation.rounds import Begin, BringForward, Close, Command, Commit, EvaluateLast, GiveUp, Round, Rounds, Situation

SITES = "abcd"
ROUND_S, SOLO_S, TICK_S, GRACE_S, BEAT_S = 600.0, 1200.0, 60.0, 30.0, 60.0


def settings(*, gated: bool = False, quorum: float = 0.5, round_blocks: int | None = None) -> Settings:
    return Settings(
        round_s=ROUND_S, solo_cut_s=SOLO_S, quorum=quorum, grace_s=GRACE_S, heartbeat_timeout_s=BEAT_S, tick_s=TICK_S, gated=gated,
        codec="fp32", blocks_per_step=2, tokens_per_block=10, budget_tokens=100_000, manifest="m",
        tokens_per_s=dict.fromkeys(SITES, 1.0), round_blocks=round_blocks, round_min_s=ROUND_S,
    )  # fmt: skip


class World:
    """What a coordinator's rounds live in: sites that are able, busy, gone or coming, and a merge that takes a while."""

    def __init__(self, given: Settings) -> None:
        self.s = given
        self.rounds = Rounds(given, RoundLengths(given, Transfers()), number=0)
        self.t, self.wall = 0.0, 0.0
        self.here: set[str] = set()
        self.coming: set[str] = set()
        self.busy: set[str] = set()
        self.free = 10_000
        self.merging = False
        self.late_work = False
        self.done: list[Command] = []
        self.working: dict[str, float | None] = {}
        self.taken_in_at = -math.inf

    def situation(self) -> Situation:
        return Situation(
            self.t, self.wall, members=set(self.here), able=self.here - self.busy, coming=self.here | self.coming,
            free_blocks=self.free, complete=self.free == 0, merging=self.merging, late_work=self.late_work,
            busy=self.working, taken_in_at=self.taken_in_at,
        )  # fmt: skip

    def tick(self) -> list[Command]:
        """Ask until nothing is due, and do it."""
        for site in set(SITES) - self.here:
            self.rounds.missing(site, self.t, coming=site in self.coming)
        found: list[Command] = []
        while commands := self.rounds.due(self.situation()):
            for command in commands:
                found.append(command)
                self.carry_out(command)
            if isinstance(commands[-1], Begin | EvaluateLast):
                break
            assert len(found) < 100, "it always has something to do"
        self.done += found
        return found

    def carry_out(self, command: Command) -> None:
        match command:
            case Begin(number, participants, cut_at):
                self.begin(number, participants, cut_at)
            case Close():
                assert self.rounds.current is not None
                assert self.rounds.current.closed
                self.merging = True
            case Commit():
                assert self.rounds.current is None
                self.late_work = False
            case GiveUp(site):
                self.leave(site, failed=True)

    def begin(self, number: int, participants: Iterable[str], cut_at: float) -> None:
        sites = set(participants)
        assert sites <= self.here - self.busy, "nobody is given an order that can take none"
        self.rounds.begun(Round(number, 0, self.t, cut_at, sites, set(sites), "federated"))
        self.busy |= sites

    def come(self, site: str) -> None:
        self.here.add(site)
        self.coming.discard(site)

    def leave(self, site: str, *, failed: bool) -> None:
        if site in self.here:
            self.here.discard(site)
            self.busy.discard(site)
            self.rounds.gone(site, failed=failed)
            if failed:
                self.coming.add(site)

    def answer(self, site: str) -> None:
        """Its order comes back, whichever round's it was."""
        if site in self.busy:
            self.busy.discard(site)
            if self.rounds.current is not None and site in self.rounds.current.waiting:
                self.rounds.answered(site, self.t)

    def pass_time(self, s: float) -> None:
        self.t += s
        self.wall += s

    @property
    def waiting(self) -> set[str]:
        return set(self.rounds.current.waiting) if self.rounds.current else set()


def pair(**given: object) -> World:
    world = World(settings(**given))  # type: ignore[arg-type]
    world.come("a")
    world.come("b")
    return world


def test_a_round_begins_with_all_who_are_able_and_lasts_as_configured() -> None:
    world = pair()
    assert world.tick() == [Begin(1, frozenset("ab"), ROUND_S)]
    assert world.tick() == []


def test_one_alone_cuts_as_often_as_sites_alone_do() -> None:
    world = World(settings())
    world.come("c")
    assert world.tick() == [Begin(1, frozenset("c"), SOLO_S)]


def test_who_joins_brings_the_cut_forward_and_is_in_the_next_round() -> None:
    world = World(settings())
    world.come("a")
    world.tick()
    world.pass_time(120.0)
    world.come("b")
    assert world.tick() == [BringForward(1, 120.0, frozenset("b"), frozenset("a"))]
    assert world.tick() == []
    world.answer("a")
    assert world.tick() == [Close(1, frozenset())]
    assert world.tick() == [], "the merge is not done"
    world.merging = False
    assert world.tick() == [Commit("federated"), Begin(2, frozenset("ab"), 120.0 + ROUND_S)]


def test_on_a_gated_clock_no_cut_is_brought_forward_to_before_its_sites_train_in_the_round() -> None:
    """Run time stands still at a cut: a site that takes the round's version in later would never come to it."""
    world = World(settings(gated=True))
    world.come("a")
    world.tick()
    world.taken_in_at = 130.0
    world.pass_time(60.0)
    world.come("b")
    assert world.tick() == [BringForward(1, 180.0, frozenset("b"), frozenset("a"))], "the first tick at which it can be"
    world.pass_time(60.0)
    assert world.tick() == []


def test_nobody_brings_a_cut_forward_when_nothing_is_left_to_lend() -> None:
    world = World(settings())
    world.come("a")
    world.tick()
    world.free = 0
    world.come("b")
    assert world.tick() == []


def test_a_round_closes_early_when_everybody_has_answered() -> None:
    world = pair()
    world.tick()
    world.answer("a")
    assert world.tick() == []
    world.answer("b")
    assert world.tick() == [Close(1, frozenset())]


def test_a_late_site_is_waited_for_until_grace_is_over_and_a_quorum_has_answered() -> None:
    world = pair()
    world.tick()
    world.pass_time(ROUND_S)
    world.tick()
    world.answer("a")
    world.pass_time(GRACE_S)
    assert world.tick() == []
    world.pass_time(1.0)
    assert world.tick() == [Close(1, frozenset("b"))]


def test_without_a_quorum_grace_does_not_count_and_patience_does() -> None:
    world = pair(quorum=0.6)
    world.tick()
    world.answer("a")
    world.pass_time(ROUND_S)
    world.tick()
    world.pass_time(GRACE_S + 4 * BEAT_S)
    assert world.tick() == []
    world.pass_time(1.0)
    given_up, closed = world.tick()
    assert isinstance(given_up, GiveUp)
    assert given_up.site == "b"
    assert closed == Close(1, frozenset())


def test_a_gated_clock_waits_for_everybody_and_gives_up_who_does_not_answer() -> None:
    world = pair(gated=True)
    world.tick()
    world.answer("a")
    world.pass_time(ROUND_S)
    world.tick()
    world.wall += 4 * BEAT_S
    assert world.tick() == []
    world.wall += 1.0
    assert [type(c) for c in world.tick()] == [GiveUp, Close]


def test_late_work_becomes_a_version_when_nobody_trains() -> None:
    world = World(settings())
    world.late_work = True
    assert world.tick() == [Commit("paused")]
    assert world.tick() == []


def test_the_last_version_is_evaluated_when_all_is_trained() -> None:
    world = pair()
    world.free = 0
    assert world.tick() == [EvaluateLast(1, frozenset("ab"))]


def test_there_are_no_two_rounds_at_once() -> None:
    world = pair()
    world.tick()
    with pytest.raises(AssertionError, match="one round at a time"):
        world.rounds.begun(Round(2, 0, 0.0, 1.0, {"a"}, {"a"}, "local"))


def test_a_round_of_fixed_tokens_waits_for_who_comes_back_and_for_nobody_else() -> None:
    world = pair(round_blocks=6)  # a minute's work
    (begin,) = world.tick()
    assert begin == Begin(1, frozenset("ab"), 10 * 60.0)
    world.come("c")
    assert world.tick() == [], "who joins waits for the next one"
    world.leave("b", failed=True)
    world.answer("a")
    assert world.tick() == []
    assert world.waiting == {"b"}
    world.pass_time(10 * 60.0)
    assert world.tick() == [Close(1, frozenset())], "no longer than its limit"
    world.merging = False
    _, begin = world.tick()
    assert begin == Begin(2, frozenset("ac"), 1200.0), "and it is not waited for again"


def test_between_two_rounds_of_fixed_tokens_those_of_the_last_one_are_waited_for() -> None:
    world = pair(round_blocks=6)
    world.tick()
    world.answer("a")
    world.answer("b")
    world.leave("b", failed=True)
    world.tick()
    world.merging = False
    assert world.tick() == [Commit("federated")]
    world.pass_time(9 * 60.0)
    assert world.tick() == []
    world.come("b")
    assert world.tick() == [Begin(2, frozenset("ab"), world.t + 600.0)]


#: What may happen, and to whom.
HAPPENS = st.tuples(
    st.sampled_from(["come", "leave", "fail", "answer", "merged", "time", "wall", "tick", "late"]), st.sampled_from(SITES),
    st.sampled_from([1.0, 31.0, 60.0, 600.0]),
)  # fmt: skip


@given(
    story=st.lists(HAPPENS, max_size=60), gated=st.booleans(), quorum=st.sampled_from([0.3, 0.5, 1.0]),
    round_blocks=st.sampled_from([None, 6]),
)  # fmt: skip
def test_whatever_happens_rounds_close_and_nobody_is_waited_for_who_is_gone(
    story: list[tuple[str, str, float]], gated: bool, quorum: float, round_blocks: int | None
) -> None:
    world = World(settings(gated=gated, quorum=quorum, round_blocks=round_blocks))
    for what, site, s in story:
        match what:
            case "come":
                world.come(site)
            case "leave":
                world.leave(site, failed=False)
                world.coming.discard(site)
            case "fail":
                world.leave(site, failed=True)
            case "answer":
                world.answer(site)
            case "merged":
                world.merging = False
            case "time":
                world.pass_time(s)
            case "wall":
                world.wall += s
            case "late":
                world.late_work = True
        waited = world.waiting
        r = world.rounds.current
        share = 1 - len(waited) / len(r.participants) if r else 0.0
        for command in world.tick():
            if isinstance(command, Close) and command.without:
                assert not gated, "a gated clock leaves nobody behind who is there"
                assert share >= quorum
                assert r is not None
                assert r.due_wall is not None
                assert world.wall - r.due_wall > GRACE_S
        now = world.rounds.current
        if now is not None and not now.closed:
            assert now.waiting <= (world.here if round_blocks is None else world.here | world.coming)
            assert now.waiting, "a round that waits for nobody is closed"
    # Nobody answers any more, and nobody comes: whatever is under way ends, if wall time goes on.
    world.coming.clear()
    world.here &= world.waiting
    for _ in range(3):
        world.pass_time(10_000.0)
        world.merging = False
        world.tick()
        world.here.clear()
    assert world.rounds.current is None
    numbers = [c.number for c in world.done if isinstance(c, Begin)]
    assert numbers == sorted(set(numbers))
    commits = [c for c in world.done if isinstance(c, Commit) and c.mode != "paused"]
    assert len(numbers) == sum(isinstance(c, Close) for c in world.done) == len(commits)


def test_a_site_is_excused_while_it_is_at_what_it_began_before_the_cut_was_due_and_not_by_what_it_begins_later() -> None:
    world = World(settings())
    world.here = {"a"}
    world.tick()
    world.t = SOLO_S
    world.working = {"a": -100.0}  # a step under way
    assert world.tick() == []
    patience = GRACE_S + 4 * BEAT_S
    world.wall = 10 * patience
    assert world.tick() == []
    world.wall += patience - 1
    world.working = {"a": 10 * patience + 1}  # the next step: its answer has been lost
    assert world.tick() == []
    world.wall += 2
    assert [c.site for c in world.tick() if isinstance(c, GiveUp)] == ["a"]


def test_what_is_on_its_way_excuses_a_site_for_as_long_as_it_is() -> None:
    world = World(settings(gated=True))
    world.here = {"a"}
    world.tick()
    world.t = SOLO_S
    for _ in range(5):
        world.working = {"a": None}
        world.wall += 4 * BEAT_S + 1
        assert world.tick() == []
    world.working = {}
    world.wall += 4 * BEAT_S + 1
    assert [c.site for c in world.tick() if isinstance(c, GiveUp)] == ["a"]


def test_no_round_begins_while_late_work_is_merged() -> None:
    world = World(settings())
    world.here = {"a"}
    world.late_work, world.merging = True, True
    assert world.tick() == []
    world.merging = False
    assert [type(c) for c in world.tick()] == [Commit, Begin]
