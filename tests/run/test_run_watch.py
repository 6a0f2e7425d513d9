"""What goes wrong with a live source becomes events: once for each reason, and once when it is over."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

from grid.asking import Clock, Script, T, live, news
from windfall.errors import Unauthorized
from windfall.grid.build import Grid
from windfall.grid.http import TryLater
from windfall.grid.source import News, Point
from windfall.run.watch import SignalWatch
from windfall.store.telemetry import Telemetry


def test_each_reason_is_told_once_and_so_is_the_end_of_it(tmp_path: Path) -> None:
    clock = Clock()
    warned = News([Point(T + 900, 5.0)], warnings=["WattTime says: extrapolated"])
    steps = [TryLater("no answer within 10 s"), TryLater("no answer within 20 s"), Unauthorized("HTTP 401"),
             news((T + 600 + 36000, 7.0)), warned, warned]  # fmt: skip
    signal = live(Script(*steps), clock)
    with closing(Telemetry.open(tmp_path / "telemetry.db")) as telemetry:
        watch = SignalWatch(Grid(by_site={"a": signal}), telemetry)
        for i in range(len(steps)):
            clock.t = max(T + 300 * i, signal.due())
            signal.step(clock.t)
            watch.look(clock.t)
        telemetry.flush()
        found = [(kind, json.loads(d)["reason"]) for kind, d in telemetry.rows("SELECT kind, detail FROM events ORDER BY id")]
    assert [k for k, _ in found] == ["signal_lost", "signal_lost", "signal_lost", "warning", "signal_back"]
    assert [r.partition(":")[0] for _, r in found[:2]] == ["no answer within 10 s", "HTTP 401"]
    assert "which looks like local time (UTC+10) given as UTC" in found[2][1]
    assert found[3][1] == "script:R: WattTime says: extrapolated"
