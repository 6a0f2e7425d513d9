"""Verbs about a run: start it, look at it, steer it."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated, Optional

import typer

from windfall.cli.arguments import (
    AuthorOption,
    ExpectMode,
    ExpectSite,
    ExpectValue,
    ForOption,
    JsonOption,
    LinesOption,
    RunArgument,
    SiteArgument,
    WaitOption,
    WhyOption,
)

app = typer.Typer(rich_markup_mode=None)


class Extend(str, Enum):  # noqa: UP042 - typer takes its values
    """What becomes of the rates of a run that is made longer."""

    warmdown = "warmdown"
    hold = "hold"


class By(str, Enum):  # noqa: UP042 - typer takes its values
    """What an account has lines for."""

    site = "site"
    phase = "phase"
    version = "version"
    hour = "hour"


@app.command()
def run(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="configuration (TOML), or a run directory to resume as it is")],
    run_dir: Annotated[Optional[Path], typer.Option(help="run directory (default: runs/<name>); an existing one resumes")] = None,  # noqa: UP045
    speed: Annotated[Optional[float], typer.Option(help="scaled clock: at most this many run seconds per wall second")] = None,  # noqa: UP045
    quiet: Annotated[bool, typer.Option("--quiet", help="no live view")] = False,
    extend: Annotated[
        Optional[Extend],  # noqa: UP045
        typer.Option(help="a larger budget after the warm-down has begun: a new warm-down at the new end, or the rates held"),
    ] = None,
    as_json: JsonOption = False,
    as_lines: LinesOption = False,
) -> None:
    """Start a run, or resume the one in its run directory. Ctrl-C lets sites hand in their work, then stops.

    A resumed run may change what does not change what was trained: policy, limits, thresholds, signals, sites, speed, and a larger
    budget. What it may not is named, with the old and the new value.
    """
    from windfall.cli import run as verb

    raise typer.Exit(verb.run(file, run_dir, speed, quiet, as_json, extend.value if extend else None, as_lines))


@app.command()
def status(
    run: RunArgument,
    watch: Annotated[bool, typer.Option("--watch", help="show it for as long as it runs, as `windfall top` does")] = False,
    as_json: JsonOption = False,
) -> None:
    """Where a run stands."""
    if watch:
        from windfall.cli import top as watching

        raise typer.Exit(watching.top(run, as_json))
    from windfall.cli import status as verb

    verb.status(run, as_json)


@app.command()
def top(run: RunArgument, as_lines: LinesOption = False) -> None:
    """Show a run as its own terminal does, for as long as it runs. q or Ctrl-C ends the watching, not the run.

    Into a pipe it prints how the run stands, and a line for each thing that happens.
    """
    from windfall.cli import top as verb

    raise typer.Exit(verb.top(run, as_lines))


@app.command()
def events(
    run: RunArgument,
    as_json: JsonOption = False,
    kind: Annotated[Optional[list[str]], typer.Option(help="only events of this kind (again for more)")] = None,  # noqa: UP045
) -> None:
    """What happened in a run, one line each."""
    from windfall.cli import events as verb

    verb.events(run, as_json, kind or [])


@app.command()
def report(run: RunArgument, as_json: JsonOption = False) -> None:
    """Write a run's report (RUN/report/index.html, figures, summary.json)."""
    from windfall.cli import report as verb

    verb.report(run, as_json)


@app.command()
def dashboard(
    runs: Annotated[
        Optional[list[Path]],  # noqa: UP045
        typer.Argument(
            metavar="[RUN|FOLDER]...", help="run directories, or folders of them (default: runs, or here)", show_default=False
        ),
    ] = None,
    host: Annotated[str, typer.Option(help="address to listen at; others than this machine's own need certificates")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="port to listen at; 0 picks a free one")] = 8731,
    token_file: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(metavar="FILE", help="the token that signs in (default: WINDFALL_DASHBOARD_TOKEN, or a new one each time)"),
    ] = None,
    certificates: Annotated[
        Optional[str], typer.Option(metavar="DIR", help="folder of `windfall certs init`: serve over TLS")  # noqa: UP045
    ] = None,
    insecure: Annotated[
        str, typer.Option(metavar="WORDS", help='"I know": without TLS although the address is no loopback one')
    ] = "",
    name: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(metavar="NAME", help="another name by which it may be asked for, as behind a proxy (repeat)"),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """A page about runs, going on or ended: what sites do and why, what was learned, what it cost; and a hand on the switch."""
    from windfall.cli import dashboard as verb

    verb.dashboard(runs or [], host, port, token_file, certificates, insecure, name or [], as_json)


@app.command()
def account(
    run: RunArgument,
    by: Annotated[Optional[By], typer.Option(help="a line for each (default: by site, and by phase)")] = None,  # noqa: UP045
    as_json: JsonOption = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="the lines as CSV")] = False,
    codecarbon: Annotated[
        bool, typer.Option("--codecarbon", help="a line for each site, laid out as CodeCarbon's emissions.csv")
    ] = False,
) -> None:
    """What a run cost: energy (measured and modelled), emissions, money, by site, phase, version or hour; tokens; how it closes."""
    from windfall.cli import account as verb

    verb.account(run, by.value if by else None, as_json, as_csv, codecarbon)


@app.command()
def metrics(runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="run directories")]) -> None:
    """Print runs as Prometheus reads them, once (the dashboard has them at /metrics)."""
    from windfall.cli import metrics as verb

    verb.metrics(runs)


