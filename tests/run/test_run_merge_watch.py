"""A merge may take as long as its bytes need, and no longer."""

from __future__ import annotations

from windfall.run.merge_watch import MergeWatch


def test_a_merge_that_takes_longer_than_its_bytes_need_is_given_up() -> None:
    watch = MergeWatch(100.0)
    on = (7, 500_000_000)  # 100 s more, at 5 MB/s
    assert watch.look(0.0, on) == ""
    assert watch.look(200.0, on) == ""
    assert watch.look(201.0, on) == "a merge has taken 201 s and is not done; the next coordinator does it again"


def test_each_merge_has_its_own_time() -> None:
    watch = MergeWatch(100.0)
    assert watch.look(0.0, (7, 0)) == ""
    assert watch.look(90.0, (8, 0)) == "", "the one before was committed, and the next has begun"
    assert watch.look(180.0, (8, 0)) == ""
    assert watch.look(185.0, None) == "", "it is done"
    assert watch.look(250.0, (8, 0)) == "", "another one on the same version, since the first one's work was given up"
    assert watch.look(351.0, (8, 0)) != ""
