"""`windfall generate`."""

from __future__ import annotations

import sys
from pathlib import Path

from windfall.cli.output import print_json
from windfall.config.load import load
from windfall.run.versions import text_from
from windfall.store.rundir import RunDir
from windfall.view.text import printable


def generate(
    root: Path, prompt: str, tokens: int, temperature: float, top_k: int, seed: int, version: int | None, as_json: bool
) -> None:
    """Print the prompt and what a version of the run's model goes on with."""
    run = RunDir(root).open_existing()
    text, found = text_from(
        load(run.config), run, prompt, tokens=tokens, temperature=temperature, top_k=top_k, seed=seed, version=version
    )
    if as_json:
        print_json({"version": found.version, "prompt": prompt, "text": text})
    else:
        print(printable(prompt + text) if sys.stdout.isatty() else prompt + text)
