"""What is used beside sites' phases: bytes that move, and evaluations on replayed time."""

from __future__ import annotations

from pathlib import Path

import pytest

from windfall.federation.beside import Beside
from windfall.federation.members import Settings
from windfall.store.blobs import Blob
from windfall.store.files import Envelope
from windfall.store.telemetry import Telemetry


def settings(**more: object) -> Settings:
    return Settings(
        round_s=600.0, solo_cut_s=600.0, quorum=1.0, grace_s=1.0, heartbeat_timeout_s=60.0, tick_s=1.0, gated=True, codec="fp32",
        blocks_per_step=1, tokens_per_block=1, budget_tokens=1, manifest="", tokens_per_s={"a": 1.0}, **more,  # type: ignore[arg-type]
    )  # fmt: skip


def blobs(*sizes: int) -> dict[str, Blob]:
    return Envelope.of({"kind": "round"}, {str(i): bytes(n) for i, n in enumerate(sizes)}).all_blobs()


def test_what_moves_either_way_takes_energy_once_and_is_kept_by_site(tmp_path: Path) -> None:
    telemetry = Telemetry.open(tmp_path / "telemetry.db")
    beside = Beside(settings(network_j_per_byte=0.5, evaluation_j={"a": 70.0}), telemetry)
    beside.sent("a", blobs(100, 20))
    beside.received("a", blobs(30))
    beside.received("b", blobs(8))
    beside.sent("b", {})
    beside.evaluates("a")
    assert beside.take(5.0, {"a"}) == [("a", "network", 60.0), ("b", "network", 4.0), ("a", "evaluation", 70.0)]
    assert beside.take(6.0, {"a"}) == [], "what came from a site waits until it is sent something, or is gone"
    assert (beside.sent_bytes, beside.received_bytes) == (120, 38)
    beside.sent("a", blobs(1))
    assert beside.take(7.0, {"a"}) == [("a", "network", 15.5)]
    telemetry.flush()
    assert telemetry.metric_totals("network_bytes") == {"a": 151.0, "b": 8.0}
    telemetry.close()


def test_where_an_evaluation_takes_time_it_is_a_phase_and_no_more(tmp_path: Path) -> None:
    telemetry = Telemetry.open(tmp_path / "telemetry.db")
    beside = Beside(settings(), telemetry)
    beside.evaluates("a")
    assert sum(joules for _, _, joules in beside.take(0.0, ())) == pytest.approx(0.0)
    telemetry.close()
