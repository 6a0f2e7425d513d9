"""The command line. One module per verb; a verb's module is imported when it runs, so that `--help` is instant."""

from __future__ import annotations

import logging
import os
import sys
from enum import Enum
from pathlib import Path
from typing import Annotated, Optional

import click
import typer

from windfall import __version__, proxies
from windfall.cli import certs, streams
from windfall.cli import site as sites
from windfall.errors import WindfallError
from windfall.store import files


class Extend(str, Enum):  # noqa: UP042 - typer takes its values
    """What becomes of the rates of a run that is made longer."""

    warmdown = "warmdown"
    hold = "hold"


class _Plain(click.HelpFormatter):
    """Help as text: typer escapes brackets for markup that is not asked for here."""

    def getvalue(self) -> str:
        return super().getvalue().replace("\\[", "[")


click.Context.formatter_class = _Plain

app = typer.Typer(
    name="windfall",
    help="Pretrain language models on renewable electricity that would otherwise be curtailed.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
data_app = typer.Typer(help="Prepare training data.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(data_app, name="data")
trace_app = typer.Typer(help="Look at trace files.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(trace_app, name="trace")

app.add_typer(sites.app, name="site")
app.add_typer(certs.app, name="certs")

RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="run directory")]
FileArgument = Annotated[Path, typer.Argument(metavar="FILE", help="configuration (TOML)")]
SiteArgument = Annotated[str, typer.Argument(metavar="SITE", help="one of the run's sites")]
ForOption = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option("--for", metavar="TIME", help="for how much run time: 90s, 30m, 2h, 1.5d"),
]
WhyOption = Annotated[str, typer.Option("--why", metavar="TEXT", help="the reason, kept with the run")]
JsonOption = Annotated[bool, typer.Option("--json", help="print JSON")]


def _version(value: bool) -> None:
    if value:
        typer.echo(f"windfall {__version__}")
        raise typer.Exit()


@app.callback()
def root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="print the version")] = False,
) -> None:
    """Pretrain language models on renewable electricity that would otherwise be curtailed."""


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


@data_app.command("prepare")
def data_prepare(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SRC", help="text, JSON rows (or both as .gz, .zst …), parquet, a folder, hf:OWNER/NAME, or `stdlib`"
        ),
    ],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="folder for the shards")],
    tokenizer: Annotated[str, typer.Option(help="bytes, bpe (trained on the text), or a tokenizer.json")] = "bytes",
    vocab_size: Annotated[Optional[int], typer.Option(min=265, help="bpe: size of the vocabulary (default 65,536)")] = None,  # noqa: UP045
    packing: Annotated[str, typer.Option(help="stream, or best_fit: sequences begin with a document")] = "stream",
    sequence_length: Annotated[int, typer.Option(min=16, help="tokens per sequence")] = 256,
    held_out_fraction: Annotated[float, typer.Option(min=0.0, max=0.5, help="share of documents kept for validation")] = 0.02,
    seed: Annotated[int, typer.Option(min=0, help="seed of the held-out choice")] = 0,
    workers: Annotated[Optional[int], typer.Option(min=1, help="processes that encode (default: all cores)")] = None,  # noqa: UP045
    shard_tokens: Annotated[Optional[int], typer.Option(min=1, help="tokens per shard, about (default: 67 million)")] = None,  # noqa: UP045
    text_column: Annotated[str, typer.Option(help="column or field that holds the text (parquet, JSON rows)")] = "text",
    skip_bad_rows: Annotated[bool, typer.Option("--skip-bad-rows", help="leave bad rows out; count, name them")] = False,
    replace: Annotated[bool, typer.Option("--replace", help="let this take the place of finished data in DIR")] = False,
    as_json: JsonOption = False,
) -> None:
    """Tokenise a corpus once, into memory-mapped shards with a checksummed manifest. An interrupted one is gone on with."""
    from windfall.cli import data as verb

    verb.prepare(
        source, out, sequence_length, held_out_fraction, seed, as_json, tokenizer, vocab_size, packing, workers, shard_tokens,
        text_column, replace, skip_bad_rows,
    )  # fmt: skip


