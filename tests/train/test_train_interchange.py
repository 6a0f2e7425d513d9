"""Models out to plain PyTorch and nanochat, and in from nanochat: the same logits, and nothing in a file is run."""

from __future__ import annotations

import json
import os
import random
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from windfall.cli.interchange import export_weights, import_weights
from windfall.config.load import loads
from windfall.config.template import TEMPLATE
from windfall.errors import ConfigError, DataError
from windfall.run.prepare import prepare_run
from windfall.store.rundir import RunDir
from windfall.train.interchange import load_folder, read_folder, tokenizer_document, write_folder
from windfall.train.model import GPT, GPTConfig, build_model
from windfall.train.nanochat import nanochat_name, read_nanochat, write_nanochat
from windfall.train.torchfile import read_tensors

Array = npt.NDArray[Any]
DOCS = Path(__file__).parents[2] / "docs" / "checkpoints.md"
#: model_config of nanochat checkpoints: heads of 128, heads of another width, and windows of half the sequence.
PLAIN = {"sequence_len": 48, "vocab_size": 300, "n_layer": 3, "n_head": 2, "n_kv_head": 2, "n_embd": 256, "window_pattern": "L"}
NARROW = {"sequence_len": 32, "vocab_size": 320, "n_layer": 2, "n_head": 2, "n_kv_head": 2, "n_embd": 192}
WINDOWED = {**PLAIN, "n_layer": 5, "window_pattern": "SSSL"}


# The golden arithmetic: nanochat's, written out in float64 from its published description, with its names.


