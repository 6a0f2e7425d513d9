"""Reading a configuration: every error of a file at once, each with line, key, what is wrong and what to do."""

from __future__ import annotations

import difflib
import hashlib
import json
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from windfall.config.lines import key_lines, line_of
from windfall.config.schema import Config
from windfall.config.signals import SignalTable
from windfall.errors import ConfigError

#: How messages begin that say all there is to say: the value is not repeated after them.
_OURS = (
    "a trace", "block_", "load_s", "stop_g", "two ", "run.clock", "synthetic signals", "kind =", "latitude", "forecast =",
    "trigger", "deadline", "policy.name", "limits.", "unit =", "scale =", "timezone =", "time_format =", "stamp =", "hour_column",
    "region_column", "region_value",
)  # fmt: skip


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a file."""

    line: int
    key: str
    message: str

    def text(self, file: str) -> str:
        """``file:line: key: message``."""
        return f"{file}:{self.line}: {self.key}: {self.message}"


class ConfigProblems(ConfigError):
    """All problems of one file."""

    def __init__(self, file: str, problems: list[Problem]) -> None:
        self.file = file
        self.problems = problems
        super().__init__("\n".join(p.text(file) for p in problems))


def load(path: Path) -> Config:
    """The configuration in ``path``.

    Raises:
        ConfigError: the file cannot be read, is not TOML, or breaks the schema (``ConfigProblems``).
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; `windfall init {path}` writes one to start from") from None
    except (OSError, UnicodeDecodeError) as e:
        raise ConfigError(f"{path}: cannot be read: {e}") from None
    return loads(text, str(path), path.parent)


def loads(text: str, file: str, base: Path) -> Config:
    """The configuration in ``text``; relative paths in it are taken from ``base``."""
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as e:
        raise ConfigError(f"{file}: not valid TOML: {e}") from None
    lines = key_lines(text)
    try:
        config = Config.model_validate(raw)
    except ValidationError as e:
        found = [_problem(d, lines) for d in e.errors(include_url=False)]
        raise ConfigProblems(file, sorted(set(found), key=lambda p: (p.line, p.key))) from None
    missing = []
    for where, s in signals(config):
        for key, path in (("path", s.path), ("credentials_file", s.credentials_file)):
            if path and not path.startswith("bundled:") and not (base / path).expanduser().is_file():
                missing.append(Problem(line_of((*where, key), lines), dotted((*where, key)), f"no such file: {base / path}"))
    if missing:
        raise ConfigProblems(file, missing)
    return _absolute(config, base)


def stored(text: str) -> Config:
    """A configuration as a run keeps it: its paths are absolute, and need not be there any more.

    Raises:
        ConfigError: it is none that this Windfall knows.
    """
    try:
        return Config.model_validate(tomllib.loads(text))
    except (tomllib.TOMLDecodeError, ValidationError) as e:
        raise ConfigError(f"a stored configuration cannot be read: {e}") from None


def signals(config: Config) -> list[tuple[tuple[str | int, ...], SignalTable]]:
    """Every signal of a configuration with its place in the file."""
    found: list[tuple[tuple[str | int, ...], SignalTable]] = []
    found += [(("site", i, "signal"), s.signal) for i, s in enumerate(config.site)]
    found += [(("site", i, "signals", k), more) for i, s in enumerate(config.site) for k, more in enumerate(s.signals)]
    found += [(("counterfactual", i, "signal"), c.signal) for i, c in enumerate(config.counterfactual)]
    return found


