"""How far something is: lines in a pipe, a bar on a terminal that leaves nothing behind, silence where it is wanted."""

from __future__ import annotations

import io
import threading

import pytest

from patience import PATIENCE_S
from windfall import clock
from windfall.ui.terminal.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Time:
    """A clock that moves when told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(clock, "monotonic", lambda: self.now)


def test_in_a_pipe_there_is_a_line_every_two_seconds_with_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    time, stream = Time(monkeypatch), io.StringIO()
    with Progress("sweep", thread=False, stream=stream) as progress:
        spoken = []
        for i in range(101):
            time.now = 1000.0 + i / 10
            before = len(stream.getvalue())
            progress.done(i / 200, f"{i} of 200 simulations")
            if len(stream.getvalue()) > before:
                spoken.append(i / 10)
    assert all(b - a <= 2.0 for a, b in zip([0.0, *spoken], [*spoken, 10.0], strict=True)), spoken
    assert 5 <= len(spoken) <= 8
    lines = stream.getvalue().splitlines()
    assert lines[0] == "windfall: sweep: 5 of 200 simulations, 2 %, 0 s"
    assert lines[1] == "windfall: sweep: 20 of 200 simulations, 10 %, 2 s, about 18 s left"
    assert all(line.startswith("windfall: sweep: ") for line in lines)


def test_what_is_over_at_once_is_not_worth_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    Time(monkeypatch)
    stream = io.StringIO()
    with Progress("plan", thread=False, stream=stream) as progress:
        progress.done(0.5, "half")
    assert stream.getvalue() == ""


def test_without_a_fraction_only_the_time_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    time, stream = Time(monkeypatch), io.StringIO()
    with Progress("signals", thread=False, stream=stream) as progress:
        time.now += 3
        progress.done(-1.0, "asking the sources")
    assert stream.getvalue() == "windfall: signals: asking the sources, 3 s\n"


def test_a_silent_one_says_nothing_and_has_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    time, stream, before = Time(monkeypatch), io.StringIO(), set(threading.enumerate())
    with Progress("run", silent=True, stream=stream) as progress:
        assert not set(threading.enumerate()) - before
        time.now += 100
        progress.done(0.5)
    assert stream.getvalue() == ""


def test_on_a_terminal_it_is_a_bar_and_nothing_of_it_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    time, stream = Time(monkeypatch), Terminal()

    def work() -> str:
        with Progress("backtest", thread=False, stream=stream) as progress:
            for _ in range(3):
                time.now += 2
                progress.done(0.25, "oracle")
            progress.say("a word that stays")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work()
    drawn = stream.getvalue()
    assert "backtest: oracle" in drawn
    assert "25 %, 6 s, about 18 s left" in drawn
    after = stream.getvalue()
    assert after.rindex("\x1b[2K") > after.rindex("backtest: oracle")  # the bar's line is erased ...
    assert after.rindex("\x1b[?25h") > after.rindex("\x1b[?25l")  # ... and the cursor is back
    assert "a word that stays\n" in after


def test_a_thread_tells_that_time_passes_while_nobody_calls() -> None:
    spoken = threading.Event()

    class Heard(io.StringIO):
        def write(self, text: str) -> int:
            spoken.set()
            return super().write(text)

    stream = Heard()
    with Progress("backtest", stream=stream):
        assert spoken.wait(PATIENCE_S)
    assert stream.getvalue().startswith("windfall: backtest: ")