@app.command()
def export(
    run: RunArgument,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="folder for the tables; made if it is not there")],
    form: Annotated[str, typer.Option("--format", metavar="FORMAT", help="csv or parquet")] = "csv",
    as_json: JsonOption = False,
) -> None:
    """Write a run's series as tables: versions, events, decisions, readings, energy and more, and its summary."""
    from windfall.cli import export as verb

    verb.export(run, out, form, as_json)


class TrackerKind(str, Enum):  # noqa: UP042 - typer takes its values
    """Experiment trackers."""

    tensorboard = "tensorboard"
    wandb = "wandb"
    mlflow = "mlflow"


@app.command()
def track(
    run: RunArgument,
    to: Annotated[Optional[TrackerKind], typer.Option("--to", help="which tracker (default: those of the configuration)")] = None,  # noqa: UP045
    folder: Annotated[Optional[str], typer.Option(metavar="DIR", help="tensorboard, wandb: folder of its files")] = None,  # noqa: UP045
    project: Annotated[Optional[str], typer.Option(metavar="NAME", help="wandb: project; mlflow: experiment")] = None,  # noqa: UP045
    url: Annotated[Optional[str], typer.Option(metavar="URL", help="mlflow, wandb: server")] = None,  # noqa: UP045
    follow: Annotated[bool, typer.Option("--follow", help="go on until told to end, whatever becomes of the run")] = False,
    as_json: JsonOption = False,
) -> None:
    """Send a run's figures to TensorBoard, Weights & Biases or MLflow, over tokens; a running one is followed to its end.

    `windfall run` does it by itself for each [[tracker]] of its configuration. Nothing is sent twice.
    """
    from windfall.cli import track as verb

    raise typer.Exit(verb.track(run, to.value if to else None, folder, project, url, follow, as_json))


@app.command()
def hold(
    run: RunArgument, site: SiteArgument, span: ForOption = None, why: WhyOption = "", author: AuthorOption = None,
    expect: ExpectSite = None, wait: WaitOption = None, as_json: JsonOption = False,
) -> None:  # fmt: skip
    """Keep a site off whatever its policy says, until it is released or the time is over; a running one hands in its work."""
    from windfall.cli import operate as verb

    raise typer.Exit(verb.of_site("hold", run, site, span, why, author, expect, wait, as_json))


@app.command()
def release(
    run: RunArgument, site: SiteArgument, why: WhyOption = "", author: AuthorOption = None, expect: ExpectSite = None,
    wait: WaitOption = None, as_json: JsonOption = False,
) -> None:  # fmt: skip
    """Give a held or drained site back to its policy."""
    from windfall.cli import operate as verb

    raise typer.Exit(verb.of_site("release", run, site, None, why, author, expect, wait, as_json))


@app.command()
def drain(
    run: RunArgument, site: SiteArgument, span: ForOption = None, why: WhyOption = "", author: AuthorOption = None,
    expect: ExpectSite = None, wait: WaitOption = None, as_json: JsonOption = False,
) -> None:  # fmt: skip
    """Let a site hand in its work and stop; its policy decides again after this on-period, or after --for."""
    from windfall.cli import operate as verb

    raise typer.Exit(verb.of_site("drain", run, site, span, why, author, expect, wait, as_json))


@app.command()
def stop(
    run: RunArgument, why: WhyOption = "", author: AuthorOption = None, expect: ExpectMode = None, wait: WaitOption = None,
    as_json: JsonOption = False,
) -> None:  # fmt: skip
    """Stop a run as Ctrl-C at its terminal does: sites hand in their work, and `windfall run` resumes it."""
    from windfall.cli import operate as verb

    raise typer.Exit(verb.stop(run, why, author, expect, wait, as_json))


@app.command("set", context_settings={"ignore_unknown_options": True})  # so that -1 is a value, and is told what is wrong with it
def set_(
    run: RunArgument,
    key: Annotated[str, typer.Argument(metavar="KEY", help="as in the configuration; its table may be left out: max_sites")],
    value: Annotated[str, typer.Argument(metavar="VALUE", help="the new value; none for no limit")],
    extend: Annotated[
        Optional[Extend],  # noqa: UP045
        typer.Option(help="a larger budget after the warm-down has begun: a new warm-down at the new end, or the rates held"),
    ] = None,
    why: WhyOption = "",
    author: AuthorOption = None,
    expect: ExpectValue = None,
    wait: WaitOption = None,
    as_json: JsonOption = False,
) -> None:
    """Change a run's budget, deadline or a limit while it goes on: budget_tokens, deadline, deadline_h, max_sites, max_power_w,
    max_spend_per_h, max_spend.
    """
    from windfall.cli import operate as verb

    raise typer.Exit(verb.change(run, key, value, extend.value if extend else None, why, author, expect, wait, as_json))


@app.command()
def requests(run: RunArgument, as_json: JsonOption = False) -> None:
    """What was asked of a run, by whom, and what became of it: applied, refused and why, or waiting."""
    from windfall.cli import operate as verb

    verb.requests(run, as_json)


@app.command()
def alerts(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="configuration (TOML), or a run directory")],
    test: Annotated[bool, typer.Option("--test", help="send one to the webhook now, and say what it answers")] = False,
    as_json: JsonOption = False,
) -> None:
    """What a run tells people of ([alerts]), from when on, and where it is sent."""
    from windfall.cli import alerts as verb

    verb.alerts(file, test, as_json)


@app.command()
def gc(
    run: RunArgument,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="only say what would be ended and removed")] = False,
    as_json: JsonOption = False,
) -> None:
    """End and remove what a run that has died left behind: processes, unfinished files. Never of a run that lives."""
    from windfall.cli import gc as verb

    raise typer.Exit(verb.gc(run, dry_run, as_json))
