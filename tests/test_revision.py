"""Which Windfall this is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from windfall.revision import Revision, revision


@pytest.fixture(autouse=True)
def _asked_anew() -> Iterator[None]:
    revision.cache_clear()
    yield
    revision.cache_clear()


def test_git_is_told_no_credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    git, seen = tmp_path / "git", tmp_path / "seen"
    git.write_text(f"#!/bin/sh\nenv >> {seen}\necho 1a2b3c4d5e6f7890\n")
    git.chmod(0o700)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setenv("WATTTIME_PASSWORD", "hunter2hunter2")
    monkeypatch.setenv("GIT_DIR", "/elsewhere")
    assert revision().commit == "1a2b3c4d5e6f7890"
    told = seen.read_text()
    assert "hunter2" not in told
    assert "GIT_DIR" not in told


def test_a_revision_in_words() -> None:
    assert str(Revision("0.1.0")) == "0.1.0"
    assert str(Revision("0.1.0", "1a2b3c4d5e6f7890")) == "0.1.0 (commit 1a2b3c4d5e6f)"
    assert str(Revision("0.1.0", "1a2b3c4d5e6f7890", changed=True)) == "0.1.0 (commit 1a2b3c4d5e6f, with changes)"
