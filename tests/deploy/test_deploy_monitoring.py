"""Alert rules and board: promtool finds nothing, and each of their expressions has an answer on recorded data."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.recorded import STEP_S, STEPS, Recorded, record
from needs import missing
from patience import PATIENCE_S
from ui_runs import finished_run
from windfall.ui.web.metrics import render
from windfall.units import J_PER_KWH

FOLDER = Path(__file__).parents[2] / "deploy" / "monitoring"
RULES, BOARD = FOLDER / "windfall.rules.yml", FOLDER / "windfall-board.json"
END = f"{STEPS * STEP_S:.0f}s"
_STAND_INS = {"$__rate_interval": "1h", "$run": ".*", "$site": ".*"}


@pytest.fixture(scope="module")
def promtool() -> str:
    return shutil.which("promtool") or missing("promtool (Debian's prometheus)")


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    return record(tmp_path_factory.mktemp("recorded"))


def run(promtool: str, *args: object, text: str | None = None) -> str:
    done = subprocess.run([promtool, *map(str, args)], capture_output=True, text=True, input=text, check=False, timeout=PATIENCE_S)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    return said


def ask(promtool: str, recorded: Recorded, folder: Path, expressions: list[dict[str, Any]]) -> None:
    """Ask promtool for these expressions on the recorded series; each says what it expects and when."""
    values = {n: " ".join("_" if v is None else repr(v) for v in vs for _ in (0, 1)) for n, vs in recorded.series.items()}
    told = {
        "rule_files": [os.path.relpath(RULES, folder)], "evaluation_interval": "5m",
        "tests": [
            {
                "interval": f"{STEP_S / 2:.0f}s", "promql_expr_test": expressions,
                "input_series": [{"series": name, "values": text} for name, text in values.items()],
            }
        ],
    }  # fmt: skip
    (folder / "tests.yml").write_text(yaml.safe_dump(told), encoding="utf-8")
    run(promtool, "test", "rules", folder / "tests.yml")


def of_board() -> Iterator[tuple[str, str]]:
    """Title and expression of each query of the board, as one that looks at everything asks it."""
    for panel in json.loads(BOARD.read_text(encoding="utf-8"))["panels"]:
        for target in panel["targets"]:
            expr = target["expr"]
            for name, value in _STAND_INS.items():
                expr = expr.replace(name, value)
            assert "$" not in expr, (panel["title"], expr)
            yield panel["title"], expr


def test_promtool_finds_nothing_in_rules_and_metrics(promtool: str, recorded: Recorded, tmp_path: Path) -> None:
    assert "SUCCESS" in run(promtool, "check", "rules", RULES)
    run(promtool, "check", "metrics", text=render([finished_run(tmp_path / "run")]).decode())


def test_every_expression_of_board_and_rules_has_an_answer_on_recorded_data(
    promtool: str, recorded: Recorded, tmp_path: Path
) -> None:
    rules = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"][0]["rules"]
    asked = [*of_board(), *((r["alert"], r["expr"]) for r in rules)]
    there = [{"expr": f"count({e}) > bool 0", "eval_time": END, "exp_samples": [{"labels": "{}", "value": 1}]} for _, e in asked]
    a = recorded.account
    exact = {
        'sum(windfall_energy_joules_total{run="main"}) / 3.6e6': a.total.kwh,
        'sum(windfall_energy_joules_total{run="main", source="measured"})': a.total.measured_joules,
        'sum(windfall_emissions_grams_total{run="main", method="marginal"})': a.total.grams,
        'sum(windfall_cost_total{run="main"}) - sum(windfall_earnings_total{run="main"})': a.total.money["USD"],
        'sum(hw_energy_joules_total{run="main"})': a.total.joules - 7200.0 * STEPS,
        'sum(windfall_tokens_total{run="main", state="committed"})': float(a.tokens.committed),
        'sum(windfall_network_bytes_total{run="main"})': 1e6 * STEPS,
    }
    same = [
        {
            "expr": f"abs({e} - {x!r}) < bool {1e-6 * max(1.0, abs(x))!r}",
            "eval_time": END,
            "exp_samples": [{"labels": "{}", "value": 1}],
        }
        for e, x in exact.items()
    ]
    ask(promtool, recorded, tmp_path, [*there, *same])
    assert a.total.joules > J_PER_KWH


def test_each_alert_fires_for_the_run_that_it_is_about_and_none_at_the_beginning(
    promtool: str, recorded: Recorded, tmp_path: Path
) -> None:
    of_main = (
        "CoordinatorSilent", "SignalStale", "SiteFlapping", "SiteSlowToStart", "SiteFails", "DrainTooLong", "HeldSiteTrains",
        "WorkLost", "MeterSilent", "EnergyWithoutReading",
    )  # fmt: skip
    others = {
        ("RunCannotBeRead", "damaged"), ("RunFailed", "failed"), ("RunStopped", "stopped"), ("NoProgress", "stuck"),
        ("SignalStale", "stuck"),
    }  # fmt: skip
    wrong = {(f"Windfall{name}", run) for name, run in {*((n, "main") for n in of_main), *others}}
    assert {name for name, _ in wrong} == {
        r["alert"] for r in yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"][0]["rules"]
    }
    firing = 'group by (alertname, run) (ALERTS{alertstate="firing", run%s"main"})'
    at_end = [
        {"expr": 'group by (alertname, run) (ALERTS{alertstate="firing"})', "eval_time": END,
         "exp_samples": [{"labels": f'{{alertname="{name}", run="{of}"}}', "value": 1} for name, of in sorted(wrong)]},
        {"expr": firing % "=", "eval_time": "15m", "exp_samples": []},
    ]  # fmt: skip
    ask(promtool, recorded, tmp_path, at_end)


def test_the_board_names_only_metrics_that_there_are_and_each_panel_says_what_it_shows(recorded: Recorded) -> None:
    there = {name.partition("{")[0] for name in recorded.series}
    for title, expr in of_board():
        named = set(re.findall(r"\b(?:windfall|hw)_[a-z_]+\b", expr))
        assert title
        assert named
        assert named <= there, (title, named - there)
