"""Finds every mistake of a configuration at once, also where one would hide another.

pydantic reports all wrong values of a table. But it checks the table's own rules (`model_validator`) only if no value is wrong, and
reports only the first broken one. Here each rule is checked by itself, on a table that has only the right values. A rule that needs
a value which is wrong is skipped.
"""

from __future__ import annotations

import contextlib
import copy
import difflib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from windfall.config.accepted import accepted, plain, table_of
from windfall.config.base import Wrong
from windfall.config.lines import Path
from windfall.config.schema import Config

Model = TypeVar("Model", bound=BaseModel)
_SHOWN = 60
#: Matches keys in a message: words with a point or an underscore, before a =, in backticks, or after "has no".
_KEY_NAMES = re.compile(r"(?<=has no )[a-z_]+|[a-z][a-z0-9]*(?:[._][a-z0-9]+)+|(?!kind)\b[a-z]+(?= =)|(?<=`)[a-z]+(?=`)")


@dataclass(frozen=True)
class Mistake:
    """One mistake at ``path``, where something is wrong or missing. ``at``: the key below it whose line has to be corrected."""

    path: Path
    message: str
    at: Path = ()


@dataclass
class Examined:
    """The result: ``config`` if nothing is wrong, else ``partial``, which lacks the wrong values.

    Reading a missing value of ``partial`` raises AttributeError.
    """

    config: Config | None
    partial: Config
    mistakes: list[Mistake]


def examine(tables: dict[str, Any], unread: set[Path]) -> Examined:
    """Check ``tables`` against the schema. ``unread``: paths of values that are there and could not be read."""
    tables = copy.deepcopy(tables)
    mistakes = [Mistake(p, m) for p, m in _mistyped(Config, tables, ())]
    wrong = {m.path for m in mistakes} | unread
    for path in sorted(wrong, key=len, reverse=True):
        _take_out(tables, path)
    errors: list[ErrorDetails] = []
    config: Config | None = None
    try:
        config = Config.model_validate(tables)
    except ValidationError as e:
        errors = e.errors(include_url=False)
    for detail in errors:
        path = tuple(detail["loc"])
        if _is_rule(detail, path, tables):
            continue
        if not any(path[: len(w)] == w for w in wrong):
            mistakes.append(Mistake(path, _words(detail, path)))
        if detail["type"] != "extra_forbidden":
            wrong.add(path)
    partial = _partial(Config, tables, (), wrong)
    if config is None:
        mistakes += _broken_rules(partial, ())
    return Examined(config if not mistakes and not unread else None, partial, list(dict.fromkeys(mistakes)))


# -- types ---------------------------------------------------------------------------------------------------


def _mistyped(cls: type[BaseModel], table: dict[str, Any], path: Path) -> Iterator[tuple[Path, str]]:
    """Values that do not have their key's type. (pydantic would accept "60" and true as numbers.)"""
    for key, value in table.items():
        field = cls.model_fields.get(key)
        if field is None:
            continue
        here = (*path, key)
        inner, kind = table_of(field.annotation), plain(field.annotation)
        several = get_origin(kind) is list
        name = ".".join(p for p in here if isinstance(p, str))
        if inner is not None and several:
            if isinstance(value, dict):
                yield here, f"one table stands here, and there may be several: write [[{name}]]"
            elif not isinstance(value, list) or not all(isinstance(v, dict) for v in value):
                yield here, f"tables belong here: write [[{name}]], and its keys below it; got {shown(value)}"
            else:
                for i, row in enumerate(value):
                    yield from _mistyped(inner, row, (*here, i))
        elif inner is not None:
            if isinstance(value, list) and all(isinstance(v, dict) for v in value):
                yield here, f"several tables stand here, and there is only one: write [{name}] once"
            elif not isinstance(value, dict):
                yield here, f"a table belongs here: write [{name}], and its keys below it; got {shown(value)}"
            else:
                yield from _mistyped(inner, value, here)
        elif (why := _no(kind, value)) is not None:
            about = f" ({field.description})" if field.description else ""
            yield here, f"got {_safe(here, value)}{why}; accepted: {accepted(field, key)}{about}"