@trace_app.callback()
def trace_root() -> None:
    """Look at trace files."""


@trace_app.command("show")
def trace_show(
    file: Annotated[str, typer.Argument(metavar="FILE", help=".csv, .csv.gz, .parquet, or bundled:caiso")],
    column: Annotated[Optional[str], typer.Option(metavar="NAME", help="column of values")] = None,  # noqa: UP045
    time_column: Annotated[Optional[str], typer.Option(metavar="NAME", help="column of instants, or of dates")] = None,  # noqa: UP045
    where: Annotated[Optional[list[str]], typer.Option(metavar="NAME=VALUE", help="only such rows (again for more)")] = None,  # noqa: UP045
    kind: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--type", metavar="TYPE", help="marginal_co2, average_co2, price, curtailed_power or surplus_power"),
    ] = None,
    unit: Annotated[Optional[str], typer.Option(metavar="UNIT", help="of the values: lb/MWh, EUR/kWh, kW")] = None,  # noqa: UP045
    scale: Annotated[Optional[float], typer.Option(metavar="X", help="what values are multiplied with")] = None,  # noqa: UP045
    currency: Annotated[Optional[str], typer.Option(metavar="EUR", help="of prices")] = None,  # noqa: UP045
    timezone: Annotated[Optional[str], typer.Option(metavar="ZONE", help="Europe/Berlin, +10:00")] = None,  # noqa: UP045
    stamp: Annotated[Optional[str], typer.Option(metavar="start|end", help="what instants are of their interval")] = None,  # noqa: UP045
    time_format: Annotated[Optional[str], typer.Option(metavar="FORMAT", help="of instants, as for strptime")] = None,  # noqa: UP045
    hour_column: Annotated[Optional[str], typer.Option(metavar="NAME", help="column of hours beside dates")] = None,  # noqa: UP045
    quarter_column: Annotated[Optional[str], typer.Option(metavar="NAME", help="column of quarters beside hours")] = None,  # noqa: UP045
    repeated_hour_column: Annotated[Optional[str], typer.Option(metavar="NAME", help="marks the second of equal hours")] = None,  # noqa: UP045
    repeated: Annotated[Optional[str], typer.Option(metavar="refuse|last", help="rows of one instant that differ")] = None,  # noqa: UP045
    decimal: Annotated[Optional[str], typer.Option(metavar=".|,", help="what decimals follow")] = None,  # noqa: UP045
    period_s: Annotated[Optional[float], typer.Option(metavar="S", help="how long a row counts; 0: until the next")] = None,  # noqa: UP045
    threshold: Annotated[Optional[float], typer.Option(metavar="X", help="windows under this (power: from this on)")] = None,  # noqa: UP045
    as_json: JsonOption = False,
) -> None:
    """What is in a trace file: columns, zones, resolution, holes, units, windows, and the [site.signal] that reads it.

    What no option says is guessed. Ends with 2 where no signal can be made of it yet.
    """
    from windfall.cli import trace as verb

    asked = {
        "column": column, "time_column": time_column, "type": kind, "unit": unit, "scale": scale, "currency": currency,
        "timezone": timezone, "stamp": stamp, "time_format": time_format, "hour_column": hour_column,
        "quarter_column": quarter_column, "repeated_hour_column": repeated_hour_column, "repeated": repeated, "decimal": decimal,
        "period_s": period_s,
    }  # fmt: skip
    raise typer.Exit(verb.show(file, asked, where or [], threshold, as_json))


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
) -> None:
    """Start a run, or resume the one in its run directory. Ctrl-C lets sites hand in their work, then stops.

    A resumed run may change what does not change what was trained: policy, limits, thresholds, signals, sites, speed, and a larger
    budget. What it may not is named, with the old and the new value.
    """
    from windfall.cli import run as verb

    raise typer.Exit(verb.run(file, run_dir, speed, quiet, as_json, extend.value if extend else None))


