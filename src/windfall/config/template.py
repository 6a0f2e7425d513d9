"""The commented configuration that `windfall init` writes, made from the schema so that no key, unit or value is left out."""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from windfall.config.accepted import accepted, table_of
from windfall.config.account import AccountTable
from windfall.config.alerts import AlertsTable
from windfall.config.backtest import BacktestTable, ReferenceTable, TrainerTable
from windfall.config.economics import BatteryTable, EconomicsTable, TariffTable
from windfall.config.federation import FederationTable
from windfall.config.levels import PowerLevelTable
from windfall.config.openadr import OpenAdrTable
from windfall.config.policy import PolicyTable
from windfall.config.recipe import DataTable, ModelTable, TrainTable
from windfall.config.schema import FleetTable, LimitsTable, RunTable, SiteTable
from windfall.config.signals import SignalTable
from windfall.config.trackers import TrackerTable

#: What the template sets; everything else stands in it as a comment with its default.
_SET: dict[str, dict[str, Any]] = {
    "run": {
        "name": "windfall",
        "budget_tokens": 200_000,
        "clock": "scaled",
        "speed": 600.0,
        "start": "2026-01-11T17:00Z",
        "tick_s": 60.0,
    },
    "policy": {"name": "learned"},
    "model": {"depth": 2, "width": 64, "sequence_length": 128},
    "data": {"source": "stdlib"},
    "train": {"batch_sequences": 8, "block_sequences": 4},
    "federation": {"round_s": 1800.0, "solo_cut_s": 3600.0},
}
_SIGNAL: dict[str, Any] = {
    "path": "bundled:paper_day", "time_column": "from_utc", "column": "g_per_kwh", "region_column": "region",
    "period_s": 0.0, "until": "2026-01-12T11:00Z",
}  # fmt: skip
_SITES: list[dict[str, Any]] = [
    {"name": "california", "region": "CAISO_NORTH", "tokens_per_s": 12.0},
    {"name": "south_australia", "region": "NEM_SA", "tokens_per_s": 12.0},
]
_SITE: dict[str, Any] = {"spin_up_s": 340.0, "load_s": 100.0, "train_power_w": 2024.0, "idle_power_w": 468.0}


def _line(key: str, field: Any, chosen: dict[str, Any]) -> str:
    about = f"{field.description or ''} [{accepted(field, key)}]"
    if key in chosen:
        return f"{key} = {json.dumps(chosen[key])}".ljust(34) + f"# {about}"
    default = field.get_default(call_default_factory=True)
    if default is PydanticUndefined or default is None:
        shown = f"# {key} ="
    else:
        shown = f"# {key} = {json.dumps(default)}"
    if len(shown) > 33:
        return f"{shown}  # {about}"
    return shown.ljust(34) + f"# {about}"


def _table(name: str, cls: type[BaseModel], chosen: dict[str, Any]) -> list[str]:
    doc = (cls.__doc__ or "").split("`: ", 1)[-1]
    lines = ["", f"# {doc}", name]
    for key, field in cls.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            continue
        item = getattr(inner, "__args__", [None])[0]
        if field.default_factory is list and item in (ReferenceTable, PowerLevelTable, SignalTable):
            lines.append(f"# [[{name.strip('[]')}.{key}]]".ljust(34) + f"# {field.description}")
            if item is not SignalTable:
                lines += [_line(k, f, {}) for k, f in item.model_fields.items()]
            continue
        lines.append(_line(key, field, chosen))
    return lines


def _optional(name: str, cls: type[BaseModel]) -> list[str]:
    """A table that a run need not have, as comments."""
    own = [(k, f) for k, f in cls.model_fields.items() if table_of(f.annotation) is None]
    return [f"# [{name}]", *(_line(key, field, {}) for key, field in own)]


def template() -> str:
    """The text."""
    lines = [
        "# A run of Windfall. What stands behind a `#` is a default; remove the `#` to change it. Behind what a key is stands in",
        "# brackets what it accepts, with its unit; instants are UTC where they name no other offset.",
        "# Check it with `windfall check`, see what policies would bring with `windfall backtest`, start it with `windfall run`.",
    ]
    for name, cls in (
        ("run", RunTable), ("policy", PolicyTable), ("model", ModelTable), ("data", DataTable),
        ("train", TrainTable), ("federation", FederationTable), ("fleet", FleetTable),
        ("limits", LimitsTable), ("account", AccountTable), ("alerts", AlertsTable), ("backtest", BacktestTable),
    ):  # fmt: skip
        lines += _table(f"[{name}]", cls, _SET.get(name, {}))
    lines += _table("[backtest.trainer]", TrainerTable, {})
    for i, site in enumerate(_SITES):
        if i == 0:
            lines += _table("[[site]]", SiteTable, {**site, **_SITE})
            lines += _table("[site.signal]", SignalTable, _SIGNAL)
        else:
            lines += ["", "[[site]]", *(f"{k} = {json.dumps(v)}" for k, v in {**site, **_SITE}.items())]
            lines += ["", "[site.signal]", *(f"{k} = {json.dumps(v)}" for k, v in _SIGNAL.items())]
    lines += [
        "", f"# {(EconomicsTable.__doc__ or '').split('`: ', 1)[-1]}", *_optional("economics", EconomicsTable),
        *_optional("[economics.tariff]", TariffTable), *_optional("economics.battery", BatteryTable),
        "", f"# {(OpenAdrTable.__doc__ or '').split('`: ', 1)[-1]}", *_optional("openadr", OpenAdrTable),
        "", "# A region without a site, for comparison only.", "# [[counterfactual]]", '# region = "DE"',
        "# [counterfactual.signal]", *(f"# {k} = {json.dumps(v)}" for k, v in _SIGNAL.items()),
    ]  # fmt: skip
    lines += [
        line if not line or line.startswith("#") else f"# {line}"
        for line in _table("[[tracker]]", TrackerTable, {"kind": "tensorboard"})
    ]
    return "\n".join(lines) + "\n"


TEMPLATE = template()
