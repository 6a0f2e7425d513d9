"""Keys that are pressed while a picture is shown, without Enter."""

from __future__ import annotations

import os
import select
import sys
import termios
import tty
from types import TracebackType
from typing import Any

from windfall import clock


class Keys:
    """Listens at standard input while the block lasts, if that is a terminal and this program is in front of it."""

    def __init__(self) -> None:
        self._fd = -1
        self._before: list[Any] = []

    def __enter__(self) -> Keys:
        try:
            fd = sys.stdin.fileno()
            # A program in the background that changes its terminal is stopped for it.
            if os.tcgetpgrp(fd) == os.getpgrp():
                self._before = termios.tcgetattr(fd)
                tty.setcbreak(fd)
                self._fd = fd
        except (OSError, ValueError, AttributeError, termios.error):  # no terminal, closed, or none at all
            self._fd = -1
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._fd >= 0:
            termios.tcsetattr(self._fd, termios.TCSADRAIN, self._before)
            self._fd = -1

    def pressed(self, wait_s: float) -> str:
        """What is pressed within so long (wall time); "" where nothing is."""
        if self._fd < 0:
            clock.pause(wait_s)
            return ""
        if not select.select([self._fd], [], [], wait_s)[0]:
            return ""
        found = os.read(self._fd, 64)
        if not found:  # the terminal has gone
            self._fd = -1
        return found.decode(errors="replace")