@app.command()
def status(run: RunArgument, as_json: JsonOption = False) -> None:
    """Where a run stands."""
    from windfall.cli import status as verb

    verb.status(run, as_json)


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
def export(
    run: RunArgument,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="folder for the tables; made if it is not there")],
    form: Annotated[str, typer.Option("--format", metavar="FORMAT", help="csv or parquet")] = "csv",
    as_json: JsonOption = False,
) -> None:
    """Write a run's series as tables: versions, events, decisions, readings, energy and more, and its summary."""
    from windfall.cli import export as verb

    verb.export(run, out, form, as_json)


@app.command()
def model(
    depth: Annotated[int, typer.Option(min=1, help="layers; everything else follows from it")],
    width: Annotated[Optional[int], typer.Option(min=1, help="default: 64 x depth")] = None,  # noqa: UP045
    head_dim: Annotated[Optional[int], typer.Option(min=2, help="default: 128, for a width below 256 32")] = None,  # noqa: UP045
    vocab_size: Annotated[int, typer.Option(min=1, help="tokens of the tokenizer")] = 65_536,
    sequence_length: Annotated[int, typer.Option(min=1, help="tokens per sequence")] = 2_048,
    micro_batch: Annotated[int, typer.Option(min=1, help="sequences in a forward pass, for the memory")] = 1,
    as_json: JsonOption = False,
) -> None:
    """What a depth makes: parameters, FLOPs per token, and the memory that training it takes."""
    from windfall.cli import model as verb

    verb.model(depth, width, head_dim, vocab_size, sequence_length, micro_batch, as_json)


@app.command("export-weights")
def export_weights(
    run: RunArgument,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="folder for the files; made if it is not there")],
    version: Annotated[Optional[int], typer.Option(min=0, help="which version (default: the newest)")] = None,  # noqa: UP045
    form: Annotated[str, typer.Option("--format", metavar="FORMAT", help="windfall or nanochat")] = "windfall",
    as_json: JsonOption = False,
) -> None:
    """Write a version's weights as safetensors that plain PyTorch, or nanochat, reads."""
    from windfall.cli import interchange as verb

    verb.export_weights(run, out, version, form, as_json)


@app.command("import-weights")
def import_weights(
    checkpoint: Annotated[
        Path, typer.Argument(metavar="CHECKPOINT", help="model_STEP.pt or .safetensors of nanochat, or its folder")
    ],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="folder for the files; made if it is not there")],
    meta: Annotated[Optional[Path], typer.Option(metavar="FILE", help="default: meta_STEP.json beside it")] = None,  # noqa: UP045
    as_json: JsonOption = False,
) -> None:
    """Read a nanochat checkpoint of January 2026, without unpickling it, and write it as such a folder."""
    from windfall.cli import interchange as verb

    verb.import_weights(checkpoint, out, meta, as_json)


@app.command()
def hold(run: RunArgument, site: SiteArgument, span: ForOption = None, why: WhyOption = "", as_json: JsonOption = False) -> None:
    """Keep a site off whatever its policy says, until it is released or the time is over; a running one hands in its work."""
    from windfall.cli import operate as verb

    verb.operate("hold", run, site, span, why, as_json)


@app.command()
def release(run: RunArgument, site: SiteArgument, why: WhyOption = "", as_json: JsonOption = False) -> None:
    """Give a held or drained site back to its policy."""
    from windfall.cli import operate as verb

    verb.operate("release", run, site, None, why, as_json)


@app.command()
def drain(run: RunArgument, site: SiteArgument, span: ForOption = None, why: WhyOption = "", as_json: JsonOption = False) -> None:
    """Let a site hand in its work and stop; its policy decides again after this on-period, or after --for."""
    from windfall.cli import operate as verb

    verb.operate("drain", run, site, span, why, as_json)


@app.command()
def gc(
    run: RunArgument,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="only say what would be ended and removed")] = False,
    as_json: JsonOption = False,
) -> None:
    """End and remove what a run that has died left behind: processes, unfinished files. Never of a run that lives."""
    from windfall.cli import gc as verb

    raise typer.Exit(verb.gc(run, dry_run, as_json))


