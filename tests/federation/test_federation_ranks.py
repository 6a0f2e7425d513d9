"""The number of a site's ranks is no part of what a run trains: it may differ from life to life."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from federation.harness import Run
from train.gloo import ranked
from windfall.train.ranked import RankedTrainer
from windfall.train.spec import TrainerSpec
from windfall.train.trainer import LocalTrainer

#: Three lives of one site, with a pause of half an hour between them.
LIVES = {"a": [(0, 40), (70, 110), (140, 400)]}


def committed(run: Run) -> list[tuple[int, int, Any]]:
    """By contribution in the order of versions: the site's generation, its tokens, and the ranges of blocks that it stands for."""
    return [
        (c.generation, c.tokens, c.header["consumed"]) for v in run.ledger.versions() for c in run.ledger.contributions(v.version)
    ]


@pytest.mark.slow
def test_a_site_of_one_then_two_then_four_ranks_commits_the_ranges_of_one(tmp_path: Path, data: Path, runs: list[Run]) -> None:
    with ExitStack() as living:
        made: list[int] = []

        def next_life(spec: TrainerSpec, site: str) -> Any:
            living.close()
            if not site:
                return LocalTrainer(spec)
            size = (1, 2, 4)[len(made)]
            made.append(size)
            if size == 1:
                return LocalTrainer(spec)
            folder = tmp_path / f"life-{size}"
            folder.mkdir()
            trainer, _ = living.enter_context(ranked(spec, size, folder))
            assert isinstance(trainer, RankedTrainer)
            return trainer

        several = Run(tmp_path / "several", data, LIVES, steps=90, trainer=next_life)
        runs.append(several)
        assert several.serve() == "done"
        assert made == [1, 2, 4]
    alone = Run(tmp_path / "alone", data, LIVES, steps=90)
    runs.append(alone)
    assert alone.serve() == "done"

    assert committed(several) == committed(alone)
    assert [(a, b) for a, b, _ in several.ledger.spans()] == [(0, several.ledger.budget_blocks)]
    one, many = (
        [(row[0], row[1]) for row in run.telemetry.rows("SELECT tokens, value FROM metrics WHERE name = 'loss' ORDER BY id")]
        for run in (alone, several)
    )
    assert [tokens for tokens, _ in one] == [tokens for tokens, _ in many]
    assert len(one) == 90
    assert [loss for _, loss in many] == pytest.approx([loss for _, loss in one], rel=1e-2)
