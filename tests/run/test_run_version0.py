"""Version 0 whose file is gone is made again, or told in one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from run.real import write_config
from windfall.config.load import load
from windfall.errors import StoreError
from windfall.run.prepare import prepare_run
from windfall.run.training_inputs import data_dir
from windfall.run.version0 import mend_version0
from windfall.store.rundir import RunDir


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RunDir]:
    folder = tmp_path_factory.mktemp("version0")
    config, run = write_config(folder, {"a": [(0, 60)]}), RunDir(folder / "run")
    prepare_run(load(config), run, lambda _: None)
    return config, run


def mend(config: Path, run: RunDir) -> list[str]:
    said: list[str] = []
    mend_version0(load(config), run, data_dir(load(config), run), said.append)
    return said


def test_weights_that_were_deleted_or_damaged_come_out_of_the_seed_as_they_were(begun: tuple[Path, RunDir]) -> None:
    config, run = begun
    (file,) = run.checkpoints.glob("v000000*")
    before = file.read_bytes()
    assert mend(config, run) == []
    for harm in (file.unlink, lambda: file.write_bytes(before[:-1])):
        harm()
        assert mend(config, run) == ["the weights of version 0 were gone or damaged; they are made again"]
        assert file.read_bytes() == before


def test_weights_that_cannot_be_made_again_are_told_with_what_to_do(begun: tuple[Path, RunDir]) -> None:
    config, run = begun
    (file,) = run.checkpoints.glob("v000000*")
    before = file.read_bytes()
    file.unlink()
    other = load(config).model_copy(update={"run": load(config).run.model_copy(update={"seed": 5})})
    with pytest.raises(StoreError, match=r"version 0 are gone.*not what they were; put .* back from a copy"):
        mend_version0(other, run, data_dir(other, run), lambda _: None)
    assert not file.exists()
    file.write_bytes(before)
