"""Verbs that come before a run: demo, init, check."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from windfall.cli.arguments import FileArgument, JsonOption

app = typer.Typer(rich_markup_mode=None)


@app.command()
def demo(
    run_dir: Annotated[Path, typer.Option(help="where the run goes; what is there is replaced")] = Path("runs/demo"),
    speed: Annotated[Optional[float], typer.Option(help="at most this many run seconds per wall second")] = None,  # noqa: UP045
    quiet: Annotated[bool, typer.Option("--quiet", help="no live view")] = False,
) -> None:
    """Three sites, the study's day, real training: a few minutes, ends with a report."""
    from windfall.cli import demo as verb

    raise typer.Exit(verb.demo(run_dir, speed, quiet))


@app.command()
def init(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="where to write it")] = Path("windfall.toml"),
    force: Annotated[bool, typer.Option("--force", help="overwrite")] = False,
) -> None:
    """Write a commented configuration to start from."""
    from windfall.cli import init as verb

    verb.init(file, force)


@app.command()
def check(
    file: FileArgument,
    measure: Annotated[bool, typer.Option("--measure", help="take a few optimizer steps here: how long will a run take?")] = False,
    as_json: JsonOption = False,
) -> None:
    """Say everything that is wrong with a configuration, with line and fix, and how long the run will take here.

    Of prepared data it reads the manifest and looks at the shards' sizes; their checksums, and text that is not prepared yet, are
    read when a run begins.
    """
    from windfall.cli import check as verb

    raise typer.Exit(verb.check(file, as_json, measure))
