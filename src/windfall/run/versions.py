"""What a kept version of a run's model writes, and how well it predicts, computed on this machine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from windfall.config.schema import Config
from windfall.errors import DataError, NoData
from windfall.run.training_inputs import data_dir, trainer_spec
from windfall.store.ledger import Ledger
from windfall.store.records import Version
from windfall.store.rundir import RunDir

if TYPE_CHECKING:
    from windfall.store.tensors import Tensors
    from windfall.train.evaluate import EvalResult
    from windfall.train.model import GPT

#: How many tokens `evaluated` takes at a time (at least one sequence). On a CPU larger batches are not faster, and a laptop's
#: memory may hold little more than the model.
_BATCH_TOKENS = 4096


def held_version(run: RunDir, version: int | None) -> Version:
    """A version whose weights are kept; None: the newest. Raises NoData if there is no such one."""
    ledger = Ledger.open(run.ledger, read_only=True)
    try:
        held = {v.version: v for v in ledger.versions() if v.retained}
    finally:
        ledger.close()
    wanted = max(held) if version is None else version
    if wanted not in held:
        raise NoData(f"{run.root}: version {wanted} is not kept; there are {', '.join(map(str, held))}")
    return held[wanted]


def held_weights(run: RunDir, found: Version) -> Tensors:
    """The weights of a kept version. Raises DataError if they are gone or damaged."""
    from windfall.store.tensors import load_file

    try:
        return load_file(run.checkpoints / found.file, found.sha256)
    except DataError as e:
        advice = "take another version (--version), or let `windfall run` resume, which repairs the newest from the one before"
        raise DataError(f"{e}; {advice}") from None


def held_model(config: Config, run: RunDir, version: int | None = None) -> tuple[GPT, Path, Version]:
    """The model of a version (default: the newest), ready to be asked; the folder of its data; the version.

    Raises:
        DataError: no such version, or its weights are gone or damaged.
    """
    from windfall.train.manifest import Manifest
    from windfall.train.model import empty_model
    from windfall.train.spec import model_config
    from windfall.train.trainer import load_weights

    found = held_version(run, version)
    folder = Path(data_dir(config, run))
    model = empty_model(model_config(trainer_spec(config, folder), Manifest.load(folder).tokenizer.vocab_size))
    load_weights(model, held_weights(run, found))
    model.eval()
    return model, folder, found


def text_from(
    config: Config, run: RunDir, prompt: str, *, tokens: int, temperature: float, top_k: int, seed: int, version: int | None = None
) -> tuple[str, Version]:
    """Text that a version of the run's model goes on with, and the version.

    Raises:
        DataError: no such version, or its weights are gone or damaged.
    """
    import torch

    from windfall.train.generate import generate
    from windfall.train.manifest import Manifest

    model, folder, found = held_model(config, run, version)
    with torch.no_grad():
        return generate(model, Manifest.load(folder), prompt, tokens, temperature, top_k, seed), found


def evaluated(
    config: Config, run: RunDir, version: int | None, sequences: int | None, progress: Callable[[int, int], None] | None = None
) -> tuple[EvalResult, Version]:
    """A version's surprise over the held-out text, in float32 on the CPU.

    It takes ``sequences`` of them, spread evenly (all, if there are fewer). The default is as many as the run's own evaluations
    take (`data.eval_sequences`), so that both figures are of the same text. ``progress``: as `windfall.train.evaluate.evaluate`.

    Raises:
        DataError: no such version, its weights are gone or damaged, or nothing was held out.
    """
    from windfall.train.data import TrainData
    from windfall.train.evaluate import evaluate

    model, folder, found = held_model(config, run, version)
    data = TrainData(folder, config.run.seed)
    wanted = config.data.eval_sequences if sequences is None else sequences
    return evaluate(model, data, wanted, max(1, _BATCH_TOKENS // data.sequence_length), progress=progress), found