def golden_logits(state: dict[str, Array], shape: dict[str, Any], tokens: Array) -> Array:
    """Logits [B, T, vocab_size] in float64 of a nanochat state dict."""
    state = {name: tensor.astype(np.float64) for name, tensor in state.items()}
    length, heads = tokens.shape[1], shape["n_head"]
    width = shape["n_embd"] // heads
    # Float32, as nanochat has it, but for the power: numpy's own in float32 is a unit off in the last place now and then.
    power = 10000.0 ** (np.arange(0, width, 2, dtype=np.float32) / np.float32(width)).astype(np.float64)
    angle = np.outer(np.arange(length, dtype=np.float32), np.float32(1.0) / power.astype(np.float32)).astype(np.float64)
    cos, sin = bfloat16(np.cos(angle)), bfloat16(np.sin(angle))

    def norm(x: Array) -> Array:
        return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + np.finfo(np.float32).eps)

    def split(x: Array) -> Array:
        return x.reshape(*x.shape[:2], heads, width).transpose(0, 2, 1, 3)

    def rotated(x: Array) -> Array:
        left, right = x[..., : width // 2], x[..., width // 2 :]
        return np.concatenate([left * cos + right * sin, right * cos - left * sin], axis=-1)

    x = x0 = norm(state["transformer.wte.weight"][tokens])
    pattern = shape.get("window_pattern", "L")
    for layer in range(shape["n_layer"]):
        at = f"transformer.h.{layer}."
        x = state["resid_lambdas"][layer] * x + state["x0_lambdas"][layer] * x0
        q, k, v = (split(norm(x) @ state[f"{at}attn.c_{name}.weight"].T) for name in "qkv")
        scores = norm(rotated(q)) @ norm(rotated(k)).transpose(0, 1, 3, 2) / np.sqrt(width)
        distance = np.arange(length)[:, None] - np.arange(length)
        short = pattern[layer % len(pattern)] == "S" and layer < shape["n_layer"] - 1
        seen = (distance >= 0) & (distance <= (shape["sequence_len"] // 2 if short else length))
        scores = np.where(seen, scores, -np.inf)
        weight = np.exp(scores - scores.max(axis=-1, keepdims=True))
        mixed = (weight / weight.sum(axis=-1, keepdims=True)) @ v
        x = x + mixed.transpose(0, 2, 1, 3).reshape(x.shape) @ state[f"{at}attn.c_proj.weight"].T
        x = x + np.maximum(norm(x) @ state[f"{at}mlp.c_fc.weight"].T, 0.0) ** 2 @ state[f"{at}mlp.c_proj.weight"].T
    raw = (norm(x) @ state["lm_head.weight"].T)[..., : shape["vocab_size"]]
    return 15.0 * np.tanh(raw / 15.0)


def bfloat16(x: Array) -> Array:
    """Round to the nearest bfloat16, ties to even."""
    bits = x.astype(np.float32).view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32).astype(np.float64)


def state_of(shape: dict[str, Any]) -> dict[str, torch.Tensor]:
    """A nanochat state dict with weights as of a trained model: nothing zero, logits that differ, a bfloat16 embedding."""
    draw = torch.Generator().manual_seed(11)
    width, rows = shape["n_embd"], -(-shape["vocab_size"] // 64) * 64

    def normal(*size: int, deviation: float) -> torch.Tensor:
        return deviation * torch.randn(size, generator=draw)

    state = {"transformer.wte.weight": normal(rows, width, deviation=1.0).to(torch.bfloat16)}
    for layer in range(shape["n_layer"]):
        for name in ("c_q", "c_k", "c_v", "c_proj"):
            state[f"transformer.h.{layer}.attn.{name}.weight"] = normal(width, width, deviation=0.1)
        state[f"transformer.h.{layer}.mlp.c_fc.weight"] = normal(4 * width, width, deviation=0.06)
        state[f"transformer.h.{layer}.mlp.c_proj.weight"] = normal(width, 4 * width, deviation=0.03)
    state["lm_head.weight"] = normal(rows, width, deviation=0.2)
    state["resid_lambdas"] = 1.0 + normal(shape["n_layer"], deviation=0.1)
    state["x0_lambdas"] = normal(shape["n_layer"], deviation=0.3)
    return state


def save_nanochat(folder: Path, shape: dict[str, Any], state: dict[str, Any], step: int = 7) -> Path:
    """As nanochat saves: an OrderedDict with metadata of its own, and a meta file."""
    folder.mkdir(parents=True, exist_ok=True)
    whole = torch.nn.Module().state_dict()
    whole.update(state)
    torch.save(whole, folder / f"model_{step:06d}.pt")
    (folder / f"meta_{step:06d}.json").write_text(json.dumps({"step": step, "val_bpb": 0.81, "model_config": shape}))
    return folder / f"model_{step:06d}.pt"


def logits_of(config: GPTConfig, weights: dict[str, Array], tokens: Array) -> Array:
    model = build_model(config, 0)
    model.load_state_dict({name: torch.from_numpy(w) for name, w in weights.items()})
    with torch.no_grad():
        return model(torch.from_numpy(tokens)).numpy()


@pytest.mark.parametrize("shape", [PLAIN, NARROW, WINDOWED], ids=["heads of 128", "heads of 96", "windows"])
def test_an_imported_nanochat_checkpoint_computes_nanochats_logits(shape: dict[str, Any], tmp_path: Path) -> None:
    state = state_of(shape)
    found = read_nanochat(save_nanochat(tmp_path, shape, {f"_orig_mod.{name}": t for name, t in state.items()}))
    tokens = np.random.default_rng(3).integers(shape["vocab_size"], size=(2, shape["sequence_len"]))
    golden = golden_logits({name: t.float().numpy() for name, t in state.items()}, shape, tokens)
    assert np.abs(golden).max() > 2.0  # the comparison has something to compare
    np.testing.assert_allclose(logits_of(found.config, found.weights, tokens), golden, rtol=0, atol=1e-4)
    assert found.meta["val_bpb"] == 0.81
    if shape is WINDOWED:
        open_everywhere = GPTConfig(depth=5, width=256, head_dim=128, vocab_size=300, sequence_length=48)
        assert np.abs(logits_of(open_everywhere, found.weights, tokens) - golden).max() > 0.01


def test_rotary_tables_in_full_precision_would_be_another_model(tmp_path: Path) -> None:
    found = read_nanochat(save_nanochat(tmp_path, PLAIN, state_of(PLAIN)))
    tokens = np.random.default_rng(3).integers(300, size=(1, 48))
    model = build_model(found.config, 0)
    model.load_state_dict({name: torch.from_numpy(w) for name, w in found.weights.items()})
    angle = torch.outer(torch.arange(48.0), 10_000.0 ** (-torch.arange(0, 128, 2) / 128))
    with torch.no_grad():
        rounded = model(torch.from_numpy(tokens))
        model.rotary_cos.copy_(angle.cos())
        model.rotary_sin.copy_(angle.sin())
        assert (model(torch.from_numpy(tokens)) - rounded).abs().max().item() > 1e-3


def test_a_model_written_with_nanochats_names_comes_back_bit_for_bit(tmp_path: Path) -> None:
    config = GPTConfig(depth=2, width=256, head_dim=128, vocab_size=257, sequence_length=32, window_pattern="SL")
    weights = {name: p.detach().numpy() for name, p in build_model(config, 4).named_parameters()}
    files = write_nanochat(tmp_path, config, weights, step=12)
    assert [f.name for f in files] == ["model_000012.safetensors", "meta_000012.json"]
    found = read_nanochat(tmp_path)
    assert found.config == config
    assert found.meta["model_config"]["n_kv_head"] == 2
    assert found.weights.keys() == weights.keys()
    assert all(np.array_equal(found.weights[name], w) for name, w in weights.items())
    assert nanochat_name("blocks.3.mlp.up.weight") == "transformer.h.3.mlp.c_fc.weight"


def test_a_folder_stands_for_its_last_step(tmp_path: Path) -> None:
    for step in (900, 1000):
        save_nanochat(tmp_path, {**NARROW, "n_layer": step // 500}, state_of({**NARROW, "n_layer": step // 500}), step)
    assert read_nanochat(tmp_path).meta["step"] == 1000
    with pytest.raises(DataError, match="there is no nanochat checkpoint"):
        read_nanochat(tmp_path / "..")


def test_small_heads_have_a_scale_that_nanochat_cannot_compute(small_model: GPT, tmp_path: Path) -> None:
    weights = {name: p.detach().numpy() for name, p in small_model.named_parameters()}
    with pytest.raises(ConfigError, match=r"1 / sqrt\(head_dim\)"):
        write_nanochat(tmp_path, small_model.config, weights)


def _extra(state: dict[str, Any], shape: dict[str, Any]) -> None:
    state["value_embeds.1.weight"] = torch.zeros(320, 192)


def _older(state: dict[str, Any], shape: dict[str, Any]) -> None:
    del state["resid_lambdas"], state["x0_lambdas"]


def _longer(state: dict[str, Any], shape: dict[str, Any]) -> None:
    state["lm_head.weight"] = torch.zeros(384, 192)


def _grouped(state: dict[str, Any], shape: dict[str, Any]) -> None:
    shape["n_kv_head"] = 1


def _newer(state: dict[str, Any], shape: dict[str, Any]) -> None:
    shape["rope_base"] = 100_000


def _absurd(state: dict[str, Any], shape: dict[str, Any]) -> None:
    shape["n_head"] = shape["n_kv_head"] = 5


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_extra, "another architecture: has value_embeds.1.weight"),
        (_older, "another architecture: lacks resid_lambdas, x0_lambdas"),
        (_longer, r"lm_head.weight is \(384, 192\) instead of \(320, 192\)"),
        (_grouped, "1 key heads for 2 query heads"),
        (_newer, "another architecture: model_config has rope_base"),
        (_absurd, "not the shape of a model"),
    ],
)
def test_a_checkpoint_of_another_architecture_is_refused_with_what_differs(change: Any, says: str, tmp_path: Path) -> None:
    state, shape = state_of(NARROW), dict(NARROW)
    change(state, shape)
    with pytest.raises(DataError, match=says):
        read_nanochat(save_nanochat(tmp_path, shape, state))


def test_a_checkpoint_without_its_meta_file_is_refused(tmp_path: Path) -> None:
    path = save_nanochat(tmp_path, NARROW, state_of(NARROW))
    path.with_name("meta_000007.json").unlink()
    with pytest.raises(DataError, match=r"meta_000007\.json: there is no such file"):
        read_nanochat(path)
    with pytest.raises(DataError, match=r"model_8\.pt: there is no such checkpoint"):
        read_nanochat(tmp_path / "model_8.pt")
    (tmp_path / "m.json").write_text("{}")
    with pytest.raises(DataError, match="has no model_config"):
        read_nanochat(path, tmp_path / "m.json")


# The reader of .pt files.


class Evil:
    """Unpickling this would make a file."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.path,)


def test_tensors_come_out_of_a_torch_file_as_they_went_in(tmp_path: Path) -> None:
    shared = torch.arange(24.0)
    saved = {
        "view": shared[4:16].view(3, 4).T, "same": shared, "half": torch.ones(2, dtype=torch.float16),
        "double": torch.full((1, 1), 1e300, dtype=torch.float64), "bf16": torch.tensor(3.5, dtype=torch.bfloat16),
        "none": torch.ones(0, 3),
        "parameter": torch.nn.Parameter(torch.ones(2)).detach(),
    }  # fmt: skip
    torch.save(saved, tmp_path / "x.pt")
    found = read_tensors(tmp_path / "x.pt")
    assert found.keys() == saved.keys()
    for name, tensor in saved.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)


def test_nothing_that_a_torch_file_names_is_run(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(2), "evil": Evil(tmp_path / "made")}, tmp_path / "x.pt")
    with pytest.raises(DataError, match=r"it names \w+.mkdir, which no state dict needs"):
        read_tensors(tmp_path / "x.pt")
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ({"w": torch.ones(2, dtype=torch.int64)}, "torch.LongStorage"),
        ({"w": {"v": torch.ones(2)}}, "'w' in it is a dict, not a tensor"),
        ({"step": 3}, "'step' in it is a int, not a tensor"),
        ([torch.ones(2)], "EMPTY_LIST"),
        (torch.ones(2), "it holds a Tensor, not a state dict"),
        ({1: torch.ones(2)}, "a key is a int"),
        ({"w": torch.nn.Linear(1, 1)}, "which no state dict needs"),
    ],
)
def test_a_torch_file_with_anything_but_plain_tensors_is_refused(value: Any, says: str, tmp_path: Path) -> None:
    torch.save(value, tmp_path / "x.pt")
    with pytest.raises(DataError, match=says):
        read_tensors(tmp_path / "x.pt")


def test_a_torch_file_that_is_missing_cut_or_no_such_file_is_refused(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(100)}, tmp_path / "x.pt")
    whole = (tmp_path / "x.pt").read_bytes()
    (tmp_path / "cut.pt").write_bytes(whole[: len(whole) // 2])
    torch.save({"w": torch.ones(3)}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    with zipfile.ZipFile(tmp_path / "other.pt", "w") as archive:
        archive.writestr("readme", "x")
    for name, says in (
        ("none.pt", "no such checkpoint"),
        ("cut.pt", "cut short"),
        ("old.pt", r"before PyTorch 1\.6.*convert it to"),
        ("other.pt", "no desc"),
    ):
        with pytest.raises(DataError, match=says):
            read_tensors(tmp_path / name)


def _repacked(source: Path, out: Path, replaced: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(out, "w", compression) as new:
        for name in old.namelist():
            new.writestr(name, replaced.get(name.split("/", 1)[1], old.read(name)))
    return out


def test_a_torch_file_whose_parts_do_not_fit_together_is_refused(tmp_path: Path) -> None:
    source = tmp_path / "x.pt"
    torch.save({"w": torch.ones(4)}, source)
    for replaced, says in (({"data/0": b"\0" * 12}, "12 bytes instead of 16"), ({"byteorder": b"big"}, "little-endian")):
        with pytest.raises(DataError, match=says):
            read_tensors(_repacked(source, tmp_path / "y.pt", replaced))
    with pytest.raises(DataError, match="compressed"):
        read_tensors(_repacked(source, tmp_path / "z.pt", {}, zipfile.ZIP_DEFLATED))
    with zipfile.ZipFile(source) as archive:
        description = archive.read("x/data.pkl")
    # The shape (4,) becomes (200,): more than the storage has.
    wrong = description.replace(b"K\x04\x85", b"K\xc8\x85")
    assert wrong != description
    with pytest.raises(DataError, match="reaches beyond its 4 numbers"):
        read_tensors(_repacked(source, tmp_path / "y.pt", {"data.pkl": wrong}))


def test_a_changed_description_gives_tensors_or_a_refusal_and_nothing_else(tmp_path: Path) -> None:
    source = tmp_path / "x.pt"
    torch.save({"w": torch.ones(4), "v": torch.zeros(2, 2)}, source)
    with zipfile.ZipFile(source) as archive:
        description = archive.read("x/data.pkl")
    draw, refused = random.Random(1), 0
    for _ in range(300):
        changed = bytearray(description)
        for _ in range(draw.randint(1, 3)):
            changed[draw.randrange(len(changed))] = draw.randrange(256)
        try:
            read_tensors(_repacked(source, tmp_path / "y.pt", {"data.pkl": bytes(changed)}))
        except DataError:
            refused += 1
    assert refused > 200


# The folder.


def trained(config: GPTConfig) -> GPT:
    """A model none of whose weights is zero."""
    model, draw = build_model(config, 2), torch.Generator().manual_seed(9)
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.add_(torch.randn(p.shape, generator=draw), alpha=0.1 if name.endswith("weight") else 0.3)
    return model


def exported(model: GPT, out: Path) -> dict[str, Array]:
    weights = {name: p.detach().numpy() for name, p in model.named_parameters()}
    write_folder(out, model.config, weights, {"kind": "bytes", "vocab_size": 257, "bos_id": 256}, {"run": "r", "version": 3})
    return weights


@pytest.mark.parametrize("head_dim", [32, 128])
def test_the_documented_lines_of_plain_pytorch_give_our_logits(
    head_dim: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = trained(GPTConfig(depth=3, width=256, head_dim=head_dim, vocab_size=257, sequence_length=64))
    exported(model, tmp_path)
    text = DOCS.read_text(encoding="utf-8").split("### In plain PyTorch")[1]
    block = re.findall(r"```python\n(.*?)```", text, re.DOTALL)[0]
    assert len(block.strip().split("\n\n")[1].splitlines()) == 10
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    with torch.no_grad():
        exec(compile(block, str(DOCS), "exec"), names)
        tokens = torch.randint(257, (2, 50), generator=torch.Generator().manual_seed(1))
        torch.testing.assert_close(names["logits"](tokens), model(tokens), rtol=0, atol=1e-4)
    assert "windfall" not in block


def test_a_folder_holds_the_whole_model_its_shape_and_its_tokenizer(tmp_path: Path) -> None:
    model = trained(GPTConfig(depth=2, width=64, head_dim=32, sequence_length=32, window_pattern="SL"))
    weights = exported(model, tmp_path / "out")
    config, found = read_folder(tmp_path / "out")
    assert config == model.config
    assert found.keys() == weights.keys()
    assert all(np.array_equal(found[name], w) for name, w in weights.items())
    document = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (document["origin"], document["heads"]) == ({"run": "r", "version": 3}, 2)
    assert json.loads((tmp_path / "out" / "tokenizer.json").read_text())["bos_id"] == 256
    tokens = torch.arange(30).unsqueeze(0)
    assert torch.equal(load_folder(tmp_path / "out")(tokens), model(tokens))


def test_a_folder_that_does_not_fit_together_is_refused(tmp_path: Path) -> None:
    model = trained(GPTConfig(depth=2, width=64, head_dim=32))
    exported(model, tmp_path)
    path = tmp_path / "config.json"
    document = json.loads(path.read_text())
    for change, says in (
        ({"depth": 3}, "another architecture: lacks blocks.2.attention.key.weight"),
        ({"vocab_size": 400}, r"embedding.weight is \(320, 64\) instead of \(448, 64\)"),
        ({"heads": "2"}, "heads is '2'"),
        ({"format": "other"}, "not the configuration of a model"),
    ):
        path.write_text(json.dumps({**document, **change}))
        with pytest.raises(DataError, match=says):
            read_folder(tmp_path)
    path.write_text("[1]")
    with pytest.raises(DataError, match="a list instead of an object"):
        read_folder(tmp_path)


def test_weights_of_another_shape_are_not_exported(small_model: GPT, tmp_path: Path) -> None:
    weights = {name: p.detach().numpy() for name, p in small_model.named_parameters()}
    with pytest.raises(DataError, match="export: a checkpoint of another architecture"):
        write_folder(tmp_path, GPTConfig(depth=3, width=64, head_dim=32, sequence_length=64), weights)


def test_the_tokenizer_of_prepared_data_is_found_in_its_file_or_its_manifest(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps({"tokenizer": {"kind": "bytes"}}))
    assert tokenizer_document(tmp_path) == {"kind": "bytes"}
    (tmp_path / "tokenizer.json").write_text(json.dumps({"kind": "bpe"}))
    assert tokenizer_document(tmp_path) == {"kind": "bpe"}


# The verbs.


def test_a_runs_version_is_exported_in_either_format_and_a_nanochat_checkpoint_imported(
    text_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = RunDir(tmp_path / "run")
    source = f'source = "{text_folder}"'
    text = re.sub(r'^source = "stdlib"', source, TEMPLATE.replace("depth = 2", "depth = 1"), flags=re.MULTILINE)
    assert source in text
    prepare_run(loads(text, "x.toml", tmp_path), run, lambda _: None)

    export_weights(run.root, tmp_path / "out", None, "windfall", True)
    said = json.loads(capsys.readouterr().out)
    assert (said["version"], [Path(f).name for f in said["files"]]) == (0, ["model.safetensors", "config.json", "tokenizer.json"])
    config, weights = read_folder(tmp_path / "out")
    assert (config.depth, config.vocab_size) == (1, 257)

    with pytest.raises(DataError, match="version 3 is not kept; there are 0"):
        export_weights(run.root, tmp_path / "out", 3, "windfall", False)
    with pytest.raises(ConfigError, match="--format pickle: no such format; there are windfall, nanochat"):
        export_weights(run.root, tmp_path / "out", None, "pickle", False)
    with pytest.raises(ConfigError, match="are not what nanochat computes"):
        export_weights(run.root, tmp_path / "n", None, "nanochat", False)

    checkpoint = save_nanochat(tmp_path / "theirs", NARROW, state_of(NARROW))
    import_weights(checkpoint, tmp_path / "in", None, False)
    assert capsys.readouterr().out.splitlines() == [str(tmp_path / "in" / name) for name in ("model.safetensors", "config.json")]
    config, weights = read_folder(tmp_path / "in")
    assert config.attention_scale == pytest.approx(96**-0.5)
    assert all(np.array_equal(weights[name], w) for name, w in read_nanochat(checkpoint).weights.items())
