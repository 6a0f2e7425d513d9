"""The short form of the chaos run: a real run under a dozen faults, as `make chaos-short` starts it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from patience import PATIENCE_S
from store.redis_server import need_redis

pytestmark = pytest.mark.slow
CHAOS = Path(__file__).parents[2] / "benchmarks" / "chaos.py"


def test_a_run_under_chaos_finishes_and_loses_and_repeats_nothing(tmp_path: Path) -> None:
    need_redis()
    done = subprocess.run(
        [sys.executable, str(CHAOS), "--short", "--seed", "1", "--keep", str(tmp_path)],
        capture_output=True, text=True, timeout=2 * PATIENCE_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["faults"] >= 12
    assert (said["lost"], said["repeated"], said["quarantined"], said["finished"]) == (0, 0, 0, 1.0)
    assert said["goodput"] > 0.5, "a snapshot every two seconds keeps most of what is trained"
