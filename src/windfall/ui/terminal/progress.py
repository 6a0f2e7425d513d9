"""Shows the progress of what takes a while: on a terminal a bar with the time left, in a pipe or a log a line now and then.

It goes to standard error, so that results stay clean. What is over quickly shows nothing.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, TextIO

from windfall import clock
from windfall.units import duration_text

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import TaskID

#: Called with how far it is (0 to 1; below 0 where nobody knows) and what is done now.
Tell = Callable[[float, str], None]
#: Progress is first shown after so long (s).
_PATIENCE_S = 0.5
_LINE_S = 2.0
#: Between two looks of the thread, and two drawings where there is none.
_LOOK_S = 0.25


class Progress:
    """Use it as a context; call ``done`` as often as wanted.

    A thread of its own shows that time passes while nobody calls. ``thread=False`` does without: for work that forks, which must
    then call ``done`` at least twice a second.
    """

    def __init__(self, title: str, *, thread: bool = True, silent: bool = False, stream: TextIO | None = None) -> None:
        """``silent``: nothing is shown at all."""
        self._title = title
        self._stream = stream if stream is not None else sys.stderr
        self._terminal = self._stream.isatty()
        self._fraction, self._what = -1.0, ""
        self._begun = self._told_at = self._drawn_at = clock.monotonic()
        self._told = False
        self._bar: Bar | None = None
        self._task: TaskID | None = None
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="progress", daemon=True) if thread and not silent else None
        self._silent = silent
        self.open = True

    def __enter__(self) -> Progress:
        if self._thread is not None:
            self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def done(self, fraction: float, what: str = "") -> None:
        """Say how far it is (0 to 1; below 0 if unknown) and what is being done."""
        with self._lock:
            self._fraction, self._what = min(fraction, 1.0), what
            if self._thread is None:
                self._show()

    def close(self) -> None:
        """Nothing is shown any more; a bar is wiped away."""
        self.open = False
        self._over.set()
        if self._thread is not None and self._thread.is_alive():
            self._thread.join()
        with self._lock:
            if self._bar is not None:
                self._bar.stop()
                self._bar = None

    def say(self, text: str) -> None:
        """A line that stays, above the bar."""
        with self._lock:
            self._told_at = clock.monotonic()
            if self._bar is not None:
                self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)
            else:
                print(text, file=self._stream, flush=True)

    def _watch(self) -> None:
        while not self._over.wait(_LOOK_S):
            with self._lock:
                self._show()

    def _show(self) -> None:
        now = clock.monotonic()
        if self._silent or now - self._begun < _PATIENCE_S:
            return
        if self._terminal:
            if now - self._drawn_at >= _LOOK_S / 2:
                self._drawn_at = now
                self._draw(now)
        elif now - self._told_at >= (_LINE_S - 2 * _LOOK_S if self._told else _PATIENCE_S):
            self._told, self._told_at = True, now
            print(f"windfall: {self.text(now)}", file=self._stream, flush=True)

    def text(self, now: float) -> str:
        """``backtest: oracle, 40 %, 12 s, about 20 s left``."""
        return f"{self._title}: {self._what}{', ' if self._what else ''}{self._times(now)}"

    def _times(self, now: float) -> str:
        spent = now - self._begun
        parts = [f"{self._fraction * 100:.0f} %"] if self._fraction >= 0 else []
        parts.append(duration_text(spent))
        if 0.05 <= self._fraction < 1:
            parts.append(f"about {duration_text(spent * (1 / self._fraction - 1))} left")
        return ", ".join(parts)

    def _draw(self, now: float) -> None:
        from rich.progress import BarColumn, SpinnerColumn, TextColumn
        from rich.progress import Progress as Bar

        from windfall.ui.terminal.console import SafeConsole

        if self._bar is None:
            console = SafeConsole(self._stream, force_terminal=True)
            columns = (
                SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn(24), TextColumn("{task.fields[said]}"),
            )  # fmt: skip
            self._bar = Bar(*columns, console=console, auto_refresh=False, transient=True)
            self._bar.start()
            self._task = self._bar.add_task(self._title, total=None, said="")
        assert self._task is not None
        room = max(8, self._bar.console.width - 60)
        label = f"{self._title}: {self._what}" if self._what else self._title
        label = label if len(label) <= room else label[: room - 1] + "…"
        known = self._fraction >= 0
        self._bar.update(
            self._task, description=label, total=1.0 if known else None, completed=max(0.0, self._fraction), said=self._times(now)
        )
        self._bar.refresh()