def fingerprint(config: Config) -> str:
    """By this a run of before configurations were kept knows the one that it was started with, where its file is gone.

    (What may change between two starts is `run.changes`' to say.)
    """
    # Without defaults, so that a key that a later Windfall knows changes no run's identity.
    kept = config.model_dump(mode="json", exclude_defaults=True)
    identity: dict[str, Any] = {k: dict(kept.get(k, {})) for k in ("model", "data", "train", "policy")}
    run = kept.get("run", {})
    identity["run"] = {k: run[k] for k in ("budget_tokens", "seed", "threshold_g_per_kwh", "clock", "start") if k in run}
    identity["site"] = [s.name for s in config.site]
    for asked in ("eval_sequences", "sample_prompt", "sample_tokens"):
        identity["data"].pop(asked, None)
    if identity["train"].get("precision") == "fp32":  # was the default before "auto" was
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
    # JSON's strings, numbers, booleans and flat lists are TOML's; but for one character, that TOML wants escaped.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _absolute(config: Config, base: Path) -> Config:
    def fix(signal: SignalTable) -> SignalTable:
        changed = {
            key: str((base / path).expanduser().resolve())
            for key, path in (("path", signal.path), ("credentials_file", signal.credentials_file))
            if path and not path.startswith("bundled:")
        }
        return signal.model_copy(update=changed) if changed else signal

    source, tokenizer = config.data.source, config.data.tokenizer
    if source != "stdlib" and not source.startswith("hf:"):
        source = str((base / source).resolve())
    if tokenizer not in ("bytes", "bpe"):
        tokenizer = str((base / tokenizer).resolve())
    first = config.model.initial_weights
    return config.model_copy(
        update={
            "model": config.model.model_copy(update={"initial_weights": str((base / first).resolve())} if first else {}),
            "data": config.data.model_copy(update={"source": source, "tokenizer": tokenizer}),
            "site": [s.model_copy(update={"signal": fix(s.signal), "signals": [fix(x) for x in s.signals]}) for s in config.site],
            "counterfactual": [c.model_copy(update={"signal": fix(c.signal)}) for c in config.counterfactual],
        }
    )


def dotted(path: tuple[str | int, ...]) -> str:
    """A key as people write it: site[0].signal.path."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text or "(file)"


def _problem(detail: ErrorDetails, lines: dict[tuple[str | int, ...], int]) -> Problem:
    path = tuple(detail["loc"])
    message = str(detail["msg"]).removeprefix("Value error, ")
    kind = detail["type"]
    if kind == "extra_forbidden":
        near = _suggest(path)
        message = f"unknown key; did you mean `{near}`?" if near else "unknown key; remove it (`windfall init` lists all keys)"
    elif kind == "missing":
        about = _description(path)
        message = "missing" + (f" ({about})" if about else "") + "; add it"
    elif not message.startswith(_OURS):
        about = _description(path)
        # A URL is not repeated: it may be wrong by holding a secret.
        got = "" if path == ("run", "bus") or isinstance(detail["input"], dict | list) else f", got {detail['input']!r}"
        message = f"{message}{got}" + (f" ({about})" if about else "")
    return Problem(line_of(path, lines), dotted(path), message)


def _table_class(path: tuple[str | int, ...]) -> type[BaseModel] | None:
    """The schema class of the table that ``path`` lies in."""
    cls: type[BaseModel] = Config
    for part in path:
        if isinstance(part, int):
            continue
        field = cls.model_fields.get(str(part))
        inner = _inner(field.annotation) if field else None
        if inner is None:
            return None
        cls = inner
    return cls


def _inner(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for arg in getattr(annotation, "__args__", ()):
        if (found := _inner(arg)) is not None:
            return found
    return None


def _suggest(path: tuple[str | int, ...]) -> str | None:
    cls = _table_class(path[:-1])
    if cls is None:
        return None
    name = str(path[-1])
    near = difflib.get_close_matches(name, cls.model_fields, n=1, cutoff=0.6)
    if near:
        return near[0]
    # A right name with a wrong or missing unit: `spin_up_min`, `train_power_kw`.
    stem = name.rsplit("_", 1)[0]
    return next((f for f in cls.model_fields if f.rsplit("_", 1)[0] in (stem, name)), None)


def _description(path: tuple[str | int, ...]) -> str | None:
    cls = _table_class(path[:-1])
    field = cls.model_fields.get(str(path[-1])) if cls and path else None
    return field.description if field else None


def with_settings(config: Config, settings: dict[str, float]) -> Config:
    """The configuration with some numbers of it set otherwise: keys of `[policy]`, `[backtest.trainer]`, or `spin_up_s`.

    ``spin_up_s`` is of all sites, whose loading keeps its share of it.

    Raises:
        ConfigError: there is no such number, or it cannot be set so.
    """
    raw = config.model_dump(mode="json", exclude_none=True)
    for key, value in settings.items():
        if key == "spin_up_s":
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
