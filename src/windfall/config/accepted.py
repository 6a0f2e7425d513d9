"""Says in words what a key accepts, from its type in the schema, for the template and for messages about wrong values."""

from __future__ import annotations

import json
from collections.abc import Iterator
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MaxLen, MinLen
from pydantic import AfterValidator, BaseModel
from pydantic.fields import FieldInfo

from windfall.config.base import Instant, Name

#: Units by the end of a key's name. A longer ending comes before one that it ends with.
_UNITS = (
    ("_per_gpu_h", "currency per GPU-hour"), ("capex_per_gpu", "currency"), ("capex_per_kwh", "currency per kWh"),
    ("_per_month", "currency per month"), ("_per_gb", "currency per GB"), ("staff_per_year", "currency per year"),
    ("_per_day", "currency per day"), ("gb_per_site_hour", "GB per hour"),
    ("_w_per_min", "watts per minute"), ("_g_per_kwh", "g CO2/kWh"), ("_per_mwh", "currency per MWh"), ("tokens_per_s", "tokens/s"),
    ("spend_per_h", "currency per hour"), ("starts_per_h", "per hour"), ("max_spend", "currency"), ("_periods", "periods"),
    ("_tokens", "tokens"), ("_sequences", "sequences"), ("_power_w", "watts"), ("_kwh", "kWh"), ("kg_co2", "kg CO2"),
    ("site_hours", "site-hours"), ("_days", "days"), ("days", "days"), ("_h", "hours"), ("_s", "seconds"), ("_w", "watts"),
    ("deadlines_h", "hours"), ("delays_s", "seconds"), ("latitude", "degrees"), ("longitude", "degrees"), ("percentile", "%"),
    ("_min", "minutes"), ("_years", "years"), ("_wh", "watt-hours"), ("hours", "hours"),
)  # fmt: skip
_INSTANT = "an instant in ISO 8601, as 2026-01-11T17:00Z"


def accepted(field: FieldInfo, key: str) -> str:
    """``seconds, above 0``; ``"real" or "scaled"``; ``true or false``: every value that ``key`` may have."""
    return _words(field.annotation, list(field.metadata), unit(key))


def unit(key: str) -> str:
    """The unit in which ``key`` is given, by its name; empty for what has none."""
    return next((u for end, u in _UNITS if key.endswith(end)), "")


def table_of(annotation: Any) -> type[BaseModel] | None:
    """The class of the table, or of a list's tables, that a field holds; None for plain values."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for a in get_args(annotation) if (found := table_of(a)) is not None), None)


def plain(annotation: Any) -> Any:
    """An annotation without ``| None`` and `Annotated`."""
    if get_origin(annotation) is Annotated:
        return plain(get_args(annotation)[0])
    inner = [a for a in get_args(annotation) if a is not NoneType]
    if NoneType in get_args(annotation) and len(inner) == 1:
        return plain(inner[0])
    return annotation


def _words(annotation: Any, metadata: list[Any], unit: str) -> str:
    while True:
        if get_origin(annotation) is Annotated:
            annotation, *more = get_args(annotation)
            metadata = [*metadata, *more]
        elif NoneType in get_args(annotation):
            (annotation,) = (a for a in get_args(annotation) if a is not NoneType)
        else:
            break
    rules = list(_rules(metadata))
    if get_origin(annotation) is Literal:
        return _choice([json.dumps(a) for a in get_args(annotation)])
    if get_origin(annotation) is list:
        return f"a list, each {_words(get_args(annotation)[0], [], unit)}"
    if get_origin(annotation) is dict:
        return f"a table, each value {_words(get_args(annotation)[1], [], unit)}"
    if table_of(annotation) is not None:
        return "a table"
    if annotation is bool:
        return "true or false"
    if annotation in (int, float):
        kind = "a whole number" if annotation is int else "a number"
        bounds = _bounds(rules)
        # Counts of tokens or sequences are whole numbers anyway. A share needs no unit beside its bounds.
        return ", ".join(p for p in (unit or kind, "whole" if unit and annotation is int else "", bounds) if p)
    if any(_same(m, Instant) for m in metadata):
        return _INSTANT
    if any(_same(m, Name) for m in metadata):
        return "a name of at most 40 letters, digits, _ and -, a letter first"
    if any(getattr(r, "pattern", None) == r"^[A-Z]{3}$" for r in rules):
        return "three capital letters"
    most = next((r.max_length for r in rules if isinstance(r, MaxLen)), None)
    least = any(isinstance(r, MinLen) for r in rules)
    return "text" + (f" of at most {most} characters" if most else "") + (", not empty" if least else "")


def _rules(metadata: list[Any]) -> Iterator[Any]:
    """What an annotation says of values, with the parts of a `Field` in it."""
    for m in metadata:
        if isinstance(m, FieldInfo):
            yield from m.metadata
        else:
            yield m


def _same(rule: Any, alias: Any) -> bool:
    """Whether a rule is that of `Instant` or `Name`."""
    for theirs in _rules(list(get_args(alias)[1:])):
        if isinstance(theirs, AfterValidator) and isinstance(rule, AfterValidator) and theirs.func is rule.func:
            return True
        pattern = getattr(theirs, "pattern", None)
        if pattern is not None and any(getattr(r, "pattern", None) == pattern for r in _rules([rule])):
            return True
    return False


def _bounds(rules: list[Any]) -> str:
    found = []
    for r in rules:
        match r:
            case Gt():
                found.append(f"above {_number(r.gt)}")
            case Ge():
                found.append(f"at least {_number(r.ge)}")
            case Lt():
                found.append(f"below {_number(r.lt)}")
            case Le():
                found.append(f"at most {_number(r.le)}")
    return " and ".join(found)


def _number(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) and value < 10**9 else f"{value:g}"


def _choice(found: list[str]) -> str:
    return found[0] if len(found) == 1 else f"{', '.join(found[:-1])} or {found[-1]}"
