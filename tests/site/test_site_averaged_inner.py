"""What a site keeps of an inner state that it has sent to be averaged."""

from __future__ import annotations

from pathlib import Path

import pytest

from windfall.errors import DataError
from windfall.site.outbox import InnerState, Outbox
from windfall.store.files import Envelope


def save(outbox: Outbox, cut: int, *, inner: bytes = b"") -> None:
    header = {"generation": 2, "cut": cut, "last_step": 10 * cut}
    blobs = {"delta": b"d"} | ({"inner": inner} if inner else {})
    outbox.save(2, cut, Envelope(header, blobs), InnerState(b"exact", 1.0, 2, 10 * cut), rest=None, late=False)


def test_a_state_that_was_sent_is_there_until_the_next_such_cut_is_acknowledged(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path)
    save(outbox, 1, inner=b"one")
    assert outbox.sent(2, 1)["inner"].read() == b"one", "offered again it is there too"
    for look in (outbox, Outbox(tmp_path)):
        found = look.sent_inner(2, 1)
        assert found is not None
        assert (found.data.read(), found.last_step) == (b"one", 10)
    outbox.acknowledged(2, 1)
    assert not outbox.all()
    with pytest.raises(DataError, match="not there any more"):
        outbox.sent(2, 1)
    save(outbox, 2)
    outbox.acknowledged(2, 2)
    after = Outbox(tmp_path).sent_inner(2, 1)
    assert after is not None, "a next life may have to begin with it"
    assert after.data.read() == b"one"
    assert outbox.sent_inner(2, 2) is None
    assert outbox.sent_inner(1, 1) is None
    save(outbox, 3, inner=b"three")
    outbox.acknowledged(2, 3)
    assert outbox.sent_inner(2, 1) is None
    assert outbox.sent_inner(2, 3) is not None


def test_a_refused_state_is_kept_by_nobody_and_a_damaged_one_is_none(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path)
    save(outbox, 1, inner=b"one")
    outbox.refused(2, 1)
    assert outbox.sent_inner(2, 1) is None
    save(outbox, 2, inner=b"two")
    outbox.acknowledged(2, 2)
    (tmp_path / "averaged.env").write_bytes(b"no envelope")
    assert outbox.sent_inner(2, 2) is None
