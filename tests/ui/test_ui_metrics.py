"""What Prometheus reads: the account's figures in base units, counters that never fall, labels of fixed lists."""

from __future__ import annotations

import itertools
import os
import re
import shutil
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from typer.testing import CliRunner

from ui_runs import START, finished_run
from windfall.cli.main import app
from windfall.cli.metrics import metrics
from windfall.errors import StoreError
from windfall.store.rundir import RunDir
from windfall.store.telemetry import Telemetry
from windfall.store.telemetry_energy import EnergyRow
from windfall.ui.web.metrics import CONTENT_TYPE, Exposition, render
from windfall.view.account import run_account

DOCS = Path(__file__).parents[2] / "docs" / "monitoring.md"
H = 3600.0
LATE = "measured late: its model had stood in"


def samples(text: bytes, name: str) -> dict[tuple[str, ...], float]:
    """By the values of labels but the run's, in the order of their names."""
    return {
        tuple(v for k, v in sorted(s.labels.items()) if k != "run"): s.value
        for family in text_string_to_metric_families(text.decode())
        for s in family.samples
        if s.name == name
    }


def test_what_is_exported_is_the_account_in_base_units(small: RunDir) -> None:
    t = Telemetry.open(small.telemetry)
    t.book(EnergyRow("adelaide", "network", START + H, START + H, 0.0, 50.0, 720.0, 0.01, 1, None, None))
    t.book(EnergyRow("adelaide", "training", START + 2 * H, START + 3 * H, 1000.0, -50.0, 3.6e6, -50.0, 1, 90.0, -0.1, 3.6e6))
    t.metric(START + H, "adelaide", "network_bytes", 100_000.0)
    t.close()
    text, a = render([small]), run_account(small)
    assert CONTENT_TYPE.startswith("text/plain")
    energy = samples(text, "windfall_energy_joules_total")
    assert sum(energy.values()) == pytest.approx(a.total.joules)
    assert energy["network", "adelaide", "assumed"] == 720.0
    assert energy["training", "adelaide", "measured"] == 3.6e6
    grams = samples(text, "windfall_emissions_grams_total")
    avoided = samples(text, "windfall_emissions_avoided_grams_total")
    assert avoided == {("marginal", "adelaide"): 50.0}
    marginal = sum(g for (method, _), g in grams.items() if method == "marginal")
    assert marginal - 50.0 == pytest.approx(a.total.grams, abs=1e-5)
    assert grams["average", "adelaide"] == 90.0
    assert samples(text, "windfall_network_bytes_total")["adelaide",] == 100_000.0
    assert sum(samples(text, "hw_energy_joules_total").values()) == pytest.approx(a.total.joules - 720.0)
    assert samples(text, "windfall_run_state") == {
        (x,): float(x == "done") for x in ("running", "done", "interrupted", "failed", "stopped")
    }
    assert samples(text, "windfall_tokens_total")["california", "committed"] == 4096.0
    assert samples(text, "windfall_power_watts") == {}, "of a run that is over nobody knows what its sites take now"


