"""What drivers refuse: each site's own trouble, stopped before it is tried again, told by its kind."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet.test_fleet_machine import ON, Work
from windfall.errors import DriverError, Permanent, Transient, Unauthorized
from windfall.fleet.controller import Controller, fault_of
from windfall.fleet.driver import MemoryDriver, Owned
from windfall.fleet.machine import DriverFault, Observation, Patience, State
from windfall.policy.base import Decision

OFF = Decision(False, "off", {}, None, {})
PATIENCE = Patience(spin_up_s=0, start_timeout_s=3000, drain_timeout_s=20, backoff_s=60, backoff_max_s=600)
ERRORS: list[DriverError] = [Transient("no answer"), Permanent("no such image"), Unauthorized("token expired")]


class Cluster(MemoryDriver):
    """A driver to which a test gives errors: ``fails`` is asked before each call, ``made`` what a failed start leaves behind."""

    def __init__(self) -> None:
        super().__init__()
        self.fails: Callable[[str, str], DriverError | None] = lambda method, site: None
        self.half_made = False
        self.asked: list[str] = []

    def _ask(self, method: str, site: str) -> None:
        self.asked.append(f"{method} {site}")
        if (e := self.fails(method, site)) is not None:
            raise e

    def ensure_up(self, site: str, generation: int) -> None:
        if self.half_made:
            self.up[site] = generation
        self._ask("up", site)
        super().ensure_up(site, generation)

    def ensure_down(self, site: str, grace_s: float, reason: str) -> None:
        self._ask("down", site)
        super().ensure_down(site, grace_s, reason)

    def observe(self, sites: Iterable[str]) -> dict[str, Observation]:
        names = list(sites)
        for name in names:
            if (e := self.fails("observe", name)) is not None:
                raise e
        return super().observe(names)


class Fleet:
    """A controller over a cluster, its journal and what it tells, driven second by second."""

    def __init__(self, names: str = "ab", gone_after_s: float = math.inf) -> None:
        self.driver = Cluster()
        self.journal: list[tuple[str, int, str]] = []
        self.told: list[tuple[str, str, str]] = []
        self.controller = Controller(
            dict.fromkeys(names, PATIENCE), self.driver, self, gated=False, gone_after_s=gone_after_s,
            teller=lambda t, kind, site, reason: self.told.append((kind, site, reason)),
        )  # fmt: skip
        self.t = 0.0
        self.wanted = dict.fromkeys(names, ON)

    def asked(self, t: float, site: str, generation: int, action: str, reason: str) -> None:
        self.journal.append((site, generation, action))

    def live(self, seconds: float, step: float = 1.0) -> None:
        end = self.t + seconds
        while self.t < end:
            self.controller.observe()
            self.controller.reconcile(self.t, self.t, self.wanted, Work())  # type: ignore[arg-type]
            self.t += step

    def state(self, site: str) -> State:
        return self.controller.sites[site].state


def once(method: str, site: str, error: DriverError) -> Callable[[str, str], DriverError | None]:
    """One error, at the first such call."""
    left = [error]
    return lambda m, s: left.pop() if left and (m, s) == (method, site) else None


@pytest.mark.parametrize("error", ERRORS, ids=lambda e: type(e).__name__)
@pytest.mark.parametrize("down_fails", [False, True])
def test_a_start_that_fails_half_way_is_stopped_and_tried_again(error: DriverError, down_fails: bool) -> None:
    fleet = Fleet()
    fleet.driver.half_made = True
    up, down = once("up", "a", error), once("down", "a", error) if down_fails else (lambda m, s: None)
    fleet.driver.fails = lambda m, s: up(m, s) or down(m, s)
    fleet.live(1)
    assert fleet.state("a") is State.FAILED
    assert fleet.journal[:2] == [("a", 1, "ensure_up"), ("a", 1, "ensure_down")]
    fleet.live(120)
    assert fleet.driver.asked.count("up a") >= 1
    assert fleet.state("b") is State.TRAINING
    fleet.live(20_000, step=20)
    assert fleet.state("a") is State.TRAINING
    assert fleet.driver.up["a"] == 2, "the second generation, and nothing of the first"
    assert fleet.controller.sites["a"].failures == 1


@pytest.mark.parametrize("error", ERRORS, ids=lambda e: type(e).__name__)
@pytest.mark.parametrize("when", ["after the start", "after the stop", "always of a"])
def test_a_look_that_fails_is_no_failed_start_and_hides_no_other_site(error: DriverError, when: str) -> None:
    fleet = Fleet()
    if when == "always of a":
        fleet.driver.fails = lambda m, s: error if (m, s) == ("observe", "a") else None
    elif when == "after the start":
        after = once("observe", "a", error)
        fleet.driver.fails = lambda m, s: after(m, s) if "a" in fleet.driver.up else None
    else:
        after = once("observe", "a", error)
        fleet.driver.fails = lambda m, s: after(m, s) if "down a" in fleet.driver.asked else None
    fleet.live(4)
    assert fleet.state("b") is State.TRAINING
    if when == "always of a":
        assert fleet.state("a") is State.OFF, "what cannot be seen is not started"
        assert [(kind, site) for kind, site, _ in fleet.told] == [("driver_trouble", "a")], "once, not at every look"
        assert str(error) in fleet.told[0][2]
        fleet.driver.fails = lambda m, s: None
        fleet.live(4)
        assert fleet.told[1:] == [("driver_back", "a", "it can be seen again")]
    assert fleet.state("a") is State.TRAINING
    fleet.wanted["a"] = OFF
    fleet.live(30)
    assert fleet.state("a") is State.OFF
    assert "a" not in fleet.driver.up
    assert fleet.controller.sites["a"].failures == 0


def test_what_a_person_must_change_is_said_in_other_words_and_tried_again_later() -> None:
    waits, words = {}, {}
    for error in ERRORS:
        fleet = Fleet()
        fleet.driver.fails = lambda m, s, e=error: e if (m, s) == ("up", "a") else None  # type: ignore[misc]
        fleet.live(1)
        site = fleet.controller.sites["a"]
        assert site.failure == str(error)
        waits[fault_of(error)], words[fault_of(error)] = site.retry_at, site.reason
    assert 45 <= waits[DriverFault.TRANSIENT] <= 75
    assert waits[DriverFault.UNAUTHORIZED] == 300
    assert waits[DriverFault.PERMANENT] == 600
    assert words == {
        DriverFault.TRANSIENT: "cannot be started for now: no answer",
        DriverFault.PERMANENT: "cannot be started until somebody changes something: no such image",
        DriverFault.UNAUTHORIZED: "cannot be started until its driver has valid credentials: token expired",
    }


@pytest.mark.parametrize(("error", "least", "most"), [(ERRORS[0], 20, 40), (ERRORS[1], 1, 2), (ERRORS[2], 1, 2)])
def test_a_stop_that_is_refused_is_asked_for_until_the_site_is_gone(error: DriverError, least: int, most: int) -> None:
    fleet = Fleet()
    fleet.live(3)
    fleet.wanted["a"] = OFF
    fleet.driver.fails = lambda m, s: error if (m, s) == ("down", "a") else None
    fleet.live(60)
    assert fleet.state("a") is State.DRAINING
    assert least <= fleet.driver.asked.count("down a") <= most, "not at every look, and later where only a person can help"
    assert [kind for kind, _, _ in fleet.told] == ["driver_trouble"]
    fleet.driver.fails = lambda m, s: None
    fleet.live(61)
    assert fleet.state("a") is State.OFF
    assert fleet.told[-1] == ("driver_back", "a", "it can be stopped again")


def test_a_stop_that_a_driver_took_and_forgot_is_asked_for_again() -> None:
    fleet = Fleet("a")
    fleet.live(3)
    fleet.wanted["a"] = OFF
    forgets = [True, True]
    stop = fleet.driver.ensure_down

    def forgetful(site: str, grace_s: float, reason: str) -> None:
        if forgets:
            forgets.pop()
        else:
            stop(site, grace_s, reason)

    fleet.driver.ensure_down = forgetful  # type: ignore[method-assign]
    fleet.live(30)
    assert fleet.state("a") is State.OFF
    assert not fleet.driver.up
    assert [a for _, _, a in fleet.journal].count("ensure_down") == 3


@pytest.mark.parametrize("error", ERRORS, ids=lambda e: type(e).__name__)
def test_what_is_left_over_is_ended_by_way_of_the_journal_whatever_its_driver_says_at_first(error: DriverError) -> None:
    """Of a site of this run, and of one that it does not have any more."""
    fleet = Fleet()
    fleet.driver.up = {"a": 3, "old": 7}
    fleet.driver.fails = once("down", "old", error)
    a = once("down", "a", error)
    fails = fleet.driver.fails
    fleet.driver.fails = lambda m, s: fails(m, s) or a(m, s)
    fleet.controller.sites["a"].generation = 4
    fleet.wanted["a"] = OFF
    last = {"a": (4, "ensure_up", 0.0)}
    assert fleet.controller.adopt(0.0, 0.0, [Owned("a", 3, "x"), Owned("old", 7, "y")], last) == []
    fleet.live(100)
    assert fleet.driver.up.keys() == {"b"}
    assert {(site, action) for site, _, action in fleet.journal if site != "b"} == {("a", "ensure_down"), ("old", "ensure_down")}


def test_the_last_reason_is_that_of_the_site_that_failed_last() -> None:
    fleet = Fleet()
    fleet.driver.fails = lambda m, s: Transient(f"{s} says no") if m == "up" and (s == "b" or fleet.t >= 2) else None
    fleet.live(1)  # b
    assert fleet.controller.given_up(1) == ""
    fleet.controller.sites["a"].failures, fleet.controller.sites["a"].failure = 1, "long ago"
    assert fleet.controller.given_up(1) == "every site has failed 1 time in a row; the last reason at b: b says no"


@settings(max_examples=60, deadline=None)
@given(
    story=st.lists(
        st.tuples(st.sampled_from(["up", "down", "observe"]), st.sampled_from("ab"), st.sampled_from(ERRORS)), max_size=12
    ),
    wants=st.lists(st.booleans(), min_size=12, max_size=12),
)  # fmt: skip
def test_whatever_a_driver_refuses_a_site_that_should_be_off_ends_off_and_one_that_should_be_on_comes_up(
    story: list[tuple[str, str, DriverError]], wants: list[bool]
) -> None:
    fleet = Fleet()
    fleet.driver.half_made = True
    for i, want in enumerate(wants):
        fleet.wanted["a"] = ON if want else OFF
        if i < len(story):
            fleet.driver.fails = once(*story[i])
        fleet.live(7)
    fleet.driver.fails = lambda m, s: None
    fleet.live(6000, step=10)
    assert fleet.state("b") is State.TRAINING
    assert fleet.state("a") is (State.TRAINING if wants[-1] else State.OFF)
    assert ("a" in fleet.driver.up) == wants[-1]


@pytest.mark.parametrize("refuses", [("observe",), ("observe", "down")], ids=" and ".join)
def test_a_site_that_nobody_has_seen_since_it_stops_by_itself_is_not_waited_for_and_still_counts(refuses: tuple[str, ...]) -> None:
    fleet = Fleet(gone_after_s=100)
    fleet.live(5)
    fleet.driver.fails = lambda m, s: Transient("no route") if s == "a" and m in refuses else None
    fleet.live(200)
    assert fleet.controller.out_of_reach == set(), "one that trains is lost by its own silence, and not by its driver's"
    fleet.wanted = dict.fromkeys("ab", OFF)
    fleet.live(40)
    assert fleet.controller.out_of_reach == {"a"}
    assert (fleet.state("a"), fleet.state("b")) == (State.DRAINING, State.OFF)
    assert [kind for kind, site, _ in fleet.told if site == "a" and kind != "driver_trouble"] == ["out_of_reach"]
    fleet.driver.fails = lambda m, s: None
    fleet.live(20)
    assert fleet.controller.out_of_reach == set()
    assert fleet.state("a") is State.OFF
