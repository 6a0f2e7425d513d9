"""Every named point x {coordinator, agent, trainer} x what may happen there: the run finishes, every block once.

Real processes that live short (``faults.tree``), a few at a time; each case is a test of its own.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from faults import tree
from patience import LONG, PATIENCE_S
from windfall import faults
from windfall.processes import marked
from windfall.store.ledger import Ledger
from windfall.store.telemetry import Telemetry
from windfall.store.tensors import load_file

pytestmark = pytest.mark.slow

#: Where in its process's life each point is struck, and whether it is about a file.
COORDINATOR = {
    "before-lease": (3, False), "after-send": (3, True), "received": (3, False), "during-merge": (3, False),
    "after-weights": (2, True), "during-commit": (2, False), "after-commit": (2, True),
    "during-request": (1, False), "after-request": (1, False),
}  # fmt: skip
SITE = {
    "mid-step": (12, False), "before-snapshot": (9, False), "during-snapshot": (9, True), "before-send": (2, False),
    "mid-send": (2, True), "during-evaluation": (1, False),
}  # fmt: skip
#: Who hangs in its own loop leaves on disk what who is killed there leaves, and is killed when that is noticed. So hangs are tried
#: where something else goes on or is held meanwhile (the merger, the background's writing, a transaction, a message), and here only
#: at length; and so are blows to an agent at points of its trainer that lie right before another one.
AT_LENGTH = {
    *(("coordinator", point, "hang") for point in ("before-lease", "after-commit", "during-request", "after-request")),
    *(("trainer", point, "hang") for point in ("before-snapshot", "before-send")),
    *(("agent", point, action) for point in ("before-snapshot", "before-send") for action in ("kill-parent", "stop-parent")),
}
#: Runs at a time: most of them wait for a time-out.
_AT_ONCE = 4
_LIMIT_S = PATIENCE_S


@dataclass(frozen=True)
class Case:
    """One fault."""

    victim: str
    point: str
    action: str
    nth: int

    def __str__(self) -> str:
        return f"{self.victim}-{self.point}-{self.action}"


def cases() -> list[Case]:
    found = []
    for victim, points in (("coordinator", COORDINATOR), ("trainer", SITE)):
        for point, (nth, about_file) in points.items():
            actions = ["kill", "hang", "raise"] + (["truncate", "corrupt"] if about_file else [])
            found += [Case(victim, point, action, nth) for action in actions]
    # An agent does not pass these points itself: it is struck at the moment at which its trainer does.
    found += [Case("agent", point, action, nth) for point, (nth, _) in SITE.items() for action in ("kill-parent", "stop-parent")]
    assert {(c.victim, c.point, c.action) for c in found} >= AT_LENGTH
    return [c for c in found if LONG or (c.victim, c.point, c.action) not in AT_LENGTH]


def test_every_point_is_struck() -> None:
    assert COORDINATOR.keys() | SITE.keys() == faults.POINTS.keys()
    assert {c.action for c in cases()} == set(faults.ACTIONS)


def strike(case: Case, root: Path) -> str:
    """A run with this fault in it: what it printed. Raises AssertionError unless it ends well."""
    tree.make(root)
    child = tree.start(root, WINDFALL_FAULT=f"{case.point}:{case.action}:{case.nth}:{root / 'struck'}")
    try:
        text, _ = child.communicate(timeout=_LIMIT_S)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        for p in marked(tree.run_id(root), root / "run"):
            os.kill(p.pid, signal.SIGKILL)
        text = f"did not end within {_LIMIT_S} s: {child.communicate()[0]}"
    logs = "".join(f"== {p.name}\n{p.read_text()[-1500:]}" for p in sorted((root / "run").rglob("*.log")))
    assert child.returncode == 0, f"{text}\n{logs}"
    return text


Struck = dict[Case, tuple[Path, Future[str]]]


@pytest.fixture(scope="module")
def struck(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Struck]:
    """The chosen cases, under way."""
    parameters = [getattr(getattr(item, "callspec", None), "params", {}) for item in request.session.items]
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        started: Struck = {}
        for case in (p["case"] for p in parameters if isinstance(p.get("case"), Case)):
            root = tmp_path_factory.mktemp(str(case)) / "tree"
            started[case] = (root, pool.submit(strike, case, root))
        yield started
        pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("case", cases(), ids=str)
def test_whatever_happens_wherever_every_block_is_committed_once(case: Case, struck: Struck) -> None:
    root, under_way = struck[case]
    under_way.result()
    assert (root / "struck").exists(), "the point was reached"
    run = tree.RunDir(root / "run")
    ledger = Ledger.open(run.ledger, read_only=True)
    used = Counter(
        block
        for v in ledger.versions()
        for c in ledger.contributions(v.version)
        for span in c.header["consumed"]
        for block in range(span["start"], span["end"])
    )
    assert used == Counter(range(ledger.budget_blocks))
    assert ledger.counts().committed == ledger.budget_blocks
    for v in ledger.retained():
        load_file(run.checkpoints / v.file, v.sha256)
    assert [(r.id, r.applied) for r in ledger.last_requests(10)] == [(tree.ASKED, True)], "what was asked is done once"
    ledger.close()
    telemetry = Telemetry.open(run.telemetry, read_only=True)
    assert [e.detail["request"] for _, e in telemetry.events_of("released")] == [tree.ASKED]
    telemetry.close()
    assert not list(run.operator.iterdir())
    assert marked(tree.run_id(root), run.root) == [], "nothing is left running"
