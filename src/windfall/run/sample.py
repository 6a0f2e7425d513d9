"""A sample of what the model writes, beside the report. Made once at the end of a run."""

from __future__ import annotations

from pathlib import Path

from windfall.config.schema import Config
from windfall.errors import DataError
from windfall.run.prepare import data_dir, trainer_spec
from windfall.store.ledger import Ledger
from windfall.store.records import Version
from windfall.store.rundir import RunDir

PROMPT = "def "


def text_from(
    config: Config, run: RunDir, prompt: str, *, tokens: int, temperature: float, top_k: int, seed: int, version: int | None = None
) -> tuple[str, Version]:
    """Text that a version of the run's model goes on with, and the version.

    Raises:
        DataError: no such version, or its weights are gone or damaged.
    """
    import torch

    from windfall.store.tensors import load_file
    from windfall.train.generate import generate
    from windfall.train.manifest import Manifest
    from windfall.train.model import empty_model
    from windfall.train.trainer import load_weights, model_config

    ledger = Ledger.open(run.ledger, read_only=True)
    try:
        held = [v for v in ledger.versions() if v.retained]
    finally:
        ledger.close()
    wanted = held[-1].version if version is None else version
    found = [v for v in held if v.version == wanted]
    if not found:
        raise DataError(f"{run.root}: version {wanted} is not kept; there are {', '.join(str(v.version) for v in held)}")
    folder = Path(data_dir(config, run))
    manifest = Manifest.load(folder)
    model = empty_model(model_config(trainer_spec(config, folder), manifest.tokenizer.vocab_size))
    load_weights(model, load_file(run.checkpoints / found[0].file, found[0].sha256))
    model.eval()
    with torch.no_grad():
        return generate(model, manifest, prompt, tokens, temperature, top_k, seed), found[0]


def write_sample(config: Config, run: RunDir) -> None:
    """Write ``report/sample.txt``: a prompt and what the newest version makes of it."""
    text, _ = text_from(config, run, PROMPT, tokens=320, temperature=0.7, top_k=40, seed=1)
    run.report.mkdir(exist_ok=True)
    (run.report / "sample.txt").write_text(f"{PROMPT}{text}\n", encoding="utf-8")
