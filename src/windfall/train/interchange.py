"""Models as a folder that others can read: model.safetensors, config.json, tokenizer.json.

docs/checkpoints.md has the lines of plain PyTorch that load such a folder; a test runs exactly those.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from windfall.errors import ConfigError, DataError, StoreError
from windfall.inputs import read_bytes
from windfall.store.files import write_atomic
from windfall.store.tensors import Tensors, load_file, save_file, shapes_in
from windfall.train.model import GPT, LOGIT_SOFTCAP, ROTARY_BASE, GPTConfig, empty_model, rotary_tables
from windfall.train.tokenizer import TOKENIZER_BYTES
from windfall.train.trainer import load_weights

FORMAT = "windfall-gpt"
FORMAT_VERSION = 1
WEIGHTS_NAME, CONFIG_NAME, TOKENIZER_NAME = "model.safetensors", "config.json", "tokenizer.json"
#: The matrices of a layer, as they follow each other in its arithmetic: ``blocks.N.<name>.weight``.
MATRICES = ("attention.query", "attention.key", "attention.value", "attention.output", "mlp.up", "mlp.down")
#: Tables in the weights file beside the parameters, so that a reader need not know how they are rounded.
_TABLES = ("rotary_cos", "rotary_sin")


def expected_shapes(config: GPTConfig) -> dict[str, tuple[int, ...]]:
    """Shape by name of every parameter. Instant: nothing is allocated."""
    with torch.device("meta"):
        return {name: tuple(p.shape) for name, p in GPT(config).named_parameters()}


def check_shapes(what: str, expected: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]], hint: str = "") -> None:
    """Compare a checkpoint's tensors with those that its configuration needs.

    Raises:
        DataError: they differ: it is of another architecture. The message says in what.
    """
    missing, unknown = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    other = [name for name in expected if name in found and tuple(found[name]) != expected[name]]
    parts = []
    if missing:
        parts.append(f"lacks {_some(missing)}")
    if unknown:
        parts.append(f"has {_some(unknown)}, which this architecture has not")
    if other:
        name = other[0]
        parts.append(f"{name} is {tuple(found[name])} instead of {expected[name]} ({len(other)} such)")
    if parts:
        raise DataError(f"{what}: a checkpoint of another architecture: {'; '.join(parts)}{hint}")


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def config_document(config: GPTConfig) -> dict[str, Any]:
    """Everything that the arithmetic needs besides weights, as plain values."""
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        **asdict(config),
        "padded_vocab_size": config.padded_vocab_size,
        "rotary_base": ROTARY_BASE,
        "logit_softcap": LOGIT_SOFTCAP,
        "matrices": list(MATRICES),
    }


def write_folder(
    out: Path,
    config: GPTConfig,
    weights: Tensors,
    tokenizer: Mapping[str, Any] | None = None,
    origin: Mapping[str, Any] | None = None,
) -> list[Path]:
    """Write a model into the folder ``out`` (made if it is not there) and return the files, weights first.

    weights are float32 by the model's own names. ``tokenizer`` becomes tokenizer.json; ``origin`` (which run, which
    version) goes into config.json and is for people.

    Raises:
        DataError: the weights are not those of ``config``.
        StoreError: the folder cannot be written.
    """
    check_shapes("export", expected_shapes(config), {name: w.shape for name, w in weights.items()})
    cos, sin = (table.numpy() for table in rotary_tables(config.sequence_length, config.head_dim))
    # As wide as a head, so that turning one is x · cos + (x with its halves exchanged) · sin.
    tables = {"rotary_cos": np.concatenate([cos, cos], 1), "rotary_sin": np.concatenate([sin, -sin], 1)}
    documents = {CONFIG_NAME: {**config_document(config), **({"origin": dict(origin)} if origin else {})}}
    if tokenizer is not None:
        documents[TOKENIZER_NAME] = dict(tokenizer)
    try:
        out.mkdir(parents=True, exist_ok=True)
        save_file(out / WEIGHTS_NAME, {**weights, **tables}, {"format": "pt"})
        for name, document in documents.items():
            write_atomic(out / name, [(json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode()])
    except OSError as e:
        raise StoreError(f"{out}: cannot be written: {e.strerror}; name another folder or give write access") from None
    return [out / WEIGHTS_NAME, *(out / name for name in documents)]


def read_folder(folder: Path) -> tuple[GPTConfig, Tensors]:
    """Configuration and weights of a folder that `write_folder` wrote.

    Raises:
        DataError: something is missing, unreadable, or does not fit together.
    """
    config = read_config(folder)
    weights = {name: w for name, w in load_file(folder / WEIGHTS_NAME).items() if name not in _TABLES}
    check_shapes(str(folder / WEIGHTS_NAME), expected_shapes(config), {name: w.shape for name, w in weights.items()})
    require_finite(folder / WEIGHTS_NAME, weights)
    return config, weights


def require_finite(path: Path, weights: Tensors) -> None:
    """Raise DataError where a weight is no finite number: nothing could be trained from it."""
    for name, values in weights.items():
        if not np.isfinite(values).all():
            raise DataError(f"{path}: {name} holds what is no finite number; take another checkpoint")


def look_at_folder(folder: Path, config: GPTConfig) -> None:
    """Raise DataError where `weights_for` would, as far as that can be known without reading the weights."""
    require_same(folder, read_config(folder), config)
    found = {name: shape for name, shape in shapes_in(folder / WEIGHTS_NAME).items() if name not in _TABLES}
    check_shapes(str(folder / WEIGHTS_NAME), expected_shapes(config), found)


def read_config(folder: Path) -> GPTConfig:
    """Configuration of such a folder. Raises DataError where it is missing or not one."""
    document = read_document(folder / CONFIG_NAME)
    if document.get("format") != FORMAT or document.get("format_version") != FORMAT_VERSION:
        raise DataError(f"{folder / CONFIG_NAME}: not the configuration of a model in the format {FORMAT} {FORMAT_VERSION}")
    names = GPTConfig.__dataclass_fields__
    return config_from(folder / CONFIG_NAME, {name: document[name] for name in names if name in document})


def weights_for(config: GPTConfig, folder: Path) -> Tensors:
    """The weights of such a folder for a model of shape ``config``. Raises DataError as `read_folder` and `require_same`."""
    theirs, weights = read_folder(folder)
    require_same(folder, theirs, config)
    return weights


def require_same(folder: Path, theirs: GPTConfig, config: GPTConfig) -> None:
    """Raise DataError unless weights of the one shape are weights of the other, whatever context they were trained with."""
    other = [
        f"{name} {getattr(theirs, name)} instead of {getattr(config, name)}"
        for name in GPTConfig.__dataclass_fields__
        if name not in ("sequence_length", "attention_scale") and getattr(theirs, name) != getattr(config, name)
    ]
    if not math.isclose(theirs.attention_scale, config.attention_scale, rel_tol=1e-6):
        other.append(f"attention_scale {theirs.attention_scale:.4f} instead of {config.attention_scale:.4f}")
    if other:
        raise DataError(f"{folder}: weights of another architecture than the run's: {', '.join(other)}")


def load_folder(folder: str | Path, device: torch.device | str = "cpu") -> GPT:
    """The model of such a folder. Raises DataError as `read_folder`."""
    config, weights = read_folder(Path(folder))
    model = empty_model(config, device)
    load_weights(model, weights)
    return model


def read_document(path: Path) -> dict[str, Any]:
    """A JSON object. Raises DataError where there is none."""
    try:
        document = json.loads(read_bytes(path, TOKENIZER_BYTES))
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file, and without it the weights have no meaning; copy it there too") from None
    except OSError as e:
        raise DataError(f"{path}: cannot be read ({e.strerror}); check the path and its permissions") from None
    except (ValueError, RecursionError) as e:
        raise DataError(f"{path}: not readable as JSON ({e}); copy the checkpoint's own file there") from None
    if not isinstance(document, dict):
        raise DataError(f"{path}: a {type(document).__name__} instead of an object; copy the checkpoint's own file there")
    return document


def config_from(path: Path, values: Mapping[str, Any]) -> GPTConfig:
    """The configuration made of `values`. Raises DataError, naming the file, where they do not make one."""
    for name, value in values.items():
        wanted = {"attention_scale": (int, float), "window_pattern": (str,)}.get(name, (int,))
        if isinstance(value, bool) or not isinstance(value, wanted):
            raise DataError(
                f"{path}: {name} is {value!r}, not {' or '.join(w.__name__ for w in wanted)}; take the file as it was written"
            )
    try:
        return GPTConfig(**values)
    except (ConfigError, TypeError) as e:
        raise DataError(f"{path}: not the shape of a model: {e}") from None


def tokenizer_document(data_folder: Path) -> dict[str, Any]:
    """The tokenizer of a prepared corpus as JSON: its own file where there is one, else the manifest's entry."""
    own = data_folder / TOKENIZER_NAME
    if own.is_file():
        return read_document(own)
    manifest = read_document(data_folder / "manifest.json")
    found = manifest.get("tokenizer")
    if not isinstance(found, dict):
        raise DataError(f"{data_folder}: its manifest names no tokenizer; prepare the data again")
    return found
