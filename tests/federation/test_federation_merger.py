"""The merger: the same versions as merging in memory, what rounding left, damage that is named, deaths in the middle."""

from __future__ import annotations

import hashlib
import os
import signal
import tracemalloc
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from windfall import faults
from windfall.errors import StoreError
from windfall.federation.merge import Outer, combine, version_after
from windfall.federation.merger import Damaged, Merged, MergeJob, Part, Stored, merge, movements
from windfall.store.records import Received
from windfall.store.tensors import Tensors, load_file, save_file
from windfall.wire.codec import CODECS, decode, encode

SHAPES = {"w": (40, 130), "a": (6,), "m": (3, 5, 60), "s": ()}
NESTEROV = Outer("nesterov", 0.7, 0.5)


def tensors(seed: int, scale: float = 1e-2) -> Tensors:
    rng = np.random.default_rng(seed)
    return {name: np.asarray(scale * rng.standard_normal(shape), np.float32) for name, shape in SHAPES.items()}


def contribution(id: int, site: str, cut: int, tokens: int) -> Received:
    header: dict[str, Any] = {"first_step": cut - 1, "last_step": cut, "lineage": []}
    return Received(id, site, 1, cut, 0, tokens, f"{site}-1-{cut}.env", header)


CASES: dict[str, list[Received]] = {
    "one": [contribution(1, "a", 1, 64)],
    "two sites": [contribution(1, "a", 1, 64), contribution(2, "b", 1, 200)],
    "a chain": [contribution(1, "a", 1, 64), contribution(2, "a", 2, 128)],
    "chains": [contribution(1, "b", 1, 30), contribution(2, "a", 1, 64), contribution(3, "a", 2, 128), contribution(4, "a", 4, 1)],
    "no tokens": [contribution(1, "a", 1, 0), contribution(2, "b", 1, 0), contribution(3, "c", 3, 7)],
}


def stored(path: Path, value: Tensors | None) -> Stored | None:
    return None if value is None else Stored(path, save_file(path, value, {"version": "6"}))


class Desk:
    """A folder with a version and contributions in it."""

    def __init__(self, folder: Path, contributions: Sequence[Received], codec: str = "fp32", sent_in: str = "fp32") -> None:
        self.folder = folder
        self.contributions = contributions
        self.weights = tensors(0, 1.0)
        self.deltas: dict[int, Tensors] = {}
        parts = {}
        for c in contributions:
            data = encode(tensors(c.id), sent_in)
            self.deltas[c.id] = decode(data, SHAPES)
            (folder / c.file).write_bytes(b"before" + data + b"behind")
            parts[c.id] = Part(c.id, c.site, c.tokens, folder / c.file, 6, len(data))
        head = stored(folder / "v000006.safetensors", self.weights)
        assert head is not None
        self.work = MergeJob(
            7, head, None, None, movements(contributions, lambda c: parts[c.id]), codec, Outer(), folder
        )  # fmt: skip

    def merge(self, **change: Any) -> Merged:
        found = merge(replace(self.work, **change))
        assert found is not None
        return found

    def version(self) -> Tensors:
        return load_file(self.folder / "v000007.safetensors")

    def made(self) -> set[str]:
        """Names in the folder that were not there."""
        return {p.name for p in self.folder.iterdir()} - {c.file for c in self.contributions} - {"v000006.safetensors", "r", "m"}


