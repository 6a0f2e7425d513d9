"""`windfall certs`: certificates of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from windfall.cli.output import print_json

app = typer.Typer(help="Certificates, for sites on other machines.", no_args_is_help=True, rich_markup_mode=None)

_FolderArgument = Annotated[Path, typer.Argument(metavar="DIR", help="folder of the certificates")]


@app.command()
def init(
    folder: _FolderArgument,
    address: Annotated[
        list[str], typer.Option("--address", metavar="NAME", help="name or address by which sites reach this machine (repeat)")
    ],
    days: Annotated[int, typer.Option(min=1, max=3650, help="for how long the endpoint's certificate is good")] = 365,
) -> None:
    """Make a CA, and the endpoint's certificate for these names. Where there is a CA already, only a new certificate."""
    from windfall import clock
    from windfall.wire.certificates import make

    made = make(folder, address, clock.wall(), days=days)
    print(f'{made.folder}: certificates. In the configuration: [network] certificates = "{made.folder}", address = "{address[0]}"')
    print(f"Sites need {made.ca} alone. {made.ca_key} makes new certificates: keep it elsewhere if you can.")


@app.command()
def show(folder: _FolderArgument, as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False) -> None:
    """Say what the endpoint's certificate is for, and when it ends."""
    from windfall import clock
    from windfall.wire.certificates import SOON_DAYS, Certificates

    found = Certificates.open(folder)
    days, names = found.days_left(clock.wall()), found.names()
    if as_json:
        print_json({"names": names, "days_left": round(days, 2)})
        return
    print(f"for {', '.join(names)}; {'ended' if days < 0 else f'ends in {days:.0f} days'}")
    if days < SOON_DAYS:
        print(f"make a new one with `windfall certs init {folder} --address NAME`; sites keep their ca.pem")