def _no(kind: Any, value: Any) -> str | None:
    """Why a value cannot be of ``kind``: None if it can be, an empty string if there is nothing to add."""
    if kind in (int, float):
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            return ""
        if isinstance(value, str):
            try:
                float(value)
            except ValueError:
                return ""
            return ", which is text: leave the quotes out"
    if kind is bool and not isinstance(value, bool):
        return ", which is text: leave the quotes out" if value in ("true", "false") else ""
    if kind is str and not isinstance(value, str):
        return ", which is a number: put it between quotes" if isinstance(value, int | float) and value is not True else ""
    if get_origin(kind) is list and not isinstance(value, list):
        return ", which is no list: put it between [ and ]"
    if get_origin(kind) is dict and not isinstance(value, dict):
        return ""
    return None


def _take_out(tables: Any, path: Path) -> None:
    *way, last = path
    for part in way:
        if isinstance(tables, dict):
            tables = tables.get(str(part))
        elif isinstance(tables, list) and isinstance(part, int) and part < len(tables):
            tables = tables[part]
        else:
            return
    if isinstance(tables, dict):
        tables.pop(str(last), None)


# -- values --------------------------------------------------------------------------------------------------


def _is_rule(detail: ErrorDetails, path: Path, tables: Any) -> bool:
    """Whether an error comes from a table's rule and not from a value. Rules are checked again one by one."""
    if detail["type"] not in ("value_error", "assertion_error"):
        return False
    for part in path:
        try:
            tables = tables[part]
        except (KeyError, IndexError, TypeError):
            return False
    return isinstance(tables, dict)


def _words(detail: ErrorDetails, path: Path) -> str:
    cls, key = class_at(Config, path[:-1]), str(path[-1])
    # For an item of a list, or of a table without a schema, the key is that of the field.
    names = [p for p in path if isinstance(p, str)]
    field = cls.model_fields.get(key) if cls else None
    if field is None and detail["type"] not in ("extra_forbidden",):
        for i in range(len(path) - 1, 0, -1):
            above = class_at(Config, path[: i - 1]) if isinstance(path[i - 1], str) else None
            if above is not None and (field := above.model_fields.get(str(path[i - 1]))) is not None:
                key = str(path[i - 1])
                break
    about = f" ({field.description})" if field is not None and field.description else ""
    if detail["type"] == "extra_forbidden":
        near = _suggest(cls, key)
        where = f"[{'.'.join(names[:-1])}]" if len(names) > 1 else "a configuration"
        every = f"; {where} has {', '.join(cls.model_fields)}" if cls is not None and len(cls.model_fields) <= 14 else ""
        return f"unknown key; did you mean `{near}`?" if near else f"unknown key; remove it{every} (`windfall init` lists all keys)"
    if detail["type"] == "missing":
        told = f": {accepted(field, key)}" if field is not None else ""
        if field is not None and (inner := table_of(field.annotation)) is not None:
            several = get_origin(plain(field.annotation)) is list
            needed = [k for k, f in inner.model_fields.items() if f.is_required()]
            told = f": a table {'[[' if several else '['}{'.'.join(names)}{']]' if several else ']'}"
            told += f" with {', '.join(needed)}" if needed else ""
        return f"missing{told}{about}; add it"
    message = str(detail["msg"])
    if detail["type"] in ("value_error", "assertion_error") and field is not None and "isoformat" not in message:
        return message.removeprefix("Value error, ").removeprefix("Assertion failed, ")
    if field is None:
        return f"{message}, got {shown(detail['input'])}"
    if detail["type"] == "too_short" and isinstance(detail["input"], list):
        return f"there is none, and at least one is needed{about}"
    choices = difflib.get_close_matches(str(detail["input"]), [a for a in _choices(field.annotation) if isinstance(a, str)], n=1)
    hint = f", did you mean {choices[0]!r}?" if choices else ""
    return f"got {_safe(path, detail['input'])}{hint}; accepted: {accepted(field, key)}{about}"


def _choices(annotation: Any) -> list[Any]:
    found: list[Any] = []
    for a in get_args(annotation):
        found += _choices(a) if get_args(a) else [a]
    return found


