"""What heartbeats say of sites: who is silent, and what each is at, from the first moment of its process on."""

from __future__ import annotations

from typing import Any

import pytest

from windfall.federation.reports import SiteReports
from windfall.store.bus import MemoryBus


class Heard:
    """A coordinator's ears, and a site's voice."""

    def __init__(self) -> None:
        self.bus = MemoryBus()
        self.reports = SiteReports(self.bus, None, None, silent_after_s=60.0)  # type: ignore[arg-type]
        self.n = 0

    def beat(self, wall: float, generation: int = 1, **said: Any) -> None:
        self.n += 1
        self.bus.site("a", generation).set("heartbeat", {"n": self.n, **said})
        self.listen(wall)

    def listen(self, wall: float) -> None:
        self.reports.listen(0.0, wall, ["a"], {"a": 1}, "local")

    def says(self, wall: float) -> str:
        found = self.reports.doing("a", 1, wall)
        return found.what if found else ""


@pytest.fixture
def heard() -> Heard:
    return Heard()


def test_a_site_that_starts_says_what_it_is_at_before_it_has_said_hello_and_is_not_called_silent(heard: Heard) -> None:
    heard.beat(10.0, doing="loading", for_s=4.0)
    assert heard.says(10.0) == "loading"
    found = heard.reports.doing("a", 1, 10.0)
    assert found is not None
    assert found.since == 6.0
    assert heard.says(69.0) == "loading"
    heard.listen(71.0)  # the same heartbeat is no new sign of life
    assert heard.says(71.0) == ""
    assert heard.reports.silent("a", 1000.0) == ""


def test_a_heartbeat_of_another_life_says_nothing_of_this_one(heard: Heard) -> None:
    heard.beat(10.0, generation=2, doing="loading", for_s=4.0)
    assert heard.says(10.0) == ""
    heard.beat(11.0, doing="loading", for_s=4.0)
    assert heard.reports.doing("a", 2, 11.0) is None


def test_after_hello_a_trainer_is_silent_when_its_heartbeats_end_whatever_it_said_last(heard: Heard) -> None:
    heard.reports.begin("a", 0.0)
    heard.beat(10.0, doing="a step: polar factors", for_s=900.0, block=7)
    assert (heard.says(70.0), heard.reports.silent("a", 70.0)) == ("a step: polar factors", "")
    assert heard.reports.last_block == {"a": 7}
    assert heard.reports.silent("a", 71.0) == "its trainer has been silent for 61 s"
    heard.beat(80.0)
    assert (heard.says(80.0), heard.reports.silent("a", 80.0)) == ("", "")
