"""A site's trainer in a tree."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from federation.fake import CountingTrainer
from federation.sizes import BLOCK, SEQ
from windfall.site import trainer_process


def counting(site: Mapping[str, Any]) -> Any:
    return CountingTrainer(int(site["trainer"]["budget_tokens"]) // (SEQ * BLOCK))


if __name__ == "__main__":
    sys.exit(trainer_process.main(sys.argv[1:], make=counting))
