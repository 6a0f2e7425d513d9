"""Checkpoints of nanochat, as of mid January 2026: read, and written with its names.

Names, shapes and the meta file are those of its published source (nanochat/gpt.py and checkpoint_manager.py): the version
with `resid_lambdas` and `x0_lambdas` and without value embeddings, 560,988,200 parameters at depth 20. A checkpoint is
two files, `model_STEP.pt` (or the same tensors as .safetensors) and `meta_STEP.json`. Its tokenizer is a pickle, which is
not read: prepare data with a tokenizer of the same vocabulary.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.torch import load_file as load_safetensors
from torch import Tensor

from windfall.errors import ConfigError, DataError, NoData, StoreError
from windfall.store.files import write_atomic
from windfall.store.tensors import Tensors, save_file
from windfall.train.interchange import (
    CONFIG_NAME,
    WEIGHTS_NAME,
    check_shapes,
    config_from,
    expected_shapes,
    read_document,
    require_finite,
)
from windfall.train.shape import RECIPE_HEAD_DIM, GPTConfig
from windfall.train.torchfile import read_tensors

#: Of GPTConfig there: its name here, or None for what must have the one value that makes it this architecture.
_FIELDS = {
    "sequence_len": "sequence_length",
    "vocab_size": "vocab_size",
    "n_layer": "depth",
    "n_head": "heads",
    "n_kv_head": None,
    "n_embd": "width",
    "window_pattern": "window_pattern",
}
_NAMES = {
    "embedding.weight": "transformer.wte.weight",
    "head.weight": "lm_head.weight",
    "residual_scalars": "resid_lambdas",
    "x0_scalars": "x0_lambdas",
    "attention.query": "attn.c_q",
    "attention.key": "attn.c_k",
    "attention.value": "attn.c_v",
    "attention.output": "attn.c_proj",
    "mlp.up": "mlp.c_fc",
    "mlp.down": "mlp.c_proj",
}
#: torch.compile puts this before every name.
_COMPILED_PREFIX = "_orig_mod."
_HINT = "; supported is nanochat of mid January 2026 (resid_lambdas and x0_lambdas, no value embeddings)"


@dataclass(frozen=True)
class Checkpoint:
    """A model of nanochat's as one of ours: float32 weights by our names, and the meta file as it is."""

    config: GPTConfig
    weights: Tensors
    meta: dict[str, Any]


def nanochat_name(name: str) -> str:
    """Our parameter's name in nanochat: ``blocks.3.mlp.up.weight`` is ``transformer.h.3.mlp.c_fc.weight``."""
    if name in _NAMES:
        return _NAMES[name]
    _, layer, part, matrix, weight = name.split(".")
    return f"transformer.h.{layer}.{_NAMES[f'{part}.{matrix}']}.{weight}"


def read_nanochat(checkpoint: Path, meta: Path | None = None) -> Checkpoint:
    """Read ``model_STEP.pt`` or ``.safetensors``, or the last step of a folder; ``meta`` is meta_STEP.json beside it by default.

    The result computes what nanochat computes: also where its heads are not 128 wide (the attention scale is kept), with
    `window_pattern`, and with bfloat16 embeddings (each is a float32).

    Raises:
        DataError: missing, unreadable, or of another architecture; the message says what differs.
    """
    if (checkpoint / WEIGHTS_NAME).is_file() and (checkpoint / CONFIG_NAME).is_file():
        raise DataError(f"{checkpoint}: is such a folder already (it has {CONFIG_NAME}); name it as it is")
    if checkpoint.is_dir():
        checkpoint = _last_step(checkpoint)
    elif not checkpoint.is_file():
        raise NoData(f"{checkpoint}: there is no such checkpoint")
    meta = meta or checkpoint.with_name(re.sub(r"^model", "meta", checkpoint.stem) + ".json")
    document = read_document(meta)
    config = _config(meta, document.get("model_config"))
    tensors = {name.removeprefix(_COMPILED_PREFIX): tensor for name, tensor in _tensors(checkpoint).items()}
    names = {nanochat_name(name): name for name in expected_shapes(config)}
    expected = {nanochat_name(name): shape for name, shape in expected_shapes(config).items()}
    check_shapes(str(checkpoint), expected, {name: tuple(tensor.shape) for name, tensor in tensors.items()}, _HINT)
    weights = {own: np.ascontiguousarray(tensors[name].float().numpy()) for name, own in names.items()}
    require_finite(checkpoint, weights)
    return Checkpoint(config, weights, document)


