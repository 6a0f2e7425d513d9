"""Printing, the same way in every verb."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from windfall import clock
from windfall.store.files import to_json

#: Where progress cannot be written over, so long between two lines of it.
_QUIET_S = 15.0


def print_json(value: Any, *, line: bool = False) -> None:
    """One JSON object, strict (NaN and infinities become null)."""
    whole = str(getattr(sys.stdout, "encoding", None) or "").lower().startswith("utf")
    print(to_json(value, indent=None if line else 2, ensure_ascii=not whole))


def print_line(value: Any) -> None:
    """One JSON object on a line that is on its way at once."""
    print_json(value, line=True)
    sys.stdout.flush()


def typed() -> list[str]:
    """The command line: the program's name without its folder, and the arguments."""
    return [Path(sys.argv[0]).name.replace("__main__.py", "windfall"), *sys.argv[1:]]


def say(text: str) -> None:
    """A word to the user that is not the result: to standard error."""
    print(f"windfall: {text}", file=sys.stderr, flush=True)


class Line:
    """Progress on standard error: on a terminal a line that is written over, elsewhere (a log) a line now and then."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._shown = ""
        self._said_at = clock.monotonic()

    def show(self, text: str) -> None:
        """Write ``text`` over what stood there."""
        if not self._terminal:
            if clock.monotonic() - self._said_at >= _QUIET_S:
                self._said_at = clock.monotonic()
                say(text)
        elif text != self._shown:
            print(f"\r{text:<{len(self._shown)}}", end="", file=sys.stderr, flush=True)
            self._shown = text

    def end(self) -> None:
        """Clear the line."""
        if self._shown:
            print(f"\r{'':<{len(self._shown)}}\r", end="", file=sys.stderr, flush=True)
            self._shown = ""
