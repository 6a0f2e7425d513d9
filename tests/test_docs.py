"""What the documents show is what the product reads."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path

import click
import pytest
import typer

from windfall.cli import reference
from windfall.cli.main import app
from windfall.config.signals import SignalTable

ROOT = Path(__file__).parents[1]
TRACES = (ROOT / "docs" / "traces.md").read_text(encoding="utf-8")
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


PAGES = [*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md"]


def blocks(text: str, languages: tuple[str, ...] = ("", "sh", "bash", "console")) -> list[str]:
    """What stands between a page's fences of these languages."""
    found: list[str] = []
    inside: str | None = None
    for line in text.splitlines():
        if line.startswith("```"):
            if inside is None:
                inside = line[3:].strip()
                found += [""] if inside in languages else []
            else:
                inside = None
        elif inside is not None and inside in languages:
            found[-1] += line + "\n"
    return found


COMMANDS = [
    (page.name, line)
    for page in PAGES
    for block in blocks(page.read_text(encoding="utf-8"))
    for line in block.replace("\\\n", " ").splitlines()
    if re.match(r"(\.venv/bin/)?windfall ", line.strip())
]


@cache
def product() -> click.Command:
    """The command line, made once for all of them."""
    return typer.main.get_command(app)


@pytest.mark.parametrize(("page", "line"), COMMANDS, ids=[f"{page}: {line}"[:90] for page, line in COMMANDS])
def test_every_command_on_a_page_is_one_of_the_product(page: str, line: str) -> None:
    """Its verb and options exist; a word in capitals stands for something, and `…` for more of the same."""
    words = [w for w in shlex.split(re.split(r" #|  +| > ", line.strip())[0]) if w not in {"…", "&"}]
    command = product()
    args = words[1:]
    while isinstance(command, click.Group):
        assert args, f"{page}: {line}"
        assert args[0] in command.commands, f"{page}: {args[0]} is no verb"
        command, args = command.commands[args[0]], args[1:]
    context = command.make_context(words[-1], [], resilient_parsing=True)
    # Options that it knows, each with its value, and no more arguments than it takes.
    given, rest, _ = command.make_parser(context).parse_args(list(args))
    assert not rest, f"{page}: {line}: {rest[0]} is one argument too many"
    missing = [p.name for p in command.params if p.required and given.get(str(p.name)) is None]
    assert not missing, f"{page}: {line}: needs {missing[0]}"


def test_pages_made_from_the_code_are_up_to_date() -> None:
    for name, made in reference.PAGES.items():
        page = ROOT / "docs" / f"{name}.md"
        assert page.read_text(encoding="utf-8") == made(), f"docs/{name}.md is old: make reference"


def test_every_page_is_in_the_sites_contents_and_every_link_of_it_leads_somewhere(tmp_path: Path) -> None:
    contents = (ROOT / "zensical.toml").read_text(encoding="utf-8")
    for page in (ROOT / "docs").glob("*.md"):
        assert f'"{page.name}"' in contents, f"docs/{page.name} is not in zensical.toml"
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    shutil.copyfile(ROOT / "zensical.toml", tmp_path / "zensical.toml")
    built = subprocess.run(
        [Path(sys.executable).with_name("zensical"), "build", "--strict"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert built.returncode == 0, built.stdout + built.stderr
    assert (tmp_path / "build" / "docs" / "configuration.html").is_file()
    fetched = re.findall(r'<(?:script|link)[^>]+(?:src|href)="(https?://[^"]+)"', (tmp_path / "build/docs/index.html").read_text())
    assert not fetched, "the site fetches nothing from elsewhere"


def test_the_readme_names_only_files_that_exist() -> None:
    for link in re.findall(r"\]\((?!https?:|#)([^)#]+)", (ROOT / "README.md").read_text(encoding="utf-8")):
        assert (ROOT / link).exists(), link
