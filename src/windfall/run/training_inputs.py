"""What a run trains on and with, as its configuration says: where its data are, what a trainer is built from, the first weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from windfall.config.schema import Config
from windfall.store.ledger import Ledger
from windfall.store.rundir import RunDir
from windfall.train.corpus import HUB, STDLIB
from windfall.train.spec import TrainerSpec

if TYPE_CHECKING:
    from windfall.store.tensors import Tensors
    from windfall.train.shape import GPTConfig


def trainer_spec(config: Config, data_dir: Path, extents: Sequence[tuple[float, float, str]] = ()) -> TrainerSpec:
    """What a site's trainer is built from; ``extents`` as `store.configurations.extents` gives them."""
    m, t = config.model, config.train
    return TrainerSpec(
        data_dir=str(data_dir), depth=m.depth, width=m.width, head_dim=m.head_dim, sequence_length=m.sequence_length,
        seed=config.run.seed, batch_sequences=t.batch_sequences, block_sequences=t.block_sequences,
        budget_tokens=config.budget_blocks * config.tokens_per_block, optimizer=t.optimizer, lr_scale=t.lr_scale,
        warmdown_fraction=t.warmdown_fraction, lr_floor=t.lr_floor, reset_warmup_fraction=t.reset_warmup_fraction,
        precision=t.precision, eval_sequences=config.data.eval_sequences, sample_prompt=config.data.sample_prompt,
        sample_tokens=config.data.sample_tokens, micro_batch_sequences=t.micro_batch_sequences,
        compile=t.compile, checkpoint_activations=t.checkpoint_activations, spike_factor=t.spike_factor, max_skips=t.max_skips,
        extents=tuple(extents),
    )  # fmt: skip


def data_dir(config: Config, run: RunDir) -> Path:
    """Where the prepared corpus is: the source itself if it is one, else in the run directory."""
    if run.exists() and (run.data / "manifest.json").exists():
        return run.data  # the run keeps its own data, whatever lies at the source now
    found = prepared_source(config)
    if found is None and run.exists():
        ledger = Ledger.open(run.ledger, read_only=True)
        found = Path(ledger.meta("data_dir") or run.data)  # it is gone, and errors are to name it
        ledger.close()
    return found or run.data


def prepared_source(config: Config) -> Path | None:
    """The source, if it is a folder that `windfall data prepare` made, or what is left of one."""
    if config.data.source == STDLIB or config.data.source.startswith(HUB):
        return None
    source = Path(config.data.source)
    return source if (source / "manifest.json").exists() or (source / "train-00000.bin").exists() else None


def first_weights(config: Config, shape: GPTConfig) -> Tensors:
    """The weights of version 0: drawn with the run's seed, or those of `model.initial_weights`.

    Raises:
        DataError: that model is of another architecture.
    """
    from windfall.train.interchange import weights_for
    from windfall.train.model import build_model

    if config.model.initial_weights:
        return weights_for(shape, Path(config.model.initial_weights))
    return {n: p.detach().numpy() for n, p in build_model(shape, config.run.seed).named_parameters()}
