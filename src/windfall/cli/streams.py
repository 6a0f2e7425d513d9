"""Standard output and error for a verb, made safe for any encoding, a full disk, a reader that has gone and a closed terminal.

Whatever is printed may come from a file that somebody else wrote: no control character of a text reaches the terminal. What draws
there (`ui.terminal`) writes to ``drawn``, and makes the texts in its pictures harmless itself.
"""

from __future__ import annotations

import codecs
import contextlib
import errno
import os
import sys
from collections.abc import Callable
from typing import Any

from windfall.view.text import printable

#: Replacements for characters that an encoding lacks. Others are written as an escape (`\\u2581`).
_PLAIN = {
    "–": "-", "—": "-", "−": "-", "…": "...", "→": "->", "←": "<-", "×": "x", "·": ".", "•": "*", "₂": "2", "²": "2", "±": "+-",
    "≤": "<=", "≥": ">=", "≈": "~", "‘": "'", "’": "'", "“": '"', "”": '"', "\u00a0": " ", "\u202f": " ",
}  # fmt: skip
_HANDLER = "windfall"
#: The reader has gone, the terminal is closed: nobody is left to miss what is not written.
_NOBODY = {errno.EPIPE, errno.EIO, errno.ENXIO, errno.ECONNRESET, errno.EBADF}


class Unwritable(Exception):
    """Standard output cannot be written; ``error`` says why."""

    def __init__(self, error: OSError) -> None:
        super().__init__(error.strerror or str(error))
        self.error = error

    @property
    def nobody_reads(self) -> bool:
        """Whether that is because its reader has gone."""
        return self.error.errno in _NOBODY


class GuardedStream:
    """Takes the place of ``sys.stdout`` or ``sys.stderr``.

    What cannot be written raises Unwritable, or is dropped if ``patient``.
    """

    def __init__(self, stream: Any, *, patient: bool) -> None:
        self._stream = stream
        self.patient = patient
        #: Why nothing is written any more.
        self.lost: OSError | None = None
        with contextlib.suppress(AttributeError, ValueError, OSError):
            stream.reconfigure(errors=_HANDLER)

    def write(self, text: str) -> int:
        self._try(lambda: self._stream.write(printable(text)))
        return len(text)

    @property
    def drawn(self) -> DrawnStream:
        """The same stream, which lets control characters through."""
        return DrawnStream(self)

    def draw(self, text: str) -> None:
        """Write what a terminal is to obey."""
        self._try(lambda: self._stream.write(text))

    def flush(self) -> None:
        self._try(self._stream.flush)

    def _try(self, what: Callable[[], object]) -> None:
        if self.lost is None:
            try:
                what()
            except OSError as e:
                self._lose(e)
            except ValueError as e:  # it has been closed
                self._lose(OSError(errno.EBADF, str(e)))
        # It is raised each time, because libraries that probe a stream ignore the first error.
        if self.lost is not None and not self.patient:
            raise Unwritable(self.lost)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def _lose(self, error: OSError) -> None:
        self.lost = error
        # What is still buffered would fail again at exit, where nothing can catch the error.
        with contextlib.suppress(OSError, ValueError):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self._stream.fileno())
            os.close(null)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class DrawnStream:
    """A guarded stream for what moves the cursor and has colours."""

    def __init__(self, guarded: GuardedStream) -> None:
        self._guarded = guarded

    def write(self, text: str) -> int:
        self._guarded.draw(text)
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._guarded, name)


def take_over() -> tuple[GuardedStream, GuardedStream]:
    """Put streams in the place of ``sys.stdout`` and ``sys.stderr``: (output, error). An error message is never waited for."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # started with it closed
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - for as long as the process lives
    out, err = GuardedStream(sys.stdout, patient=False), GuardedStream(sys.stderr, patient=True)
    sys.stdout, sys.stderr = out, err
    return out, err


def be_patient() -> None:
    """From now on what standard output cannot take is let go of: the verb's work is more than what it shows."""
    if isinstance(sys.stdout, GuardedStream):
        sys.stdout.patient = True


def be_strict() -> None:
    """What is written from now on is the result, and must be written."""
    if isinstance(sys.stdout, GuardedStream):
        sys.stdout.patient = False
        if sys.stdout.lost is not None:
            raise Unwritable(sys.stdout.lost)


def _plainly(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    found = []
    for c in error.object[error.start : error.end]:
        code = ord(c)
        found.append(_PLAIN.get(c) or (f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"))
    text = "".join(found)
    try:
        text.encode(error.encoding)
    except (UnicodeError, LookupError):
        text = "?" * (error.end - error.start)
    return text, error.end


codecs.register_error(_HANDLER, _plainly)
