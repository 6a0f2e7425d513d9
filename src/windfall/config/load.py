"""Reading a configuration: every error of a file at once, each with line, key, what is wrong and what to do."""

from __future__ import annotations

import difflib
import hashlib
import json
import re
import tomllib
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from windfall.config.look import Looked, look, look_at, without_gone_keys
from windfall.config.look import signals as signals
from windfall.config.problems import ConfigProblems as ConfigProblems
from windfall.config.problems import Problem as Problem
from windfall.config.problems import dotted as dotted
from windfall.config.schema import Config
from windfall.errors import ConfigError


def load(path: Path) -> Config:
    """The configuration in ``path``.

    Raises:
        ConfigError: the file cannot be read, is not TOML, breaks the schema or names a file that is not there (``ConfigProblems``).
    """
    return _right(look(path))


def loads(text: str, file: str, base: Path) -> Config:
    """The configuration in ``text``; relative paths in it are taken from ``base``. Raises as ``load``."""
    return _right(look_at(text.encode(), file, base))


def _right(found: Looked) -> Config:
    if found.config is None:
        raise ConfigProblems(found.file, found.problems)
    return found.config


def stored(text: str) -> Config:
    """A configuration as a run keeps it: its paths are absolute, and need not be there any more.

    Raises:
        ConfigError: it is none that this Windfall knows.
    """
    try:
        tables = tomllib.loads(text)
        without_gone_keys(tables)
        return Config.model_validate(tables)
    except (tomllib.TOMLDecodeError, ValidationError) as e:
        raise ConfigError(f"a stored configuration cannot be read: {e}") from None


def fingerprint(config: Config) -> str:
    """A hash that identifies a configuration, for runs older than the ledger's table of configurations whose file is gone.

    What may change between two starts is decided by `run.changes`.
    """
    # Defaults are left out, so that a key which a later Windfall adds does not change the hash.
    kept = config.model_dump(mode="json", exclude_defaults=True)
    identity: dict[str, Any] = {k: dict(kept.get(k, {})) for k in ("model", "data", "train", "policy")}
    run = kept.get("run", {})
    identity["run"] = {k: run[k] for k in ("budget_tokens", "seed", "threshold_g_per_kwh", "clock", "start") if k in run}
    identity["site"] = [s.name for s in config.site]
    for asked in ("eval_sequences", "eval_every_tokens", "sample_prompt", "sample_tokens"):
        identity["data"].pop(asked, None)
    if identity["train"].get("precision") == "fp32":  # the default before there was "auto"
        identity["train"].pop("precision")
    for how in ("micro_batch_sequences", "compile", "checkpoint_activations"):  # how it is computed, not what
        identity["train"].pop(how, None)
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]


def to_toml(config: Config) -> str:
    """The resolved configuration as TOML (what a run directory keeps)."""
    raw = config.model_dump(mode="json", exclude_none=True)
    out: list[str] = []
    _emit(raw, "", out)
    return "\n".join(out).lstrip("\n") + "\n"


def _emit(table: dict[str, Any], prefix: str, out: list[str]) -> None:
    for key, value in table.items():
        if not _is_table(value):
            out.append(f"{_key(key)} = {_value(value)}")
    for key, value in table.items():
        name = f"{prefix}{_key(key)}"
        if isinstance(value, dict):
            out += ["", f"[{name}]"]
            _emit(value, name + ".", out)
        elif _is_table(value):
            for row in value:
                out += ["", f"[[{name}]]"]
                _emit(row, name + ".", out)


def _is_table(value: Any) -> bool:
    return isinstance(value, dict) or (isinstance(value, list) and bool(value) and isinstance(value[0], dict))


def _key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else _value(key)


def _value(value: Any) -> str:
    # JSON and TOML write strings, numbers, booleans and flat lists alike, except for one character that TOML wants escaped.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def with_settings(config: Config, settings: dict[str, float]) -> Config:
    """The configuration with some numbers of it set otherwise: keys of `[policy]`, `[backtest.trainer]`, or `spin_up_s`.

    ``spin_up_s`` is of all sites and of the prototype's start, whose loading keeps its share of it.

    Raises:
        ConfigError: there is no such number, or it cannot be set so.
    """
    raw = config.model_dump(mode="json", exclude_none=True)
    for key, value in settings.items():
        if key == "spin_up_s":
            study = raw["backtest"]["trainer"]
            was = study["provision_s"] + study["load_s"] or 1.0
            study["provision_s"], study["load_s"] = study["provision_s"] / was * value, study["load_s"] / was * value
            for site in raw["site"]:
                ratio = site["load_s"] / site["spin_up_s"] if site["spin_up_s"] else 0.0
                site["spin_up_s"], site["load_s"] = value, ratio * value
        elif key in type(config.policy).model_fields and key not in ("name", "deadline"):
            raw["policy"][key] = value
        elif key in type(config.backtest.trainer).model_fields and key != "preset":
            raw["backtest"]["trainer"][key] = value
        else:
            keys = [k for k in type(config.policy).model_fields if k not in ("name", "deadline")]
            near = difflib.get_close_matches(key, [*keys, "spin_up_s"], n=1)
            hint = f"; did you mean {near[0]}?" if near else f"; there are spin_up_s, {', '.join(keys)}"
            raise ConfigError(f"{key}: not a number that can be set{hint}")
    try:
        return Config.model_validate(raw)
    except ValidationError as e:
        raise ConfigError("; ".join(f"{dotted(tuple(d['loc']))}: {d['msg']}" for d in e.errors(include_url=False))) from None
