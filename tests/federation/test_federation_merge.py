"""Codec, merging, and contributions that must be refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.harness import TOKENS_PER_STEP, Run
from windfall.errors import Refused
from windfall.federation.merge import Outer, apply, weighted_mean
from windfall.store.files import Envelope
from windfall.store.records import Consumed
from windfall.store.tensors import Tensors, to_bytes
from windfall.wire.messages import ContributionHeader

RNG = np.random.default_rng(0)


def tensors(scale: float = 1.0) -> Tensors:
    return {
        "w": (scale * RNG.standard_normal((7, 90))).astype(np.float32),
        "s": (scale * RNG.standard_normal(5)).astype(np.float32),
    }


LIKE = tensors()


@given(st.lists(st.integers(1, 10**9), min_size=1, max_size=5))
def test_the_mean_is_weighted_by_tokens(tokens: list[int]) -> None:
    deltas = [{"w": np.full((2, 2), float(i), np.float32)} for i in range(len(tokens))]
    mean = weighted_mean({"w": np.zeros((2, 2), np.float32)}, zip(tokens, deltas, strict=True))
    expected = sum(i * n for i, n in enumerate(tokens)) / sum(tokens)
    np.testing.assert_allclose(mean["w"], expected, rtol=1e-5, atol=1e-6)


def test_nesterov_matches_its_formula_and_is_left_out_for_one_contributor() -> None:
    w = {"w": np.ones(3, np.float32)}
    mean = {"w": np.full(3, 0.1, np.float32)}
    outer = Outer("nesterov", lr=0.7, momentum=0.5)
    one, m1 = apply(w, mean, outer, None, 2)
    # g = -0.1; m = g; w - 0.7 (g + 0.5 m)
    np.testing.assert_allclose(one["w"], 1 + 0.7 * 0.15, rtol=1e-6)
    two, _ = apply(one, mean, outer, m1, 2)
    np.testing.assert_allclose(two["w"], one["w"] + 0.7 * (0.1 + 0.5 * (0.1 + 0.05)), rtol=1e-6)
    alone, momentum = apply(w, mean, outer, m1, 1)
    np.testing.assert_allclose(alone["w"], 1.1, rtol=1e-6)
    assert momentum is None


HEADER = ContributionHeader("a", 1, 1, 1, 0, 64, [Consumed(1, 0, 2)], "fp32", 0.0, {}, False, 1).header()


@pytest.mark.parametrize(
    "change",
    [{"tokens": -1}, {"tokens": "64"}, {"tokens": True}, {"cut": None}, {"consumed": [{}]}, {"consumed": 3}, {"protocol": 9},
     {"metrics": [1]}, {"metrics": {"loss": "x"}}, {"consumed": [{"epoch": 1, "start": -2, "end": 2, "skipped": False}]}],
)  # fmt: skip
def test_a_malformed_header_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(Refused):
        ContributionHeader.parse({**HEADER, **change})
    with pytest.raises(Refused):
        ContributionHeader.parse({k: v for k, v in HEADER.items() if k not in change})


def with_delta(e: Envelope, value: float | None = None, shape: tuple[int, ...] | None = None) -> Envelope:
    from windfall.store.tensors import from_bytes

    delta = from_bytes(e.blobs["delta"], "t")
    name = max(delta, key=lambda n: delta[n].size)
    if value is not None:
        delta[name].flat[3] = value
    if shape is not None:
        delta[name] = np.zeros(shape, np.float32)
    return replace(e, blobs={**e.blobs, "delta": to_bytes(delta)})


ATTACKS: dict[str, Any] = {
    "truncated": lambda e: [replace(e, blobs={"delta": e.blobs["delta"][:100]})],
    "no delta": lambda e: [replace(e, blobs={})],
    "negative tokens": lambda e: [replace(e, header={**e.header, "tokens": -5})],
    "another site": lambda e: [replace(e, header={**e.header, "site": "zebra"})],
    "blocks not lent": lambda e: [
        replace(
            e,
            header={
                **e.header,
                "consumed": [{**c, "start": c["start"] + 100, "end": c["end"] + 100} for c in e.header["consumed"]],
            },
        )
    ],
    "old epoch": lambda e: [replace(e, header={**e.header, "consumed": [{**c, "epoch": 77} for c in e.header["consumed"]]})],
    "half a header": lambda e: [replace(e, header={**e.header, "consumed": [{}]})],
    "no header": lambda e: [replace(e, header={})],
    "base not there yet": lambda e: [replace(e, header={**e.header, "base_version": 10**6})],
}


@pytest.mark.parametrize("attack", list(ATTACKS))
def test_a_bad_contribution_is_refused_with_an_event_and_the_run_unharmed(tmp_path: Path, data: Path, attack: str) -> None:
    run = Run(tmp_path / "r", data, {"a": [(0, 300)], "b": [(0, 300)]}, steps=30)
    struck = []

    def tamper(e: Envelope) -> list[Envelope]:
        if e.header.get("kind") == "contribution" and e.header["site"] == "b" and not struck and e.header["consumed"]:
            struck.append(e)
            return list(ATTACKS[attack](e))
        return [e]

    run.transport.tamper = tamper
    assert run.serve() == "done"
    (refused,) = run.events("refused")
    assert struck
    assert refused[2] == "b"
    assert refused[3]["reason"]
    assert run.ledger.counts().committed == run.ledger.budget_blocks
    assert run.ledger.head().tokens_total == 30 * TOKENS_PER_STEP
    assert all(np.isfinite(w).all() for w in run.weights().values())
    run.close()


def test_a_contribution_that_arrives_twice_counts_once(tmp_path: Path, data: Path) -> None:
    run = Run(tmp_path / "r", data, {"a": [(0, 300)], "b": [(0, 300)]}, steps=60)
    run.transport.tamper = lambda e: [e, e] if e.header.get("kind") == "contribution" else [e]
    assert run.serve() == "done"
    assert run.ledger.head().tokens_total == 60 * TOKENS_PER_STEP
    run.close()


def test_rubbish_on_the_bus_and_in_a_hello_is_told_and_harms_nothing(tmp_path: Path, data: Path) -> None:
    run = Run(tmp_path / "r", data, {"a": [(0, 300)]}, steps=30)
    (run.dir.sites / "a" / "outbox").mkdir(parents=True)
    (run.dir.sites / "a" / "outbox" / "000000-000001.env").write_bytes(b"not an envelope")
    run.serve(until_min=5)
    for entry in ({"kind": "step"}, {"kind": "step", "t_run": "now", "loss": [], "tokens": 1, "version": 0}, {"kind": "eval"}, {}):
        run.workers["a"]._bus.emit(entry)
    assert run.serve() == "done"
    reasons = [d["reason"] for _, _, _, d in run.events("refused")]
    assert len(reasons) == 4
    assert "not a Windfall envelope" in reasons[0]
    assert all("malformed" in r for r in reasons[1:])
    run.close()
