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
LinesOption = Annotated[bool, typer.Option("--jsonl", help="print what happens as JSON, an object a line")]
AuthorOption = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option("--author", metavar="NAME", help="who asks (default: your user and host)"),
]
WaitOption = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option("--wait", metavar="TIME", help="wait so long for what becomes of it: 30s, 5m (wall time)"),
]
ExpectSite = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        "--expect", metavar="STATE", help="refuse it unless the site is so: off, training, ..., held, free; several with commas"
    ),
]
ExpectMode = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option("--expect", metavar="MODE", help="refuse it unless the run is paused, local or federated"),
]
ExpectValue = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option("--expect", metavar="VALUE", help="refuse it unless the value so far is this"),
]
