"""What the documents show is what the product reads."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from windfall.config.signals import SignalTable

TRACES = (Path(__file__).parents[1] / "docs" / "traces.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```toml\n(.*?)```", TRACES, flags=re.S)


@pytest.mark.parametrize("text", EXAMPLES, ids=[e.splitlines()[0] for e in EXAMPLES])
def test_every_example_of_a_trace_is_a_signal(text: str) -> None:
    table = SignalTable.model_validate(tomllib.loads(text)["site"]["signal"])
    assert table.kind == "trace"


def test_the_page_on_traces_names_every_key_of_them() -> None:
    own = {
        "where", "repeated", "unit", "scale", "timezone", "trust_offset", "stamp", "time_format", "hour_column", "hours_from",
        "quarter_column", "repeated_hour_column", "decimal", "region_column", "region_value", "stale_periods", "until",
    }  # fmt: skip
    assert own <= set(SignalTable.model_fields)
    for key in own:
        assert f"`{key}" in TRACES, key