def assert_same(found: Tensors, expected: Tensors) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name].view(np.int32), np.asarray(value, np.float32).view(np.int32), err_msg=name)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("outer", [Outer(), NESTEROV])
@pytest.mark.parametrize("old", [True, False])
def test_in_float32_a_version_is_the_one_that_is_merged_in_memory(tmp_path: Path, case: str, outer: Outer, old: bool) -> None:
    desk = Desk(tmp_path, CASES[case])
    momentum = tensors(99) if old else None
    weights, kept = combine(desk.weights, CASES[case], lambda c: desk.deltas[c.id], outer, momentum)
    found = desk.merge(outer=outer, momentum=stored(tmp_path / "m", momentum))
    assert found.finite
    assert_same(desk.version(), weights)
    save_file(tmp_path / "m", weights, {"version": "7"})
    assert (tmp_path / "m").read_bytes() == (tmp_path / "v000007.safetensors").read_bytes()
    assert (found.momentum is None) == (kept is None)
    if kept is not None:
        assert_same(load_file(tmp_path / "outer-v000007.safetensors"), kept)
    assert found.residual is None
    assert found.alone == (case == "one")
    for made in (found.weights, found.difference, found.momentum):
        if made is not None:
            data = (tmp_path / made.name).read_bytes()
            assert (made.size, made.sha256) == (len(data), hashlib.sha256(data).hexdigest())


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("outer", [Outer(), NESTEROV])
@pytest.mark.parametrize("case", ["one", "chains"])
def test_a_version_is_the_one_before_and_the_decoded_difference_and_what_is_left_out_is_kept(
    tmp_path: Path, codec: str, outer: Outer, case: str
) -> None:
    cuts = CASES[case]
    desk = Desk(tmp_path, cuts, codec, sent_in="int8")
    rest = tensors(50, 1e-4)
    found = desk.merge(outer=outer, residual=stored(tmp_path / "r", rest))
    # One contribution's own difference is it, in the codec that it was sent in.
    data = (tmp_path / found.difference.name).read_bytes() if found.difference else (tmp_path / cuts[0].file).read_bytes()[6:-6]
    difference = decode(data, SHAPES)
    assert_same(desk.version(), {n: desk.weights[n] + difference[n] for n in SHAPES})
    expected = version_after(desk.weights, cuts, lambda c: desk.deltas[c.id], outer, None, residual=rest, codec=codec)
    assert_same(desk.version(), expected.weights)
    if found.residual is not None:
        assert expected.residual is not None
        assert_same(load_file(tmp_path / found.residual.name), expected.residual)
    else:
        assert found.alone or codec == "fp32"
        assert expected.residual is (rest if found.alone else None)
    # Nothing is lost: what was to be added is what was added and what is left.
    left = load_file(tmp_path / found.residual.name) if found.residual else {n: np.zeros_like(v) for n, v in rest.items()}
    moved, _ = combine({n: np.zeros_like(v) for n, v in rest.items()}, cuts, lambda c: desk.deltas[c.id], outer, None)
    for name in SHAPES:
        whole = moved[name] if found.alone else moved[name] + rest[name]
        np.testing.assert_allclose(difference[name] + left[name], whole, rtol=1e-6, atol=1e-9)


def test_a_hundred_merges_bring_the_sum_of_what_was_contributed(tmp_path: Path) -> None:
    cuts = CASES["two sites"]
    desk = Desk(tmp_path, cuts, "int4", sent_in="int8")
    work, start, whole = desk.work, desk.weights, {n: np.zeros(s) for n, s in SHAPES.items()}
    mean, _ = combine({n: np.zeros_like(v) for n, v in start.items()}, cuts, lambda c: desk.deltas[c.id], Outer(), None)
    for number in range(7, 107):
        found = merge(replace(work, number=number))
        assert found is not None
        assert found.weights is not None
        assert found.residual is not None
        work = replace(
            work, weights=Stored(tmp_path / found.weights.name, found.weights.sha256),
            residual=Stored(tmp_path / found.residual.name, found.residual.sha256),
        )  # fmt: skip
        whole = {n: v + mean[n] for n, v in whole.items()}
    last, left = load_file(work.weights.path), load_file(tmp_path / "residual-v000106.safetensors")
    for name in SHAPES:
        np.testing.assert_allclose(last[name] - start[name] + left[name], whole[name], atol=1e-4)
        # One merge's rounding, not a hundred's.
        assert np.abs(left[name]).max() <= np.abs(mean[name]).max() / 12


def test_one_contribution_is_added_as_it_was_sent_and_what_was_left_before_stays(tmp_path: Path) -> None:
    desk = Desk(tmp_path, CASES["one"], "int8", sent_in="int4")
    rest = stored(tmp_path / "r", tensors(50))
    assert desk.merge(residual=rest) == replace(desk.merge(), difference=None)
    assert_same(desk.version(), {n: desk.weights[n] + desk.deltas[1][n] for n in SHAPES})
    assert desk.made() == {"v000007.safetensors"}


@pytest.mark.parametrize("at", [0.3, 0.9])
def test_a_damaged_contribution_is_named_and_nothing_is_made(tmp_path: Path, at: float) -> None:
    desk = Desk(tmp_path, CASES["chains"], "int8")
    path = tmp_path / "a-1-2.env"
    data = bytearray(path.read_bytes())
    data[int(at * len(data))] ^= 1
    path.write_bytes(data)
    with pytest.raises(Damaged, match=r"a-1-2.env: \w+ was changed on its way") as found:
        desk.merge()
    assert isinstance(found.value.what, Part)
    assert found.value.what.id == 3
    path.unlink()
    with pytest.raises(Damaged, match=r"a-1-2.env: cannot be opened"):
        desk.merge()
    assert desk.made() == set()
    # Without it, the others make a version.
    others = [c for c in CASES["chains"] if c.id != 3]
    parts = {part.id: part for part in desk.work.parts}
    assert desk.merge(movements=movements(others, lambda c: parts[c.id])).finite


