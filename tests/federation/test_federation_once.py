"""What comes twice counts once: a link that lapses changes neither what a site owes nor in which rounds it trains."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from federation.fake import counting
from federation.harness import BATCH, BLOCK, Run
from windfall.site.worker import SiteWorker
from windfall.store.files import Envelope
from windfall.wire.transport import Reply

STEPS = 80
BLOCKS = STEPS * BATCH // BLOCK
PAIR = {"a": [(0.0, 1e5)], "b": [(0.0, 1e5)]}


class Linked(Run):
    """A run on a gated clock in which a site's SuperNode may be replaced by another one, and b may be slow."""

    def __init__(self, root: Path, data: Path, windows: dict[str, list[tuple[float, float]]] = PAIR, **options: Any) -> None:
        self.links = 0
        self.b_waits: Callable[[], bool] = lambda: False
        super().__init__(
            root, data, windows, trainer=counting(BLOCKS), **{"steps": STEPS, "round_min": 10, "solo_min": 10, **options}
        )

    def pump(self, name: str, worker: SiteWorker) -> None:
        if name != "b" or not self.b_waits():
            worker.pump()

    def relink(self, site: str) -> None:
        """The site's SuperNode is another one from now on; messages under way to the old one fail."""
        old = self.world.nodes[site]
        for message, (_, node) in self.federation.members._nodes._asked.items():
            if node == old:
                self.transport._lost.append(Reply(message, old, None, "Node Unavailable"))
        self.transport.disconnect(old)
        self.links += 1
        self.world.nodes[site] = f"{old.split('.')[0]}.{self.links}"
        self.workers[site]._mailbox = self.transport.connect(self.world.nodes[site])

    def steps_of(self, site: str) -> int:
        return self.federation.members[site].blocks // (BATCH // BLOCK)


def story(run: Run) -> list[Any]:
    """What happened, without what was said of links."""
    told = run.events("state", "mode", "round", "commit", "cut_forward", "contribution", "refused")
    timed = ("train_seconds", "tokens_per_s")
    kept = [(t, kind, site or "", {k: v for k, v in d.items() if k not in timed}) for t, kind, site, d in told]
    # What two sites hand in at the same run time comes in either order.
    return sorted(kept, key=lambda e: e[:3] if e[1] == "contribution" else (e[0], "", ""))


def calm_story(tmp_path: Path, data: Path, runs: list[Run], **options: Any) -> list[Any]:
    calm = Linked(tmp_path / "calm", data, **options)
    runs.append(calm)
    assert calm.serve() == "done"
    return story(calm)


def test_a_link_that_lapses_between_answer_and_commit_counts_no_step_twice(tmp_path: Path, data: Path, runs: list[Run]) -> None:
    run = Linked(tmp_path / "r", data)
    runs.append(run)
    struck: list[int] = []
    counted: list[int] = []

    def slow() -> bool:
        """b does not get to its cut before a, whose work has come, has said hello again."""
        if run.ledger.pending() and not struck:
            struck.append(run.steps_of("a"))
            run.relink("a")
        greeted = len([e for e in run.events("hello") if e[2] == "a"])
        if struck and greeted == 2 and not counted:
            counted.append(run.steps_of("a"))
        # It stays behind from the round's last minute on.
        return run.clock.now() >= run.loop.begun + 12 * 60 and not counted

    run.b_waits = slow
    assert run.serve() == "done"
    assert struck == counted == [10], "ten steps, by its answer and by its outbox"
    assert story(run) == calm_story(tmp_path, data, runs)
    assert run.weights()["count"].tolist() == pytest.approx(runs[1].weights()["count"].tolist())


@pytest.mark.parametrize("restart", [False, True])
def test_steps_that_are_not_cut_yet_stay_counted_when_an_older_cut_is_offered_again(
    tmp_path: Path, data: Path, runs: list[Run], restart: bool
) -> None:
    """The outbox still holds the cut before (nobody has said what became of it), and work goes on above it."""
    windows = {"a": [(0.0, 1e5)]}
    run = Linked(tmp_path / "r", data, windows)
    run.serve(until_min=13)
    assert run.ledger.head().version >= 1
    # The acknowledgement is still to come: a's first cut stays in its outbox as if the order had not named it.
    worker = run.workers["a"]
    kept = Envelope.parse(b"".join(run.checkpoints.spooled(run.ledger.contributions(1)[0]).parts()), "spooled")
    run.serve(until_min=17)
    done = worker._steps
    assert worker._work.steps > 0
    kept.save(run.dir.sites / "a" / "outbox" / "000001-000001.env")
    if restart:
        run.crash()
        run = Linked(tmp_path / "r", data, windows, earlier=run)
    else:
        run.relink("a")
    runs.append(run)
    at = run.clock.now()
    run.serve(until_min=21)
    assert worker._steps == done + (run.clock.now() - at) / 60, "a step a minute, as before"
    assert run.serve() == "done"
    assert run.weights()["count"].tolist() == [1.0] * BLOCKS


def test_a_link_that_lapses_before_the_order_arrives_costs_no_round(tmp_path: Path, data: Path, runs: list[Run]) -> None:
    run = Linked(tmp_path / "r", data)
    runs.append(run)
    push, struck = run.transport.push, []

    def lapses(node: str, envelope: Envelope) -> str:
        message = push(node, envelope)
        if envelope.header.get("kind") == "round" and envelope.header["round"] == 2 and node.startswith("a") and not struck:
            struck.append(message)
            # It lies in the mailbox of a SuperNode that is gone before it has been read.
            run.federation.members._nodes._asked[message] = ("round", node)
            run.relink("a")
        return message

    run.transport.push = lapses  # type: ignore[method-assign]
    assert run.serve() == "done"
    assert struck
    assert story(run) == calm_story(tmp_path, data, runs)
