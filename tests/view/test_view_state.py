"""The summary says what the rows say, whatever is missing and whoever is writing."""

from __future__ import annotations

import os
import subprocess
import sys
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from ui_runs import START, commit_all, energy, now_row
from windfall import clock
from windfall.config.load import load
from windfall.errors import StoreError
from windfall.store.files import write_json
from windfall.store.ledger import Ledger
from windfall.store.rundir import SUPERVISOR_LOCK, RunDir, RunLock
from windfall.store.telemetry import Telemetry
from windfall.ui.page.report import write_report
from windfall.ui.terminal.screen import Picture, draw
from windfall.ui.terminal.tables import print_status
from windfall.view.series import run_series
from windfall.view.state import RunState, run_state, summarise

IDLE_J, FIRST_J, SECOND_J = 400.0 * 100, 2000.0 * 6600, 2000.0 * 3600


def test_sums_agree_with_the_rows(small: RunDir) -> None:
    s = summarise(small)
    assert s["energy_kwh"] == pytest.approx((IDLE_J + FIRST_J + SECOND_J) / 3.6e6)
    assert s["kg_co2"] == pytest.approx(((IDLE_J + FIRST_J) * 65.4 + SECOND_J * 875.4) / 3.6e9)
    assert s["share_inside"] == pytest.approx((IDLE_J + FIRST_J) / (IDLE_J + FIRST_J + SECOND_J))
    assert s["training_hours"] == pytest.approx((6600 + 3600) / 3600)
    assert s["mean_training_watts"] == pytest.approx(2000.0)
    sites = s["sites"].values()
    assert sum(x["energy_kwh"] for x in sites) == pytest.approx(s["energy_kwh"])
    assert sum(x["kg_co2"] for x in sites) == pytest.approx(s["kg_co2"])
    assert sum(x["tokens"] for x in sites) == s["tokens_committed"] == s["tokens_budget"] == 8192
    assert s["tokens_by_mode"] == {"local": 4096, "federated": 4096}


@pytest.mark.usefixtures("undrawn")
def test_energy_without_a_reading_is_told_apart_and_nothing_known_is_no_zero(small: RunDir) -> None:
    telemetry = Telemetry.open(small.telemetry)
    telemetry.put("UPDATE energy SET g_per_kwh = NULL, grams = 0, inside = -1 WHERE site = 'adelaide'")
    telemetry.flush()
    s = summarise(small)
    assert s["unpriced_kwh"] == pytest.approx(SECOND_J / 3.6e6)
    assert s["share_inside"] == pytest.approx(1.0)
    assert s["sites"]["adelaide"]["kg_co2"] is None
    assert "2.000 of them without a reading)" in status_text(run_state(small))
    assert "were used in hours without a reading" in write_report(small).read_text(encoding="utf-8")
    telemetry.put("UPDATE energy SET g_per_kwh = NULL, grams = 0")
    telemetry.flush()
    telemetry.close()
    s = summarise(small)
    assert s["kg_co2"] is None
    assert "emissions unknown" in status_text(run_state(small))
    assert "no signal says what was emitted" in write_report(small).read_text(encoding="utf-8")