@pytest.mark.parametrize("which", ["weights", "residual", "momentum"])
def test_a_damaged_version_residual_or_momentum_is_named_and_nothing_is_made(tmp_path: Path, which: str) -> None:
    desk = Desk(tmp_path, CASES["two sites"], "int8")
    work = replace(
        desk.work, outer=NESTEROV, residual=stored(tmp_path / "r", tensors(50)), momentum=stored(tmp_path / "m", tensors(60))
    )
    path = getattr(work, which).path
    good = path.read_bytes()
    for bad in (good[:-2] + bytes([good[-2] ^ 1]) + good[-1:], good[:-5], b"", None):
        path.unlink() if bad is None else path.write_bytes(bad)
        with pytest.raises(Damaged) as found:
            merge(work)
        assert found.value.what is getattr(work, which)
        assert str(path) in str(found.value)
    assert desk.made() == set()


@pytest.mark.parametrize("codec", ["fp32", "int8"])
def test_weights_that_would_not_be_finite_make_no_version(tmp_path: Path, codec: str) -> None:
    desk = Desk(tmp_path, CASES["two sites"], codec)
    # Each is finite: a version next to the end of float32's range, and differences that add up to it.
    full = stored(tmp_path / "v000006.safetensors", {n: np.full(s, 3.4e38, np.float32) for n, s in SHAPES.items()})
    data = encode({n: np.full(s, 1e36, np.float32) for n, s in SHAPES.items()}, "fp32")
    two = [[Part(1, "a", 1, data)], [Part(2, "b", 1, data)]]
    assert desk.merge(weights=full, movements=two) == Merged(False, False)
    assert desk.merge(weights=full, movements=two[:1]) == Merged(False, True)
    many = [[Part(i, "a", 1, data) for i in range(400)]]
    empty = stored(tmp_path / "v000006.safetensors", {n: np.zeros(s, np.float32) for n, s in SHAPES.items()})
    assert desk.merge(weights=empty, movements=many) == Merged(False, False)
    assert desk.made() == set()


def test_a_cancelled_merge_makes_nothing(tmp_path: Path) -> None:
    desk = Desk(tmp_path, CASES["chains"], "int8")
    asked: list[bool] = []

    def third() -> bool:
        asked.append(True)
        return len(asked) == 3

    assert merge(desk.work, third) is None
    assert len(asked) == 3
    assert desk.made() == set()


def test_an_error_nobody_has_foreseen_leaves_nothing_behind(tmp_path: Path) -> None:
    desk = Desk(tmp_path, CASES["chains"], "int8")
    faults.arm("during-merge", "raise")
    try:
        with pytest.raises(faults.InjectedFault):
            desk.merge()
    finally:
        faults.disarm()
    assert desk.made() == set()


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    desk = Desk(tmp_path, CASES["one"])
    with pytest.raises((StoreError, FileNotFoundError)):
        desk.merge(folder=tmp_path / "none")


@pytest.mark.parametrize("point", ["during-merge", "after-weights"])
def test_who_is_killed_in_the_middle_leaves_no_file_of_that_name_or_a_whole_one(tmp_path: Path, point: str) -> None:
    desk = Desk(tmp_path, CASES["chains"], "int8")
    child = os.fork()
    if not child:
        try:
            faults.arm(point, "kill")
            desk.merge()
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    named = {name for name in desk.made() if not name.startswith(".")}
    if point == "during-merge":
        assert named == set()
        assert desk.made()  # temporary ones, which the next start tidies away
    else:
        assert named == {"v000007.safetensors", "d000007.diff", "residual-v000007.safetensors"}
        before = {name: (tmp_path / name).read_bytes() for name in named}
        assert desk.merge().finite
        assert {name: (tmp_path / name).read_bytes() for name in named} == before


def test_memory_grows_with_the_largest_tensor_not_with_the_model(tmp_path: Path) -> None:
    shapes = {f"t{i:02}": (128, 1024) for i in range(40)}
    value = np.full((128, 1024), 1e-3, np.float32)  # 0.5 MB, of 21 MB
    old = Stored(tmp_path / "v", save_file(tmp_path / "v", dict.fromkeys(shapes, value)))
    data = encode(dict.fromkeys(shapes, value), "int8")
    parts = []
    for i, site in enumerate("aabc"):
        (tmp_path / f"c{i}").write_bytes(data)
        parts.append(Part(i, site, 5, tmp_path / f"c{i}"))
    work = MergeJob(1, old, old, old, [parts[:2], parts[2:3], parts[3:]], "int8", NESTEROV, tmp_path)
    tracemalloc.start()
    found = merge(work)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found is not None
    assert found.finite
    # Three tensors, and pieces, which are as large here and never larger than 4 MB. Torch's own, of 0.13 MB, are not counted.
    assert peak < 10 * value.nbytes
