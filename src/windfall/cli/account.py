"""`windfall account`."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

from windfall.cli.output import print_json
from windfall.errors import ConfigError
from windfall.store.rundir import RunDir
from windfall.view.account import AccountLine, RunAccount, run_account

_COLUMNS = (
    "name", "seconds", "kwh", "measured_kwh", "corrected_kwh", "kg_co2", "average_kg_co2", "unpriced_kwh", "inside_kwh",
    "assumed_kwh", "own_kwh", "stored_kwh",
)  # fmt: skip


def account(root: Path, by: str | None, as_json: bool, as_csv: bool, codecarbon: bool) -> None:
    """Print the account of the run in ``root``."""
    if as_json + as_csv + codecarbon > 1:
        raise ConfigError("--json, --csv and --codecarbon are forms of one output; ask for one of them")
    found = run_account(RunDir(root).open_existing())
    if as_json:
        print_json(found.as_json(by))
    elif codecarbon:
        from windfall.view.codecarbon import emissions_csv

        sys.stdout.write(emissions_csv(found))
    elif as_csv:
        _csv(found, by or "site")
    else:
        from windfall.ui.terminal.account import print_account
        from windfall.ui.terminal.console import output

        print_account(found, by, output())


def _csv(found: RunAccount, by: str) -> None:
    currencies = sorted({c for line in found.lines(by) for c in line.money})
    out = csv.writer(sys.stdout, lineterminator="\n")
    out.writerow([by, *_COLUMNS[1:], *(f"money_{c}" for c in currencies)])
    for line in [*found.lines(by), found.total]:
        out.writerow([*_cells(line), *(line.money.get(c, "") for c in currencies)])


def _cells(x: AccountLine) -> list[object]:
    joules = (x.joules, x.measured_joules, x.corrected_joules)
    kg = "" if x.kg is None else x.kg
    return [
        x.name,
        x.seconds,
        *(j / 3.6e6 for j in joules),
        kg,
        x.average_grams / 1000,
        x.unpriced_joules / 3.6e6,
        x.inside_joules / 3.6e6,
        x.assumed_joules / 3.6e6,
        x.own_joules / 3.6e6,
        x.stored_joules / 3.6e6,
    ]
