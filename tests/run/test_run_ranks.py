"""A real run whose site has two ranks: one dies and the site comes back; then their number changes between two lives."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from run.real import Living, assert_whole, events, processes, versions, wait_for, windfall, write_config


def rank_processes(folder: Path) -> list[int]:
    return [int(line.split()[0]) for line in processes(folder) if "windfall.site.rank_process" in line]


@pytest.mark.slow
def test_a_site_of_two_ranks_loses_one_comes_back_and_goes_on_with_one(tmp_path: Path) -> None:
    run = tmp_path / "run"
    # Some five steps a second, so that it is not done before the rank has died and the site is back.
    config = write_config(tmp_path, {"a": [(0, 600)]}, budget=128 * 150, speed=150, solo_cut_s=600)
    text = config.read_text(encoding="utf-8")
    config.write_text(text.replace("spin_up_s = 120", "spin_up_s = 120\nranks = 2"), encoding="utf-8")
    with Living(config, run) as living:
        wait_for("a version by two ranks", lambda: versions(run) >= 1)
        (rank,) = rank_processes(run)
        os.kill(rank, signal.SIGKILL)
        before = versions(run)

        def back() -> bool:
            return versions(run) > before and rank_processes(run) not in ([], [rank])

        wait_for("the site to come back with two ranks", lambda: back() or living.over())
        living.send(signal.SIGINT)
        assert living.end() == 130
    failed = [e for e in events(run, "state") if e["detail"]["now"] == "failed"]
    assert len(failed) == 1
    config.write_text(text, encoding="utf-8")  # one rank from here on
    again = windfall("run", config, "--run-dir", run, "--quiet", "--speed", 100_000)
    assert again.returncode == 0, again.stderr
    assert_whole(run)
