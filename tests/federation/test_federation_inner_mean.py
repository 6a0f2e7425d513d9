"""Averaging inner optimizer states: what the mean is, when it is made, and that sites are put on it."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from federation.fake import counting
from federation.harness import BATCH, BLOCK, Run
from federation.storm import Storm
from federation.test_federation_replay import assert_replays, last_weights
from windfall.errors import DataError, Refused
from windfall.federation import inner_mean
from windfall.federation.inner_mean import StatePart, averages_inner, stream_mean, write_mean
from windfall.federation.replay import Replay
from windfall.site.outbox import Outbox
from windfall.store.blobs import Blob, FileBlob, MemoryBlob
from windfall.store.tensors import from_bytes
from windfall.train.inner import packed, unpacked
from windfall.train.spec import TrainerSpec
from windfall.train.trainer import LocalTrainer

PAIR = {"a": [(0.0, 1e5)], "b": [(0.0, 1e5)]}
JOIN_AND_LEAVE = {"a": [(2, 60)], "b": [(20, 200)]}


# -- the mean ------------------------------------------------------------------------------------------------------


def state(seed: int, dtype: torch.dtype = torch.bfloat16) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return {
        "steps": torch.tensor(float(seed)), "one": torch.tensor([3.0]), "since": torch.tensor(float("nan"), dtype=torch.float64),
        "momentum": torch.randn((7, 5), generator=draw).to(dtype), "second": torch.rand((1, 9), generator=draw).to(dtype),
    }  # fmt: skip


def part(site: str, tokens: int, blob: Blob) -> StatePart:
    return StatePart(site, 1, 1, tokens, blob)


def mean_of(*parts: StatePart) -> dict[str, torch.Tensor]:
    out = io.BytesIO()
    stream_mean(parts, out)
    return unpacked(out.getvalue())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_the_mean_is_weighted_by_tokens_and_written_as_its_inputs_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    monkeypatch.setattr(inner_mean, "_PIECE", 8)
    states = [state(seed, dtype) for seed in range(3)]
    weights = (100, 300, 600)
    packed(states[0]).keep(tmp_path / "a")
    blobs = [FileBlob.of(tmp_path / "a"), packed(states[1]), MemoryBlob(packed(states[2]).read())]
    made = write_mean([part(s, n, b) for s, n, b in zip("abc", weights, blobs, strict=True)], tmp_path / "mean")
    found = unpacked(FileBlob(tmp_path / "mean", made.size, made.sha256))
    assert found.keys() == {"momentum", "second"}, "single numbers are each site's own"
    for name, value in found.items():
        exact = sum(s[name].double() * n for s, n in zip(states, weights, strict=True)) / 1000
        assert value.dtype == dtype
        torch.testing.assert_close(value.double(), exact, rtol=2**-8 if dtype == torch.bfloat16 else 1e-5, atol=1e-6)
    assert FileBlob(tmp_path / "mean", made.size, made.sha256).read(), "and its checksum is told"


def test_values_are_rounded_to_bf16_as_torch_does_it() -> None:
    draw = np.random.default_rng(0)
    bits = np.concatenate([draw.integers(0, 2**32, 4096, dtype=np.uint32), np.arange(0, 2**18, 2**7, dtype=np.uint32) + 0x3F800000])
    values = bits.view(np.float32)
    values = values[np.abs(values) < 1e38]
    ours = inner_mean._as_bf16(values).view(np.uint16)
    theirs = torch.from_numpy(values).bfloat16().view(torch.uint16).numpy()
    np.testing.assert_array_equal(ours, theirs)


def test_equal_states_are_their_own_mean_bit_for_bit() -> None:
    one = state(4)
    found = mean_of(*(part(s, n, packed(one)) for s, n in (("a", 1), ("b", 7), ("c", 3))))
    assert all(torch.equal(found[name], one[name]) for name in ("momentum", "second"))


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda d: b"", "the inner state of b is not readable"),
        (lambda d: d[:30], "the inner state of b is not readable"),
        (lambda d: d[:-1], "the inner state of b is not readable"),
        (lambda d: b"\xff" * 8 + d[8:], "of b is not readable as safetensors: cut short in its header"),
        (lambda d: d.replace(b"[7,5]", b"[9,5]"), "does not fit"),
        (lambda d: d.replace(b'"BF16"', b'"FP16"', 1), "does not fit"),
        (lambda d: d.replace(b"[7,5]", b"[5,7]"), "the inner states of a and b are of two models: momentum differs"),
        (lambda d: d.replace(b'"second"', b'"secont"'), "of two models: only one has second"),
        (lambda d: packed({"steps": torch.tensor(1.0)}).read(), "the inner state of b has no moments"),
        (lambda d: packed({**state(1), "momentum": torch.full((7, 5), float("nan")).bfloat16()}).read(), "of b is not finite"),
        (lambda d: packed({**state(1), "momentum": torch.full((7, 5), 1e38).bfloat16()}).read(), "of b is not finite"),
    ],
)
def test_what_cannot_be_averaged_is_refused_by_its_site_and_no_file_is_left(
    tmp_path: Path, damage: Callable[[bytes], bytes], says: str
) -> None:
    good = packed(state(0)).read()
    with pytest.raises(Refused, match=says):
        write_mean([part("a", 1, MemoryBlob(good)), part("b", 1, MemoryBlob(damage(good)))], tmp_path / "mean")
    assert not list(tmp_path.iterdir())


def test_a_file_that_has_changed_since_it_came_is_refused(tmp_path: Path) -> None:
    packed(state(0)).keep(tmp_path / "a")
    blob = FileBlob.of(tmp_path / "a")
    (tmp_path / "a").write_bytes((tmp_path / "a").read_bytes()[:-1] + b"\x01")
    with pytest.raises(Refused, match=r"the inner state of a: .*checksum"):
        mean_of(part("a", 1, blob), part("b", 1, packed(state(1))))


def test_of_every_so_many_versions_one_is_averaged() -> None:
    assert [v for v in range(1, 9) if averages_inner(v, 3)] == [3, 6]
    assert not any(averages_inner(v, 0) for v in range(9))


# -- what becomes of it --------------------------------------------------------------------------------------------


class Noted(Run):
    """A run whose trainers are kept."""

    def __init__(self, root: Path, data: Path, windows: dict[str, list[tuple[float, float]]], **options: Any) -> None:
        self.trainers: dict[str, LocalTrainer] = {}
        #: By site: optimizer steps since the cut, at each mean.
        self.shifts: list[tuple[str, int]] = []

        def make(spec: TrainerSpec, site: str) -> LocalTrainer:
            trainer = self.trainers[site] = LocalTrainer(spec)
            shift = trainer.shift_inner

            def noting(mean: bytes | Blob, mine: bytes | Blob, steps: int) -> None:
                self.shifts.append((site, steps))
                shift(mean, mine, steps)
                self.shifted(site, mean, steps)

            trainer.shift_inner = noting  # type: ignore[method-assign]
            return trainer

        super().__init__(root, data, windows, trainer=make, **options)

    def shifted(self, site: str, mean: bytes | Blob, steps: int) -> None:
        """A site has been put on a mean."""

    def averaged(self) -> list[int]:
        """Versions with which a mean went."""
        return [v.version for v in self.ledger.versions() if v.inner_mean is not None]


def test_sites_that_wait_for_the_merge_begin_the_next_round_with_the_mean(tmp_path: Path, data: Path, runs: list[Run]) -> None:
    class Checked(Noted):
        def shifted(self, site: str, mean: bytes | Blob, steps: int) -> None:
            now, expected = unpacked(self.trainers[site].inner(exact=True)), unpacked(mean)
            for name, value in expected.items():
                # To the rounding of what it had sent.
                scale = float(value.float().abs().max()) + 1e-12
                torch.testing.assert_close(now[name], value.float(), rtol=2**-7, atol=2**-6 * scale)

    run = Checked(tmp_path / "r", data, PAIR, steps=130, batch="global", average_inner_every=2)
    runs.append(run)
    assert run.serve() == "done"
    joint = [v.version for v in run.ledger.versions() if len(v.sites) > 1]
    assert run.averaged() == [v for v in joint if v % 2 == 0]
    assert len(run.averaged()) >= 3
    told = run.events("inner_averaged")
    assert [d["sites"] for _, _, _, d in told] == [["a", "b"]] * len(run.averaged())
    # The last one of a run has no order after it.
    assert sorted(run.shifts) == sorted((s, 0) for s in "ab" for _ in range(len(run.shifts) // 2))
    assert len(run.shifts) >= 2 * (len(run.averaged()) - 1)
    assert len(list(run.dir.checkpoints.glob("mean-*"))) <= 2, "old ones are let go of"


def test_a_site_that_has_trained_on_is_put_on_what_is_left_of_the_difference(tmp_path: Path, data: Path, runs: list[Run]) -> None:
    run = Noted(tmp_path / "r", data, PAIR, steps=80, overlap=True, transfer_s=150.0, average_inner_every=1)
    runs.append(run)
    assert run.serve() == "done"
    assert {steps for _, steps in run.shifts} >= {2}, "two and a half minutes, a step a minute"
    assert len(run.averaged()) >= 3


@pytest.mark.parametrize(
    "how",
    # What overlaps with int8 is the stormy one's, below.
    [{"average_inner_every": 1}, {"average_inner_every": 2, "overlap": True, "transfer_s": 150.0, "codec": "int4"}],
)
def test_the_record_of_averaged_states_gives_the_weights_again(
    tmp_path: Path, data: Path, runs: list[Run], monkeypatch: pytest.MonkeyPatch, how: dict[str, Any]
) -> None:
    if how["average_inner_every"] == 2:  # as large ones: from file to file
        monkeypatch.setattr("windfall.site.cuts._IN_MEMORY", 0)
        monkeypatch.setattr("windfall.federation.checkpoints._INLINE", 0)
    run = Noted(tmp_path / "r", data, JOIN_AND_LEAVE, round_min=6, steps=60, steps_per_min=0.5, optimizer="normuon", **how)
    runs.append(run)
    assert run.serve() == "done"
    assert run.averaged()
    assert run.shifts
    assert_replays(run)
    if how["average_inner_every"] == 1:
        (detail,) = run.ledger._db.execute("SELECT detail FROM versions WHERE version = ?", (run.averaged()[0],)).fetchone()
        run.ledger._db.execute(
            "UPDATE versions SET detail = ? WHERE version = ?", (detail.replace("inner_mean", "none"), run.averaged()[0])
        )
        initial = LocalTrainer(run.spec).weights()
        with pytest.raises(DataError, match="goes no mean of inner states"):
            list(Replay(run.ledger, initial, lambda *_: LocalTrainer(run.spec), run.federation._intake._outer).versions())


@pytest.mark.parametrize("overlap", [False, True])
def test_averaging_changes_what_is_trained_and_nothing_of_what_happens(
    tmp_path: Path, data: Path, runs: list[Run], overlap: bool
) -> None:
    found = []
    for every in (0, 1):
        run = Run(tmp_path / str(every), data, PAIR, steps=45, batch="global", overlap=overlap, average_inner_every=every)
        runs.append(run)
        assert run.serve() == "done"
        found.append((run.events("state", "mode", "round", "commit", "decision"), run.weights()))
    assert [e[:3] for e in found[0][0]] == [e[:3] for e in found[1][0]]
    assert any((value != found[1][1][name]).any() for name, value in found[0][1].items())


BLOWS: dict[str, dict[int, Callable[[Storm], None]]] = {
    "coordinator": {20: Storm.kill_coordinator, 31: Storm.kill_coordinator, 52: Storm.kill_coordinator},
    "site": {22: lambda s: s.kill_agent("a"), 45: lambda s: s.kill_trainer("b"), 70: lambda s: s.kill_agent("b")},
    "link": {24: lambda s: s.cut_link("a"), 40: lambda s: s.cut_link("b"), 61: lambda s: s.cut_link("a")},
}


#: Weights, versions, words.
Outcome = tuple[dict[str, np.ndarray], list[int], list[str]]


def outcome(folder: Path, data: Path, blows: dict[int, Callable[[Storm], None]]) -> Outcome:
    """Of a run that was struck so: its last weights, which of its versions have a mean, and what was told of the blows."""
    storm = Storm(
        folder, data, {"a": [(0.0, 1e5)], "b": [(0.0, 1e5)]}, trainer=lambda spec, _: LocalTrainer(spec), steps=120, round_steps=6,
        inner_max_age=1.0, spin_up_s=0.0, steps_per_min=1.0, average_inner_every=2, optimizer="normuon",
    )  # fmt: skip
    with storm.weather():
        for when, blow in blows.items():
            storm.at(when, partial(blow, storm))
        storm.to_the_end()
        found = last_weights(storm.run)
    averaged = [v.version for v in storm.run.ledger.versions() if v.inner_mean is not None]
    storm.close()
    return found, averaged, storm.told


@pytest.fixture(scope="module")
def unkilled(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Outcome:
    """The run that nothing happens to."""
    return outcome(tmp_path_factory.mktemp("calm") / "r", data, {})


@pytest.mark.parametrize("kind", BLOWS)
def test_a_killed_run_that_averages_gives_the_same_weights_as_an_unkilled_one(
    tmp_path: Path, data: Path, unkilled: Outcome, kind: str
) -> None:
    """Who is killed begins the round again: with the state of its last cut, and the mean of which that was a part."""
    calm, averaged, _ = unkilled
    struck, averaged_too, told = outcome(tmp_path / "r", data, BLOWS[kind])
    assert len(told) >= len(BLOWS[kind]), "they were struck"
    assert averaged == averaged_too
    assert averaged
    for name, value in calm.items():
        np.testing.assert_array_equal(value, struck[name], err_msg=name)


def test_the_record_of_a_stormy_run_that_averages_gives_its_weights_again(tmp_path: Path, data: Path) -> None:
    storm = Storm(
        tmp_path / "r", data, {"a": [(0.0, 1e5)], "b": [(3.0, 40.0), (60.0, 1e5)]}, steps=120, snapshot_s=3.0,
        trainer=lambda spec, _: LocalTrainer(spec), calendar=True, steps_per_min=0.6, overlap=True,
        codec="int8", batch="global", average_inner_every=1, round_min=4, optimizer="normuon",
    )  # fmt: skip
    with storm.weather():
        for when, blow in (
            (15, storm.kill_coordinator), (32, partial(storm.kill_trainer, "a")), (45, partial(storm.twist, "garble")),
            (60, partial(storm.cut_link, "a")), (70, partial(storm.twist, "lose")), (84, storm.blackout),
            (95, partial(storm.twist, "late")), (104, partial(storm.kill_agent, "b")), (110, partial(storm.twist, "twice")),
        ):  # fmt: skip
            storm.at(when, blow)
        storm.to_the_end()
    assert [v for v in storm.run.ledger.versions() if v.inner_mean is not None]
    assert_replays(storm.run)
    storm.close()


def test_a_state_that_cannot_be_averaged_costs_no_work(
    tmp_path: Path, data: Path, runs: list[Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The version is made of the work all the same, and it is told why there is no mean."""
    run = Noted(tmp_path / "r", data, PAIR, steps=40, batch="global", average_inner_every=1)
    runs.append(run)
    inner = LocalTrainer.inner

    def broken(self: LocalTrainer, *, exact: bool = False) -> bytes:
        given = inner(self, exact=exact)
        return given if exact or self is not run.trainers["b"] else given[:-1]

    monkeypatch.setattr(LocalTrainer, "inner", broken)
    assert run.serve() == "done"
    assert run.ledger.counts().committed == run.ledger.budget_blocks == 40 * BATCH // BLOCK
    assert not run.averaged()
    reasons = {d["reason"].split(":")[0] for _, _, _, d in run.events("inner_not_averaged")}
    assert reasons == {"the inner state of b is not readable as safetensors"}


