"""A site of several ranks for tests: the leader in this process, the others in their own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path

import torch
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from patience import PATIENCE_S
from windfall.train.ranked import RankedTrainer
from windfall.train.ranks import Group
from windfall.train.spec import TrainerSpec
from windfall.train.trainer import LocalTrainer

TESTS = Path(__file__).parents[1]


@contextmanager
def ranked(
    s: TrainerSpec, size: int, folder: Path, timeout_s: float = PATIENCE_S
) -> Iterator[tuple[RankedTrainer, list[subprocess.Popen[bytes]]]]:
    """A leader in this process and followers in their own."""
    (folder / "spec.json").write_text(json.dumps(asdict(s)))
    store = TCPStore("127.0.0.1", 0, size, is_master=True, timeout=timedelta(seconds=PATIENCE_S), wait_for_workers=False)
    children = [
        subprocess.Popen(
            [sys.executable, "-m", "train.ranked_child", str(store.port), str(rank), str(size), str(folder / "spec.json")],
            cwd=TESTS, stderr=subprocess.DEVNULL,
        )
        for rank in range(1, size)
    ]  # fmt: skip
    try:
        group = Group(store, 0, size, device=torch.device("cpu"), timeout_s=timeout_s, word_timeout_s=timeout_s)
        trainer = RankedTrainer(LocalTrainer(s, group), group)
        yield trainer, children
    finally:
        for c in children:
            c.kill()
            c.wait()
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
