"""A run's processes count only the time in which they were not stopped."""

from __future__ import annotations

import itertools
import time

import pytest

from windfall import clock


def test_the_clock_leaves_out_what_a_process_was_stopped_for(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    lived = clock._Lived()
    seen = [lived.now()]
    for passed in (0.5, 4.9, 175.0, 0.5, 3600.0, 1.0):
        now[0] += passed
        seen.append(lived.now())
    assert [b - a for a, b in itertools.pairwise(seen)] == pytest.approx([0.5, 4.9, 0.0, 0.5, 0.0, 1.0])