def shown(value: Any) -> str:
    """A value as a person would write it, cut where it is long."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "a table"
    text = repr(value)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"


def _safe(path: Path, value: Any) -> str:
    if "headers" in path:
        return "a value that is not told, as it may be a secret"
    # An address is not repeated, because a secret in it may be the mistake.
    return "an address" if path == ("run", "bus") or (isinstance(value, str) and "://" in value) else shown(value)


def class_at(root: type[BaseModel], path: Path) -> type[BaseModel] | None:
    """The schema's class of the table at ``path``."""
    cls: type[BaseModel] = root
    for part in path:
        if isinstance(part, int):
            continue
        field = cls.model_fields.get(part)
        inner = table_of(field.annotation) if field else None
        if inner is None:
            return None
        cls = inner
    return cls


def _suggest(cls: type[BaseModel] | None, name: str) -> str | None:
    if cls is None:
        return None
    near = difflib.get_close_matches(name, cls.model_fields, n=1, cutoff=0.6)
    if near:
        return near[0]
    # The name is right and its unit is wrong or missing: `spin_up_min`, `train_power_kw`.
    stem = name.rsplit("_", 1)[0]
    return next((f for f in cls.model_fields if f.rsplit("_", 1)[0] in (stem, name)), None)


# -- rules ---------------------------------------------------------------------------------------------------


def _partial(cls: type[Model], table: dict[str, Any], path: Path, wrong: set[Path]) -> Model:
    """A table with only the right values. Wrong and missing ones are not there at all."""
    for rule in cls.__pydantic_decorators__.model_validators.values():
        if rule.info.mode == "before":  # it fills in one value from another
            with contextlib.suppress(ValueError, TypeError):
                table = getattr(cls, rule.cls_var_name)(table)
    values: dict[str, Any] = {}
    lacking = []
    for key, field in cls.model_fields.items():
        here = (*path, key)
        inner = table_of(field.annotation)
        several = get_origin(plain(field.annotation)) is list
        if here in wrong:
            lacking.append(key)
        elif key not in table:
            if field.is_required():
                lacking.append(key)
            else:
                values[key] = field.get_default(call_default_factory=True)
        elif inner is not None and several and isinstance(table[key], list):
            values[key] = [_partial(inner, row, (*here, i), wrong) for i, row in enumerate(table[key])]
        elif inner is not None and not several and isinstance(table[key], dict):
            values[key] = _partial(inner, table[key], here, wrong)
        elif inner is not None or any(w[: len(here)] == here for w in wrong):
            lacking.append(key)
        else:
            values[key] = table[key]
    made = cls.model_construct(set(table) & set(values), **values)
    for key in lacking:
        made.__dict__.pop(key, None)
    return made


def _broken_rules(table: BaseModel, path: Path) -> Iterator[Mistake]:
    """The broken rules of a table and of the tables in it, each checked by itself."""
    cls = type(table)
    for rule in cls.__pydantic_decorators__.model_validators.values():
        if rule.info.mode != "after":
            continue
        check: Callable[[BaseModel], object] = getattr(cls, rule.cls_var_name)
        try:
            check(table)
        except Wrong as e:
            yield from (Mistake((*path, *where), text) for where, text in e.places)
        except (ValueError, AssertionError) as e:
            yield Mistake(path, str(e), _named(cls, str(e)))
        except AttributeError:
            continue  # it needs a value that is wrong itself
    for key in cls.model_fields:
        value = table.__dict__.get(key)
        if isinstance(value, BaseModel):
            yield from _broken_rules(value, (*path, key))
        elif isinstance(value, list):
            for i, row in enumerate(value):
                if isinstance(row, BaseModel):
                    yield from _broken_rules(row, (*path, key, i))


def _named(cls: type[BaseModel], message: str) -> Path:
    """The key of a table that a rule's message names first; empty if it names none."""
    for word in _KEY_NAMES.findall(message):
        parts = tuple(word.split("."))
        owner = class_at(cls, parts[:-1])
        if owner is not None and parts[-1] in owner.model_fields:
            return parts
    return ()
