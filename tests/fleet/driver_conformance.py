"""What every driver does alike. A driver's own tests inherit ``DriverConformance`` and give it a ``rig``: a platform to play with.

class TestMine(DriverConformance):
    @pytest.fixture
    def rig(self, tmp_path: Path) -> Iterator[Rig]: ...
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Protocol

import pytest

from patience import wait_for
from windfall.errors import DriverError
from windfall.fleet.driver import Driver
from windfall.fleet.machine import Observation, Observed


class Rig(Protocol):
    """A platform with room for one site, as a test needs it."""

    site: str
    run_id: str
    #: The kinds of refusal that this platform knows.
    kinds: tuple[type[DriverError], ...]

    def driver(self) -> Driver:
        """A new driver, as the next coordinator would have it. It has never been asked anything."""
        ...

    def living(self) -> int:
        """How many sites there are on the platform, counted without a driver."""
        ...

    def break_starts(self) -> None:
        """From now on a site ends by itself with an error as soon as it has started."""
        ...

    def mend_starts(self) -> None: ...

    def die(self) -> None:
        """The living site ends without having been asked."""
        ...

    def be_stubborn(self) -> None:
        """Sites that start from now on do not end when they are asked to."""
        ...

    def refuse(self, kind: type[DriverError] | None) -> None:
        """From now on whatever is asked of the platform is refused in this way; None: no more."""
        ...


def look(driver: Driver, site: str) -> Observation:
    return driver.observe([site])[site]


def until(driver: Driver, site: str, *states: Observed) -> Observation:
    seen = [Observation(Observed.UNKNOWN)]

    def there() -> bool:
        seen.append(look(driver, site))
        return seen[-1].state in states

    wait_for(f"{site} to be {', '.join(states)}", there)
    return seen[-1]


def _refusal(ask: Callable[[], object]) -> type[Exception] | None:
    try:
        ask()
    except DriverError as e:
        return type(e)
    return None


class DriverConformance:
    """The tests."""

    def test_a_site_that_nobody_has_started_is_absent_and_may_be_stopped(self, rig: Rig) -> None:
        driver = rig.driver()
        assert look(driver, rig.site).state is Observed.ABSENT
        driver.ensure_down(rig.site, 0.0, "it was never there")
        assert until(driver, rig.site, Observed.ABSENT).fault is None
        assert driver.list_owned(rig.run_id) == []

    def test_a_start_leads_to_up_and_a_stop_to_absent(self, rig: Rig) -> None:
        driver = rig.driver()
        driver.ensure_up(rig.site, 1)
        until(driver, rig.site, Observed.UP)
        wait_for("the site", lambda: rig.living() == 1)
        driver.ensure_down(rig.site, 600.0, "off")
        until(driver, rig.site, Observed.ABSENT)
        assert rig.living() == 0
        assert driver.list_owned(rig.run_id) == []

    def test_a_start_that_is_asked_for_again_is_one_start(self, rig: Rig) -> None:
        driver = rig.driver()
        for _ in range(3):
            driver.ensure_up(rig.site, 1)
        until(driver, rig.site, Observed.UP)
        wait_for("the site", lambda: rig.living() >= 1)
        driver.ensure_up(rig.site, 1)
        rig.driver().ensure_up(rig.site, 1)
        assert rig.living() == 1
        assert [(o.site, o.generation) for o in driver.list_owned(rig.run_id)] == [(rig.site, 1)]

    def test_a_stop_that_is_asked_for_again_is_one_stop(self, rig: Rig) -> None:
        driver = rig.driver()
        driver.ensure_up(rig.site, 1)
        until(driver, rig.site, Observed.UP)
        for _ in range(3):
            driver.ensure_down(rig.site, 600.0, "off")
        until(driver, rig.site, Observed.ABSENT)
        driver.ensure_down(rig.site, 600.0, "off")
        until(driver, rig.site, Observed.ABSENT)

    def test_what_does_not_end_in_its_grace_is_ended_by_force(self, rig: Rig) -> None:
        rig.be_stubborn()
        driver = rig.driver()
        driver.ensure_up(rig.site, 1)
        until(driver, rig.site, Observed.UP)
        driver.ensure_down(rig.site, 0.0, "off")
        until(driver, rig.site, Observed.ABSENT)
        assert rig.living() == 0

    def test_a_failed_start_is_told_until_it_is_cleared_by_a_stop_and_the_next_one_may_work(self, rig: Rig) -> None:
        rig.break_starts()
        driver = rig.driver()
        # Who refuses a start at once has failed as well.
        with contextlib.suppress(DriverError):
            driver.ensure_up(rig.site, 1)
            until(driver, rig.site, Observed.FAILED)
            assert look(driver, rig.site).state is Observed.FAILED, "as long as it is not cleared"
        driver.ensure_down(rig.site, 600.0, "a failed start")
        until(driver, rig.site, Observed.ABSENT)
        rig.mend_starts()
        driver.ensure_up(rig.site, 2)
        until(driver, rig.site, Observed.UP)
        assert [o.generation for o in driver.list_owned(rig.run_id)] == [2]

    def test_a_site_that_ends_unasked_has_failed_until_it_is_cleared(self, rig: Rig) -> None:
        driver = rig.driver()
        driver.ensure_up(rig.site, 1)
        until(driver, rig.site, Observed.UP)
        wait_for("the site", lambda: rig.living() == 1)
        rig.die()
        until(driver, rig.site, Observed.FAILED)
        assert driver.list_owned(rig.run_id) == [], "nothing of it lives"
        driver.ensure_down(rig.site, 600.0, "it died")
        until(driver, rig.site, Observed.ABSENT)

    def test_the_next_coordinator_finds_the_site_goes_on_with_it_and_ends_it(self, rig: Rig) -> None:
        rig.driver().ensure_up(rig.site, 7)
        wait_for("the site", lambda: rig.living() == 1)
        after = rig.driver()
        assert [(o.site, o.generation) for o in after.list_owned(rig.run_id)] == [(rig.site, 7)]
        until(after, rig.site, Observed.UP)
        after.ensure_down(rig.site, 600.0, "off")
        until(after, rig.site, Observed.ABSENT)
        assert rig.living() == 0

    def test_another_run_owns_nothing(self, rig: Rig) -> None:
        driver = rig.driver()
        driver.ensure_up(rig.site, 1)
        until(driver, rig.site, Observed.UP)
        assert driver.list_owned("another") == []
        assert rig.driver().list_owned("another") == []

    def test_what_the_platform_refuses_is_an_error_of_its_kind_and_passes_with_its_cause(self, rig: Rig) -> None:
        driver = rig.driver()
        for kind in rig.kinds:
            rig.refuse(kind)
            with pytest.raises(DriverError) as told:
                driver.ensure_up(rig.site, 1)
            assert type(told.value) is kind
            assert str(told.value)
            for ask in (
                lambda: driver.observe([rig.site]),
                lambda: driver.list_owned(rig.run_id),
                lambda: driver.ensure_down(rig.site, 600.0, "a failed start"),
            ):
                assert _refusal(ask) in (None, kind)
            rig.refuse(None)
            driver.ensure_down(rig.site, 600.0, "a failed start")
            until(driver, rig.site, Observed.ABSENT)
        driver.ensure_up(rig.site, 2)
        until(driver, rig.site, Observed.UP)
