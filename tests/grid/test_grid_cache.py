"""The cache on disk: a restart does not ask again what it was just told, and a broken file is none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from asking import Asking, Clock, Script, T, ask, live, news, value
from servers import WattTimeServer


def test_a_restart_within_a_poll_does_not_ask_again(asking: Asking) -> None:
    with WattTimeServer(asking.clock.now) as server:
        first = asking.signal("watttime", "CAISO_NORTH", base_url=server.url)
        ask(first, T)
        asked = len(server.asked)
        asking.later(120)
        again = asking.signal("watttime", "CAISO_NORTH", base_url=server.url)
        again.refresh(asking.clock.t)
        assert again.at(asking.clock.t) == first.at(asking.clock.t)
        assert again.forecast(asking.clock.t, 3600).values.size == 13  # type: ignore[union-attr]
        assert again.status().last_success == T
        assert len(server.asked) == asked
        again.refresh(asking.later(200))
        assert len(server.asked) == asked + 2
        assert again.at(T - 1) is None


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", '{"schema": 1}', '{"schema": 1, "identity": {"kind": "script"}, "fetched_at": "x", "points": []}',
     '{"schema": 1, "identity": {"kind": "script"}, "fetched_at": 1e9, "points": [[1, null, 0, ""]]}',
     '{"schema": 1, "identity": {"kind": "script"}, "fetched_at": 1e9, "points": [[1, NaN, 0, ""]]}',
     '{"schema": 1, "identity": {"kind": "script"}, "fetched_at": 1e9, "points": [[1, -9e9, 0, ""]]}',
     '{"schema": 1, "identity": {"kind": "other"}, "fetched_at": 1e9, "points": [[1, 5, 0, ""]]}',
     '{"schema": 1, "identity": {"kind": "script"}, "fetched_at": 9e9, "points": [[1, 5, 0, ""]]}',
     '{"schema": 1, "identity": {"kind": "script"}, "fetched_at": 1e9, "points": [[1, 5, 0, ""]], "forecast": {"points": 5}}'],
)  # fmt: skip
def test_a_broken_cache_is_as_good_as_none(tmp_path: Path, text: str) -> None:
    first = live(Script(news((T, 5.0))), folder=tmp_path)
    first.step(T)
    (file,) = tmp_path.iterdir()
    assert json.loads(file.read_text())["fetched_at"] == T
    file.write_text(text)
    source = Script(news((T, 6.0)))
    s = live(source, folder=tmp_path)
    assert s.at(T) is None
    s.refresh(T)
    assert value(s, T) == 6
    assert source.requests == 1


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    s = live(Script(news((T, 5.0))), folder=tmp_path / "file" / "below")
    s.step(T)
    assert s.status().last_error is None
    assert value(s, T) == 5


def test_a_calendar_set_back_makes_the_cache_worthless(tmp_path: Path) -> None:
    live(Script(news((T, 5.0))), folder=tmp_path).step(T)
    assert live(Script(news((T, 5.0))), Clock(T - 60), folder=tmp_path).at(T) is None
