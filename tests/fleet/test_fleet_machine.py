"""A site's state machine and the controller around it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from windfall.errors import Permanent, Transient
from windfall.fleet.controller import Controller, NullJournal
from windfall.fleet.driver import MemoryDriver
from windfall.fleet.machine import Action, Inputs, Observation, Observed, Patience, Site, State
from windfall.policy.base import Decision

PATIENCE = Patience(spin_up_s=100, start_timeout_s=30, drain_timeout_s=20, backoff_s=60, backoff_max_s=600)


def inputs(t: float = 0, **changes: Any) -> Inputs:
    given: dict[str, Any] = {
        "t": t, "wall": t, "wanted": True, "reason": "because", "observed": Observed.ABSENT,
        "ready": False, "working": False, "drained": False, "lost": "",
    }  # fmt: skip
    return Inputs(**{**given, **changes})


def step(site: Site, t: float, **changes: Any) -> Action:
    return site.step(inputs(t, **changes), gated=True, jitter=0.5)


def up(site: Site) -> None:
    """Bring a site to training at t = 100."""
    assert step(site, 0) is Action.UP
    assert step(site, 100, observed=Observed.UP, ready=True) is Action.NONE
    step(site, 100, observed=Observed.UP, ready=True, working=True)
    assert site.state is State.TRAINING


def test_a_site_comes_up_trains_drains_and_goes_off() -> None:
    site = Site("a", PATIENCE)
    up(site)
    step(site, 200, wanted=False, observed=Observed.UP, working=True)
    assert site.state is State.DRAINING
    assert step(site, 201, wanted=False, observed=Observed.UP) is Action.NONE  # its work has not come yet
    assert step(site, 202, wanted=False, observed=Observed.UP, drained=True) is Action.DOWN
    assert step(site, 203, wanted=False, observed=Observed.STOPPING, drained=True) is Action.NONE
    step(site, 204, wanted=False, observed=Observed.ABSENT)
    assert site.state is State.OFF
    assert (site.generation, site.starts) == (1, 1)


def test_a_site_that_ends_as_was_to_be_expected_has_not_failed_and_starts_again_at_once() -> None:
    site = Site("a", PATIENCE)
    up(site)
    step(site, 200, observed=Observed.FAILED, planned=True, words="its time is over", lost="silent")
    assert (site.state, site.reason) == (State.DRAINING, "its time is over")
    assert step(site, 200, observed=Observed.FAILED, planned=True) is Action.DOWN
    step(site, 201, observed=Observed.ABSENT)
    assert site.state is State.OFF
    assert step(site, 202, observed=Observed.ABSENT) is Action.UP
    assert (site.generation, site.failures, site.retry_at) == (2, 0, 0.0)


def test_a_start_that_ends_before_it_is_ready_has_failed_however_it_ended() -> None:
    site = Site("a", PATIENCE)
    step(site, 0)
    assert step(site, 10, observed=Observed.FAILED, planned=True, words="its time is over") is Action.DOWN
    assert (site.state, site.failures) == (State.FAILED, 1)


def test_a_site_that_its_platform_will_end_is_drained_while_it_can_be() -> None:
    site = Site("a", PATIENCE)
    up(site)
    step(site, 200, observed=Observed.UP, working=True, leaving="its job ends")
    assert (site.state, site.reason) == (State.DRAINING, "its job ends")
    assert step(site, 201, observed=Observed.UP, leaving="its job ends") is Action.NONE
    assert step(site, 202, observed=Observed.UP, leaving="its job ends", drained=True) is Action.DOWN
    step(site, 203, observed=Observed.ABSENT)
    assert (site.state, site.failures) == (State.OFF, 0)


def test_a_process_that_exists_is_not_ready() -> None:
    site = Site("a", PATIENCE)
    step(site, 0)
    step(site, 29, observed=Observed.UP)
    assert site.state is State.PROVISIONING


def test_on_a_gated_clock_ready_comes_no_sooner_than_the_modelled_spin_up() -> None:
    site = Site("a", PATIENCE)
    step(site, 0)
    step(site, 99, wall=1, observed=Observed.UP, ready=True)
    assert site.state is State.PROVISIONING
    assert site.holds(99, ready=False, drained=False) == ""
    assert site.holds(100, ready=False, drained=False) == "starting"
    assert site.holds(100, ready=True, drained=False) == ""


def test_what_a_start_may_take_counts_from_when_its_platform_begins_with_it() -> None:
    site = Site("a", PATIENCE)
    assert step(site, 0) is Action.UP
    for t in (10, 1000, 5000):
        assert step(site, t, observed=Observed.STARTING, queued=True) is Action.NONE
    assert step(site, 5030, observed=Observed.STARTING) is Action.NONE
    assert step(site, 5031, observed=Observed.STARTING) is Action.DOWN
    assert "not ready after 30 s" in site.reason


def test_a_start_that_waits_for_its_turn_is_taken_back_when_it_is_not_wanted_any_more() -> None:
    site = Site("a", PATIENCE)
    step(site, 0)
    step(site, 10, wanted=False, observed=Observed.STARTING, queued=True, drained=True)
    assert site.state is State.DRAINING
    assert step(site, 11, wanted=False, observed=Observed.STARTING, queued=True, drained=True) is Action.DOWN


def test_a_site_that_never_becomes_ready_fails_and_is_tried_again_later_and_later() -> None:
    site = Site("a", PATIENCE)
    waits = []
    t = 0.0
    for _ in range(6):
        assert step(site, t) is Action.UP
        assert step(site, t + 31, observed=Observed.STARTING) is Action.DOWN
        assert site.state is State.FAILED
        assert "not ready after 30 s" in site.reason
        waits.append(site.retry_at - (t + 31))
        step(site, t + 32, observed=Observed.ABSENT)
        assert step(site, site.retry_at - 1) is Action.NONE
        t = site.retry_at
    assert waits == [60, 120, 240, 480, 600, 600]


def test_a_drain_that_takes_too_long_ends_in_a_stop() -> None:
    site = Site("a", PATIENCE)
    up(site)
    step(site, 200, wanted=False, observed=Observed.UP)
    assert step(site, 221, wanted=False, observed=Observed.UP) is Action.DOWN
    assert "did not hand in" in site.reason


def test_a_site_wanted_off_while_starting_is_stopped_at_once() -> None:
    site = Site("a", PATIENCE)
    step(site, 0)
    step(site, 10, wanted=False, observed=Observed.STARTING, drained=True)
    assert site.state is State.DRAINING
    assert step(site, 11, wanted=False, observed=Observed.STARTING, drained=True) is Action.DOWN


@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.booleans(), st.booleans()), max_size=40))
def test_unknown_never_starts_anything_and_fails_nothing(story: list[tuple[bool, bool, bool, bool]]) -> None:
    site = Site("a", PATIENCE)
    for t, (wanted, ready, working, drained) in enumerate(story):
        step(site, float(t) / 10, wanted=wanted, ready=ready, working=working, drained=drained, observed=Observed.UNKNOWN)
    assert site.state is State.OFF
    other = Site("b", PATIENCE)
    up(other)
    step(other, 150, observed=Observed.UNKNOWN, ready=True, working=True)
    assert other.state is State.TRAINING


class Work:
    """A workload that is ready for everything."""

    def ready(self, site: str, generation: int) -> bool:
        return True

    def working(self, site: str) -> bool:
        return True

    def drained(self, site: str) -> bool:
        return True

    def merging(self) -> bool:
        return False

    def busy(self, site: str) -> bool:
        return False

    def lost(self, site: str) -> str:
        return ""

    def leaving(self, site: str) -> str:
        return ""

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)


ON = Decision(True, "on", {}, None, {})


def controller(driver: MemoryDriver) -> Controller:
    return Controller(dict.fromkeys("ab", Patience(0, 30, 20, 60, 600)), driver, NullJournal(), gated=False)


@pytest.mark.parametrize("error", [Transient("later"), Permanent("never")])
def test_a_driver_that_raises_costs_its_own_site_and_no_other(error: Exception) -> None:
    class Broken(MemoryDriver):
        def ensure_up(self, site: str, generation: int) -> None:
            if site == "a":
                raise error
            super().ensure_up(site, generation)

    c = controller(Broken())
    for t in range(4):
        c.observe()
        c.reconcile(t, t, {"a": ON, "b": ON}, Work())  # type: ignore[arg-type]
    assert c.sites["b"].state is State.TRAINING
    assert c.sites["a"].failures == 1
    assert c.sites["a"].failure == str(error)


def test_a_driver_that_cannot_observe_leaves_every_site_where_it_is() -> None:
    driver = MemoryDriver()
    c = controller(driver)
    for t in range(4):
        c.observe()
        c.reconcile(t, t, {"a": ON, "b": ON}, Work())  # type: ignore[arg-type]

    def blind(sites: Iterable[str]) -> dict[str, Observation]:
        raise Transient("no answer")

    driver.observe = blind  # type: ignore[method-assign]
    c.observe()
    c.reconcile(9, 9, {"a": ON, "b": ON}, Work())  # type: ignore[arg-type]
    assert {s.state for s in c.sites.values()} == {State.TRAINING}


def test_what_is_asked_of_a_driver_is_in_the_journal_before_it_is_asked() -> None:
    story: list[str] = []

    class Journal:
        def asked(self, t: float, site: str, generation: int, action: str, reason: str) -> None:
            story.append(f"journal {action} {site}.{generation}")

    class Telling(MemoryDriver):
        def ensure_up(self, site: str, generation: int) -> None:
            story.append(f"driver ensure_up {site}.{generation}")
            super().ensure_up(site, generation)

    c = Controller({"a": PATIENCE}, Telling(), Journal(), gated=False)
    c.observe()
    c.reconcile(0, 0, {"a": ON}, Work())  # type: ignore[arg-type]
    assert story == ["journal ensure_up a.1", "driver ensure_up a.1"]


@pytest.mark.parametrize("observed", [Observed.FAILED, Observed.UP, Observed.STARTING])
def test_what_is_found_at_a_site_that_is_off_is_cleared_away_before_it_starts_again(observed: Observed) -> None:
    """An agent that an earlier coordinator started may die between being found and being taken over."""
    site = Site("a", PATIENCE)
    assert step(site, 0, observed=observed) is Action.DOWN
    assert step(site, 1, observed=Observed.STOPPING) is Action.NONE
    assert site.state is State.OFF
    assert step(site, 2, observed=Observed.ABSENT) is Action.UP


def test_a_site_that_says_what_it_is_at_may_take_longer_to_start_and_to_hand_in_and_not_for_ever() -> None:
    patient = Patience(spin_up_s=100, start_timeout_s=30, drain_timeout_s=20, backoff_s=60, backoff_max_s=600, busy_s=500)
    site = Site("a", patient)
    assert step(site, 0) is Action.UP
    assert step(site, 529, observed=Observed.STARTING, busy=True) is Action.NONE
    assert step(site, 531, observed=Observed.STARTING, busy=True) is Action.DOWN
    assert (site.state, site.reason) == (State.FAILED, "not ready after 530 s of wall time")
    site = Site("a", patient)
    step(site, 0)
    step(site, 10, observed=Observed.UP, ready=True)
    step(site, 20, observed=Observed.UP, wanted=False, busy=True)
    assert site.state is State.DRAINING
    assert step(site, 500, observed=Observed.UP, wanted=False, busy=True) is Action.NONE
    assert step(site, 500, observed=Observed.UP, wanted=False) is Action.DOWN  # it says nothing any more
    assert site.reason == "did not hand in its work within 20 s"
