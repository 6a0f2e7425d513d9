"""Ranks besides the first, as processes: what goes wrong at one of them is told by its leader, at once and in its own words."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path

import pytest
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from patience import PATIENCE_S
from windfall import clock
from windfall.errors import RankError
from windfall.site.followers import Command, Followers, key
from windfall.train.prepare import prepare
from windfall.train.spec import TrainerSpec


@pytest.fixture
def store() -> TCPStore:
    return TCPStore("127.0.0.1", 0, 3, is_master=True, timeout=timedelta(seconds=PATIENCE_S), wait_for_workers=False)


def says(program: str) -> Command:
    """Followers that are this program: STORE and RANK are given."""
    before = (
        "from torch.distributed import TCPStore\nfrom datetime import timedelta\nimport sys\n"
        "RANK = int(sys.argv[1])\n"
        f"STORE = TCPStore('127.0.0.1', int(sys.argv[2]), 3, is_master=False, timeout=timedelta(seconds={PATIENCE_S}))\n"
    )
    return lambda rank, port: [sys.executable, "-c", before + program, str(rank), str(port)]


def test_a_rank_that_ends_before_it_is_up_is_an_error_at_once(tmp_path: Path, store: TCPStore) -> None:
    others = Followers(tmp_path, 3, store, lambda rank, port: [sys.executable, "-c", f"raise SystemExit({rank} == 2 and 7)"])
    with pytest.raises(RankError, match=r"rank [12] has ended with exit code [07]; see .*rank-[12]\.log"):
        others.wait_for("up")


@pytest.mark.slow
def test_a_rank_that_fails_while_it_builds_is_told_in_its_own_words(tmp_path: Path, store: TCPStore) -> None:
    others = Followers(
        tmp_path, 3, store,
        says(
            "STORE.set(f'up-{RANK}', '')\n"
            "if RANK == 1: STORE.set('failed-1', 'the model does not fit: 3 GB')\n"
            "STORE.wait(['never'])"
        ),
    )  # fmt: skip
    with pytest.raises(RankError, match=r"^rank 1: the model does not fit: 3 GB$"):
        others.wait_for("built")
    others.end()


@pytest.mark.slow
def test_ranks_that_come_up_are_waited_for_and_none_is_lost(tmp_path: Path, store: TCPStore) -> None:
    others = Followers(tmp_path, 3, store, says("STORE.set(f'up-{RANK}', '')\nSTORE.wait(['go'])"))
    others.wait_for("up")
    assert others.lost() == ""
    store.set("go", "")
    assert "has ended with exit code 0" in others.lost(within_s=PATIENCE_S)
    others.end()


@pytest.mark.slow
def test_of_ranks_that_fail_together_the_one_that_was_first_is_named(tmp_path: Path, store: TCPStore) -> None:
    others = Followers(
        tmp_path, 3, store,
        says(
            "import os, signal\n"
            "if RANK == 1: STORE.set('failed-1', 'RuntimeError: [gloo] Connection closed by peer')\n"
            "else: STORE.wait(['failed-1']); os.kill(os.getpid(), signal.SIGKILL)"
        ),
    )  # fmt: skip
    assert others.lost(within_s=PATIENCE_S).startswith("rank 2 was ended by SIGKILL; see ")
    others.end()


@pytest.mark.slow
def test_a_real_follower_says_what_is_wrong_with_its_data(tmp_path: Path) -> None:
    for i in range(20):
        (tmp_path / f"{i}.txt").write_text(f"{i} " + "wind and sun " * 60)
    prepare(tmp_path, tmp_path / "data", sequence_length=64, held_out_fraction=0.1)
    spec = TrainerSpec(
        data_dir=str(tmp_path / "data"), depth=2, width=64, head_dim=32, sequence_length=32, seed=3, batch_sequences=6,
        block_sequences=2, budget_tokens=64 * 6 * 40, optimizer="normuon", lr_scale=0.5, warmdown_fraction=0.4, lr_floor=0.0,
        reset_warmup_fraction=0.05, precision="fp32", eval_sequences=4,
    )  # fmt: skip
    (tmp_path / "site.json").write_text(json.dumps({
        "site": "a", "run_id": "r", "generation": 1, "ranks": 1, "threads": 1, "step_timeout_s": 20,
        "trainer": asdict(spec),
    }))  # fmt: skip
    store = TCPStore("127.0.0.1", 0, 1, is_master=True, timeout=timedelta(seconds=PATIENCE_S), wait_for_workers=False)
    others = Followers(
        tmp_path, 2, store, lambda rank, port: [sys.executable, "-m", "windfall.site.rank_process", str(tmp_path), "0", str(port)]
    )
    deadline = clock.monotonic() + PATIENCE_S
    while not store.check([key("failed", 0)]):
        assert clock.monotonic() < deadline
        clock.pause(0.02)
    assert "sequences of 64 tokens" in store.get(key("failed", 0)).decode()
    assert "has ended with exit code 1" in others.lost(within_s=PATIENCE_S)
