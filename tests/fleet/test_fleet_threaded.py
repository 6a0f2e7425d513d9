"""Drivers that take their time: each asked from its site's own thread, so that the loop waits for none."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator

import pytest

from fleet.test_fleet_machine import ON, Work
from patience import PATIENCE_S, wait_for
from windfall import clock
from windfall.errors import DriverError, Permanent, Transient, Unauthorized
from windfall.fleet.controller import Controller
from windfall.fleet.driver import MemoryDriver, Owned
from windfall.fleet.drivers.by_site import DriversBySite
from windfall.fleet.drivers.threaded import LookIntervals, ThreadedDriver
from windfall.fleet.machine import DriverFault, Observation, Observed, Patience, State
from windfall.policy.base import Decision

OFF = Decision(False, "off", {}, None, {})
PATIENCE = Patience(spin_up_s=0, start_timeout_s=3000, drain_timeout_s=20, backoff_s=60, backoff_max_s=600)
QUICK = LookIntervals(moving_s=0.005, steady_s=0.005, silent_s=60.0)


class Slow(MemoryDriver):
    """A platform that answers when a test lets it."""

    def __init__(self) -> None:
        super().__init__()
        self.open = threading.Event()
        self.open.set()
        self.fails: dict[str, DriverError] = {}
        self.words = ""

    def _answer(self, method: str) -> None:
        self.open.wait(PATIENCE_S)
        if method in self.fails:
            raise self.fails[method]

    def ensure_up(self, site: str, generation: int) -> None:
        self._answer("up")
        super().ensure_up(site, generation)

    def ensure_down(self, site: str, grace_s: float, reason: str) -> None:
        self._answer("down")
        super().ensure_down(site, grace_s, reason)

    def observe(self, sites: Iterable[str]) -> dict[str, Observation]:
        self._answer("observe")
        return {s: Observation(o.state, self.words) for s, o in super().observe(sites).items()}

    def list_owned(self, run_id: str) -> list[Owned]:
        self._answer("list")
        return super().list_owned(run_id)


@pytest.fixture
def platform() -> Iterator[Slow]:
    slow = Slow()
    yield slow
    slow.open.set()


@pytest.fixture
def beside(platform: Slow) -> Iterator[ThreadedDriver]:
    driver = ThreadedDriver(platform, "a", QUICK)
    yield driver
    driver.close()


def look(driver: ThreadedDriver) -> Observation | None:
    try:
        return driver.observe(["a"])["a"]
    except DriverError:
        return None


def until(driver: ThreadedDriver, *states: Observed) -> Observation:
    found: list[Observation] = []

    def there() -> bool:
        seen = look(driver)
        found.append(seen or Observation(Observed.UNKNOWN))
        return found[-1].state in states

    wait_for(f"to be {states}", there)
    return found[-1]


def test_a_start_and_a_stop_are_passed_on_while_nobody_waits(platform: Slow, beside: ThreadedDriver) -> None:
    platform.open.clear()
    beside.ensure_up("a", 3)
    assert look(beside) == Observation(Observed.STARTING)
    platform.open.set()
    until(beside, Observed.UP)
    assert platform.up == {"a": 3}
    platform.open.clear()
    beside.ensure_down("a", 1.0, "off")
    assert look(beside) == Observation(Observed.STOPPING), "not up any more, although the last look saw it up"
    platform.open.set()
    until(beside, Observed.ABSENT)


def test_the_newest_request_counts(platform: Slow, beside: ThreadedDriver) -> None:
    until(beside, Observed.ABSENT)
    platform.open.clear()
    for generation in (1, 2):
        beside.ensure_up("a", generation)
    beside.ensure_down("a", 1.0, "off")
    platform.open.set()
    until(beside, Observed.ABSENT)
    assert not platform.up


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        (Transient("503"), DriverFault.TRANSIENT),
        (Permanent("no such image"), DriverFault.PERMANENT),
        (Unauthorized("expired"), DriverFault.UNAUTHORIZED),
    ],
)
def test_a_start_that_is_refused_is_told_once_seen_with_its_kind(
    platform: Slow, beside: ThreadedDriver, error: DriverError, fault: DriverFault
) -> None:
    platform.fails = {"up": error}
    beside.ensure_up("a", 1)
    assert until(beside, Observed.FAILED) == Observation(Observed.FAILED, str(error), fault)
    beside.ensure_down("a", 0.0, "a failed start")
    platform.fails = {}
    until(beside, Observed.ABSENT)


def test_a_stop_that_is_refused_is_raised_by_the_next_one(platform: Slow, beside: ThreadedDriver) -> None:
    beside.ensure_up("a", 1)
    until(beside, Observed.UP)
    platform.fails = {"down": Transient("409")}
    beside.ensure_down("a", 0.0, "off")
    until(beside, Observed.UP)
    platform.fails = {}
    with pytest.raises(Transient, match="409"):
        beside.ensure_down("a", 0.0, "off")
    until(beside, Observed.ABSENT)


def test_what_cannot_be_seen_is_an_error_until_it_can(platform: Slow, beside: ThreadedDriver) -> None:
    platform.fails = {"observe": Unauthorized("expired")}

    def refused() -> bool:
        try:
            beside.observe(["a"])
        except Unauthorized:
            return True
        return False

    wait_for("the refusal", refused)
    platform.fails = {}
    until(beside, Observed.ABSENT)


def test_a_platform_that_does_not_answer_is_unknown_after_a_while(platform: Slow) -> None:
    platform.open.clear()
    driver = ThreadedDriver(platform, "a", LookIntervals(silent_s=0.0))
    with pytest.raises(Transient, match="has not answered"):
        driver.observe(["a"])
    driver.close()


class Queue(MemoryDriver):
    """A platform on which every start waits for its turn."""

    def observe(self, sites: Iterable[str]) -> dict[str, Observation]:
        return {s: Observation(Observed.STARTING, "waits", queued=True) for s in sites}


def test_a_start_that_waits_for_its_turn_is_not_looked_at_as_often_as_one_that_moves() -> None:
    driver = ThreadedDriver(Queue(), "a", LookIntervals(moving_s=0.005, steady_s=1e6, silent_s=60.0))
    driver.ensure_up("a", 1)
    wait_for("the look", lambda: (seen := look(driver)) is not None and seen.queued)
    assert driver._look_at - clock.monotonic() > 1e5
    driver.close()


class NotReady(Work):
    """Nobody has said hello."""

    def ready(self, site: str, generation: int) -> bool:
        return False


class Local(MemoryDriver):
    """What a run's own machine does, as far as ``DriversBySite`` asks for it."""

    def prepare(self, within_s: float) -> None: ...
    def close(self) -> None: ...
    def kill_all(self) -> None: ...


