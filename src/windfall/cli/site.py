"""`windfall site`: sites on other machines. What such a machine runs, and how it is let in."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Annotated, Optional

import typer

app = typer.Typer(help="Sites on other machines: let them in, and run on them.", no_args_is_help=True, rich_markup_mode=None)

_CaOption = Annotated[
    Optional[Path],  # noqa: UP045 - typer reads it
    typer.Option("--ca-file", metavar="FILE", help="certificate of the run's CA (ca.pem of `windfall certs init`)"),
]
_FOLDER = Path("windfall-site")


@app.command()
def invite(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="run directory")],
    name: Annotated[str, typer.Argument(metavar="SITE", help='one of the run\'s sites with driver = "resident"')],
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="where to write the token (default: printed)")] = None,
    valid_h: Annotated[float, typer.Option("--valid-h", help="for how many hours it is good")] = 24.0,
) -> None:
    """Make a token with which one machine can join a run, once."""
    from windfall import clock
    from windfall.errors import StoreError
    from windfall.run.residents import resident_of
    from windfall.store.files import write_secret

    resident, url = resident_of(run, name)
    token = resident.invite(clock.wall() + valid_h * 3600)
    if out is None:
        print(token)
    else:
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
            write_secret(out, f"{token}\n")
        except OSError as e:
            raise StoreError(f"{out}: cannot be written: {e.strerror}; name another place or give write access") from None
        print(f"{out}: a token for {name}, good once and for {valid_h:g} h. On its machine: ", file=sys.stderr)
        print(f"  windfall site join {url or 'https://ADDRESS:PORT'} --token-file {out.name} --ca-file ca.pem", file=sys.stderr)


@app.command()
def revoke(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="run directory")],
    name: Annotated[str, typer.Argument(metavar="SITE", help="one of the run's sites on other machines")],
) -> None:
    """Let nothing be good any more that a site was given: its machine's key, its life's token, its user in Redis."""
    from windfall.run import residents

    print(f"{name}: {'; '.join(residents.revoke(run, name)) or 'it was given nothing yet'}")


@app.command()
def join(
    address: Annotated[str, typer.Argument(metavar="ADDRESS", help="of the run's endpoint: https://HOST:PORT")],
    token_file: Annotated[Path, typer.Option("--token-file", metavar="FILE", help="a token of `windfall site invite`")],
    ca_file: _CaOption = None,
    folder: Annotated[Path, typer.Option("--folder", metavar="DIR", help="this machine's own folder")] = _FOLDER,
    off_command: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option("--off-command", metavar="WORD", help="a word of the command that puts this machine to sleep (repeat)"),
    ] = None,
    systemd: Annotated[bool, typer.Option("--systemd", help="print a systemd unit, and do not run")] = False,
) -> None:
    """Make this machine a site of a run: trade a join token for a key, then do as the run says until Ctrl-C."""
    from windfall.site import resident

    asked: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda n, _: asked.append(n))
    name = resident.join(
        address, token_file, ca_file, folder.resolve(), off_command=off_command or [], asked=lambda: bool(asked), say=_say
    )  # fmt: skip
    _say(f"this machine has joined as {name}; its key is in {folder.resolve()}")
    if systemd:
        print(resident.unit(folder.resolve()), end="")
        return
    raise typer.Exit(resident.serve(folder))


@app.command()
def move(
    address: Annotated[str, typer.Argument(metavar="ADDRESS", help="where the run's endpoint is now: https://HOST:PORT")],
    folder: Annotated[Path, typer.Option("--folder", metavar="DIR", help="this machine's own folder")] = _FOLDER,
) -> None:
    """On a machine that has joined: the run is at another address now. Its agent need not be started again."""
    from windfall.site import resident

    asked: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda n, _: asked.append(n))
    name = resident.move(address, folder.resolve(), asked=lambda: bool(asked), say=_say)
    _say(f"{name}: this machine looks for its run at {address} from now on")


@app.command("resident")
def resident_(
    folder: Annotated[Path, typer.Option("--folder", metavar="DIR", help="this machine's own folder")] = _FOLDER,
) -> None:
    """On a machine that has joined: do as the run says, until Ctrl-C."""
    from windfall.site import resident

    raise typer.Exit(resident.serve(folder))


@app.command()
def start(
    endpoint: Annotated[str, typer.Option("--endpoint", metavar="URL", help="of the run: https://HOST:PORT")],
    token_file: Annotated[Path, typer.Option("--token-file", metavar="FILE", help="the token of this life of the site")],
    folder: Annotated[Path, typer.Option("--folder", metavar="DIR", help="the site's own folder, which its next life needs again")],
    ca_file: _CaOption = None,
) -> None:
    """Run one life of a site on this machine. Drivers call it; SIGTERM lets it hand in what it can."""
    from windfall.site import start as verb

    raise typer.Exit(verb.main(endpoint, token_file, ca_file, folder))


@app.command()
def manifest(
    source: Annotated[Path, typer.Argument(metavar="RUN|FILE", help="run directory, or configuration (TOML)")],
    names: Annotated[list[str], typer.Argument(metavar="SITE...", help='the run\'s sites with driver = "kubernetes"')],
    image: Annotated[str | None, typer.Option("--image", metavar="IMAGE", help="in place of the configured one")] = None,
    kustomize: Annotated[Path | None, typer.Option("--kustomize", metavar="DIR", help="write them there, as a base")] = None,
) -> None:
    """Print what a Kubernetes cluster needs for sites, as YAML: namespace, rights, network policy, disk, pod. It has no secrets."""
    from windfall.cli import manifest as verb

    verb.manifest(source, names, image, kustomize)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
