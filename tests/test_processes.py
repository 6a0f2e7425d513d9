"""Process groups: who lives."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from windfall.processes import group_members, start_time


@pytest.mark.parametrize("state", ["Z", "X", "x"])
def test_who_has_ended_lives_no_more_also_while_somebody_is_told_of_it(monkeypatch: pytest.MonkeyPatch, state: str) -> None:
    read = Path.read_text

    def ended(path: Path, *args: str | None, **more: str | None) -> str:
        text = read(path, *args, **more)
        if path != Path(f"/proc/{os.getpid()}/stat"):
            return text
        before, _, after = text.rpartition(") ")
        return f"{before}) {state}{after[1:]}"

    assert start_time(os.getpid()) is not None
    assert os.getpid() in group_members(os.getpgid(0))
    monkeypatch.setattr(Path, "read_text", ended)
    assert start_time(os.getpid()) is None
    assert os.getpid() not in group_members(os.getpgid(0))
