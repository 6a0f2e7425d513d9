"""What the documents show is what the product reads."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import click
import pytest
import typer

from windfall.cli.main import app
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


PAGES = [*sorted((Path(__file__).parents[1] / "docs").glob("*.md")), Path(__file__).parents[1] / "README.md"]
COMMANDS = [
    (page.name, line)
    for page in PAGES
    for block in re.findall(r"```(?:sh|bash|console)?\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.S)
    for line in block.replace("\\\n", " ").splitlines()
    if re.match(r"(\.venv/bin/)?windfall ", line.strip())
]


@pytest.mark.parametrize(("page", "line"), COMMANDS, ids=[f"{page}: {line}"[:90] for page, line in COMMANDS])
def test_every_command_on_a_page_is_one_of_the_product(page: str, line: str) -> None:
    """Its verb and options exist; a word in capitals stands for something, and `…` for more of the same."""
    words = [w for w in re.split(r" #|  +", line.strip())[0].split() if w not in {"…", "&"}]
    command: click.Command = typer.main.get_command(app)
    args = words[1:]
    while isinstance(command, click.Group):
        assert args, f"{page}: {line}"
        assert args[0] in command.commands, f"{page}: {args[0]} is no verb"
        command, args = command.commands[args[0]], args[1:]
    command.make_context(words[-1], list(args), resilient_parsing=True)
