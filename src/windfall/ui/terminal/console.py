"""Where tables and pictures go: to a terminal as wide as it is, or to a pipe or file, which has no width and loses no column.

Texts in them may come from anybody: what a terminal would obey is taken out of them here, and only what draws is left.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import IO, Any, cast

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from windfall.view.text import CONTROLS, printable

#: Wider than any table: nothing is wrapped, cut or left out.
_ENDLESS = 100_000


class SafeConsole(Console):
    """A console that no text can give orders to. ``stream``: default standard output."""

    def __init__(self, stream: IO[str] | None = None, **given: Any) -> None:
        super().__init__(file=drawing(stream if stream is not None else sys.stdout), **given)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """The segments of a renderable, with harmless texts."""
        for s in super().render(renderable, options):
            yield s if s.control or not CONTROLS.search(s.text) else Segment(printable(s.text), s.style)


def drawing(stream: IO[str]) -> IO[str]:
    """A stream for what a terminal is to obey. Standard output and error let no such characters through (`cli.streams`)."""
    return cast(IO[str], getattr(stream, "drawn", stream))


def output() -> Console:
    """The console of standard output."""
    return SafeConsole() if sys.stdout.isatty() else SafeConsole(width=_ENDLESS)
