"""What a run and its sites ask of prepared data before anything is trained on it."""

from __future__ import annotations

import gzip
import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from windfall.cli.check import check
from windfall.cli.interchange import export_weights
from windfall.config.load import load, loads
from windfall.config.schema import Config
from windfall.config.template import TEMPLATE
from windfall.errors import ConfigError, DataError, StoreError
from windfall.run.prepare import prepare_run
from windfall.run.training_inputs import data_dir, prepared_source, trainer_spec
from windfall.run.versions import text_from
from windfall.site.trainer_process import local_trainer
from windfall.store.ledger import Ledger
from windfall.store.rundir import RunDir
from windfall.store.tensors import load_file, save_file
from windfall.train.prepare import prepare


@pytest.fixture
def data(tmp_path: Path) -> Path:
    text = tmp_path / "text.txt"
    text.write_text("\n".join(f"the wind turned {i} times" for i in range(3000)), encoding="utf-8")
    prepare(text, tmp_path / "data", sequence_length=32)
    return tmp_path / "data"


def small(length: int, template: str = TEMPLATE) -> str:
    """What `windfall init` writes, small and on that data."""
    text = template
    for key, value in {
        "depth": 1, "sequence_length": length, "source": '"data"', "batch_sequences": 4, "block_sequences": 2,
        "budget_tokens": 4096,
    }.items():  # fmt: skip
        text, found = re.subn(rf"^{key} = .*$", f"{key} = {value}", text, flags=re.MULTILINE)
        assert found == 1, key
    return text


def config(folder: Path, length: int = 32, template: str = TEMPLATE) -> Config:
    return loads(small(length, template), "small.toml", folder)


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
    prepare(tmp_path / "text.txt", data, sequence_length=32, held_out_fraction=0, replace=True)
    with pytest.raises(ConfigError, match="nothing held out"):
        prepare_run(config(tmp_path), RunDir(tmp_path / "run"), lambda _: None)


def test_a_run_is_not_begun_on_data_with_sequences_of_another_length(tmp_path: Path, data: Path) -> None:
    with pytest.raises(ConfigError, match=r"sequence_length: 64.*prepared with 32"):
        prepare_run(config(tmp_path, 64), RunDir(tmp_path / "run"), lambda _: None)


def test_a_runs_weights_are_the_first_ones_of_another(tmp_path: Path, data: Path) -> None:
    first = RunDir(tmp_path / "first")
    prepare_run(config(tmp_path), first, lambda _: None)
    export_weights(first.root, tmp_path / "weights", None, "windfall", True)
    more = TEMPLATE.replace("# initial_weights =", 'initial_weights = "weights"  #').replace("# seed = 0", "seed = 5", 1)
    assert "\nseed = 5" in more
    second = RunDir(tmp_path / "second")
    prepare_run(config(tmp_path, template=more), second, lambda _: None)

    def version_0(run: RunDir) -> dict[str, np.ndarray]:
        ledger = Ledger.open(run.ledger)
        head = ledger.head()
        ledger.close()
        return load_file(run.checkpoints / head.file, head.sha256)

    theirs, ours = version_0(first), version_0(second)
    assert all(np.array_equal(theirs[name], ours[name]) for name in theirs | ours)

    nowhere = config(tmp_path, template=more.replace('"weights"', '"nowhere"'))
    with pytest.raises(ConfigError, match=r"^model\.initial_weights: .*nowhere/config\.json: there is no such file"):
        prepare_run(nowhere, RunDir(tmp_path / "third"), lambda _: None)
    wider = config(tmp_path, template=more.replace("width = 64", "width = 96"))
    with pytest.raises(ConfigError, match=r"^model\.initial_weights: .*another architecture.*: width 64 instead of 96"):
        prepare_run(wider, RunDir(tmp_path / "third"), lambda _: None)


