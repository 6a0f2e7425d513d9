"""Printing, the same way in every verb."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from windfall import clock
from windfall.errors import StoreError
from windfall.store.files import to_json
from windfall.view.text import CONTROLS, printable

#: Where progress cannot be written over, so long between two lines of it.
_QUIET_S = 15.0


def print_json(value: Any, *, line: bool = False) -> None:
    """One JSON object, strict (NaN and infinities become null)."""
    whole = str(getattr(sys.stdout, "encoding", None) or "").lower().startswith("utf")
    text = to_json(value, indent=None if line else 2, ensure_ascii=not whole)
    print(CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", text))


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


def require_writable(*, files: Sequence[Path | None] = (), folders: Sequence[Path | None] = ()) -> None:
    """Try whether these can be written, before long work is done for them. It leaves nothing behind.

    Raises:
        StoreError: one cannot be written.
    """
    for path, wanted in [*((p, "a file") for p in files if p is not None), *((p, "a folder") for p in folders if p is not None)]:
        try:
            if path.exists() and path.is_dir() != (wanted == "a folder"):
                raise StoreError(
                    f"{path}: cannot be written: it is {'a folder' if path.is_dir() else 'a file'}, and {wanted} is wanted"
                )
            if path.is_fifo():  # a try would be the end of it for whoever reads it
                continue
            there = path if wanted == "a folder" else path.parent
            while not there.exists():
                there = there.parent
            with tempfile.TemporaryFile(dir=there):
                pass
        except OSError as e:
            raise StoreError(f"{path}: cannot be written: {e.strerror}; name another place or give write access") from None


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
        elif (text := printable(text)) != self._shown:
            self._draw(f"\r{text:<{len(self._shown)}}")
            self._shown = text

    def end(self) -> None:
        """Clear the line."""
        if self._shown:
            self._draw(f"\r{'':<{len(self._shown)}}\r")
            self._shown = ""

    def _draw(self, text: str) -> None:
        from windfall.ui.terminal.console import drawing  # rich takes a while to import

        print(text, end="", file=drawing(sys.stderr), flush=True)
