"""`windfall data prepare`."""

from __future__ import annotations

from pathlib import Path

from windfall.cli.output import print_json
from windfall.errors import DataError


def prepare(source: str, out: Path, sequence_length: int, held_out_fraction: float, seed: int, as_json: bool) -> None:
    """Tokenise ``source`` into ``out``."""
    if out.exists() and not out.is_dir():
        raise DataError(f"{out}: is a file; name a folder")
    from windfall.train.prepare import prepare as tokenise

    manifest = tokenise(source, out, sequence_length=sequence_length, held_out_fraction=held_out_fraction, seed=seed)
    facts = {
        "dir": str(out), "hash": manifest.hash, "train_sequences": manifest.train_sequences,
        "val_sequences": manifest.val_sequences, "train_bytes": manifest.train_bytes, "val_bytes": manifest.val_bytes,
    }  # fmt: skip
    if as_json:
        print_json(facts)
    else:
        print(
            f"{out}: {manifest.train_sequences:,} sequences to train on ({manifest.train_bytes / 1e6:.1f} MB), "
            f"{manifest.val_sequences:,} held out ({manifest.val_bytes / 1e6:.2f} MB); manifest {manifest.hash[:12]}"
        )