@pytest.mark.usefixtures("undrawn")
def test_work_that_came_too_late_is_told_by_site_and_in_all_where_there_is_any(small: RunDir) -> None:
    assert "too late" not in status_text(run_state(small)) + write_report(small).read_text(encoding="utf-8")
    telemetry = Telemetry.open(small.telemetry)
    late = (("adelaide", 1, 4096, {"kwh": 0.25}), ("adelaide", 2, 1024, {}), ("removed", 1, 512, {"kwh": 0.5}))
    for site, cut, tokens, used in late:
        telemetry.event(START + 7200, "work_lost", site=site, generation=1, cut=cut, tokens=tokens, reason="too old", **used)
    telemetry.close()
    s = summarise(small)
    assert s["work_lost"] == {"tokens": 5632, "kwh": 0.75}
    by_site = {name: x["work_lost"] for name, x in s["sites"].items()}
    assert by_site["adelaide"] == {"tokens": 5120, "kwh": 0.25}
    assert by_site["removed"] == {"tokens": 512, "kwh": 0.5}
    assert by_site["california"] == {"tokens": 0, "kwh": 0.0}
    said = "5,632 tokens and an estimated 0.75 kWh came too late: adelaide 5,120 tokens, 0.25 kWh; removed 512 tokens, 0.5 kWh"
    assert f"lost       {said}" in status_text(run_state(small))
    config = load(small.config)
    assert said in "\n".join(line.plain for line in draw(Picture(config, run_state(small)), 200, 50))
    page = write_report(small).read_text(encoding="utf-8")
    assert "5,632 tokens (an estimated 0.75 kWh) came too late and are lost" in page
    assert '<td class="n">5,120</td><td class="n">0.25</td>' in page
    assert "cut 1.2 comes too late: 1,024 tokens are lost: too old" in page


def status_text(s: RunState) -> str:
    out = StringIO()
    print_status(s, Console(file=out, width=140))
    return out.getvalue()


def test_tells_the_run(small: RunDir) -> None:
    s = summarise(small)
    assert s["state"] == "done"
    assert (s["run_id"], s["mode"], s["version"]) == ("small-1", "paused", 2)
    assert s["modes_seen"] == ["paused", "local", "federated"]
    assert (s["val_bpb_start"], s["val_bpb"], s["val_bpb_version"]) == (8.0, 2.5, 2)
    assert s["joins_and_leaves"] == {"joins": 2, "leaves": 2}
    assert s["work_lost"] == s["sites"]["adelaide"]["work_lost"] == {"tokens": 0, "kwh": 0.0}
    assert s["run_hours"] == pytest.approx(2.0)
    assert s["finished_run"] == START + 7200
    assert s["blocks"]["committed"] == 8
    assert s["sites"]["california"]["starts"] == 1
    assert s["sites"]["adelaide"]["region"] == "NEM_SA"
    assert (s["sites"]["adelaide"]["value"], s["sites"]["adelaide"]["worth"]) == (875.4, 100.0)


def changed_run(run: RunDir) -> RunDir:
    """Resumed without adelaide, with another policy, and once more with a change that no coordinator has begun under."""
    before = run.config.read_text()
    first, rest = before.split('[[site]]\nname = "adelaide"')
    without = first + rest[rest.index("[[counterfactual]]") :]
    ledger = Ledger.open(run.ledger)
    ledger.configure(before, "f", budget_blocks=8, t_run=START, t_wall=0)
    found = [{"key": "site.adelaide", "old": "there", "new": None, "site": "adelaide"},
             {"key": "policy.name", "old": "paper", "new": "breakeven", "site": None}]  # fmt: skip
    ledger.configure(without, "f", changes=found, budget_blocks=8, t_wall=0)
    ledger.begun_under(2, START + 3600)
    ledger.configure(without, "f", changes=[{"key": "run.speed", "old": 1.0, "new": 2.0, "site": None}], budget_blocks=8, t_wall=0)
    ledger.close()
    run.config.write_text(without)
    return run


@pytest.mark.usefixtures("undrawn")
def test_what_was_changed_is_told_and_a_site_that_left_keeps_what_it_has_used(small: RunDir) -> None:
    before = summarise(small)
    s = summarise(changed_run(small))
    assert [(c["key"], c["t_run"]) for c in s["changes"]] == [
        ("site.adelaide", START + 3600), ("policy.name", START + 3600), ("run.speed", None),
    ]  # fmt: skip
    assert s["sites"]["adelaide"] == {**before["sites"]["adelaide"], "reason": "no part of the run any more"}
    assert (s["energy_kwh"], s["tokens_by_mode"]) == (before["energy_kwh"], before["tokens_by_mode"])
    shown = StringIO()
    print_status(run_state(small), Console(width=100, file=shown))
    assert 'changed    policy.name: "paper" -> "breakeven", since Jan 11 18:00 UTC' in shown.getvalue()
    assert "changed    site.adelaide: removed, since" in shown.getvalue()
    assert "changed    run.speed: 1.0 -> 2.0, at the next start" in shown.getvalue()
    page = write_report(small).read_text(encoding="utf-8")
    assert "Changes of configuration" in page
    assert "policy.name: &quot;paper&quot; -&gt; &quot;breakeven&quot;" in page
    assert "adelaide" in page


