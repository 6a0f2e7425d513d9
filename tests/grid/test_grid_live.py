"""Live signals: what was heard, when it holds, what clocks do to it, and what failures do not."""

from __future__ import annotations

import math
import random

import numpy as np
from asking import Asking, Clock, Script, T, ask, live, news, value
from servers import Fault, JsonServer

from windfall.grid.http import TryLater
from windfall.grid.reading_series import KEEP_S, ReadingSeries
from windfall.grid.signal import Reading
from windfall.grid.source import ForecastPoints, News, Point

# -- what holds when


def test_a_reading_holds_until_the_next_and_no_longer_than_it_may_be_believed() -> None:
    s = live(Script(news((T, 10.0), (T + 300, 20.0), (T + 3000, 30.0))), Clock(T + 3000))
    s.step(T + 3000)
    c = s.between(T - 100, T + 3400)
    assert [(a - T, b - T) for a, b in zip(c.starts, c.ends, strict=True)] == [
        (-100, 0),
        (0, 300),
        (300, 1200),
        (1200, 3000),
        (3000, 3400),
    ]
    np.testing.assert_array_equal(c.values, [np.nan, 10, 20, np.nan, 30])
    assert np.isnan(s.between(T + 5000, T + 6000).values).all()
    assert s.between(T + 10, T + 20).values.tolist() == [10]
    assert s.between(T, T).values.size == 0
    assert s.ends_at() == math.inf
    assert s.starts_at() == T


def test_nothing_heard_is_nothing_known() -> None:
    s = live(Script(TryLater("down")))
    assert s.at(T) is None
    assert s.forecast(T, 3600) is None
    assert np.isnan(s.between(T, T + 100).values).all()
    assert s.history(T, 3600).values.size == 0
    assert s.starts_at() == math.inf


def test_history_is_what_was_known_then() -> None:
    clock = Clock()
    s = live(Script(news((T - 600, 1.0), (T - 300, 2.0)), news((T - 300, 5.0), (T, 3.0))), clock)
    s.step(T)
    clock.t = T + 400
    s.step(T + 400)
    assert s.history(T, 3600).values.tolist() == [1, 2]
    assert s.history(T + 400, 3600).values.tolist() == [1, 5, 3]
    assert s.history(T + 400, 500).values.tolist() == [5, 3]


def test_the_newest_word_about_a_time_wins_and_repetition_is_no_news() -> None:
    clock = Clock()
    s = live(Script(news((T - 10, 1.0)), news((T - 10, 1.0)), news((T - 10, 4.0)), news((T - 310, 9.0))), clock)
    for expected, known in ((1.0, T), (1.0, T), (4.0, T + 800), (4.0, T + 800)):
        s.step(clock.t)
        r = s.at(clock.t)
        assert r
        assert (r.value, r.known_at) == (expected, known)
        clock.t += 400
    assert s.at(T).value == 1  # type: ignore[union-attr]
    assert s.between(T - 310, T).values.tolist() == [9, 4]


def test_freshness_counts_the_poll_and_staleness_does_not() -> None:
    s = live(Script(news((T, 1.0))), period_s=60.0, poll_s=20.0, publication_delay_s=5.0, stale_periods=2.0)
    s.step(T)
    r = s.at(T)
    assert r
    assert (r.valid_until, r.fresh_until, r.stale_at) == (T + 60, T + 85, T + 125)
    short = live(Script(news((T, 1.0))), period_s=60.0, poll_s=600.0, stale_periods=1.0)
    short.step(T)
    assert short.at(T).fresh_until == short.at(T).stale_at == T + 60  # type: ignore[union-attr]
    forever = live(Script(news((T, 1.0))), period_s=0.0)
    forever.step(T)
    assert forever.at(T + 1e6).is_fresh(T + 1e6)  # type: ignore[union-attr]


def test_a_source_whose_clock_runs_a_little_ahead_is_used_when_nothing_fresher_is_known() -> None:
    s = live(Script(news((T + 250, 7.0))))
    s.step(T)
    assert value(s, T) == 7
    assert s.status().warnings == ()


def test_what_an_answer_further_ahead_says_is_used_neither_now_nor_when_its_time_comes() -> None:
    clock = Clock()
    source = Script(news((T - 300, 5.0), (T + 36000, 7.0)))
    s = live(source, clock)
    said = ask(s, T)
    assert "script:R: its stamps are 10 h 00 min ahead of this machine's clock" in said
    assert "looks like local time (UTC+10) given as UTC" in said
    assert "check this machine's clock" in said
    assert all(s.at(t) is None for t in (T, T + 36000, T + 36100))
    assert s.status().dropped == 2
    assert s.status().last_success is None
    source.old = news((T - 600, 1.0))
    assert not s.load_past(T, 3600)  # a source with wrong stamps has a wrong past
    assert s.at(T) is None


def test_a_present_that_is_fresh_comes_before_what_is_ahead() -> None:
    s = live(Script(news((T - 10, 1.0), (T + 290, 2.0))))
    s.step(T)
    assert [value(s, t) for t in (T, T + 289, T + 290)] == [1, 1, 2]