def settle(
    c: Controller, wanted: dict[str, Decision], there: Callable[[], bool], since: list[float], work: Work | None = None
) -> None:
    def tick() -> bool:
        since[0] += 1
        c.observe()
        c.reconcile(since[0], since[0], wanted, work or Work())  # type: ignore[arg-type]
        return there()

    wait_for("the fleet", tick)


def test_a_platform_that_hangs_delays_its_own_site_and_no_other(platform: Slow) -> None:
    local, quick = Local(), Slow()
    others = {"a": ThreadedDriver(platform, "a", QUICK), "b": ThreadedDriver(quick, "b", QUICK)}
    told: list[tuple[str, str, str]] = []
    c = Controller(
        dict.fromkeys("abc", PATIENCE), DriversBySite(local, others), Journal(), gated=False,  # type: ignore[arg-type]
        teller=lambda t, kind, site, reason: told.append((kind, site, reason)),
    )  # fmt: skip
    at = [0.0]
    quick.words = "waits for a GPU"
    state = c.sites
    settle(c, dict.fromkeys("abc", ON), lambda: state["b"].state is State.TRAINING, at)
    platform.open.clear()
    settle(c, {"a": OFF, "b": OFF, "c": OFF}, lambda: state["b"].state is State.OFF and state["c"].state is State.OFF, at)
    assert state["a"].state is State.DRAINING
    platform.open.set()
    settle(c, {"a": OFF, "b": OFF, "c": OFF}, lambda: state["a"].state is State.OFF, at)
    assert (platform.up, quick.up, local.up) == ({}, {}, {})
    for driver in others.values():
        driver.close()


def test_a_refused_start_backs_off_by_its_kind_in_the_fleet(platform: Slow) -> None:
    platform.fails = {"up": Permanent("image not found: registry/x:1")}
    beside = ThreadedDriver(platform, "a", QUICK)
    c = Controller({"a": PATIENCE}, DriversBySite(Local(), {"a": beside}), Journal(), gated=False)  # type: ignore[arg-type]
    at = [0.0]
    site = c.sites["a"]
    settle(c, {"a": ON}, lambda: site.failures == 1, at)
    assert site.failure == "image not found: registry/x:1"
    assert site.reason == "cannot be started until somebody changes something: image not found: registry/x:1"
    settle(c, {"a": ON}, lambda: site.state is State.OFF, at)
    assert site.retry_at >= 600
    beside.close()


def test_what_a_platform_says_is_told_while_its_site_starts_and_not_longer(platform: Slow) -> None:
    platform.words = "Pending: 0/3 nodes are available: 3 Insufficient nvidia.com/gpu"
    platform.override["a"] = Observed.STARTING
    told: list[tuple[str, str, str]] = []
    beside = ThreadedDriver(platform, "a", QUICK)
    c = Controller(
        {"a": PATIENCE}, DriversBySite(Local(), {"a": beside}), Journal(), gated=False,  # type: ignore[arg-type]
        teller=lambda t, kind, site, reason: told.append((kind, site, reason)),
    )  # fmt: skip
    at = [0.0]
    settle(c, {"a": ON}, lambda: bool(c.platforms()), at, NotReady())
    assert c.platforms() == {"a": platform.words}
    assert told == [("platform", "a", platform.words)]
    platform.override.clear()
    settle(c, {"a": ON}, lambda: c.sites["a"].state is State.TRAINING, at)
    assert c.platforms() == {}
    beside.close()


def test_a_site_that_cannot_be_looked_at_hinders_no_start_of_the_coordinator(platform: Slow) -> None:
    other = Slow()
    other.up = {"b": 4}
    platform.fails = {"list": Transient("no route to the cluster")}
    driver = DriversBySite(Local(), {"a": platform, "b": other})  # type: ignore[arg-type]
    assert driver.list_owned("run") == [Owned("b", 4, "b")]
    assert driver.unseen == {"a": "no route to the cluster"}


class Journal:
    def asked(self, t: float, site: str, generation: int, action: str, reason: str) -> None: ...


def test_what_cannot_be_seen_is_not_seen_to_stop_because_it_was_asked_to(platform: Slow, beside: ThreadedDriver) -> None:
    beside.ensure_up("a", 1)
    until(beside, Observed.UP)
    platform.fails = {"observe": Transient("no route"), "down": Transient("no route")}
    wait_for("it to be out of sight", lambda: look(beside) is None)
    with contextlib.suppress(Transient):
        beside.ensure_down("a", 1.0, "over")
    assert look(beside) is None
    platform.fails = {}
    until(beside, Observed.UP, Observed.ABSENT)
