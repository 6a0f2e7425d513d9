"""What a site's link was measured to carry is told once, and again where it has changed, with what it means for its leaving."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from windfall.cli.demo import bundled
from windfall.config.load import loads
from windfall.run.links import Links
from windfall.store.telemetry import Event, Telemetry

DEMO = loads(bundled("demo.toml"), "demo.toml", Path("."))
MBIT = 1e6 / 8
MODEL, INNER = 400_000_000, 200_000_000


@pytest.fixture
def telemetry(tmp_path: Path) -> Iterator[Telemetry]:
    made = Telemetry.open(tmp_path / "telemetry.db")
    yield made
    made.close()


def told(telemetry: Telemetry) -> list[Event]:
    telemetry.flush()
    return [e for _, e in telemetry.events()]


def test_a_link_is_told_of_once_and_again_when_it_carries_half_as_much_more_or_less(telemetry: Telemetry) -> None:
    links = Links(DEMO, telemetry)
    asked: list[str] = []

    def sizes() -> tuple[int, None]:
        asked.append("")
        return MODEL, None

    for mbit_s in (100, 120, 149, 70, 151, 110, 60, 300):
        links.measured(1.0, "california", mbit_s * MBIT, sizes)
    links.measured(2.0, "texas", 100 * MBIT, sizes)
    assert [(e.site, e.detail["mbit_s"]) for e in told(telemetry)] == [
        ("california", 100), ("california", 151), ("california", 60), ("california", 300), ("texas", 100),
    ]  # fmt: skip
    assert len(asked) == 5, "the disk is looked at only where something is told"
    later = Links(DEMO, telemetry)
    later.measured(3.0, "california", 310 * MBIT, sizes)
    assert len(told(telemetry)) == 5, "the next coordinator knows what was told"


@pytest.mark.parametrize(
    ("mbit_s", "inner", "said"),
    [
        (10_000, INNER, "its last work takes 0 s to leave (0 s from a joint round) and its inner state 0 s, and has "
                        "fleet.drain_timeout_s = 60, then fleet.stop_grace_s = 10"),
        (100, INNER, "its last work takes 32 s to leave (8 s from a joint round) and its inner state 16 s, longer than "
                     "fleet.stop_grace_s = 10: what has not left stays in its outbox, and comes at its next start"),
        (40, None, "its last work takes 80 s to leave (21 s from a joint round), longer than fleet.drain_timeout_s = 60 and "
                   "fleet.stop_grace_s = 10: what has not left stays in its outbox, and comes at its next start"),
    ],
)  # fmt: skip
def test_it_says_how_long_handing_in_takes_and_what_that_exceeds(
    telemetry: Telemetry, mbit_s: float, inner: int | None, said: str
) -> None:
    Links(DEMO, telemetry).measured(1.0, "california", mbit_s * MBIT, lambda: (MODEL, inner))
    (event,) = told(telemetry)
    assert event.detail["reason"] == said
    assert event.detail["work_s"] == pytest.approx(MODEL / (mbit_s * MBIT))
    assert event.detail["drain_timeout_s"] == 60.0
    assert ("inner_s" in event.detail) is (inner is not None)


def test_what_a_platform_gives_a_site_that_it_ends_is_compared_too(telemetry: Telemetry) -> None:
    table = '[site.slurm]\nfolder = "/scratch"\nterm_before_s = 40\n\n[site.signal]'
    text = bundled("demo.toml").replace("threads = 2", 'driver = "slurm"', 1).replace("[site.signal]", table, 1)
    links = Links(loads(text, "demo.toml", Path(".")), telemetry)
    for site in ("california", "texas"):
        links.measured(1.0, site, 100 * MBIT, lambda: (MODEL, INNER // 8))
    california, texas = (str(e.detail["reason"]) for e in told(telemetry))
    assert "longer than fleet.stop_grace_s = 10 and the 30 s of site.slurm.term_before_s: what has not left stays" in california
    assert "slurm" not in texas