@app.command()
def generate(
    run: RunArgument,
    prompt: Annotated[str, typer.Option(help="text to go on from")],
    tokens: Annotated[int, typer.Option(min=1, help="how many tokens")] = 200,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 takes the likeliest token")] = 0.8,
    top_k: Annotated[int, typer.Option(min=0, help="draw from the k likeliest; 0 from all")] = 50,
    seed: Annotated[int, typer.Option(min=0, help="seed of the draw")] = 0,
    version: Annotated[Optional[int], typer.Option(min=0, help="which version (default: the newest)")] = None,  # noqa: UP045
    as_json: JsonOption = False,
) -> None:
    """Let a run's model go on from a prompt."""
    from windfall.cli import generate as verb

    verb.generate(run, prompt, tokens, temperature, top_k, seed, version, as_json)


@app.command("eval")
def evaluate(
    run: RunArgument,
    version: Annotated[Optional[int], typer.Option(min=0, help="which version (default: the newest)")] = None,  # noqa: UP045
    sequences: Annotated[Optional[int], typer.Option(min=1, help="held-out sequences (default: data.eval_sequences)")] = None,  # noqa: UP045
    prompt: Annotated[str, typer.Option(help="text to go on from")] = "def ",
    as_json: JsonOption = False,
) -> None:
    """A version's bits per byte on the held-out text, and a sample of what it writes."""
    from windfall.cli import eval as verb

    verb.evaluate(run, version, sequences, prompt, as_json)


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
        typer.Option(metavar="DIR", help="write tables as CSV (rows, lanes, baselines; of many simulations points, summary)"),
    ] = None,
    jobs: Annotated[Optional[int], typer.Option(metavar="N", help="processes for many simulations (default: one a core)")] = None,  # noqa: UP045
    details: Annotated[bool, typer.Option("--details", help="of a budget, the share of the oracle's value too")] = False,
    as_json: JsonOption = False,
) -> None:
    """What policies would have brought on a configuration's signals, beside the oracle, on a manual clock, in seconds."""
    from windfall.cli import backtest as verb

    if replay is not None:
        verb.replay_verb(replay, as_json)
        return
    if file is None:
        raise typer.BadParameter("give a configuration, or --replay RUN", param_hint="FILE")
    asked = verb.BacktestRequest(policy or [], begin, until, starts, span_days, sweep or [], html, csv, jobs, details)
    (verb.rank_verb if rank_regions else verb.backtest_verb)(file, asked, as_json)


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


@app.command()
def site(site_dir: Annotated[Path, typer.Option(help="the site's folder, with its site.json")]) -> None:
    """The agent of one site: a SuperNode and the trainer. Drivers start it."""
    from windfall.site import agent

    raise typer.Exit(agent.main([str(site_dir)]))


def main() -> None:
    """Entry point: errors of ours become one message and their exit code, and so does what cannot be printed."""
    _read_names_as_utf8()
    proxies.settle(os.environ)
    # Where it can keep nothing at home it uses a temporary folder, which is no news to whoever reads a report.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    out, _ = streams.take_over()
    code = 1
    try:
        code = int(app(standalone_mode=False) or 0)
        out.flush()
    except streams.Unwritable as e:
        if e.nobody_reads:  # head, less, a closed terminal: no failure of ours
            code = 0
        else:
            _say(f"standard output cannot be written: {e}")
            code = 1
    except WindfallError as e:
        _say(str(e))
        code = e.exit_code
    except click.ClickException as e:
        e.show()
        code = e.exit_code
    except (KeyboardInterrupt, click.Abort):
        _say("interrupted")
        code = 130
    except OSError as e:
        # Wherever a verb writes: a disk that is full or read-only says so in one line. Anything else is a mistake of ours.
        if e.errno not in files.DISK_ERRORS:
            raise
        _say(f"{e.filename or 'a file'}: cannot be written ({e.strerror}); make room or give write access, then do the same again")
    finally:
        out.patient = True  # nobody is left to hear of it
    sys.exit(code)


def _read_names_as_utf8() -> None:
    """Begin again where the locale would read the names of files as anything else: a configuration names them in UTF-8."""
    if sys.getfilesystemencoding().lower() != "utf-8" and not sys.flags.utf8_mode:
        os.environ.setdefault("PYTHONIOENCODING", str(getattr(sys.stdout, "encoding", None) or "ascii"))
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])


def _say(text: str) -> None:
    print(f"windfall: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
