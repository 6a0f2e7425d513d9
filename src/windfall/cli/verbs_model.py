"""Verbs about models: sizes, weights, text, evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from windfall.cli.arguments import JsonOption, RunArgument

app = typer.Typer(rich_markup_mode=None)


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