def test_empty_run(empty: RunDir) -> None:
    s = summarise(empty)
    assert (s["state"], s["version"], s["val_bpb"], s["share_inside"]) == ("stopped", None, None, None)
    assert (s["energy_kwh"], s["tokens_committed"], s["blocks"]["free"]) == (0.0, 0, 8)
    assert set(s["sites"]) == {"california", "adelaide"}
    assert run_series(empty).versions == []


def test_empty_telemetry(empty: RunDir) -> None:
    empty.telemetry.touch()
    assert summarise(empty)["events_count"] == 0
    Telemetry.open(empty.telemetry).close()
    assert summarise(empty)["events_count"] == 0
    assert run_series(empty).lanes == {}


def test_sources_that_are_not_heard_are_told_until_they_are_or_a_new_life_begins(empty: RunDir) -> None:
    t = Telemetry.open(empty.telemetry)
    t.event(START, "signal_lost", source="watttime:X", reason="watttime:X: 503")
    t.event(START + 60, "signal_lost", source="price", reason="price: refused")
    t.event(START + 90, "signal_back", source="watttime:X", reason="watttime:X answers again")
    t.flush()
    lost = summarise(empty)["signals_lost"]
    assert lost == [{"source": "price", "since": START + 60, "reason": "price: refused"}]
    console = Console(file=StringIO(), width=200)
    print_status(run_state(empty), console)
    assert "not heard  price: refused, since" in console.file.getvalue()  # type: ignore[attr-defined]
    t.event(START + 120, "resumed")
    t.close()
    assert summarise(empty)["signals_lost"] == []


