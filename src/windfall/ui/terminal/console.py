"""Where tables go: to a terminal as wide as it is, or to a pipe or file, which has no width and loses no column."""

from __future__ import annotations

import sys

from rich.console import Console

#: Wider than any table: nothing is wrapped, cut or left out.
_ENDLESS = 100_000


def output() -> Console:
    """The console of standard output."""
    return Console() if sys.stdout.isatty() else Console(width=_ENDLESS)
