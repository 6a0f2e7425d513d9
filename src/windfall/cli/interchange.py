"""`windfall export-weights` and `windfall import-weights`."""

from __future__ import annotations

from pathlib import Path

from windfall.cli.output import print_json, require_writable
from windfall.config.load import load
from windfall.errors import ConfigError
from windfall.store.rundir import RunDir

FORMATS = ("windfall", "nanochat")


def export_weights(root: Path, out: Path, version: int | None, format: str, as_json: bool) -> None:
    """Write a version of a run's model as a folder that plain PyTorch, or nanochat, reads."""
    if format not in FORMATS:
        raise ConfigError(f"--format {format}: no such format; there are {', '.join(FORMATS)}")
    require_writable(folders=[out])
    from windfall.run.training_inputs import data_dir, trainer_spec
    from windfall.run.versions import held_version, held_weights
    from windfall.train.interchange import tokenizer_document, write_folder
    from windfall.train.manifest import Manifest
    from windfall.train.nanochat import write_nanochat
    from windfall.train.spec import model_config

    run = RunDir(root).open_existing()
    config = load(run.config)
    found = held_version(run, version)
    folder = Path(data_dir(config, run))
    model = model_config(trainer_spec(config, folder), Manifest.load(folder).tokenizer.vocab_size)
    weights = held_weights(run, found)
    origin = {"run": config.run.name, "version": found.version}
    if format == "nanochat":
        files = write_nanochat(out, model, weights, found.version, {"windfall": origin})
    else:
        files = write_folder(out, model, weights, tokenizer_document(folder), origin)
    _say({"version": found.version, "format": format, "files": [str(f) for f in files]}, as_json)


def import_weights(checkpoint: Path, out: Path, meta: Path | None, as_json: bool) -> None:
    """Turn a nanochat checkpoint into a folder of ours."""
    require_writable(folders=[out])
    from windfall.train.interchange import write_folder
    from windfall.train.model import parameter_count
    from windfall.train.nanochat import read_nanochat

    found = read_nanochat(checkpoint, meta)
    origin = {"nanochat": checkpoint.name, "step": found.meta.get("step")}
    files = write_folder(out, found.config, found.weights, None, origin)
    _say({"parameters": parameter_count(found.config), "files": [str(f) for f in files]}, as_json)


def _say(result: dict[str, object], as_json: bool) -> None:
    if as_json:
        print_json(result)
        return
    files = result["files"]
    assert isinstance(files, list)
    for file in files:
        print(file)
