"""What a site keeps is there for its next life, whole or not at all, wherever the last one died."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from windfall import faults
from windfall.errors import DataError
from windfall.faults import InjectedFault
from windfall.site.outbox import InnerState, Outbox, TrainedTokens
from windfall.store.blobs import FileBlob
from windfall.store.files import Envelope
from windfall.store.records import Consumed
from windfall.wire.messages import ContributionHeader, name_of

FIRST, SECOND, THIRD = (1, 1), (1, 2), (1, 3)


@pytest.fixture(autouse=True)
def nothing_stays_armed() -> Iterator[None]:
    yield
    faults.disarm()


@pytest.fixture
def site(tmp_path: Path) -> Path:
    folder = tmp_path / "site"
    folder.mkdir()
    return folder


def work(generation: int, cut: int, *, steps: int = 0) -> Envelope:
    """A contribution of two blocks, up to a life's step ``steps``."""
    last = steps or cut
    header = ContributionHeader(
        site="a", generation=generation, cut=cut, round=cut, base_version=cut - 1, tokens=64,
        consumed=[Consumed(cut, 2 * cut, 2 * cut + 2)], codec="fp32", inner_tokens=64.0 * cut, metrics={"loss_mean": 1.0},
        drained=False, fence=1, first_step=last - 1, last_step=last,
    )  # fmt: skip
    return Envelope.of(header.header(), {"delta": b"delta %d.%d" % (generation, cut)})


def state(generation: int, steps: int, data: bytes = b"momentum") -> InnerState:
    return InnerState(data, 64.0 * steps, generation, steps)


def keep(outbox: Outbox, cut: tuple[int, int], *, rest: bool = False, late: bool = False) -> None:
    left = None
    if rest:
        left = outbox.folder / "left.part"
        left.write_bytes(b"rest of %d.%d" % cut)
    outbox.save(*cut, work(*cut), state(cut[0], cut[1]), rest=left, late=late)


def names(site: Path) -> list[str]:
    return sorted(p.relative_to(site).as_posix() for p in site.rglob("*") if p.is_file())


# -- contributions -------------------------------------------------------------------------------------------


def test_work_is_offered_by_every_life_until_it_is_acknowledged(site: Path) -> None:
    keep(Outbox(site), FIRST)
    keep(Outbox(site), (2, 1))
    outbox = Outbox(site)
    offered = outbox.all()
    assert list(offered) == [name_of(*FIRST), name_of(2, 1)]
    envelope = Envelope.parse(offered[name_of(*FIRST)].read(), "offered")
    assert envelope.blob("delta").read() == outbox.sent(*FIRST)["delta"].read() == b"delta 1.1"
    assert outbox.header(*FIRST) == ContributionHeader.parse(work(*FIRST).header)
    outbox.acknowledged(*FIRST)
    assert list(Outbox(site).all()) == [name_of(2, 1)]
    outbox.refused(2, 1)
    outbox.refused(2, 1)  # told twice
    assert Outbox(site).all() == {}
    assert outbox.header(2, 1) is None
    with pytest.raises(DataError, match="not there any more"):
        outbox.sent(2, 1)


@pytest.mark.parametrize("fault", ["truncate", "corrupt"])
def test_what_was_damaged_on_the_disk_is_not_taken_for_work(site: Path, fault: str) -> None:
    faults.arm("mid-send", fault)
    keep(Outbox(site), FIRST)
    (blob,) = Outbox(site).all().values()
    with pytest.raises(DataError):
        Envelope.parse(blob.read(), "offered")


def test_cuts_that_no_answer_has_carried_come_one_at_a_time_the_oldest_first(site: Path) -> None:
    outbox = Outbox(site)
    for cut in (THIRD, FIRST, SECOND):
        keep(outbox, cut, late=cut != SECOND)
    outbox.acknowledged(1, 9)
    assert list(outbox.take_late()) == [name_of(*FIRST)]
    assert list(outbox.take_late()) == [name_of(*THIRD)]
    assert outbox.take_late() == {}
    outbox.late = {name_of(*FIRST), name_of(*SECOND)}
    outbox.acknowledged(*FIRST)
    assert list(outbox.take_late()) == [name_of(*SECOND)], "what has been settled meanwhile is not sent"
    outbox.late = {name_of(*THIRD)}
    assert len(outbox.all()) == 2
    assert outbox.take_late() == {}, "a hello has offered all of it"


def test_a_life_clears_away_what_an_earlier_one_was_writing_and_nothing_else(site: Path) -> None:
    keep(Outbox(site), FIRST, rest=True)
    there = names(site)
    for half in ("outbox/.000001-000002.env.77.tmp", "outbox/.delta.part", ".snapshot.env.77.tmp", ".inner-next.env.77.tmp"):
        (site / half).write_bytes(b"half")
    Outbox(site)
    assert names(site) == there


# -- the snapshot --------------------------------------------------------------------------------------------


def test_a_snapshot_is_offered_as_a_cut_by_the_next_life(site: Path) -> None:
    outbox = Outbox(site)
    outbox.snapshot(work(*FIRST, steps=3), state(1, 3))
    outbox.snapshot(work(*FIRST, steps=5), state(1, 5, b"newer"))
    assert outbox.all() == {}, "this life trains on, and cuts itself"
    after = Outbox(site)
    (blob,) = after.all().values()
    assert Envelope.parse(blob.read(), "offered").header["last_step"] == 5
    assert after.inner() == state(1, 5, b"newer")
    assert "snapshot.env" not in names(site)