def test_a_mean_that_is_not_there_any_more_is_done_without(tmp_path: Path, data: Path, runs: list[Run]) -> None:
    run = Noted(tmp_path / "r", data, PAIR, steps=60, batch="global", average_inner_every=1)
    runs.append(run)
    commit = run.federation._intake.commit

    def losing(t: float, mode: str) -> Any:
        made = commit(t, mode)
        for file in run.dir.checkpoints.glob("mean-*"):
            file.unlink()
        return made

    run.federation._intake.commit = losing  # type: ignore[method-assign]
    assert run.serve() == "done"
    assert run.averaged()
    assert not run.shifts


def test_a_site_whose_sent_state_is_gone_trains_on_with_its_own(
    tmp_path: Path, data: Path, runs: list[Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Outbox, "sent_inner", lambda outbox, generation, cut: None)
    run = Noted(tmp_path / "r", data, PAIR, steps=60, batch="global", average_inner_every=1)
    runs.append(run)
    assert run.serve() == "done"
    assert run.averaged()
    assert not run.shifts


def test_counting_sites_agree_on_their_moments_after_every_mean(tmp_path: Path, data: Path, runs: list[Run]) -> None:
    run = Run(
        tmp_path / "r", data, PAIR, steps=60, average_inner_every=1, steps_per_min={"a": 2.0, "b": 1.0},
        trainer=counting(60 * BATCH // BLOCK),
    )  # fmt: skip
    runs.append(run)
    assert run.serve(until_min=16)
    a, b = (from_bytes(w._trainer.inner(), "inner")["moments"] for w in run.workers.values())
    done = {s: w._work.blocks for s, w in run.workers.items()}
    # Since the last mean each has added its own blocks to what both had.
    np.testing.assert_allclose(a - done["a"], b - done["b"], rtol=1e-5)
    assert float(a[0]) != float(b[0]), "they have, and not equally many"
