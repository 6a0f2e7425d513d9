"""Power levels: which one a surplus covers, when that can be another one, and what it makes of power and pace."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from windfall.config.schema import SiteTable
from windfall.energy.levels import PowerLevels, powers_text, tokens_per_s_at
from windfall.errors import ConfigError
from windfall.grid.signal import Reading, StepSignal

LEVELS = [{"power_w": 800, "tokens_per_s": 5}, {"power_w": 1400, "tokens_per_s": 8, "gpu_power_w": 250}, {"power_w": 2000}]


def site(levels: list[dict[str, Any]] | None = None, name: str = "farm") -> SiteTable:
    return SiteTable.model_validate(
        {
            "name": name, "region": "F", "spin_up_s": 60, "train_power_w": 2000, "idle_power_w": 400, "tokens_per_s": 10,
            "power_levels": LEVELS if levels is None else levels,
            "signal": {"path": "sun.csv", "column": "w", "type": "surplus_power"},
        }
    )  # fmt: skip


def reading(value: float, *, stale_at: float = 900.0) -> Reading:
    return Reading(value, "W", 0.0, 0.0, 300.0, stale_at, "test")


def at(levels: PowerLevels, value: float | None, t: float = 10.0) -> tuple[float | None, float]:
    levels.look(t, "farm", None if value is None else reading(value))
    levels.take(t, "farm")
    return levels.watts("farm", "training"), levels.tokens_per_s["farm"]


@pytest.mark.parametrize(
    ("surplus", "watts", "pace"),
    [
        (-100.0, 800, 5), (0.0, 800, 5), (799.9, 800, 5), (800.0, 800, 5), (1399.999, 800, 5), (1400.0, 1400, 8),
        (1999.0, 1400, 8), (2000.0, 2000, 10), (1e9, 2000, 10), (math.nan, 800, 5), (None, 800, 5),
    ],
)  # fmt: skip
def test_the_highest_level_that_the_surplus_covers_is_taken_and_else_the_lowest(
    surplus: float | None, watts: float, pace: float
) -> None:
    assert at(PowerLevels([site()]), surplus) == (watts, pace)


def test_a_late_reading_still_counts_and_a_stale_one_is_no_surplus() -> None:
    levels = PowerLevels([site()])
    assert at(levels, 1500.0, 899.0) == (1400, 8), "it is late, and keeps a site on"
    assert at(levels, 1500.0, 900.0) == (800, 5)
    assert levels.surplus_w("farm") is None


def test_a_choice_counts_when_it_is_taken_and_what_was_before_is_booked_first() -> None:
    told: list[tuple[float, float | None]] = []
    levels = PowerLevels([site()], changing=lambda t, name: told.append((t, levels.watts(name, "training"))))
    levels.look(10.0, "farm", reading(900.0))
    assert levels.watts("farm", "training") == 2000
    assert levels.take(60.0, "farm")
    assert not levels.take(70.0, "farm"), "nothing else has been chosen since"
    assert told == [(60.0, 2000)]
    assert levels.watts("farm", "evaluation") == 800
    assert levels.watts("farm", "stall") is None
    assert levels.watts("other", "training") is None
    assert not levels.take(80.0, "other")


def test_a_site_without_levels_is_at_full_power_and_its_pace_is_kept_beside_those_of_others() -> None:
    levels = PowerLevels([site(), site([], "plain")], tokens_per_s={"farm": 1.0, "plain": 1.0})
    assert "plain" not in levels
    assert at(levels, 1400.0) == (1400, 0.8)
    assert levels.tokens_per_s == {"farm": 0.8, "plain": 1.0}
    assert powers_text(site()) == "800, 1,400 or 2,000 W"
    assert powers_text(site([])) == "2,000 W"
    assert [tokens_per_s_at(site(), w) for w in (100.0, 1000.0, 1399.0, 1e9)] == [5, 5, 8, 10]
    assert tokens_per_s_at(site([]), 1.0) == 10


def test_the_next_look_is_due_when_the_reading_leaves_the_level_or_is_stale() -> None:
    signal = StepSignal(
        np.array([0.0, 300.0, 600.0, 900.0, 3600.0]), np.array([900.0, 1300.0, 1500.0, 100.0, 2500.0]), unit="W", source="test"
    )
    levels = PowerLevels([site()])
    assert levels.next_look(0.0, "farm", signal) == 600.0
    assert levels.next_look(600.0, "farm", signal) == 900.0
    assert levels.next_look(900.0, "farm", signal) == 1200.0, "late from then on"
    assert levels.next_look(1200.0, "farm", signal) == 1800.0, "stale from then on"
    assert levels.next_look(1800.0, "farm", signal) == 3600.0
    assert levels.next_look(3600.0, "farm", signal) == 3900.0
    assert levels.next_look(4500.0, "farm", signal) == math.inf


def test_replayed_time_measures_nothing_so_every_level_needs_its_pace() -> None:
    with pytest.raises(ConfigError, match="its level of 800 W has no tokens_per_s, and nothing measures it"):
        PowerLevels([site([{"power_w": 800}, {"power_w": 2000}])])


def test_on_the_calendar_a_pace_is_in_proportion_to_power_until_it_has_been_measured() -> None:
    table = site([{"power_w": 800}, {"power_w": 1400, "tokens_per_s": 8}, {"power_w": 2000}])
    levels = PowerLevels([table], measured=True)
    assert at(levels, 900.0) == (800, 4.0)
    assert not levels.learn("farm", 6.0, since=5.0), "it was at another level for a part of that time"
    assert levels.learn("farm", 6.0, since=10.0)
    assert not levels.learn("farm", 7.0, since=10.0), "not the first that is known"
    assert levels.tokens_per_s["farm"] == pytest.approx(0.7 * 6.0 + 0.3 * 7.0)
    assert at(levels, 1500.0) == (1400, 8)
    assert not levels.learn("farm", 3.0, since=10.0), "what is configured stays"
    again = PowerLevels([table], measured=True)
    again.restore(levels.as_json())
    assert again.watts("farm", "training") == 1400
    assert at(again, 900.0) == (800, pytest.approx(6.3))
    other = PowerLevels([site([{"power_w": 500}, {"power_w": 2000}])], measured=True)
    other.restore(levels.as_json())
    assert other.watts("farm", "training") == 2000, "it has no such levels any more"


def test_a_site_that_cannot_be_held_to_a_level_trains_only_where_its_surplus_covers_full_power() -> None:
    levels = PowerLevels([site()], measured=True)
    assert at(levels, 1500.0) == (1400, 8)
    assert levels.told("farm") == {"gpu_power_w": 250}
    levels.unheld["farm"] = "no permission"
    assert at(levels, 1500.0) == (2000, 10)
    assert "cannot be held to less: no permission" in levels.keeps_off("farm")
    assert at(levels, 2000.0) == (2000, 10)
    assert levels.keeps_off("farm") == ""
    assert levels.told("farm") == {"gpu_power_w": None}
    assert at(levels, None) == (2000, 10)
    assert levels.keeps_off("farm")
    assert levels.keeps_off("other") == ""
