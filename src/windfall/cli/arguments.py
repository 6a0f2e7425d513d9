"""Arguments and options that several verbs have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="run directory")]
FileArgument = Annotated[Path, typer.Argument(metavar="FILE", help="configuration (TOML)")]
SiteArgument = Annotated[str, typer.Argument(metavar="SITE", help="one of the run's sites")]
ForOption = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option("--for", metavar="TIME", help="for how much run time: 90s, 30m, 2h, 1.5d"),
]
WhyOption = Annotated[str, typer.Option("--why", metavar="TEXT", help="the reason, kept with the run")]
JsonOption = Annotated[bool, typer.Option("--json", help="print JSON")]
