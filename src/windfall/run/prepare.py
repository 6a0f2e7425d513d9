"""Makes a run directory, all of it or nothing: resolved configuration, prepared data, version 0, ledger.

Where there is a run already, `run.resume` goes on with it.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from windfall import clock
from windfall.config.load import fingerprint, to_toml
from windfall.config.schema import Config
from windfall.errors import DataError
from windfall.federation.checkpoints import Checkpoints
from windfall.grid.build import run_start
from windfall.run.resume import keep_config, resume
from windfall.run.training_inputs import data_dir, first_weights, trainer_spec
from windfall.store.ledger import Ledger
from windfall.store.rundir import RunDir

if TYPE_CHECKING:
    from windfall.store.tensors import Tensors

Say = Callable[[str], None]


def prepare_run(config: Config, run: RunDir, say: Say, extend: str | None = None) -> None:
    """Create the run in ``run``, or take ``config`` up for the one that is there (``extend``: as `run.resume` has it).

    Raises:
        ConfigError: `preflight` finds something, or a run that is there cannot go on under this configuration.
        StoreError: it cannot be written, or is of a newer schema.
        DataError: the corpus cannot be read, or prepared data was changed.
    """
    if run.exists():
        resume(config, run, say, extend)
        return
    # All this takes a while to import, torch most of all, and going on with a run does without it.
    from windfall.run.preflight import require_ready

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
    begin_run(config, run, weights, manifest=data.manifest.hash, folder=folder, start=run_start(config))


def begin_run(config: Config, run: RunDir, weights: Tensors, *, manifest: str, folder: Path, start: float) -> None:
    """Make the run in ``run``, whose folders are there: configuration, version 0 of ``weights``, ledger.

    ``manifest``: hash of the data's, which lie in ``folder``. ``start``: where run time begins.
    """
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
    ledger.commit(t_run=start, t_wall=clock.wall(), file=file, sha256=digest, mode="initial", contributions=[])
    ledger.set_meta(manifest=manifest, data_dir=str(folder), t_run=start)
    ledger.configure(to_toml(config), fingerprint(config), budget_blocks=config.budget_blocks, t_run=start, t_wall=clock.wall())
    ledger.close()
    # The ledger appears last: a directory without one is no run yet, and the next start begins anew.
    temporary.rename(run.ledger)