def test_a_counter_never_falls_while_a_model_is_corrected(small: RunDir) -> None:
    """The model has stood in for an hour; it is counted once the meter has told, or will tell no more."""
    (small.root / "lock").write_text(str(os.getpid()))
    stood_in = EnergyRow("adelaide", "training", START + 2 * H, START + 3 * H, 2000.0, 50.0, 7.2e6, 100.0, 1, None, None)
    as_entry = [
        stood_in.t0,
        stood_in.t1,
        "adelaide",
        "training",
        2000.0,
        50.0,
        7.2e6,
        100.0,
        True,
        None,
        None,
        0.0,
        "",
        None,
        0.0,
        0.0,
    ]
    waits = ["adelaide", "training", START + 3 * H, START + 3 * H + 60]

    def now(t: Telemetry, open_: list[object], waiting: list[object]) -> None:
        books = {"waiting": waiting, "stood_in": open_, "meters": {}}
        t.present({"t_run": START + 3 * H + 60, "t_wall": 1.0, "mode": "local", "sites": {}, "pid": 1, "books": books})
        t.flush()

    watched, seen = Exposition(), []

    def look() -> tuple[float, float]:
        text = watched.render([small])
        energy, grams = samples(text, "windfall_energy_joules_total"), samples(text, "windfall_emissions_grams_total")
        seen.append({**energy, **grams})
        border = samples(text, "windfall_account_watermark_timestamp_seconds")["adelaide",]
        return sum(v for (_, site, _), v in energy.items() if site == "adelaide"), border

    before, _ = look()
    t = Telemetry.open(small.telemetry)
    t.book(stood_in)
    now(t, [as_entry], [waits])
    assert look() == (before, START + 2 * H), "it may still be corrected"
    t.book(stood_in._replace(watts=-500.0, joules=-1.8e6, grams=-25.0, measured_joules=5.4e6, cause=LATE))
    now(t, [], [waits])
    assert look() == (before + 5.4e6, START + 3 * H)
    assert samples(render([small]), "windfall_energy_joules_total")["training", "adelaide", "measured"] == 5.4e6
    now(t, [], [])
    assert look() == (before + 5.4e6, START + 3 * H + 60)
    t.close()
    for a, b in itertools.pairwise(seen):
        assert all(b[key] >= value for key, value in a.items())


def test_a_run_that_goes_back_or_cannot_be_read_is_no_fall_and_no_error(small: RunDir, tmp_path: Path) -> None:
    watched = Exposition()
    first = samples(watched.render([small]), "windfall_energy_joules_total")
    t = Telemetry.open(small.telemetry)
    t.book(EnergyRow("adelaide", "training", START, START + H, -100.0, 50.0, -3.6e5, -5.0, 1, None, None, cause="lost"))
    t.close()
    assert samples(watched.render([small]), "windfall_energy_joules_total") == first
    nothing = RunDir(tmp_path / "nothing")
    text = watched.render([small, nothing])
    assert [v for _, v in sorted(samples(text, "windfall_run_readable").items())] == [0.0] or b'run="nothing"} 0.0' in text
    assert samples(text, "windfall_energy_joules_total") == first


def test_several_runs_stand_in_one_text_each_family_once_and_the_verb_prints_it(small: RunDir, tmp_path: Path) -> None:
    other = finished_run(tmp_path / "other")
    done = CliRunner().invoke(app, ["metrics", str(small.root), str(other.root)])
    assert done.exit_code == 0
    kinds = re.findall(r"^# TYPE (\S+)", done.stdout, flags=re.M)
    assert len(kinds) == len(set(kinds))
    wrong = CliRunner().invoke(app, ["metrics", str(tmp_path / "no-such-run")])
    assert wrong.exit_code != 0


def test_the_page_on_monitoring_names_every_metric_and_each_has_bounded_labels(small: RunDir) -> None:
    page = DOCS.read_text(encoding="utf-8")
    allowed = {
        "run", "site", "phase", "source", "method", "currency", "state", "mode", "signal", "unit", "clock", "hw_id", "hw_type",
        "service_name", "service_version",
    }  # fmt: skip
    for family in text_string_to_metric_families(render([small]).decode()):
        name = f"{family.name}_total" if family.type == "counter" else family.name
        if family.name != "windfall_run_info":
            assert name in page, name
        assert family.documentation
        for s in family.samples:
            assert set(s.labels) <= allowed, s


def test_one_run_that_cannot_be_read_silences_no_other_and_a_copy_stands_in_it_once(
    small: RunDir, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(small.root, copy)
    metrics([small.root, tmp_path / "nosuch", copy])
    out, err = capsys.readouterr()
    readable = [line for line in out.splitlines() if line.startswith("windfall_run_readable{")]
    assert readable == [
        f'windfall_run_readable{{run="{run}"}} {x}' for run, x in (("small-1", 1.0), ("nosuch", 0.0), ("copy", 0.0))
    ]
    assert "nosuch: no run here" in err
    with pytest.raises(StoreError, match="no run here"):
        metrics([tmp_path / "nosuch"])
