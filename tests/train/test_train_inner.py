"""Stored inner states: safetensors that are written and read without a copy."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load

from windfall.errors import DataError
from windfall.store.files import Envelope
from windfall.train.inner import packed, unpacked

STATE = {
    "steps": torch.tensor(7.0),
    "since": torch.tensor(1.5, dtype=torch.float64),
    "momentum": torch.arange(12, dtype=torch.float32).reshape(3, 4),
    "second": torch.arange(5).to(torch.bfloat16),
    "none": torch.zeros((0, 4)),
}


def assert_equal(found: dict[str, torch.Tensor]) -> None:
    assert found.keys() == STATE.keys()
    for name, tensor in STATE.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor), name


def test_others_read_what_is_written_and_its_checksum_is_that_of_the_bytes() -> None:
    blob = packed(STATE)
    assert_equal(load(blob.read()))
    assert (len(blob.read()), b"".join(blob.parts())) == (blob.size, blob.read())
    assert_equal(unpacked(blob))
    assert_equal(unpacked(blob.read()))


def test_a_part_of_a_file_is_read_where_it_lies(tmp_path: Path) -> None:
    for filler in (b"", b"x", b"xyz"):  # at places of all kinds
        Envelope.of({}, {"before": filler, "inner": packed(STATE)}).save(tmp_path / "f.env")
        assert_equal(unpacked(Envelope.load(tmp_path / "f.env", in_memory_up_to=0).blob("inner")))


@pytest.mark.parametrize(
    "damage",
    [
        lambda d: b"",
        lambda d: d[:20],
        lambda d: d[:-1],
        lambda d: b"\xff" * 8 + d[8:],
        lambda d: d.replace(b'"F32"', b'"I64"', 1),
        lambda d: d.replace(b"[3,4]", b"[9,4]"),
        lambda d: d.replace(b"[3,4]", b"[-3,"[:3] + b"4]"),
    ],
)
def test_what_is_no_inner_state_is_refused(damage: object) -> None:
    with pytest.raises(DataError, match="not readable as safetensors"):
        unpacked(damage(packed(STATE).read()))  # type: ignore[operator]
