"""Threads that keep live signals fresh: none waits for another, and all end."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from asking import TABLE, Script, T, live, news, value
from servers import JsonServer

from patience import PATIENCE_S
from windfall.config.load import load
from windfall.config.signals import SignalTable
from windfall.errors import SignalError, Unauthorized
from windfall.grid.build import build_grid
from windfall.grid.http import TryLater
from windfall.grid.live import LiveSignal
from windfall.grid.poller import Poller
from windfall.grid.source import News


class Gate(Script):
    """Tells when it is asked, and answers when let."""

    def __init__(self, *steps: News | Exception, open_: bool = True) -> None:
        super().__init__(*steps)
        self.asked, self.let = threading.Event(), threading.Event()
        if open_:
            self.let.set()

    def fetch(self, now: float) -> News:
        self.asked.set()
        assert self.let.wait(PATIENCE_S)
        return super().fetch(now)


def test_a_slow_source_delays_no_other_and_threads_end_on_close() -> None:
    slow, quick = Gate(TryLater("down"), open_=False), Gate(news((T, 5.0)))
    signals = [live(slow), live(quick)]
    before = set(threading.enumerate())
    poller = Poller([*signals, signals[0]], now=lambda: T)
    poller.start()
    assert slow.asked.wait(PATIENCE_S)
    assert quick.asked.wait(PATIENCE_S)
    assert poller.alive() == 2
    slow.let.set()
    poller.close()
    assert poller.alive() == 0
    assert not set(threading.enumerate()) - before
    assert value(signals[1], T) == 5
    assert signals[0].at(T) is None
    assert (slow.closed, quick.closed) == (1, 1)


def test_a_poller_asks_for_the_past_once() -> None:
    source = Gate(news((T, 5.0)))
    source.old = news((T - 600, 1.0))
    loaded = threading.Event()

    class Told(LiveSignal):
        def load_past(self, now: float, span_s: float) -> None:
            super().load_past(now, span_s)
            loaded.set()

    s = Told(SignalTable.model_validate(TABLE), source, now=lambda: T)
    poller = Poller([s], past_s=3600.0, now=lambda: T)
    poller.start()
    assert loaded.wait(PATIENCE_S)
    poller.close()
    assert s.history(T, 3600).values.tolist() == [1]
    assert source.requests == 1


def test_an_error_of_ours_is_on_record_and_ends_its_thread_only(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = threading.Event()
    monkeypatch.setattr(threading, "excepthook", lambda args: ended.set())
    bad, good = live(Script(ZeroDivisionError("bug"))), live(Script(news((T, 5.0))))
    poller = Poller([bad, good], now=lambda: T)
    poller.start()
    assert ended.wait(PATIENCE_S)
    assert "its poller has ended" in (bad.status().last_error or "")
    assert bad.at(T) is None
    poller.close()
    assert poller.alive() == 0


def test_a_poller_that_never_started_can_be_closed() -> None:
    Poller([live(Script(TryLater("x")))]).close()


CONFIG = """
[run]
budget_tokens = 1000000
[policy]
name = "threshold"
[[site]]
name = "a"
region = "DE"
spin_up_s = 100
train_power_w = 1000
idle_power_w = 100
tokens_per_s = 1000
signal = {{ kind = "http", url = "{url}", value_path = "v" }}
[[site]]
name = "b"
region = "DE"
spin_up_s = 100
train_power_w = 1000
idle_power_w = 100
tokens_per_s = 1000
signal = {{ kind = "http", url = "{url}", value_path = "v" }}
[[counterfactual]]
region = "X"
signal = {{ kind = "trace", path = "bundled:paper_day", column = "moer_g_per_kwh" }}
"""


def test_a_grid_polls_its_live_signals_each_once(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    with JsonServer({"v": 42.0}) as server:
        file = tmp_path / "w.toml"
        text = CONFIG.format(url=server.url)
        file.write_text(text[: text.index("[[counterfactual]]")])
        grid = build_grid(load(file))
        (signal,) = grid.live()
        assert grid.signals["a"]["marginal_co2"] is grid.signals["b"]["marginal_co2"] is signal
        heard = threading.Event()
        signal._take = lambda *a, _old=signal._take, **k: (_old(*a, **k), heard.set())  # type: ignore[assignment, misc]
        grid.start()
        grid.start()
        assert heard.wait(PATIENCE_S)
        grid.close()
        grid.close()
        assert len(server.asked) == 1
    assert [t.name for t in set(threading.enumerate()) - before if t.name.startswith("signal ")] == []


def test_a_grid_without_credentials_warns_when_built_and_does_not_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WATTTIME_PASSWORD", raising=False)
    monkeypatch.setenv("WATTTIME_USERNAME", "me")
    file = tmp_path / "w.toml"
    text = CONFIG.format(url="http://x")
    text = text[: text.index("[[counterfactual]]")].replace(
        '{ kind = "http", url = "http://x", value_path = "v" }', '{ kind = "watttime" }'
    )
    file.write_text(text)
    grid = build_grid(load(file))
    assert ["WATTTIME_PASSWORD not set" in w for w in grid.warnings] == [True]
    with pytest.raises(Unauthorized, match="WATTTIME_PASSWORD not set"):
        grid.start()
    with pytest.raises(SignalError, match="live"):
        grid.starts_at()
    grid.close()
