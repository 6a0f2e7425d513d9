"""The local driver's refusals: what a person must change, and what passes by itself."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from windfall.errors import Permanent, Transient
from windfall.fleet.drivers import local
from windfall.fleet.drivers.local import LocalDriver
from windfall.fleet.machine import Observed
from windfall.processes import MARK
from windfall.wire.bulk import TOKEN_NAME


def test_a_program_that_is_not_there_is_named_and_is_for_a_person_to_change(tmp_path: Path) -> None:
    driver = LocalDriver(tmp_path / "sites", "r", lambda site: {}, agent=[str(tmp_path / "nowhere")])
    with pytest.raises(Permanent, match=r"a: cannot be started: No such file or directory \(.*nowhere\)"):
        driver.ensure_up("a", 1)
    assert driver.observe(["a"])["a"].state is Observed.ABSENT
    driver.ensure_down("a", 1.0, "it was never there")


def test_a_machine_that_is_out_of_room_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(local, "spawn", full)
    with pytest.raises(Transient, match="temporarily unavailable"):
        LocalDriver(tmp_path / "sites", "r", lambda site: {}).ensure_up("a", 1)


def test_each_life_of_a_site_is_handed_a_secret_of_its_own_that_only_its_user_may_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Ended:
        pid = 2**22 + 1

        def poll(self) -> int:
            return 0

    seen: list[tuple[str, int]] = []

    def spawn(command: list[str], *, log: Path, env: dict[str, str]) -> Ended:
        token = Path(command[-1]) / TOKEN_NAME
        seen.append((token.read_text(), token.stat().st_mode & 0o777))
        assert token.read_text() not in " ".join([*command, *env.values(), (Path(command[-1]) / "site.json").read_text()])
        return Ended()

    monkeypatch.setattr(local, "spawn", spawn)
    driver = LocalDriver(tmp_path / "sites", "r", lambda site: {}, token_for=lambda site, generation: f"secret-{site}-{generation}")
    driver.ensure_up("a", 1)
    driver.ensure_up("a", 2)
    assert seen == [("secret-a-1", 0o600), ("secret-a-2", 0o600)]


class Makes:
    """A nursery that says that it has made this very process."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.waited_s: list[float] = []
        self.closed = False

    def start(self, folder: Path, env: dict[str, str], log: Path) -> int:
        self.asked.append(env[MARK].split()[1])
        return os.getpid()

    def ready(self, within_s: float = 0.0) -> bool:
        self.waited_s.append(within_s)
        return True

    def close(self) -> None:
        self.closed = True


def test_sites_on_processors_come_from_the_nursery_and_those_on_gpus_are_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: Any = Makes()
    monkeypatch.setattr(local, "spawn", lambda *_, **__: subprocess.Popen([sys.executable, "-c", ""]))
    driver = LocalDriver(tmp_path / "sites", "r", lambda s: {"trainer": {"device": "cuda" if s == "g" else "cpu"}}, nursery=made)
    driver.prepare(2.5)
    driver.ensure_up("a", 1)
    driver.ensure_up("g", 1)
    assert made.asked == ["a"]
    assert driver.observe(["a"])["a"].state is Observed.UP
    child = driver._agents["g"].child
    assert child is not None
    child.wait()
    driver.close()
    assert (made.waited_s, made.closed) == ([2.5], True)
