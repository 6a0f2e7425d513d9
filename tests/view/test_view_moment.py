"""A view is of one moment: whatever a coordinator writes while it is made, its parts agree."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import windfall
from ui_runs import START, commit_all, empty_run, energy, tell
from windfall.cli.export import export
from windfall.cli.report import report
from windfall.store.ledger import Ledger
from windfall.store.rundir import RunDir
from windfall.store.telemetry import Telemetry
from windfall.ui.page import report as report_page
from windfall.view import frames


@pytest.fixture
def going_on(tmp_path: Path) -> RunDir:
    """A run that has committed half of its blocks."""
    run = empty_run(tmp_path / "run")
    ledger, telemetry = Ledger.open(run.ledger), Telemetry.open(run.telemetry)
    commit_all(ledger, "california", 4, "local", START + 3600)
    tell(telemetry)
    telemetry.close()
    ledger.close()
    return run


def then_more(run: RunDir, wrapped: Callable[..., Any], *, before: bool) -> Callable[..., Any]:
    """As ``wrapped``, and once the coordinator makes a version and books an hour just then."""
    left = [True]

    def more() -> None:
        if not left:
            return
        left.pop()
        ledger, telemetry = Ledger.open(run.ledger), Telemetry.open(run.telemetry)
        commit_all(ledger, "adelaide", 4, "federated", START + 7200)
        energy(telemetry, "adelaide", "training", START + 7200, START + 10800, 2000.0, 65.4)
        telemetry.metric(START + 7200, "adelaide", "val_bpb", 2.0, version=7)
        telemetry.close()
        ledger.close()

    def calls(*args: Any, **kwargs: Any) -> Any:
        if before:
            more()
        try:
            return wrapped(*args, **kwargs)
        finally:
            more()

    return calls


@pytest.mark.usefixtures("undrawn")
def test_a_report_is_of_one_moment(going_on: RunDir, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    seen: list[Any] = []
    series = report_page.run_series
    monkeypatch.setattr(report_page, "run_state", then_more(going_on, report_page.run_state, before=False))
    monkeypatch.setattr(report_page, "run_series", lambda *a: seen.append(series(*a)) or seen[-1])
    report(going_on.root, as_json=True)
    said = json.loads(capsys.readouterr().out)
    written = json.loads((going_on.report / "summary.json").read_bytes())
    assert {k: said[k] for k in written} == written, "what is printed is what was written"
    assert (said["version"], said["tokens_committed"]) == (1, 4096)
    (s,) = seen
    assert [v.version for v in s.versions] == [0, 1], "its series end with the version that its summary names"
    assert sum(c.joules for c in s.costs) / 3.6e6 == pytest.approx(written["energy_kwh"])
    assert "federated 4,096" not in (going_on.report / "index.html").read_text(encoding="utf-8")
    assert windfall.open_run(going_on.root).summary()["version"] == 2, "and the next one is of the next moment"


def test_tables_and_summary_of_an_export_are_of_one_moment(
    going_on: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(frames._ALL, "versions", then_more(going_on, frames._ALL["versions"], before=True))
    export(going_on.root, tmp_path / "out", "csv", as_json=True)
    summary = json.loads((tmp_path / "out" / "summary.json").read_bytes())
    assert (tmp_path / "out" / "versions.csv").read_text().count("\n") == 1 + 2
    assert "federated" not in (tmp_path / "out" / "versions.csv").read_text()
    assert (tmp_path / "out" / "blocks.csv").read_text().splitlines()[1:] == ["0,4,4,committed", "4,8,4,free"]
    assert summary["version"] == 1
    assert summary["energy_kwh"] == pytest.approx(sum(float(x["joules"]) for x in energies(tmp_path)) / 3.6e6)


def energies(folder: Path) -> list[dict[str, str]]:
    with open(folder / "out" / "energy.csv", encoding="utf-8", newline="") as f:
        return list(csv.DictReader(f))