def write_nanochat(
    out: Path, config: GPTConfig, weights: Tensors, step: int = 0, more: Mapping[str, Any] | None = None
) -> list[Path]:
    """Write ``model_STEP.safetensors`` and ``meta_STEP.json`` into ``out``, with nanochat's names, in float32.

    Raises:
        ConfigError: nanochat cannot compute this model: its attention scale is always 1 / sqrt(head_dim).
        DataError: the weights are not those of ``config``.
        StoreError: the folder cannot be written.
    """
    usual = 1.0 / math.sqrt(config.head_dim)
    if not math.isclose(config.attention_scale, usual, rel_tol=1e-6):
        raise ConfigError(
            f"export: heads of {config.head_dim} with an attention scale of {config.attention_scale:.4f} are not what nanochat"
            f" computes (1 / sqrt(head_dim) = {usual:.4f}); its format holds models with head_dim {RECIPE_HEAD_DIM}, or use the"
            " format windfall"
        )
    check_shapes("export", expected_shapes(config), {name: w.shape for name, w in weights.items()})
    shape = {there: getattr(config, here) for there, here in _FIELDS.items() if here}
    document = {"step": step, "model_config": {**shape, "n_kv_head": config.heads}, **(more or {})}
    files = [out / f"model_{step:06d}.safetensors", out / f"meta_{step:06d}.json"]
    try:
        out.mkdir(parents=True, exist_ok=True)
        save_file(files[0], {nanochat_name(name): w for name, w in weights.items()}, {"format": "pt"})
        write_atomic(files[1], [(json.dumps(document, indent=2) + "\n").encode()])
    except OSError as e:
        raise StoreError(f"{out}: cannot be written: {e.strerror}; name another folder or give write access") from None
    return files


def _last_step(folder: Path) -> Path:
    found = sorted(p for p in folder.glob("model_*") if re.fullmatch(r"model_\d+\.(pt|safetensors)", p.name))
    if not found:
        raise DataError(f"{folder}: there is no nanochat checkpoint (model_STEP.pt or model_STEP.safetensors) in it")
    return max(found, key=lambda p: int(p.stem.removeprefix("model_")))


def _tensors(path: Path) -> dict[str, Tensor]:
    if path.suffix != ".safetensors":
        return read_tensors(path)
    try:
        return dict(load_safetensors(path))
    except FileNotFoundError:
        raise NoData(f"{path}: there is no such checkpoint") from None
    except (SafetensorError, OSError, ValueError, KeyError) as e:
        raise DataError(f"{path}: not readable as safetensors: {e}") from None


def _config(meta: Path, found: Any) -> GPTConfig:
    if not isinstance(found, dict):
        raise DataError(f"{meta}: has no model_config; it is not the meta file of a nanochat checkpoint")
    unknown, missing = sorted(found.keys() - _FIELDS.keys()), sorted(_FIELDS.keys() - found.keys() - {"window_pattern"})
    if unknown or missing:
        what = f"has {', '.join(unknown)}" if unknown else f"lacks {', '.join(missing)}"
        raise DataError(f"{meta}: a checkpoint of another architecture: model_config {what}{_HINT}")
    if found["n_kv_head"] != found["n_head"]:
        raise DataError(
            f"{meta}: a checkpoint of another architecture: {found['n_kv_head']} key heads for {found['n_head']} query heads"
            " (grouped queries); supported are as many of each"
        )
    values = {here: found[there] for there, here in _FIELDS.items() if here and there in found}
    if isinstance(values.get("window_pattern"), str):
        values["window_pattern"] = values["window_pattern"].upper()
    config = config_from(meta, values)
    if config.head_dim == RECIPE_HEAD_DIM:
        return config
    return config_from(meta, {**values, "attention_scale": 1.0 / math.sqrt(config.head_dim)})