def test_a_cut_that_was_made_takes_the_place_of_the_snapshot_before_it(site: Path) -> None:
    outbox = Outbox(site)
    outbox.snapshot(work(*FIRST, steps=1), state(1, 1))
    left = (site / "snapshot.env").read_bytes()
    keep(outbox, FIRST)
    assert "snapshot.env" not in names(site)
    (site / "snapshot.env").write_bytes(left)  # it died between the two
    before = (outbox.folder / name_of(*FIRST)).read_bytes()
    Outbox(site)
    assert (outbox.folder / name_of(*FIRST)).read_bytes() == before
    assert "snapshot.env" not in names(site)


@pytest.mark.parametrize("damage", [b"", b"not an envelope", None])
def test_a_snapshot_that_cannot_be_read_is_none(site: Path, damage: bytes | None) -> None:
    outbox = Outbox(site)
    outbox.snapshot(work(*FIRST), state(1, 1))
    whole = (site / "snapshot.env").read_bytes()
    (site / "snapshot.env").write_bytes(whole[:-3] if damage is None else damage)
    assert Outbox(site).all() == {}
    assert "snapshot.env" not in names(site)


# -- the inner state -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("point", ["before-snapshot", "during-snapshot"])
def test_an_inner_state_whose_work_was_lost_does_not_count(site: Path, point: str) -> None:
    outbox = Outbox(site)
    keep(outbox, FIRST)
    faults.arm(point, "raise")
    with pytest.raises(InjectedFault):
        outbox.snapshot(work(*SECOND), state(1, 2))
    after = Outbox(site)
    assert after.inner() == state(1, 1)
    assert after.inner_tokens() == 64.0
    assert "inner-next.env" not in names(site)


def test_an_inner_state_counts_as_soon_as_its_work_is_kept(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outbox = Outbox(site)
    keep(outbox, FIRST)
    with monkeypatch.context() as dies:
        dies.setattr(Path, "replace", _dies)  # when the contribution is there and its inner state has not its own name yet
        with pytest.raises(InjectedFault):
            keep(outbox, SECOND)
    assert "inner-next.env" in names(site)
    after = Outbox(site)
    assert after.inner() == state(1, 2)
    assert "inner-next.env" not in names(site)


def _dies(*_: object) -> None:
    raise InjectedFault


def test_a_large_inner_state_stays_in_its_file_and_a_damaged_one_is_none(site: Path) -> None:
    outbox = Outbox(site)
    assert (outbox.inner(), outbox.inner_tokens()) == (None, -1.0)
    large = bytes(2**20 + 1)
    outbox.save(*FIRST, work(*FIRST), state(1, 1, large), rest=None, late=False)
    kept = outbox.inner()
    assert kept is not None
    assert isinstance(kept.data, FileBlob)
    assert kept.data.read() == large
    file = site / "inner.env"
    file.write_bytes(file.read_bytes()[:-1] + b"\1")
    assert outbox.inner() is None
    file.write_bytes(b"")
    assert outbox.inner_tokens() == -1.0


# -- what rounding left --------------------------------------------------------------------------------------


def test_of_a_refused_cut_the_rest_before_it_counts_again(site: Path) -> None:
    outbox = Outbox(site)
    keep(outbox, FIRST, rest=True)
    keep(outbox, SECOND, rest=True)
    assert outbox.last_rest() == SECOND
    assert outbox.rest_before(*SECOND) == FIRST
    assert outbox.rest_before(*FIRST) is None
    outbox.refused(*SECOND)
    after = Outbox(site)
    assert after.last_rest() == FIRST
    rest = after.rest(*FIRST)
    assert rest is not None
    with rest.open() as f:
        assert f.read() == b"rest of 1.1"
    assert after.rest(*SECOND) is None


def test_a_rest_is_kept_while_its_cut_or_the_next_one_may_be_refused_and_the_last_one_for_good(site: Path) -> None:
    outbox = Outbox(site)
    for cut in (FIRST, SECOND, THIRD):
        keep(outbox, cut, rest=True)
    outbox.acknowledged(*FIRST)
    assert outbox.rest(*FIRST) is not None, "the second may be refused, and then it counts again"
    outbox.acknowledged(*SECOND)
    assert outbox.rest(*FIRST) is None
    assert outbox.rest_before(*THIRD) == SECOND
    outbox.acknowledged(*THIRD)
    assert (outbox.rest(*SECOND), outbox.last_rest()) == (None, THIRD), "what was left out goes into the next cut"
    keep(outbox, (2, 1))
    assert outbox.last_rest() is None, "a cut without a rest has left nothing"
    assert outbox.rest_before(2, 1) == THIRD


# -- what each life has trained ------------------------------------------------------------------------------


def test_tokens_of_all_lives_are_counted_and_the_last_one_says_in_which_step_it_died(tmp_path: Path) -> None:
    folder = tmp_path / "trained"
    first = TrainedTokens(folder, 1)
    assert (first.remembers, first.broke_at) == (False, None)
    first.write(640)
    first.at(12, 4)
    second = TrainedTokens(folder, 2)
    assert (second.remembers, second.broke_at, second.broke_blocks) == (True, 12, 4)
    second.at(16, 2)
    second.at(None)
    second.write(64)
    third = TrainedTokens(folder, 3)
    assert (third.remembers, third.broke_at) == (True, None), "its step was done"
    assert TrainedTokens.total(folder) == 704
    assert TrainedTokens.total(tmp_path / "nothing") == 0
    (folder / "000003").write_bytes(b"%020d\nwhatever\n" % 0)
    assert TrainedTokens(folder, 4).broke_at is None
