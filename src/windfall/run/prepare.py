"""Making a run directory: resolved configuration, prepared data, version 0, ledger. All or nothing.

`run.resume` goes on with one.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from windfall import clock
from windfall.config.load import fingerprint, to_toml
from windfall.config.schema import Config
from windfall.errors import DataError, StoreError
from windfall.federation.checkpoints import Checkpoints
from windfall.grid.build import run_start
from windfall.store.files import write_atomic
from windfall.store.ledger import Ledger
from windfall.store.rundir import RunDir
from windfall.train.corpus import HUB, STDLIB
from windfall.train.spec import TrainerSpec

if TYPE_CHECKING:
    from windfall.store.tensors import Tensors
    from windfall.train.shape import GPTConfig

Say = Callable[[str], None]


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
        return run.data  # whatever has come to lie at the source since
    found = prepared_source(config)
    if found is None and run.exists():
        ledger = Ledger.open(run.ledger, read_only=True)
        found = Path(ledger.meta("data_dir") or run.data)  # it has gone: this is the name to complain of
        ledger.close()
    return found or run.data


def prepared_source(config: Config) -> Path | None:
    """The source, if it is a folder that `windfall data prepare` made, or what is left of one."""
    if config.data.source == STDLIB or config.data.source.startswith(HUB):
        return None
    source = Path(config.data.source)
    return source if (source / "manifest.json").exists() or (source / "train-00000.bin").exists() else None


def prepare_run(config: Config, run: RunDir, say: Say, extend: str | None = None) -> None:
    """Create the run in ``run``, or take ``config`` up for the one that is there (``extend``: as `run.resume` has it).

    Raises:
        ConfigError: `preflight` finds something, or a run that is there cannot go on under this configuration.
        StoreError: it cannot be written, or is of a newer schema.
        DataError: the corpus cannot be read, or prepared data was changed.
    """
    if run.exists():
        from windfall.run.resume import resume  # it goes on with what is made here

        resume(config, run, say, extend)
        return
    from windfall.run.preflight import require_ready  # torch is imported here, not at the top: going on does without

    require_ready(config)
    from windfall.train.data import TrainData
    from windfall.train.manifest import Manifest
    from windfall.train.prepare import prepare
    from windfall.train.spec import model_config

    folder = data_dir(config, run)
    if folder != run.data:
        Manifest.load(folder).verify(folder)
    run.make()
    if not (folder / "manifest.json").is_file():
        say(f"preparing data from {config.data.source}")
        prepare(
            config.data.source, folder, sequence_length=config.model.sequence_length,
            held_out_fraction=config.data.held_out_fraction, seed=config.run.seed, tokenizer=config.data.tokenizer,
            vocab_size=config.data.vocab_size, packing=config.data.packing, text_column=config.data.text_column,
            skip_bad_rows=config.data.skip_bad_rows,
            tell=say,
        )  # fmt: skip
    data = TrainData(folder, config.run.seed)
    if data.val_sequences < 1:
        raise DataError(f"{folder}: too little text to hold any out, and versions are evaluated; add text")
    spec = trainer_spec(config, folder)
    weights = first_weights(config, model_config(spec, data.manifest.tokenizer.vocab_size))
    say(f"version 0: {sum(w.size for w in weights.values()):,} parameters, {data.train_sequences:,} sequences")
    keep_config(config, run)
    temporary = run.ledger.with_suffix(".new")
    for old in run.root.glob("ledger.new*"):
        old.unlink()
    ledger = Ledger.create(
        temporary, run_id=f"{config.run.name}-{secrets.token_hex(4)}", fingerprint=fingerprint(config),
        budget_blocks=config.budget_blocks, tokens_per_block=config.tokens_per_block,
    )  # fmt: skip
    checkpoints = Checkpoints(run, ledger, keep=config.federation.keep_versions, keep_every=config.federation.keep_every)
    file, digest = checkpoints.write(0, weights)
    start = run_start(config)
    ledger.commit(t_run=start, t_wall=clock.wall(), file=file, sha256=digest, mode="initial", contributions=[])
    ledger.set_meta(manifest=data.manifest.hash, data_dir=str(folder), t_run=start)
    ledger.configure(to_toml(config), fingerprint(config), budget_blocks=config.budget_blocks, t_run=start, t_wall=clock.wall())
    ledger.close()
    # The ledger appears last: a directory without one is no run yet, and the next start begins anew.
    temporary.rename(run.ledger)


def first_weights(config: Config, shape: GPTConfig) -> Tensors:
    """Those of version 0: drawn by the run's seed, or a model's that was there before.

    Raises:
        DataError: that model is of another architecture.
    """
    from windfall.train.interchange import weights_for
    from windfall.train.model import build_model

    if config.model.initial_weights:
        return weights_for(shape, Path(config.model.initial_weights))
    return {n: p.detach().numpy() for n, p in build_model(shape, config.run.seed).named_parameters()}


def keep_config(config: Config, run: RunDir) -> None:
    """Store the resolved configuration, if it is not there already. Raises StoreError if it cannot be written."""
    text = to_toml(config).encode()
    try:
        if not run.config.is_file() or run.config.read_bytes() != text:
            write_atomic(run.config, [text])
    except OSError as e:
        raise StoreError(f"{run.config}: cannot be written: {e.strerror}") from None
