"""`windfall economics`: what training on surplus costs, and whether it pays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from windfall.cli.output import print_json, require_writable, say
from windfall.config.load import load
from windfall.errors import ConfigError, StoreError
from windfall.simulate.economics import economics_of, required
from windfall.simulate.siting import By, site_regions
from windfall.store.files import to_json, write_atomic
from windfall.ui.terminal.console import output
from windfall.ui.terminal.progress import Progress
from windfall.ui.terminal.tables_economics import print_economics, print_sited
from windfall.view.economics_frames import columns_frame, economics_frames, siting_frame
from windfall.view.frame import Frame

_MOST_STARTS = 1_000
#: Width of figures in files (pixels of 1/96 inch).
_WIDE = 1040.0


@dataclass(frozen=True)
class EconomicsRequest:
    """The command line's options, besides the file."""

    policy: str | None = None
    starts: int = 1
    span_days: float | None = None
    csv: Path | None = None
    figures: Path | None = None
    command: Sequence[str] = ()


def economics(file: Path, asked: EconomicsRequest, as_json: bool) -> None:
    """The bills of the run of ``file``, and what follows from them."""
    config = load(file)
    _check(asked)
    required(config)
    with Progress("economics") as progress:
        found = economics_of(
            config, asked.policy, starts=asked.starts, span_days=asked.span_days, command=asked.command, tell=progress.done
        )
    if asked.csv is not None:
        provenance = found.provenance
        more = {"summary.json": to_json(found.as_json(), indent=2, ensure_ascii=False) + "\n"}
        _write_tables(
            asked.csv, economics_frames(found), {**more, **({"config.toml": provenance.config_toml} if provenance else {})}
        )
    if asked.figures is not None:
        from windfall.ui.economics_figures import figures
        from windfall.ui.page.figures import pdf, svg

        made: dict[str, bytes] = {}
        for name, draw in figures(found).items():
            made |= {f"{name}.svg": svg(draw, _WIDE).encode(), f"{name}.pdf": pdf(draw, _WIDE)}
        _write(asked.figures, made)
    if as_json:
        print_json(found.as_json())
    else:
        print_economics(found, output())


def siting(file: Path, asked: EconomicsRequest, by: By, as_json: bool) -> None:
    """The same site in each region of ``file``, best first."""
    config = load(file)
    _check(asked)
    if asked.figures is not None:
        raise ConfigError("--rank-regions prints a table, --json or --csv; --figures are of one run")
    table, policy = required(config), asked.policy or config.policy.name
    with Progress("siting") as progress:
        found = site_regions(config, policy, starts=asked.starts, span_days=asked.span_days, by=by, tell=progress.done)
    if asked.csv is not None:
        _write_tables(asked.csv, {"regions": siting_frame(found)}, {})
    if as_json:
        print_json({"policy": policy, "by": by, "currency": table.currency, "regions": [r.as_json() for r in found]})
    else:
        print_sited(found, table.currency, policy, by, output())


def _check(asked: EconomicsRequest) -> None:
    from windfall.cli.backtest import POLICIES

    if asked.policy is not None and asked.policy not in POLICIES:
        raise ConfigError(f"--policy {asked.policy}: no such policy; there are {', '.join(POLICIES)}")
    if not 1 <= asked.starts <= _MOST_STARTS:
        raise ConfigError(f"--starts {asked.starts}: give 1 to {_MOST_STARTS}")
    if asked.span_days is not None and not 0 < asked.span_days < float("inf"):
        raise ConfigError(f"--span-days {asked.span_days:g}: give a number of days above 0")
    require_writable(folders=[asked.csv, asked.figures])


def _write_tables(folder: Path, tables: Mapping[str, Frame], more: Mapping[str, str]) -> None:
    frames = {**tables, "columns": columns_frame(list(tables))}
    _write(folder, {name: text.encode() for name, text in more.items()}, {f"{n}.csv": f for n, f in frames.items()})


def _write(folder: Path, files: Mapping[str, bytes], frames: Mapping[str, Any] | None = None) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, frame in (frames or {}).items():
            frame.to_csv(folder / name)
        for name, data in files.items():
            write_atomic(folder / name, [data], durable=False)
    except OSError as e:
        raise StoreError(f"{folder}: cannot be written: {e.strerror}; name another place or give write access") from None
    say(f"wrote {', '.join([*(frames or {}), *files])} to {folder}")
