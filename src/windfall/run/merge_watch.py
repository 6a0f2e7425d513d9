"""Finds a merge that hangs: the loop goes on beside it, so nobody else would find out."""

from __future__ import annotations

#: Bytes of a model that a merge gets through in a second, on the slowest disk that anybody should use.
_BYTES_PER_S = 5e6


class MergeWatch:
    """How long the merge that is under way has taken."""

    def __init__(self, patience_s: float) -> None:
        """``patience_s``: what any merge may take, besides what its bytes need."""
        self._patience_s = patience_s
        self._since: float | None = None
        self._on = -1
        self._may_take_s = 0.0

    def look(self, now: float, on: tuple[int, int] | None) -> str:
        """Why the merge has to be given up, or an empty string. Call it often.

        ``now``: monotonic wall time. ``on``: the version that is merged on, and the bytes of its file; None while nothing is
        merged.
        """
        if on is None:
            self._since = None
        elif self._since is None or on[0] != self._on:
            self._since, self._on = now, on[0]
            self._may_take_s = self._patience_s + on[1] / _BYTES_PER_S
        elif (for_s := now - self._since) > self._may_take_s:
            return f"a merge has taken {for_s:.0f} s and is not done; the next coordinator does it again"
        return ""
