"""What a run and its sites ask of prepared data before anything is trained on it."""

from __future__ import annotations

import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from windfall.config.load import loads
from windfall.config.schema import Config
from windfall.config.template import TEMPLATE
from windfall.errors import ConfigError, DataError
from windfall.run.prepare import prepare_run, trainer_spec
from windfall.run.trainer_process import local_trainer
from windfall.store.rundir import RunDir
from windfall.train.prepare import prepare


@pytest.fixture
def data(tmp_path: Path) -> Path:
    text = tmp_path / "text.txt"
    text.write_text("\n".join(f"the wind turned {i} times" for i in range(3000)), encoding="utf-8")
    prepare(text, tmp_path / "data", sequence_length=32)
    return tmp_path / "data"


def config(folder: Path, length: int = 32) -> Config:
    """What `windfall init` writes, small and on that data."""
    text = TEMPLATE
    for key, value in {
        "depth": 1, "sequence_length": length, "source": '"data"', "batch_sequences": 4, "block_sequences": 2,
        "budget_tokens": 4096,
    }.items():  # fmt: skip
        text, found = re.subn(rf"^{key} = .*$", f"{key} = {value}", text, flags=re.MULTILINE)
        assert found == 1, key
    return loads(text, "small.toml", folder)


def site(folder: Path, data: Path) -> dict[str, Any]:
    (folder / "site").mkdir(exist_ok=True)
    spec = trainer_spec(config(folder), data)
    return {"site": "a", "ranks": 1, "threads": 1, "folder": str(folder / "site"), "trainer": asdict(spec)}


def flip(shard: Path) -> None:
    """One bit, the size as before."""
    whole = shard.read_bytes()
    shard.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])


def test_a_site_whose_shard_was_changed_never_gets_a_trainer(tmp_path: Path, data: Path) -> None:
    about = site(tmp_path, data)
    assert local_trainer(about).tokens_per_step == 128
    flip(data / "train-00000.bin")  # its size is right, and it was found whole a moment ago
    with pytest.raises(DataError, match=r"train-00000\.bin: the checksum differs"):
        local_trainer(about)


def test_a_run_is_not_begun_on_changed_data(tmp_path: Path, data: Path) -> None:
    flip(data / "train-00000.bin")
    run = RunDir(tmp_path / "run")
    with pytest.raises(DataError, match=r"train-00000\.bin: the checksum differs"):
        prepare_run(config(tmp_path), run, lambda _: None)
    assert not run.exists()


def test_a_run_is_not_begun_on_data_with_nothing_to_evaluate_on(tmp_path: Path, data: Path) -> None:
    prepare(tmp_path / "text.txt", data, sequence_length=32, held_out_fraction=0)
    with pytest.raises(ConfigError, match="nothing held out"):
        prepare_run(config(tmp_path), RunDir(tmp_path / "run"), lambda _: None)


def test_a_run_is_not_begun_on_data_with_sequences_of_another_length(tmp_path: Path, data: Path) -> None:
    with pytest.raises(ConfigError, match=r"sequence_length = 64.*prepared with 32"):
        prepare_run(config(tmp_path, 64), RunDir(tmp_path / "run"), lambda _: None)