def test_no_run_is_said(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no run here"):
        summarise(RunDir(tmp_path))


def test_running_only_while_its_process_lives(small: RunDir) -> None:
    t = Telemetry.open(small.telemetry)
    now_row(t, START + 7200, {}, pid=os.getpid())
    t.close()
    assert summarise(small)["state"] == "running"
    # The same number, but the note is older than the process that has it now.
    t = Telemetry.open(small.telemetry)
    t.put("UPDATE meta SET value = json_set(value, '$.t_wall', 1000.0) WHERE key = 'now'")
    t.close()
    assert summarise(small)["state"] == "done"


def test_a_site_of_a_done_run_is_off_because_nothing_is_left_whatever_its_signal_says(small: RunDir) -> None:
    t = Telemetry.open(small.telemetry)
    given = {"numbers": {"value": 20.0, "worth": 100.0}, "until": None, "given": {}, "memory": {}}
    t.decision(START + 7200, "california", True, "on: 20 g is under worth 100 g", **given)
    t.close()
    sites = summarise(small)["sites"]
    assert sites["california"]["reason"] == "off: nothing is left to train on (before: on: 20 g is under worth 100 g)"
    assert sites["adelaide"]["reason"] == "off: 875 g"


def test_between_two_coordinators_of_a_living_run_it_is_running(empty: RunDir) -> None:
    empty.logs.mkdir(exist_ok=True)
    write_json(empty.logs / "outcome.json", {"outcome": "failed", "message": "another budget", "exit_code": 1, "again": True})
    lock = RunLock(empty, SUPERVISOR_LOCK)
    lock.acquire()
    assert summarise(empty)["state"] == "running"
    lock.release()
    assert (summarise(empty)["state"], summarise(empty)["message"]) == ("failed", "another budget")


def test_ends_are_told_apart(small: RunDir) -> None:
    t = Telemetry.open(small.telemetry)
    t.event(START + 7200, "resumed", version=2, pid=1)
    t.close()
    assert summarise(small)["state"] == "stopped"
    t = Telemetry.open(small.telemetry)
    t.event(START + 7200, "error", reason="every trace has ended")
    t.close()
    s = summarise(small)
    assert (s["state"], s["message"]) == ("failed", "every trace has ended")
    t = Telemetry.open(small.telemetry)
    t.event(START + 7200, "interrupted", version=2)
    t.close()
    assert summarise(small)["state"] == "interrupted"


def test_failure_before_the_first_event(empty: RunDir) -> None:
    (empty.logs / "outcome.json").write_text('{"outcome": "failed", "message": "port 8000 is taken"}')
    s = summarise(empty)
    assert (s["state"], s["message"]) == ("failed", "port 8000 is taken")


def test_while_another_connection_writes(small: RunDir) -> None:
    ledger, t = Ledger.open(small.ledger), Telemetry.open(small.telemetry)
    before = summarise(small)["kg_co2"]
    energy(t, "california", "training", START + 7200, START + 7300, 2000.0, 65.4)
    t._db.execute("BEGIN IMMEDIATE")
    t._db.execute("UPDATE energy SET grams = 0")
    ledger._db.execute("BEGIN IMMEDIATE")
    ledger._db.execute("DELETE FROM versions")
    try:
        s = summarise(small)
        assert s["kg_co2"] == before
        assert s["version"] == 2
    finally:
        t._db.execute("ROLLBACK")
        ledger._db.execute("ROLLBACK")
    t.close()
    ledger.close()
    assert summarise(small)["kg_co2"] > before


def test_series_follow_the_rows(small: RunDir) -> None:
    s = run_series(small)
    assert [(v.version, v.mode, v.val_bpb) for v in s.versions] == [
        (0, "initial", 8.0),
        (1, "local", 4.0),
        (2, "federated", 2.5),
    ]
    what = [(b.what, b.t0 - START, b.t1 - START) for b in s.lanes["california"]]
    assert ("provisioning", 300, 600) in what
    assert ("idle", 500, 600) in what
    assert ("local", 600, 3600) in what
    assert ("federated", 3600, 7200) in what
    assert s.emissions[-1][1] == pytest.approx(summarise(small)["kg_co2"])
    assert [c.wanted for c in s.changes] == ["on"]
    assert {e.kind for e in s.notable} == {"refused", "warning"}


def test_unfinished_run_has_no_end(empty: RunDir) -> None:
    ledger = Ledger.open(empty.ledger)
    commit_all(ledger, "california", 2, "local", START + 600)
    ledger.close()
    t = Telemetry.open(empty.telemetry)
    for kind, windfall in (
        ("started", "0.1.0 (commit 1a2b3c4d5e6f)"),
        ("resumed", "0.1.0 (commit 1a2b3c4d5e6f)"),
        ("resumed", "0.2.0"),
    ):
        t.event(START, kind, version=0, windfall=windfall)
    now_row(t, START + 900, {"california": ["training", 1, "has a lease"]}, mode="local")
    t.close()
    s = summarise(empty)
    assert (s["state"], s["finished_run"], s["run_hours"]) == ("stopped", None, 0.25)
    assert s["sites"]["california"]["state"] == "training"
    assert s["windfall"] == ["0.1.0 (commit 1a2b3c4d5e6f)", "0.2.0"]
    assert s["wall_seconds"] <= clock.wall()


def test_imports_nothing_heavy() -> None:
    heavy = "numpy,matplotlib,rich,pydantic,torch,flwr"
    code = "import sys, windfall.view.state, windfall.view.series;"
    code += f"print([m for m in '{heavy}'.split(',') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
