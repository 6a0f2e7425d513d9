"""Where a site is in its leases, and what it has trained since its last cut."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from windfall.site.leases import Leases, OpenWork, Segment
from windfall.store.records import Consumed


def blocks(taken: list[Segment]) -> list[tuple[int, int]]:
    return [(s.epoch, b) for s in taken for b in range(s.at, s.end)]


def test_blocks_are_taken_in_order_across_leases_and_fewer_at_the_end() -> None:
    leases = Leases()
    leases.replace([Segment(1, 0, 3), Segment(2, 10, 12)], gone=[])
    assert leases.at == 0
    assert leases.left(2) == 2
    assert leases.left(100) == 5
    assert blocks(leases.take(4)) == [(1, 0), (1, 1), (1, 2), (2, 10)]
    assert leases.at == 11
    assert blocks(leases.take(4)) == [(2, 11)]
    assert not leases
    assert leases.at is None
    assert leases.take(1) == []


def test_the_same_block_under_another_lease_has_not_been_used() -> None:
    leases = Leases()
    leases.replace([Segment(2, 0, 3)], gone=[Consumed(1, 0, 3)])
    assert blocks(leases.take(9)) == [(2, 0), (2, 1), (2, 2)]


@given(
    st.lists(st.tuples(st.integers(1, 3), st.integers(0, 30), st.integers(1, 9)), max_size=5),
    st.lists(st.integers(1, 7), min_size=1, max_size=20),
)
def test_every_block_that_was_not_used_is_taken_once(used: list[tuple[int, int, int]], sizes: list[int]) -> None:
    lent = [Segment(1, 0, 12), Segment(2, 12, 20), Segment(3, 25, 31)]
    expected = [(s.epoch, b) for s in lent for b in range(s.at, s.end)]
    gone = [Consumed(epoch, start, start + count) for epoch, start, count in used]
    spent = {(c.epoch, b) for c in gone for b in range(c.start, c.end)}
    leases = Leases()
    leases.replace([Segment(s.epoch, s.at, s.end) for s in lent], gone)
    found: list[tuple[int, int]] = []
    for size in sizes:
        found += blocks(leases.take(size))
    while leases:
        found += blocks(leases.take(1))
    assert found == [b for b in expected if b not in spent]


def test_open_work_joins_what_follows_and_keeps_skipped_blocks_apart() -> None:
    work = OpenWork()
    work.use([Segment(1, 0, 2)])
    work.use([Segment(1, 2, 4)])
    work.add(40, 2.0, 1.0)
    work.use([Segment(1, 4, 6)], skipped=True)
    work.skip(1.0)
    work.use([Segment(2, 6, 8)])
    work.add(20, 4.0, 1.0)
    assert work.consumed == [Consumed(1, 0, 4), Consumed(1, 4, 6, True), Consumed(2, 6, 8)]
    assert (work.blocks, work.steps, work.skipped, work.tokens) == (8, 3, 1, 60)
    said = work.metrics()
    assert (said["loss_mean"], said["loss_last"]) == (3.0, 4.0)
    assert (said["train_seconds"], said["tokens_per_s"], said["skipped_steps"]) == (3.0, 20.0, 1.0)


def test_work_of_skipped_steps_alone_has_no_loss() -> None:
    work = OpenWork()
    assert "loss_mean" not in work.metrics()
    work.use([Segment(1, 0, 1)], skipped=True)
    work.skip(0.5)
    assert work.metrics()["skipped_steps"] == 1.0
    assert "loss_mean" not in work.metrics()
