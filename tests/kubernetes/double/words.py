"""Small languages of the API: quantities, label and field selectors, timestamps."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from kubernetes.double import errors
from kubernetes.double.schema import Json

_UNITS = {
    "": Decimal(1),
    "n": Decimal("1e-9"),
    "u": Decimal("1e-6"),
    "m": Decimal("1e-3"),
    "k": Decimal(10**3),
    "M": Decimal(10**6),
    "G": Decimal(10**9),
    "T": Decimal(10**12),
    "P": Decimal(10**15),
    "E": Decimal(10**18),
    "Ki": Decimal(2**10),
    "Mi": Decimal(2**20),
    "Gi": Decimal(2**30),
    "Ti": Decimal(2**40),
    "Pi": Decimal(2**50),
    "Ei": Decimal(2**60),
}
_QUANTITY = re.compile(r"^([+-]?[0-9.]+)([eE][+-]?[0-9]+)?([numkMGTPE]?i?)$")
_LABEL = re.compile(r"^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$")
_NAME = re.compile(r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$")
_REQUIREMENT = re.compile(r"\s*([^,=!()\s]+)\s*(?:(==|=|!=)\s*([^,()\s]*)|\s(in|notin)\s*\(([^)]*)\))?\s*(?:,|$)")
_ABSENT = re.compile(r"\s*!\s*([^,=()\s]+)\s*(?:,|$)")


def quantity(value: Any) -> Decimal:
    found = _QUANTITY.match(str(value))
    if not found or found[3] not in _UNITS:
        raise errors.bad_request("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")
    return Decimal(found[1] + (found[2] or "")) * _UNITS[found[3]]


def show_quantity(value: Decimal) -> str:
    if value == value.to_integral():
        whole = int(value)
        for unit, size in (("Gi", 2**30), ("Mi", 2**20), ("Ki", 2**10)):
            if whole and whole % size == 0:
                return f"{whole // size}{unit}"
        return str(whole)
    return f"{int(value * 1000)}m"


def stamp(now: float) -> str:
    return datetime.fromtimestamp(int(now), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def moment(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def is_name(text: str) -> bool:
    return len(text) <= 253 and bool(_NAME.match(text))


def label_problem(text: str) -> str:
    if len(text) > 63:
        return "must be no more than 63 bytes"
    if not _LABEL.match(text):
        return (
            "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end "
            "with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is "
            "'(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"
        )
    return ""


class LabelSelector:
    """A selector of a query, such as `app=x,tier in (a,b),!old`."""

    def __init__(self, text: str) -> None:
        self._wants: list[tuple[str, str, frozenset[str]]] = []
        at = 0
        while at < len(text):
            absent = _ABSENT.match(text, at)
            found = absent or _REQUIREMENT.match(text, at)
            if not found:
                raise errors.bad_request(f"unable to parse requirement: found '{text[at:]}', expected: identifier")
            at = found.end()
            if absent:
                self._wants.append((found[1], "!", frozenset()))
            elif found[4]:
                self._wants.append((found[1], found[4], frozenset(v.strip() for v in found[5].split(","))))
            elif found[2]:
                self._wants.append((found[1], "notin" if found[2] == "!=" else "in", frozenset([found[3]])))
            else:
                self._wants.append((found[1], "exists", frozenset()))

    def matches(self, obj: Json) -> bool:
        labels = obj["metadata"].get("labels") or {}
        return all(_holds(labels, *want) for want in self._wants)


def _holds(labels: Json, key: str, how: str, values: frozenset[str]) -> bool:
    if how == "!":
        return key not in labels
    if how == "exists":
        return key in labels
    if how == "in":
        return labels.get(key) in values
    return labels.get(key) not in values


def selects(selector: Json | None, labels: Json | None) -> bool:
    """A `LabelSelector` object. None selects nothing, an empty one everything."""
    if selector is None:
        return False
    labels = labels or {}
    if any(labels.get(k) != v for k, v in (selector.get("matchLabels") or {}).items()):
        return False
    return all(expression(e, labels) for e in selector.get("matchExpressions") or ())


def expression(e: Json, labels: Json) -> bool:
    """One requirement of a label selector or of a node selector term."""
    how, values, value = e["operator"], e.get("values") or [], labels.get(e["key"])
    if how == "In":
        return value in values
    if how == "NotIn":
        return value not in values
    if how in ("Gt", "Lt"):
        return value is not None and (int(value) > int(values[0]) if how == "Gt" else int(value) < int(values[0]))
    return (e["key"] in labels) == (how == "Exists")


class FieldSelector:
    """Such as `metadata.name=x,status.phase!=Running`."""

    #: What real servers index, apart from names; anything else is refused.
    KNOWN = (
        "metadata.name",
        "metadata.namespace",
        "status.phase",
        "spec.nodeName",
        "spec.restartPolicy",
        "spec.schedulerName",
        "spec.serviceAccountName",
        "status.podIP",
        "spec.hostNetwork",
        "type",
        "reason",
        "reportingComponent",
        "source",
        "involvedObject.kind",
        "involvedObject.name",
        "involvedObject.namespace",
        "involvedObject.uid",
        "involvedObject.apiVersion",
        "involvedObject.resourceVersion",
        "involvedObject.fieldPath",
        "spec.unschedulable",
        "status.successful",
    )

    def __init__(self, text: str) -> None:
        self._wants = []
        for part in filter(None, text.split(",")):
            name, equal, value = part.replace("==", "=").partition("=")
            wanted = not name.endswith("!")
            name = name.rstrip("!").strip()
            if not equal:
                raise errors.bad_request(f"invalid selector: '{text}'; can't understand '{part}'")
            if name not in self.KNOWN:
                raise errors.bad_request(f"field label not supported: {name}")
            self._wants.append((name.split("."), value.strip(), wanted))

    def matches(self, obj: Json) -> bool:
        return all((_at(obj, path) == value) == wanted for path, value, wanted in self._wants)


def _at(obj: Any, path: list[str]) -> str:
    for step in path:
        obj = obj.get(step) if isinstance(obj, dict) else None
    if isinstance(obj, bool):
        return str(obj).lower()
    return "" if obj is None else str(obj)
