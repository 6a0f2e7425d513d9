"""[site.meter], [site.embodied] and [account]: nothing is counted twice, and no key says what it cannot."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from windfall.config.account import AccountTable
from windfall.config.meter import MeterTable


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"sources": ["nvml", "nvml"]}, "names one source twice"),
        ({"sources": ["nvml", "exporter"], "url": "http://x"}, "both measure the GPUs"),
        ({"sources": ["http", "rapl"], "url": "http://x", "power_path": "a"}, "has what rapl measures in it"),
        ({"sources": ["rapl"], "url": "http://x"}, "url belongs to source exporter"),
        ({"sources": ["exporter"]}, "need url"),
        ({"sources": ["http"], "url": "http://x"}, "needs energy_path or power_path"),
        ({"sources": ["rapl"], "pue": 0.9}, "greater than or equal to 1"),
        ({"sources": []}, "at least 1 item"),
    ],
)
def test_what_cannot_be_a_meter_is_refused(table: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        MeterTable.model_validate(table)


def test_a_gpu_meter_with_processors_and_a_modelled_rest_is_one() -> None:
    table = MeterTable.model_validate({"sources": ["nvml", "rapl"], "rest_power_w": 150.0, "pue": 1.2})
    assert MeterTable.model_validate(table.model_dump()) == table, "a resolved configuration has every key"


def test_a_range_that_is_none_is_refused() -> None:
    with pytest.raises(ValidationError, match="exchange them"):
        AccountTable.model_validate({"pue_low": 1.5, "pue_high": 1.2})