@pytest.mark.parametrize(
    ("key", "value", "warned", "said"),
    [
        ("width", 65536, True, r"model\.depth: model: depth 1 .* needs about [\d,.]+ GB .* and cpu has [\d.]+ GB; "),
        ("width", 100, False, r"model\.depth: model: .*100"),
        ("source", '"nowhere"', False, r"data\.source: .*nowhere: no such file or folder"),
        ("tokenizer", '"nowhere.json"', False, r"data\.tokenizer: .*nowhere\.json: the tokenizer cannot be read"),
        ("device", '"cuda"', True, r"site\[0\]\.device: cuda with 1 rank, and there are 0 CUDA devices here"),
        ("sequence_length", 64, False, r"model\.sequence_length: 64, but .*data was prepared with 32"),
        ("tokenizer", '"lost.json"', False, r"data\.tokenizer: .*lost\.json: the tokenizer cannot be read"),
        ("vocab_size", 300, False, r"data\.vocab_size: is for tokenizer = \"bpe\", not for 'bytes'; leave one"),
        ("tokenizer", '"bpe"', False, r"data\.tokenizer: bpe, but .*data was prepared with 257 tokens of kind bytes; leave it out"),
    ],
)
def test_what_is_wrong_is_said_by_check_and_before_a_run_begins(
    tmp_path: Path, data: Path, key: str, value: object, warned: bool, said: str,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    text, found = re.subn(rf"^(# )?{key} =.*$", f"{key} = {value}", small(32), count=1, flags=re.MULTILINE)
    assert found == 1
    if "nowhere.json" in str(value):
        text = text.replace('source = "data"', 'source = "text.txt"')
    file = tmp_path / "small.toml"
    file.write_text(text)
    if warned:  # the file is good, and a larger machine could run it
        assert check(file, False) == 0
    else:
        assert check(file, False) == 2
    out, err = capsys.readouterr()
    told = (out if warned else err).replace(" (site california)", "")
    assert re.search(rf"small\.toml:\d+: {said}", told)
    run = RunDir(tmp_path / "run")
    with pytest.raises(ConfigError, match=f"^{said}"):
        prepare_run(load(file), run, lambda _: None)
    assert not run.root.exists()


@pytest.mark.parametrize("left", ["a folder of that name", "nothing"])
def test_shards_without_their_manifest_are_not_taken_for_text(tmp_path: Path, left: str) -> None:
    """A folder prepared with a tokenizer of its own has a tokenizer.json, which a corpus of text could have too."""
    text = tmp_path / "text.txt"
    text.write_text("\n".join(f"the wind turned {i} times" for i in range(3000)), encoding="utf-8")
    prepare(text, tmp_path / "data", sequence_length=32, tokenizer="bpe", vocab_size=300)
    manifest = tmp_path / "data" / "manifest.json"
    manifest.unlink()
    if left != "nothing":
        manifest.mkdir()
    with pytest.raises(ConfigError, match=r"data\.source: .*manifest\.json: (no manifest|cannot be read)"):
        prepare_run(config(tmp_path), RunDir(tmp_path / "run"), lambda _: None)
    assert not (tmp_path / "run").exists()


def test_what_is_left_out_of_the_text_is_told_in_the_same_words_by_check_and_by_a_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (texts := tmp_path / "texts").mkdir()
    rows = "".join(json.dumps({"text": f"the wind turned {i} times " * 5}) + "\n" for i in range(600))
    (texts / "a.jsonl.gz").write_bytes(gzip.compress((rows + '{"text": null}\n{"id": 1}\n').encode()))
    (texts / "b.npy").write_bytes(b"x")
    file = tmp_path / "small.toml"
    file.write_text(small(32).replace('source = "data"', 'source = "texts"\nskip_bad_rows = true'))
    assert check(file, False) == 0
    left = f"{texts}: b.npy left out: numbers, not text; leave it elsewhere, or name prepared data as they are (data.source)"
    assert f"warning: {left}\n" in capsys.readouterr().out
    said: list[str] = []
    prepare_run(load(file), RunDir(tmp_path / "run"), said.append)
    assert left in said
    assert f"{texts}: 1 row without text (null): {texts}/a.jsonl.gz: line 601" in said
    assert any(
        text.startswith(f"{texts}: 1 row of 602 left out as bad: {texts}/a.jsonl.gz: line 602 has no field") for text in said
    )
    (texts / "a.jsonl.gz").rename(texts / "a.arrow")
    assert check(file, False) == 2
    assert "data.source: " in (err := capsys.readouterr().err)
    assert "a.arrow left out: Arrow, which is not read; write it as parquet" in err
    with pytest.raises(ConfigError, match=r"^data\.source: .*a\.arrow left out: Arrow"):
        prepare_run(load(file), RunDir(tmp_path / "other"), said.append)


def test_first_weights_are_looked_at_before_a_run_begins_and_must_be_numbers(tmp_path: Path, data: Path) -> None:
    prepare_run(config(tmp_path), RunDir(tmp_path / "first"), lambda _: None)
    export_weights(tmp_path / "first", tmp_path / "weights", None, "windfall", True)
    more = TEMPLATE.replace("# initial_weights =", 'initial_weights = "weights"  #')
    file = tmp_path / "weights" / "model.safetensors"
    whole = load_file(file)
    first = next(name for name in whole if not name.startswith("rotary"))
    for broken, said in (
        ({**whole, first: np.full_like(whole[first], np.nan)}, f"{first} holds what is no finite number"),
        ({k: v for k, v in whole.items() if k != first}, f"another architecture: lacks {first}"),
    ):
        save_file(file, broken)
        with pytest.raises((ConfigError, DataError), match=re.escape(said)):
            prepare_run(config(tmp_path, template=more), RunDir(tmp_path / "run"), lambda _: None)
    for rubbish, said in (
        (file.read_bytes()[:-9], "not readable as safetensors"),
        (b"rubbish", "not readable"),
        (None, "is missing"),
    ):
        file.unlink()
        if rubbish is not None:
            file.write_bytes(rubbish)
        with pytest.raises(ConfigError, match=rf"^model\.initial_weights: .*{said}.*; name a folder that"):
            prepare_run(config(tmp_path, template=more), RunDir(tmp_path / "run"), lambda _: None)
    assert not (tmp_path / "run" / "ledger.db").exists()


def test_a_run_goes_on_only_with_the_data_that_it_was_begun_with(tmp_path: Path, data: Path) -> None:
    run = RunDir(tmp_path / "run")
    prepare_run(config(tmp_path), run, lambda _: None)
    prepare_run(config(tmp_path), run, lambda _: None)
    shard = data / "train-00000.bin"
    whole = shard.read_bytes()
    flip(shard)
    with pytest.raises(DataError, match=r"train-00000\.bin: the checksum differs"):
        prepare_run(config(tmp_path), run, lambda _: None)
    shard.write_bytes(whole)
    prepare_run(config(tmp_path), run, lambda _: None)
    prepare(tmp_path / "text.txt", data, sequence_length=32, seed=9, replace=True)
    with pytest.raises(DataError, match=r"data: holds other data \(manifest .*\) than the run was begun with .*; put that back"):
        prepare_run(config(tmp_path), run, lambda _: None)


def test_what_comes_to_lie_where_a_runs_source_was_is_not_taken_for_its_data(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = small(32).replace('source = "data"', 'source = "texts"')
    (tmp_path / "texts").mkdir()
    (tmp_path / "text.txt").rename(tmp_path / "texts" / "text.txt")
    own = loads(text, "small.toml", tmp_path)
    run = RunDir(tmp_path / "run")
    prepare_run(own, run, lambda _: None)
    assert data_dir(own, run) == run.data
    (tmp_path / "texts" / "train-00000.bin").write_bytes(b"chance")
    assert data_dir(own, run) == run.data
    prepare_run(own, run, lambda _: None)
    monkeypatch.chdir(tmp_path)
    data.rename(tmp_path / "stdlib")
    assert prepared_source(loads(small(32).replace('source = "data"', 'source = "stdlib"'), "x", tmp_path)) is None


def test_data_and_weights_that_went_away_are_named_where_they_were(tmp_path: Path, data: Path) -> None:
    run = RunDir(tmp_path / "run")
    prepare_run(config(tmp_path), run, lambda _: None)
    (held := next(run.checkpoints.glob("*.safetensors"))).write_bytes(b"rubbish")
    with pytest.raises(DataError, match=rf"{held.name}: the weights file is damaged .*take another version"):
        text_from(load(run.config), run, "x", tokens=1, temperature=0, top_k=0, seed=0)
    data.rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match=re.escape(str(data / "manifest.json"))):
        text_from(load(run.config), run, "x", tokens=1, temperature=0, top_k=0, seed=0)
    run.config.unlink()
    with pytest.raises(StoreError, match=r"config\.toml: the run's own configuration is gone"):
        run.open_existing()


def test_a_site_with_more_ranks_than_devices_starts_none_of_them(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    about = site(tmp_path, data)
    about |= {"ranks": 2, "trainer": {**about["trainer"], "device": "cuda"}}
    with pytest.raises(ConfigError, match="has 1 CUDA devices and 2 ranks; lower"):
        local_trainer(about)
