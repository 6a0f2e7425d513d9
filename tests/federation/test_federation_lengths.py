"""How long rounds are: as configured on a gated clock, measured on one that does not wait."""

from __future__ import annotations

from dataclasses import replace

import pytest

from federation.test_federation_rounds import settings
from windfall.federation.lengths import RoundLengths, Transfers

REAL = replace(settings(), round_min_s=60.0)
MANY = 10**9


def length(transfers: Transfers, progress: float, *, gated: bool = False, free_blocks: int = MANY) -> float:
    lengths = RoundLengths(replace(REAL, gated=gated), transfers)
    return lengths.cut(0.0, "ab", company="ab", free_blocks=free_blocks, progress=progress).at


def measured(*took: float) -> Transfers:
    transfers = Transfers()
    for number, s in enumerate(took, 1):
        transfers.cut(1000.0 * number, 1000.0 * number, "ab")
        transfers.committed(number)
        transfers.taken_in("a", number, 1000.0 * number)
        transfers.taken_in("b", number, 1000.0 * number + s)
    return transfers


def test_a_gated_clocks_rounds_are_those_of_the_configuration_whatever_was_measured() -> None:
    assert length(measured(1.0), 0.0, gated=True) == length(measured(50.0), 0.9, gated=True) == 600.0


@pytest.mark.parametrize(
    ("took", "progress", "expected"),
    [
        ((), 0.0, 60.0),  # nothing known
        ((2.0,), 0.0, 60.0),  # ten times it is less than the shortest
        ((12.0,), 0.0, 120.0),
        ((12.0,), 0.5, 360.0),  # half-way from there to the longest
        ((12.0,), 1.0, 600.0),
        ((12.0, 3.0), 0.0, 120.0),  # one that was fast does not shorten the next
        ((12.0, 3.0, 3.0, 3.0), 0.0, 60.0),
        ((80.0,), 0.2, 600.0),  # never longer than configured
    ],
)
def test_a_round_is_ten_times_its_transfer_short_early_and_longer_late(
    took: tuple[float, ...], progress: float, expected: float
) -> None:
    assert length(measured(*took), progress) == pytest.approx(expected)


def test_the_reason_says_what_was_measured() -> None:
    cut = RoundLengths(REAL, measured(12.0)).cut(0.0, "ab", company="ab", free_blocks=MANY, progress=0.5)
    assert "take 12.0 s" in cut.reason
    assert "50%" in cut.reason


def test_a_transfer_counts_from_the_cut_until_the_last_site_has_the_version() -> None:
    transfers = Transfers()
    transfers.cut(100.0, 103.0, "ab")
    transfers.taken_in("a", 4, 104.0)
    assert transfers.longest is None, "that was an earlier version"
    transfers.committed(5)
    transfers.taken_in("a", 5, 106.0)
    transfers.taken_in("a", 5, 107.0)
    assert transfers.longest is None
    transfers.taken_in("b", 5, 109.0)
    assert transfers.longest == 9.0
    transfers.taken_in("b", 6, 500.0)
    assert transfers.longest == 9.0


def test_a_site_that_is_gone_is_not_waited_for_and_one_that_never_says_it_counts_until_the_next_cut() -> None:
    transfers = Transfers()
    transfers.cut(100.0, 100.0, "ab")
    transfers.committed(5)
    transfers.gone("b")
    transfers.taken_in("a", 5, 104.0)
    assert transfers.longest == 4.0
    transfers.cut(200.0, 200.0, "ab")
    transfers.committed(6)
    transfers.cut(260.0, 261.0, "ab")
    assert transfers.longest == 61.0


def test_what_a_joiner_was_sent_in_counts_until_a_round_has_been_measured() -> None:
    transfers = Transfers()
    transfers.fetched(30.0)
    assert length(transfers, 0.0) == 300.0
    transfers.fetched(40.0)
    assert transfers.longest == 30.0


def test_a_last_round_takes_in_what_is_not_worth_another() -> None:
    free = int(660.0 * 2 / REAL.tokens_per_block)  # 660 s of two sites at a token a second
    assert length(Transfers(), 0.0, gated=True, free_blocks=free) == 600.0 + 120.0