def test_forecasts_are_those_known_then_and_cover_the_horizon() -> None:
    clock = Clock()
    first = News([Point(T, 1.0)], ForecastPoints((Point(T, 1.0), Point(T + 300, 2.0), Point(T + 600, 3.0)), T + 900))
    second = News([Point(T + 300, 1.0)], ForecastPoints((Point(T + 300, 8.0), Point(T + 600, 9.0)), T + 900))
    s = live(Script(first, second), clock)
    s.step(T)
    f = s.forecast(T + 100, 400)
    assert f
    assert (f.made_at, f.times.tolist(), f.values.tolist(), f.ends_at) == (T, [T, T + 300], [1, 2], T + 500)
    assert s.forecast(T - 1, 400) is None
    assert s.forecast(T + 900, 400) is None
    clock.t = T + 310
    s.step(clock.t)
    assert s.forecast(T + 310, 1e9).values.tolist() == [8, 9]  # type: ignore[union-attr]
    assert s.forecast(T + 305, 1e9).values.tolist() == [2, 3]  # type: ignore[union-attr]
    assert live(Script(first), forecast="none").forecast(T, 1e9) is None


def test_intervals_agree_with_asking_instant_by_instant() -> None:
    rng = random.Random(7)
    for _ in range(60):
        rows = [(float(rng.randrange(40)), float(rng.randrange(9)), float(rng.randrange(60))) for _ in range(rng.randrange(12))]
        series = ReadingSeries()
        for t, v, known in sorted(rows, key=lambda r: r[2]):
            series = series.with_readings([Reading(v, "W", t, known, t + 5, t + 8, "s", t + 5)])

        def heard(t: float, by: float, rows: list[tuple[float, float, float]] = rows) -> float:
            known = sorted((r for r in rows if r[0] <= t and r[2] <= by), key=lambda r: (r[0], r[2]))
            return known[-1][1] if known and t < known[-1][0] + 8 else math.nan

        by = float(rng.randrange(70))
        t0, t1 = sorted((float(rng.randrange(-3, 60)), float(rng.randrange(-3, 60))))
        for known_by in (None, by):
            c = series.between(t0, t1, known_by)
            if t1 > t0:
                assert (c.starts[0], c.ends[-1]) == (t0, t1)
                assert (c.starts[1:] == c.ends[:-1]).all()
            for a, b, v in zip(c.starts, c.ends, c.values, strict=True):
                for t in (a, (a + b) / 2):
                    np.testing.assert_equal(v, heard(t, math.inf if known_by is None else by))
        now = series.at(by)
        last = sorted((r for r in rows if r[0] <= by and r[2] <= by), key=lambda r: (r[0], r[2]))
        assert (now and now.value) == (last[-1][1] if last else None)


def test_what_is_very_old_is_forgotten() -> None:
    def reading(t: float) -> Reading:
        return Reading(1.0, "W", t, t, t + 600, t + 900, "s", t + 300)

    series = ReadingSeries().with_readings([reading(T)]).with_readings([reading(T + KEEP_S + 1)])
    assert series.starts_at() == T + KEEP_S + 1


# -- asking


def test_failures_are_tried_again_later_and_later_and_change_nothing_else() -> None:
    clock = Clock()
    s = live(Script(news((T, 5.0)), TryLater("down")), clock)
    s.step(T)
    gaps = []
    for _ in range(12):
        clock.t = s.step(clock.t) if s.status().last_error is None else s.due()
        s.step(clock.t)
        gaps.append(s.due() - clock.t)
    assert gaps[0] <= 15
    assert max(gaps) <= 900
    assert gaps[-1] >= 450
    status = s.status()
    assert status.last_error == "down"
    assert status.last_success == T
    assert status.requests == 13
    assert value(s, clock.t) == 5
    assert s.at(clock.t).is_stale(clock.t)  # type: ignore[union-attr]


def test_success_clears_the_error_and_asks_again_after_a_poll() -> None:
    clock = Clock()
    s = live(Script(TryLater("down"), news((T, 5.0))), clock)
    s.step(T)
    assert s.status().last_error == "down"
    clock.t = s.due()
    s.step(clock.t)
    assert s.status().last_error is None
    assert 285 <= s.due() - clock.t <= 300


def test_a_question_before_its_time_is_not_asked() -> None:
    source = Script(news((T, 5.0)))
    s = live(source)
    s.refresh(T)
    s.refresh(T + 10)
    s.step(T + 200)
    assert source.requests == 1


def test_the_past_does_not_touch_what_asking_says() -> None:
    source = Script(news((T, 5.0)))
    s = live(source)
    s.step(T)
    source.old = TryLater("no past today")
    s.load_past(T, 3600)
    assert s.status().last_error is None
    assert "its past is not known: no past today" in s.status().warnings[0]
    source.old = news((T - 600, 1.0), (T - 300, 2.0))
    s.load_past(T, 3600)
    assert s.history(T, 3600).values.tolist() == [1, 2]


def test_faults_never_block_the_poller(asking: Asking) -> None:
    with JsonServer({"v": 1.0}) as server:
        s = asking.signal("http", type="price", url=server.url, value_path="v")
        server.faults.append(Fault(429, headers={"Retry-After": "5000"}))
        assert "asks for fewer requests" in ask(s, T)
        assert asking.clock.paused == []
        assert s.due() == T + 3600
        assert ask(s, asking.later(3599)) != ""
        assert len(server.asked) == 1
        assert ask(s, asking.later(1)) == ""
