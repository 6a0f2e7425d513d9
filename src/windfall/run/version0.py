"""Makes version 0 again if its file is gone: the run's seed draws the same weights, bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from windfall.config.schema import Config
from windfall.errors import DataError, StoreError
from windfall.federation.checkpoints import Checkpoints
from windfall.run.training_inputs import first_weights, trainer_spec
from windfall.store.files import sha256
from windfall.store.ledger import Ledger
from windfall.store.rundir import RunDir

#: Where progress is told.
Say = Callable[[str], None]


def mend_version0(config: Config, run: RunDir, data: Path, say: Say) -> None:
    """Write the weights of version 0 again if their file is missing, or if they are damaged and there is no other version.

    Raises:
        StoreError: what is drawn now, or read from ``model.initial_weights``, differs from what they were.
    """
    ledger = Ledger.open(run.ledger, read_only=True)
    try:
        found = next((v for v in ledger.retained() if v.version == 0), None)
        alone = ledger.head().version == 0
        if found is None:
            return
        path = run.checkpoints / found.file
        if path.is_file() and not (alone and sha256(path) != found.sha256):
            return
        from windfall.train.manifest import Manifest  # torch takes a while to import, and this is seldom needed
        from windfall.train.spec import model_config

        fix = f"put {path} back from a copy, or begin another run (--run-dir)"
        try:
            weights = first_weights(config, model_config(trainer_spec(config, data), Manifest.load(data).tokenizer.vocab_size))
        except DataError as e:
            raise StoreError(f"{path}: the weights of version 0 are gone and cannot be made again ({e}); {fix}") from None
        checkpoints = Checkpoints(run, ledger, keep=config.federation.keep_versions, keep_every=config.federation.keep_every)
        _, digest = checkpoints.write(0, weights)
        if digest != found.sha256:
            path.unlink()
            raise StoreError(
                f"{path}: the weights of version 0 are gone, and what is made of the seed here is not what they were; {fix}"
            )
        say("the weights of version 0 were gone or damaged; they are made again")
    finally:
        ledger.close()
