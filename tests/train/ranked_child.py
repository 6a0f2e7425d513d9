"""One rank of a ranked trainer, for tests: ``python -m train.ranked_child PORT RANK SIZE SPEC.json``.

As rank 0 it takes one step, says so, and waits to be killed.
"""

from __future__ import annotations

import json
import sys
from datetime import timedelta
from pathlib import Path

import torch
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from patience import PATIENCE_S
from windfall.train.ranked import RankedTrainer, follow
from windfall.train.ranks import Group
from windfall.train.spec import TrainerSpec
from windfall.train.trainer import LocalTrainer


def main() -> None:
    port, rank, size, spec = sys.argv[1:]
    torch.set_num_threads(1)
    store = TCPStore("127.0.0.1", int(port), int(size), is_master=False, timeout=timedelta(seconds=PATIENCE_S))
    group = Group(store, int(rank), int(size), device=torch.device("cpu"), timeout_s=PATIENCE_S)
    local = LocalTrainer(TrainerSpec(**json.loads(Path(spec).read_text())), group)
    if rank == "0":
        RankedTrainer(local, group).step([0, 1, 2], 0.0)
        print("taken", flush=True)
        sys.stdin.read()
    else:
        follow(local, group)


if __name__ == "__main__":
    main()
