"""Real processes: SuperLink, SuperNodes, agents, trainers, coordinator, supervisor."""

from __future__ import annotations

import json
import os
import signal
import socket
import sqlite3
import subprocess
from pathlib import Path

import pytest

from patience import PATIENCE_S
from proxy import refusing_proxy
from run.real import (
    SECRET,
    T0,
    assert_replays,
    assert_whole,
    events,
    events_of,
    processes,
    start,
    status,
    versions,
    wait_for,
    windfall,
    write_config,
)
from windfall.config.load import load
from windfall.processes import start_time
from windfall.run.prepare import prepare_run
from windfall.store.files import read_json
from windfall.store.ledger import Ledger
from windfall.store.rundir import RunDir

pytestmark = pytest.mark.slow
#: Run seconds a second, where a run must not come to its end before somebody has acted: some five steps a second.
PACE = 150
JOIN_AND_LEAVE = {"a": [(0, 25)], "b": [(15, 600)]}


def test_a_run_over_flower_pauses_joins_leaves_and_finishes(tmp_path: Path) -> None:
    """In a folder with a name that shells, TOML and addresses read otherwise, and with a proxy that would refuse everything."""
    run = tmp_path / "o'brien's \"run\" $HOME %20 #é ?x"
    config = write_config(tmp_path, JOIN_AND_LEAVE)
    with open(config, "a", encoding="utf-8") as f:  # one that takes figures, and one that never will
        f.write('\n[[tracker]]\nkind = "tensorboard"\nevery_s = 0.5\n[[tracker]]\nkind = "mlflow"\nurl = "http://127.0.0.1:9"\n')
    with refusing_proxy() as proxy:
        done = windfall("run", config, "--run-dir", run, "--quiet", environment=proxy.environment())
    assert done.returncode == 0, done.stderr + (run / "logs" / "coordinator.log").read_text()
    assert proxy.asked == []
    assert "s3cret" not in done.stderr
    assert_whole(run)
    assert_replays(run)
    summary = status(run)
    asked = json.loads(windfall("status", run, "--json").stdout)  # as a user does
    assert [asked[key] for key in ("state", "version", "modes_seen")] == [
        summary[key] for key in ("state", "version", "modes_seen")
    ]
    assert summary["state"] == "done"
    assert set(summary["modes_seen"]) == {"paused", "local", "federated"}
    assert set(summary["sites"]) == {"a", "b"}
    assert all(s["tokens"] > 0 and s["kg_co2"] > 0 and s["starts"] == 1 for s in summary["sites"].values())
    assert summary["val_bpb"] < summary["val_bpb_start"]
    joined = list(events(run, "cut_forward"))
    assert [(e["t_run"] - T0) / 60 for e in joined] == [17.0]
    drained = [e for e in events(run, "contribution") if e["detail"]["drained"] and e["site"] == "a"]
    assert [(e["t_run"] - T0) / 60 for e in drained] == [25.0]
    page = (run / "report" / "index.html").read_text()
    assert "Training is real" in page
    told = events_of(run / "trackers" / "tensorboard" / summary["run_id"])
    assert [e.step for e in told.Scalars("validation/bits_per_byte")][-1] == summary["tokens_committed"]
    assert "mlflow" in (run / "logs" / "track.log").read_text()
    text = windfall("generate", run, "--prompt", "the ", "--tokens", 20)
    assert text.returncode == 0
    assert text.stdout.startswith("the ")
    # Invariant 9: a secret in the environment of every process is in no file of the run.
    for path in run.rglob("*"):
        if path.is_file():
            assert SECRET.encode() not in path.read_bytes(), path
    again = windfall("run", tmp_path / "small.toml", "--run-dir", run, "--quiet")
    assert again.returncode == 0, "a finished run is resumed to nothing"


def test_ctrl_c_drains_and_exits_130_and_a_second_run_finishes_with_another_policy_other_sites_and_a_larger_budget(
    tmp_path: Path,
) -> None:
    run = tmp_path / "run"
    config = write_config(tmp_path, {"a": [(0, 600)], "b": [(5, 600)]}, budget=128 * 90)
    first = start("run", config, "--run-dir", run, "--quiet", "--speed", PACE)
    wait_for("the first commit", lambda: versions(run) >= 1)
    first.send_signal(signal.SIGINT)
    assert first.wait(timeout=PATIENCE_S) == 130
    wait_for("processes to end", lambda: not processes(run))
    ledger = Ledger.open(run / "ledger.db", read_only=True)
    counts, had = ledger.counts(), ledger.spans()
    ledger.close()
    assert counts.leased == counts.received == 0
    assert 0 < counts.committed < ledger.budget_blocks
    before = status(run)
    assert before["state"] == "interrupted"
    config = write_config(tmp_path, {"a": [(0, 600)], "c": [(0, 600)]}, budget=128 * 130)
    config.write_text(config.read_text().replace('name = "threshold"', 'name = "breakeven"'))
    second = windfall("run", config, "--run-dir", run, "--quiet", "--extend", "warmdown")
    assert second.returncode == 0, second.stderr
    assert "from now on: site.b: removed" in second.stderr
    assert_whole(run)
    assert_replays(run)
    ledger = Ledger.open(run / "ledger.db", read_only=True)
    assert ledger.budget_blocks == 260
    for v in ledger.versions():  # what was committed before keeps its place
        for c in ledger.contributions(v.version) if v.version <= before["version"] else []:
            assert all(any(s <= x["start"] < e and state == "committed" for s, e, state in had) for x in c.header["consumed"])
    ledger.close()
    told = {e["detail"]["key"]: (e["detail"]["old"], e["detail"]["new"]) for e in events(run, "configuration_changed")}
    assert told == {
        "site.b": ("there", None), "site.c": (None, "there"), "run.budget_tokens": (128 * 90, 128 * 130),
        "policy.name": ("threshold", "breakeven"), "run.speed": (PACE, 100_000),
    }  # fmt: skip
    summary = status(run)
    assert [c["key"] for c in summary["changes"]] == list(told)
    assert summary["sites"]["b"]["energy_kwh"] == before["sites"]["b"]["energy_kwh"]
    assert summary["sites"]["c"]["tokens"] > 0
    assert "Changes of configuration" in (run / "report" / "index.html").read_text()
    decided = json.loads(windfall("backtest", "--replay", run, "--json").stdout)
    assert (decided["equal"], decided["policy"]) == (True, "threshold, then breakeven")
    assert windfall("run", run, "--quiet").returncode == 0, "a run directory is resumed as it is"
    assert len(events(run, "configuration_changed")) == len(told)


