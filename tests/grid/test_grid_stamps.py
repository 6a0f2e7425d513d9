"""Stamps and clocks: what is wrong by hours is never used, is told with its offset, and is right with the key that is told."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from asking import Asking, Clock, Script, T, ask, live, news, value
from servers import JsonServer, Served, WattTimeServer

from windfall.config.signals import SignalTable
from windfall.grid.http import TryLater
from windfall.grid.live import LiveSignal
from windfall.grid.source import ForecastPoints, News, Point
from windfall.grid.stamps import StampReader
from windfall.units import iso_utc, parse_utc


class Market(Served):
    """A price every five minutes: ``low`` for the one that begins at T - 120, else 90. ``shift_s`` is what its stamps are off."""

    def __init__(self, now: Any, shift_s: float, *, naive: bool = False) -> None:
        super().__init__()
        self.now, self.shift_s, self.naive = now, shift_s, naive
        self.low = -40.0

    def price(self, t: float) -> float:
        return self.low if t // 300 == (T - 120) // 300 else 90.0

    def answer(self, asked: Any) -> tuple[int, Any]:
        t = self.now()
        stamp = iso_utc(t // 300 * 300 + self.shift_s)
        return 200, {"price": self.price(t), "at": stamp.removesuffix("Z") if self.naive else stamp}


def follow(
    asking: Asking, market: Market, hours: float, every_s: float = 60.0, **keys: Any
) -> tuple[LiveSignal, list[tuple[float, bool]]]:
    """Ask every ``every_s``; the signal, and what was fresh: (instant, whether it is what the market said then)."""
    s = asking.signal(
        "http", type="price", url=market.url, value_path="price", time_path="at", poll_s=60.0, name=f"f{len(keys)}", **keys
    )
    fresh = []
    for _ in range(round(hours * 3600 / every_s)):
        ask(s, asking.clock.t)
        r = s.at(asking.clock.t)
        if r is not None and r.is_fresh(asking.clock.t):
            fresh.append((asking.clock.t, r.value == market.price(asking.clock.t)))
        asking.later(every_s)
    return s, fresh


def test_a_low_price_with_a_stamp_seven_minutes_ahead_never_starts_anything(asking: Asking) -> None:
    # The interval began two minutes ago: its stamp is 7 minutes ahead.
    with Market(asking.clock.now, 540.0) as market:
        s, fresh = follow(asking, market, 1.0)
    assert fresh == []
    assert s.at(T + 420) is None
    said = s.status().last_error or ""
    assert "ahead of this machine's clock; what it says is not used, now or later: check this machine's clock" in said
    assert 'set stamp = "end"' in said
    assert 'published = "ahead"' in said


@pytest.mark.parametrize("naive", [False, True])
def test_ten_hours_ahead_over_a_day_no_fresh_reading_is_wrong_and_the_key_told_mends_it(asking: Asking, naive: bool) -> None:
    with Market(asking.clock.now, 36000.0, naive=naive) as market:
        s, fresh = follow(asking, market, 24.0, every_s=425.0)
        assert fresh == []
        said = s.status().last_error or ""
        assert "looks like local time (UTC+10) given as UTC" in said
        keys: dict[str, Any] = {"timezone": "Australia/Brisbane"}
        assert 'set timezone = "Australia/Brisbane"' in said
        assert ("and trust_offset = false" in said) == (not naive)
        if not naive:
            keys["trust_offset"] = False
        s, fresh = follow(asking, market, 1.0, **keys)
    assert s.status().last_error is None
    assert len(fresh) == 60
    assert all(right for _, right in fresh)


def test_local_time_behind_utc_is_told_as_that(asking: Asking) -> None:
    with Market(asking.clock.now, -7 * 3600.0) as market:
        s, fresh = follow(asking, market, 0.1)
        assert fresh == []
        said = s.status().last_error or ""
        assert "its newest stamp is 7 h 0" in said
        assert "looks like local time (UTC-7) given as UTC" in said
        assert 'set timezone = "America/Los_Angeles"' in said
        s, fresh = follow(asking, market, 1.0, timezone="America/Los_Angeles", trust_offset=False)
    assert len(fresh) == 60
    assert all(right for _, right in fresh)


def test_a_source_that_has_stopped_is_told_from_one_on_another_clock(asking: Asking) -> None:
    with JsonServer({"v": 1.0, "t": T - 7 * 3600 - 60}) as server:
        s = asking.signal("http", type="price", url=server.url, value_path="v", time_path="t")
        assert "looks like local time" in ask(s, T)
        ask(s, asking.later(300))
        said = ask(s, asking.later(300))
    assert "its newest stamp is 7 h 11 min old" in said
    assert "the source has nothing new" in said
    assert s.at(T).is_stale(T)  # type: ignore[union-attr]


def test_a_refused_answer_starts_nothing_on_what_was_said_before_it_and_ends_nothing_at_once() -> None:
    clock = Clock()
    s = live(Script(news((T + 290, -40.0)), news((T + 700, 90.0)), news((T + 60, 50.0))), clock, poll_s=60.0)
    s.step(T)
    assert s.at(T).is_fresh(T)  # type: ignore[union-attr]
    clock.t = T + 60
    assert "11 min ahead" in ask(s, clock.t)
    r = s.at(clock.t)
    assert r
    assert (r.value, r.is_fresh(clock.t), r.is_stale(clock.t), r.stale_at) == (-40, False, False, T + 900)
    clock.t = T + 120
    assert ask(s, clock.t) == ""
    assert value(s, T + 120) == 50
    assert s.at(T + 120).is_fresh(T + 120)  # type: ignore[union-attr]


def test_a_word_within_a_period_ahead_holds_from_when_it_was_heard_and_ages_from_then() -> None:
    clock = Clock()
    s = live(Script(news((T + 240, -40.0)), news((T + 300, 90.0)), news((T + 300, 90.0))), clock, poll_s=60.0)
    s.step(T)
    r = s.at(T)
    assert r
    assert (r.value, r.valid_from, r.age_s(T + 60), r.fresh_until, r.stale_at) == (-40, T, 60, T + 360, T + 900)
    for clock.t in (T + 60, T + 301):
        s.step(clock.t)
        now = s.at(clock.t)
        assert now
        # The newest word counts at once, and saying it again does not make it younger.
        assert (now.value, now.valid_from, now.stale_at) == (90, T + 60, T + 960)
    assert s.between(T, T + 120).values.tolist() == [-40, 90]


def test_a_refused_stamp_comes_back_neither_from_the_cache_nor_from_a_later_list(tmp_path: Path) -> None:
    clock = Clock()
    first = live(Script(news((T - 10, 5.0)), news((T + 420, -40.0))), clock, folder=tmp_path, poll_s=60.0)
    first.step(T)
    clock.t = T + 60
    assert "ahead" in ask(first, clock.t)
    clock.t = T + 430
    again = live(Script(news((T + 420, -40.0), (T + 840, 90.0))), clock, folder=tmp_path, poll_s=60.0)
    assert value(again, clock.t) == 5
    assert "7 min ahead" in ask(again, clock.t)
    assert value(again, clock.t) == 5
    # The same stamp, said again when it is ahead no more, is a new word.
    clock.t = T + 500
    anew = live(Script(news((T + 420, -40.0))), clock, poll_s=60.0)
    anew.step(clock.t)
    assert (value(anew, clock.t), anew.at(clock.t).known_at) == (-40, T + 500)  # type: ignore[union-attr]


def test_a_cache_of_stamps_that_are_ahead_is_not_used(tmp_path: Path) -> None:
    s = live(Script(news((T, 1.0))), folder=tmp_path)
    s.step(T)
    (file,) = tmp_path.iterdir()
    file.write_text(file.read_text().replace(str(T), str(T + 420), 2).replace(f'"fetched_at": {T + 420}', f'"fetched_at": {T}'))
    source = Script(news((T + 300, 90.0)))
    for t in (T + 1, T + 430):
        assert live(source, Clock(t), folder=tmp_path).at(t) is None


def test_what_is_published_ahead_waits_for_its_time_and_may_be_revised() -> None:
    def ahead(*points: tuple[float, float]) -> News:
        return News([Point(t, v, 3600.0) for t, v in points], published="ahead")

    clock = Clock()
    s = live(Script(ahead((T, 10.0), (T + 3600, 20.0), (T + 7200, 30.0)), ahead((T + 7200, 35.0))), clock, period_s=3600.0)
    s.step(T)
    assert [value(s, t) for t in (T, T + 3599, T + 3600, T + 7200)] == [10, 10, 20, 30]
    r = s.at(T + 3600)
    assert r
    assert (r.known_at, r.age_s(T + 3600), r.is_fresh(T + 3600)) == (T, 3600, True)
    clock.t = T + 3600
    s.step(clock.t)
    assert value(s, T + 7200) == 35
    assert s.status().last_error is None
    far = live(Script(ahead((T + 9 * 86400, 1.0))), Clock(), period_s=3600.0)
    assert "216 h 00 min ahead" in ask(far, T)


def test_the_first_point_of_a_forecast_waits_for_its_time_and_ages_from_when_it_was_heard(asking: Asking) -> None:
    with WattTimeServer(lambda: asking.clock.t + 420) as server:
        s = asking.signal("watttime", "CAISO_NORTH", base_url=server.url)
        assert ask(s, T) == ""
    assert s.at(T + 179) is None
    r = s.at(T + 180)
    assert r
    assert (r.valid_from, r.known_at, r.age_s(T + 180), r.fresh_until) == (T + 180, T, 180, T + 600)
    with WattTimeServer(lambda: asking.clock.t + 7200) as server:
        s = asking.signal("watttime", "CAISO_NORTH", base_url=server.url)
        assert "ahead of this machine's clock" in ask(s, T)
        assert s.at(T + 7200) is None
        assert s.forecast(T + 7200, 3600) is None


def test_a_new_granularity_is_no_wrong_clock(asking: Asking) -> None:
    with WattTimeServer(lambda: asking.clock.t + 600) as server:
        server.period_s = 900
        s = asking.signal("watttime", "CAISO_NORTH", base_url=server.url)
        assert ask(s, T) == ""
        r = s.at(T + 780)
        assert r
        assert (r.valid_until - r.valid_from, r.is_fresh(T + 780)) == (900, True)


# -- this machine's clock


def test_a_clock_that_was_set_back_asks_at_once_and_keeps_what_may_be_kept() -> None:
    clock = Clock(T + 36000)
    source = Script(news((T - 60, 5.0)), news((T, 6.0)), news((T, 6.0)))
    s = live(source, clock)
    s.step(clock.t)
    assert "its newest stamp is 10 h 01 min old" in (s.status().last_error or "")
    clock.t = T + 1
    assert s.at(clock.t) is None
    assert ask(s, clock.t) == ""
    assert source.requests == 2
    assert value(s, clock.t) == 6
    assert s.history(clock.t, 3600).values.tolist() == [5, 6]
    assert s.due() <= clock.t + 300
    assert live(Script(news((T, 5.0))), Clock(T)).due() == -float("inf")


def test_a_clock_that_was_behind_and_is_set_right_uses_what_it_refused_only_when_it_is_said_again() -> None:
    clock = Clock(T - 36000)
    s = live(Script(news((T - 60, 5.0)), news((T - 60, 5.0))), clock)
    assert "9 h 59 min ahead" in ask(s, clock.t)
    clock.t = T
    assert s.at(T) is None
    assert ask(s, T) == ""
    assert (value(s, T), s.at(T).known_at) == (5, T)  # type: ignore[union-attr]


def test_forecasts_of_a_refused_answer_are_refused_too() -> None:
    points = (Point(T + 36000, 1.0), Point(T + 36300, 1.0))
    s = live(Script(News([points[0]], ForecastPoints(points, T + 36600))))
    assert ask(s, T) != ""
    assert s.forecast(T + 36000, 3600) is None


@pytest.mark.parametrize("seed", range(20))
def test_what_is_fresh_is_always_the_newest_word_whatever_clocks_and_sources_do(seed: int) -> None:
    rng = random.Random(seed)
    clock = Clock()
    period = rng.choice([60.0, 300.0, 3600.0])

    class Odd(Script):
        """Says a new number for each of its intervals, with its clock off by ``off_s``, and fails now and then."""

        off_s, said = 0.0, 0.0

        def fetch(self, now: float) -> News:
            self.requests += 1
            if rng.random() < 0.2:
                raise TryLater("down")
            stamp = (true + self.off_s) // period * period
            self.said = float(hash((seed, stamp)) % 1000)
            return news((stamp, self.said))

    source = Odd(TryLater("never"))
    source.off_s = rng.choice([0.0, 0.4, 0.9, 1.4, -1.0, -3.5]) * period + rng.choice([0.0, 0.0, 36000.0, -25200.0])
    s = live(source, clock, period_s=period, poll_s=period * rng.choice([0.2, 1.0]))
    true, ours, used = T, 0.0, 0
    for _ in range(120):
        true += rng.uniform(0.1, 0.9) * period
        if rng.random() < 0.05:
            ours = rng.choice([0.0, 0.0, 1.5 * period, -1.5 * period, 36000.0, -36000.0])
        clock.t = true + ours
        s.step(clock.t)
        r = s.at(clock.t)
        if r is not None and r.is_fresh(clock.t):
            used += 1
            assert r.value == source.said
            assert 0 <= r.age_s(clock.t) <= 2 * period
    assert used > 0 or source.off_s not in (0.0, 0.4 * period)


# -- reading stamps


def stamps(**keys: Any) -> StampReader:
    least = {"kind": "http", "url": "http://x", "value_path": "v", "time_path": "t"}
    return StampReader(SignalTable.model_validate({**least, **keys}))


@pytest.mark.parametrize(
    ("stamp", "keys", "expected"),
    [
        ("2026-05-03T20:00:00", {"timezone": "Australia/Brisbane"}, "2026-05-03T10:00:00Z"),
        ("2026-05-03T20:00:00+10:00", {"timezone": "Europe/Berlin"}, "2026-05-03T10:00:00Z"),
        ("2026-05-03T20:00:00Z", {"timezone": "Australia/Brisbane", "trust_offset": False}, "2026-05-03T10:00:00Z"),
        (parse_utc("2026-05-03T20:00:00Z"), {"timezone": "Australia/Brisbane", "trust_offset": False}, "2026-05-03T10:00:00Z"),
        ("2026-05-03T10:05:00Z", {"stamp": "end"}, "2026-05-03T10:00:00Z"),
        ("2026/05/03 20:05", {"stamp": "end", "timezone": "+10:00", "time_format": "%Y/%m/%d %H:%M"}, "2026-05-03T10:00:00Z"),
        (20260503100000, {"time_format": "%Y%m%d%H%M%S"}, "2026-05-03T10:00:00Z"),
        (1777802400, {}, "2026-05-03T10:00:00Z"),
        ("1777802400.0", {}, "2026-05-03T10:00:00Z"),
        (1777802400000, {}, "2026-05-03T10:00:00Z"),
        (1777802400000000000, {}, "2026-05-03T10:00:00Z"),
    ],
)  # fmt: skip
def test_stamps_are_read_as_the_configuration_says_they_are_meant(stamp: Any, keys: dict[str, Any], expected: str) -> None:
    t = stamps(**keys).read(stamp, T)
    assert t is not None
    assert iso_utc(t) == expected


@pytest.mark.parametrize("bad", ["", "yesterday", None, True, [], -1, float("nan"), "1e400", 10**400, "2026-13-01T00:00:00Z"])
def test_what_is_no_stamp_is_none(bad: Any) -> None:
    assert stamps().read(bad, T) is None
    assert stamps(time_format="%H:%M").read(bad, T) is None


def test_the_hour_that_clocks_show_twice_is_the_one_closer_to_now() -> None:
    s = stamps(timezone="Europe/Berlin")
    for text in ("2026-10-25T00:31:00Z", "2026-10-25T01:31:00Z"):
        now = parse_utc(text)
        assert s.read("2026-10-25T02:30:00", now) == now - 60
