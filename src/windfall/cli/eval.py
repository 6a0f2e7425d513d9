"""`windfall eval`."""

from __future__ import annotations

from pathlib import Path

from windfall.cli.output import Line, print_json
from windfall.config.load import load
from windfall.run.versions import evaluated, text_from
from windfall.store.rundir import RunDir
from windfall.view.text import printable


def evaluate(root: Path, version: int | None, sequences: int | None, prompt: str, as_json: bool) -> None:
    """Print a version's bits per byte on the held-out text, and what it writes.

    ``sequences``: None takes as many as the run's own evaluations do.
    """
    run = RunDir(root).open_existing()
    config = load(run.config)
    line = Line()
    try:
        result, found = evaluated(
            config, run, version, sequences,
            lambda done, total: line.show(f"evaluating: {done / total:4.0%} of {total:,} held-out sequences"),
        )  # fmt: skip
    finally:
        line.end()
    text, _ = text_from(config, run, prompt, tokens=200, temperature=0.8, top_k=50, seed=0, version=found.version)
    if as_json:
        print_json({
            "version": found.version, "tokens_total": found.tokens_total, "bits_per_byte": result.bits_per_byte,
            "nats_per_byte": result.nats_per_byte, "bytes": result.bytes, "tokens": result.tokens, "prompt": prompt, "text": text,
        })  # fmt: skip
        return
    print(
        f"version {found.version} after {found.tokens_total:,} tokens: {result.bits_per_byte:.4f} bits per byte over "
        f"{result.bytes:,} held-out bytes\n\n{printable(prompt + text)}"
    )