def kill_9(child: subprocess.Popen[str], run: Path) -> None:
    """Kill `windfall run`, and wait until its coordinator is gone with it: it commits nothing any more."""
    pid = (read_json(RunDir(run).beat) or {})["pid"]
    born = start_time(pid)
    os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    wait_for("the coordinator's end", lambda: start_time(pid) != born)


def test_kill_9_of_the_process_group_and_a_second_run_goes_on_from_the_last_commit(tmp_path: Path) -> None:
    run = tmp_path / "run"
    config = write_config(tmp_path, {"a": [(0, 600)]}, budget=128 * 90, solo_cut_s=600)
    first = start("run", config, "--run-dir", run, "--quiet", "--speed", PACE)
    wait_for("the first commit", lambda: versions(run) >= 1)
    kill_9(first, run)
    at = versions(run)
    second = windfall("run", config, "--run-dir", run, "--quiet")
    assert second.returncode == 0, second.stderr
    resumed = events(run, "resumed")
    assert [e["version"] for e in resumed] == [at]
    assert_whole(run)


def test_sites_without_a_coordinator_save_their_work_and_stop_by_themselves(tmp_path: Path) -> None:
    run = tmp_path / "run"
    config = write_config(tmp_path, {"a": [(0, 600)]}, budget=128 * 2000, dead_man_s=6)
    first = start("run", config, "--run-dir", run, "--quiet")
    wait_for("the first commit", lambda: versions(run) >= 1)
    kill_9(first, run)
    wait_for("the dead-man timer", lambda: not processes(run))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"lr_scale": 1e30}, "failed 2 times in a row.*steps in a row had to be skipped"),
        ({"start_timeout_s": 0.2, "step_timeout_s": 0.1}, "failed 2 times in a row.*not ready after 0 s"),
        ({"until_min": 20, "budget": 128 * 500}, "every trace has ended by 2026-01-01T0"),
    ],
)
def test_a_run_that_cannot_go_on_says_why_exits_1_and_leaves_nothing(tmp_path: Path, changes: dict[str, float], said: str) -> None:
    run = tmp_path / "run"
    config = write_config(tmp_path, {"a": [(0, 600)]}, **changes)  # type: ignore[arg-type]
    done = windfall("run", config, "--run-dir", run, "--quiet")
    assert done.returncode == 1, done.stderr
    message = done.stderr.replace("\n", " ")
    import re

    assert re.search(said, message), message
    assert "Traceback" not in message
    wait_for("processes to end", lambda: not processes(run))
    ledger = Ledger.open(run / "ledger.db", read_only=True)
    assert ledger.head().version >= 0
    ledger.close()


def test_a_port_already_taken_is_said_before_anything_starts(tmp_path: Path) -> None:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        s.listen()
        port = s.getsockname()[1]
        done = windfall("run", write_config(tmp_path, {"a": [(0, 9)]}, port=port), "--run-dir", tmp_path / "run", "--quiet")
    assert done.returncode == 2
    assert f"port {port} is taken" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_run_directory_of_another_configuration_or_a_newer_schema_is_refused(tmp_path: Path) -> None:
    run = tmp_path / "run"
    config = write_config(tmp_path, {"a": [(0, 3)]}, until_min=4)
    prepare_run(load(config), RunDir(run), lambda _: None)
    other = write_config(tmp_path, {"a": [(0, 3)]}, until_min=4, budget=1280, lr_scale=0.5)
    refused = windfall("run", other, "--run-dir", run, "--quiet")
    assert refused.returncode == 2
    assert "another configuration" in refused.stderr
    assert "run.budget_tokens: 7680 -> 1280 (it may grow, not shrink" in refused.stderr
    assert "train.lr_scale: 0.3 -> 0.5 (the recipe)" in refused.stderr
    db = sqlite3.connect(run / "ledger.db")
    db.execute("UPDATE meta SET value = '99' WHERE key = 'schema'")
    db.commit()
    db.close()
    newer = windfall("run", config, "--run-dir", run, "--quiet")
    assert newer.returncode == 1
    assert "newer Windfall" in newer.stderr


def test_an_unreadable_corpus_is_one_line(tmp_path: Path) -> None:
    config = write_config(tmp_path, {"a": [(0, 9)]})
    (tmp_path / "corpus.txt").write_bytes(b"\xff\xfe\x00broken")
    done = windfall("run", config, "--run-dir", tmp_path / "run", "--quiet")
    assert done.returncode == 2  # data.source names what cannot be read
    assert "UTF-8" in done.stderr
    assert "Traceback" not in done.stderr
