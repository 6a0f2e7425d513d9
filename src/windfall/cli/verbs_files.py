"""Verbs about files that runs read: `windfall data` and `windfall trace`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from windfall.cli.arguments import JsonOption

data_app = typer.Typer(help="Prepare training data.", no_args_is_help=True, rich_markup_mode=None)
trace_app = typer.Typer(help="Look at trace files.", no_args_is_help=True, rich_markup_mode=None)


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
    file: Annotated[str, typer.Argument(metavar="FILE", help=".csv, .csv.gz, .parquet, .json, or bundled:caiso")],
    layout: Annotated[Optional[str], typer.Option(metavar="NAME", help="whose export it is: aemo, entsoe, watttime …")] = None,  # noqa: UP045
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
        "layout": layout, "column": column, "time_column": time_column, "type": kind, "unit": unit, "scale": scale,
        "currency": currency,
        "timezone": timezone, "stamp": stamp, "time_format": time_format, "hour_column": hour_column,
        "quarter_column": quarter_column, "repeated_hour_column": repeated_hour_column, "repeated": repeated, "decimal": decimal,
        "period_s": period_s,
    }  # fmt: skip
    raise typer.Exit(verb.show(file, asked, where or [], threshold, as_json))
