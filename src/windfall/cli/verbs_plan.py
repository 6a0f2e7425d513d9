"""Verbs about grids, policies and money: backtest, economics, plan, signals."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Optional

import typer

from windfall.cli.arguments import FileArgument, JsonOption

app = typer.Typer(rich_markup_mode=None)


@app.command()
def backtest(
    file: Annotated[Optional[Path], typer.Argument(metavar="FILE", help="configuration (TOML)")] = None,  # noqa: UP045
    policy: Annotated[Optional[list[str]], typer.Option(help="policy to compare (again for more)")] = None,  # noqa: UP045
    begin: Annotated[Optional[str], typer.Option("--from", metavar="TIME", help="first instant, 2021-04-01 for example")] = None,  # noqa: UP045
    until: Annotated[Optional[str], typer.Option("--to", metavar="TIME", help="last instant")] = None,  # noqa: UP045
    starts: Annotated[int, typer.Option(metavar="N", help="from so many start dates, spread over the time")] = 1,
    span_days: Annotated[Optional[float], typer.Option(metavar="DAYS", help="length of each simulation with --starts")] = None,  # noqa: UP045
    sweep: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(metavar="KEY=VALUES", help="worth_g_per_kwh=60,80,100 or spin_up_s=300:1200:300; every combination"),
    ] = None,
    rank_regions: Annotated[bool, typer.Option("--rank-regions", help="compare regions instead of policies")] = False,
    replay: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(metavar="RUN", help="a run's recorded readings through its policy: do its decisions come out again?"),
    ] = None,
    html: Annotated[Optional[Path], typer.Option(metavar="PAGE", help="write a page with figures")] = None,  # noqa: UP045
    csv: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(metavar="DIR", help="write tables as CSV, what their columns mean, summary.json and the configuration"),
    ] = None,
    figures: Annotated[Optional[Path], typer.Option(metavar="DIR", help="write figures as SVG and PDF")] = None,  # noqa: UP045
    jobs: Annotated[Optional[int], typer.Option(metavar="N", help="processes for many simulations (default: one a core)")] = None,  # noqa: UP045
    details: Annotated[bool, typer.Option("--details", help="of a budget, the share of the oracle's value too")] = False,
    as_json: JsonOption = False,
) -> None:
    """What policies would have brought on a configuration's signals, beside the oracle, on a manual clock, in seconds."""
    from windfall.cli import backtest as verb
    from windfall.cli.output import typed

    if replay is not None:
        verb.replay_verb(replay, as_json)
        return
    if file is None:
        raise typer.BadParameter("give a configuration, or --replay RUN", param_hint="FILE")
    asked = verb.BacktestRequest(
        policy or [], begin, until, starts, span_days, sweep or [], html, csv, jobs, details, figures, typed()
    )
    (verb.rank_verb if rank_regions else verb.backtest_verb)(file, asked, as_json)


@app.command()
def economics(
    file: FileArgument,
    policy: Annotated[Optional[str], typer.Option(help="policy of the sites (default: the configuration's)")] = None,  # noqa: UP045
    starts: Annotated[int, typer.Option(metavar="N", help="from so many start dates, spread over the time")] = 1,
    span_days: Annotated[Optional[float], typer.Option(metavar="DAYS", help="length of each simulation with --starts")] = None,  # noqa: UP045
    rank_regions: Annotated[bool, typer.Option("--rank-regions", help="where to build: the same site in each region")] = False,
    by: Annotated[
        Literal["money", "kg", "years"], typer.Option("--by", help="with --rank-regions: what regions are ranked by")
    ] = "money",
    csv: Annotated[Optional[Path], typer.Option(metavar="DIR", help="write tables as CSV, and what their columns mean")] = None,  # noqa: UP045
    figures: Annotated[Optional[Path], typer.Option(metavar="DIR", help="write figures as SVG and PDF: cost, tornado")] = None,  # noqa: UP045
    as_json: JsonOption = False,
) -> None:
    """Whether training on surplus pays: the run's bill owned and rented, in windows and always on, by `[economics]`.

    With the duty and the rent at which owning breaks even, the price of waiting, how many sites it takes for one to be nearly
    always open, which battery pays, and what moves the result most.
    """
    from windfall.cli import economics as verb
    from windfall.cli.output import typed

    asked = verb.EconomicsRequest(policy, starts, span_days, csv, figures, typed())
    if rank_regions:
        verb.siting(file, asked, by, as_json)
    else:
        verb.economics(file, asked, as_json)


@app.command()
def plan(
    file: FileArgument,
    at: Annotated[Optional[str], typer.Option(metavar="TIME", help="from when (default: the run's start, or now)")] = None,  # noqa: UP045
    days: Annotated[int, typer.Option(min=1, max=14, help="days shown one by one")] = 3,
    draws: Annotated[int, typer.Option(min=5, max=1000, help="futures drawn from the past")] = 40,
    as_json: JsonOption = False,
) -> None:
    """The days to come: expected windows, tokens, kg, money and finish date, with a range, from forecast and history."""
    from windfall.cli import plan as verb

    verb.plan(file, at, days, draws, as_json)


@app.command()
def signals(
    region: Annotated[Optional[str], typer.Argument(metavar="REGION", help="only this region, or a provider's zone")] = None,  # noqa: UP045
    config: Annotated[Optional[Path], typer.Option(metavar="FILE", help="configuration (default: windfall.toml)")] = None,  # noqa: UP045
    at: Annotated[Optional[str], typer.Option(metavar="TIME", help="traces: when to look (default: the run's start)")] = None,  # noqa: UP045
    as_json: JsonOption = False,
) -> None:
    """Which providers can be asked, what each signal says now, and what policies would make of it.

    Ends with 1 where no source answers.
    """
    from windfall.cli import signals as verb

    raise typer.Exit(verb.signals(region, config, at, as_json))
