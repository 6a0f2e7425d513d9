"""`windfall hold`, `release`, `drain` and `gc`, as a user types them."""

from __future__ import annotations

import getpass
import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cli.test_cli import windfall
from patience import PATIENCE_S
from ui_runs import START, empty_run, finished_run, now_row
from windfall import clock
from windfall.processes import mark
from windfall.run.operator import Operator
from windfall.run.requests import pending
from windfall.store.ledger import Ledger
from windfall.store.records import Hold
from windfall.store.rundir import RunDir, RunLock
from windfall.store.telemetry import Telemetry


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return empty_run(tmp_path / "run")


def requests(run: RunDir) -> list[dict[str, Any]]:
    return [json.loads(p.read_text()) for p in sorted(run.operator.glob("*"))]


def text(out: str) -> str:
    return " ".join(out.split())


@pytest.mark.parametrize("kind", ["hold", "drain", "release"])
def test_a_request_is_left_and_said(run: RunDir, capsys: pytest.CaptureFixture[str], kind: str) -> None:
    code, out, err = windfall(capsys, kind, run.root, "california", "--why", "a  fuse\nblew")
    assert (code, err) == (0, "")
    assert out.startswith("asked; no coordinator runs; it waits until the run is started again: california ")
    assert len(out.splitlines()) == 1
    (left,) = requests(run)
    assert left["who"].endswith(f"@{socket.gethostname()}")
    assert (left["kind"], left["site"], left["for_s"], left["why"]) == (kind, "california", None, "a fuse blew")


@pytest.mark.parametrize("kind", ["hold", "drain"])
def test_for_a_time_as_json(run: RunDir, capsys: pytest.CaptureFixture[str], kind: str) -> None:
    code, out, _ = windfall(capsys, kind, run.root, "adelaide", "--for", "2h", "--json")
    found = json.loads(out)
    assert code == 0
    assert (found["kind"], found["site"], found["for_s"], found["running"]) == (kind, "adelaide", 7200.0, False)
    assert (found["state"], found["id"]) == ("waiting", requests(run)[0]["id"])
    assert requests(run)[0]["for_s"] == 7200.0


def test_while_a_coordinator_runs_it_says_so(run: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    lock = RunLock(run)
    lock.acquire()
    try:
        _, out, _ = windfall(capsys, "hold", run.root, "california", "--for", "30m")
        assert "the coordinator acts at its next tick" in out
        assert "30 min of run time from now on" in out
        assert json.loads(windfall(capsys, "drain", run.root, "california", "--json")[1])["running"] is True
    finally:
        lock.release()
    _, out, _ = windfall(capsys, "drain", run.root, "california")
    assert "until the run is started again" in out


@pytest.mark.parametrize(
    ("state", "hold", "drain"),
    [
        ("training", "hands in its work and stops, until it is released", "until the on-period is over that this cuts short"),
        ("provisioning", "is started no further, until it is released", "is started no further, until the on-period is over"),
        ("off", "stays off, until it is released", "stays off, through an on-period that has begun"),
        (None, "hands in its work if it is on, and is off, until it is released", "hands in its work if it is on"),
    ],
)
def test_what_comes_of_it_is_said_of_the_site_as_it_is(
    run: RunDir, capsys: pytest.CaptureFixture[str], state: str | None, hold: str, drain: str
) -> None:
    if state is not None:
        telemetry = Telemetry.open(run.telemetry)
        now_row(telemetry, START, {"california": [state, 1, "x"]})
        telemetry.close()
    lock = RunLock(run)
    lock.acquire()
    try:
        assert f"california {hold}" in windfall(capsys, "hold", run.root, "california")[1]
        assert drain in windfall(capsys, "drain", run.root, "california")[1]
    finally:
        lock.release()


def test_release_of_a_site_that_is_not_held_says_so(run: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = windfall(capsys, "release", run.root, "california")
    assert (code, "california is not held" in out) == (0, True)
    windfall(capsys, "hold", run.root, "california")  # not noted yet, and counts
    assert "is not held" not in windfall(capsys, "release", run.root, "california")[1]
    assert "is not held" in windfall(capsys, "release", run.root, "california")[1]
    ledger = Ledger.open(run.ledger)
    ledger.hold(Hold("adelaide", "hold", START, None, "ann@desk", ""))
    ledger.close()
    assert "is not held" not in windfall(capsys, "release", run.root, "adelaide")[1]
    assert json.loads(windfall(capsys, "release", run.root, "adelaide", "--json")[1])["note"] != ""


@pytest.mark.parametrize("kind", ["hold", "drain", "release"])
def test_unknown_site(run: RunDir, capsys: pytest.CaptureFixture[str], kind: str) -> None:
    code, _, err = windfall(capsys, kind, run.root, "atlantis")
    assert (code, err) == (2, "windfall: atlantis: no such site in this run; there are california, adelaide\n")
    assert requests(run) == []


@pytest.mark.parametrize("span", ["0h", "-1h", "2", "h", "soon", "", "1h30m", "99999d"])
@pytest.mark.parametrize("kind", ["hold", "drain"])
def test_bad_times(run: RunDir, capsys: pytest.CaptureFixture[str], kind: str, span: str) -> None:
    code, _, err = windfall(capsys, kind, run.root, "california", f"--for={span}")
    assert code == 2
    assert err.startswith(f"windfall: --for {span}")
    assert len(err.splitlines()) == 1
    assert requests(run) == []


@pytest.mark.parametrize("kind", ["hold", "drain", "release"])
def test_a_finished_run_has_nothing_to_hold(tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str) -> None:
    run = finished_run(tmp_path / "done")
    code, _, err = windfall(capsys, kind, run.root, "california")
    assert code == 2
    assert "the run is done" in err
    assert requests(run) == []


def test_a_run_directory_that_cannot_be_written(
    run: RunDir, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run.operator.write_text("in the way")
    code, _, err = windfall(capsys, "hold", run.root, "california")
    assert (code, len(err.splitlines())) == (2, 1)
    assert "cannot be written" in err
    run.operator.unlink()
    # Root may write anywhere; ask the system as it would answer on a read-only disk.
    monkeypatch.setattr(os, "access", lambda path, how: how != os.W_OK)
    code, _, err = windfall(capsys, "hold", run.root, "california")
    assert (code, len(err.splitlines())) == (2, 1)
    assert "cannot be written" in err
    assert requests(run) == []


def test_a_configuration_that_cannot_be_read(run: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    for damage in ("[[site]\n", "[run]\n", 'site = "x"\n'):
        run.config.write_text(damage)
        code, _, err = windfall(capsys, "hold", run.root, "california")
        assert (code, len(err.splitlines())) == (1, 1)
        assert "sites cannot be read" in err


def test_a_user_without_a_name(run: RunDir, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def nameless() -> str:
        raise KeyError("getpwuid(): uid not found: 12345")

    monkeypatch.setattr(getpass, "getuser", nameless)
    assert windfall(capsys, "hold", run.root, "california")[0] == 0
    assert requests(run)[0]["who"] == f"uid-{os.getuid()}@{socket.gethostname()}"


def test_status_shows_what_is_held_and_what_was_asked(
    run: RunDir, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    ledger = Ledger.open(run.ledger)
    ledger.hold(Hold("california", "hold", START, START + 7200, "ann@desk", "a fuse"))
    ledger.close()
    windfall(capsys, "drain", run.root, "adelaide", "--for", "2h", "--why", "noise")
    found = json.loads(windfall(capsys, "status", run.root, "--json")[1])
    assert found["holds"] == [
        {"site": "california", "kind": "hold", "until": START + 7200, "who": "ann@desk", "why": "a fuse", "since": START}
    ]
    (asked,) = found["asked"]
    assert (asked["site"], asked["kind"], asked["for_s"], asked["why"]) == ("adelaide", "drain", 7200.0, "noise")
    said = text(windfall(capsys, "status", run.root)[1])
    assert "held california: held by ann@desk: a fuse (until 2026-01-11T19:00:00Z), since Jan 11 17:00 UTC" in said
    assert "for 2 h 00 min: noise (asked, not yet noted)" in said


# -- stop, set, requests -------------------------------------------------------------------------------------


def test_a_run_that_is_not_running_cannot_be_stopped(run: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = windfall(capsys, "stop", run.root)
    assert (code, err) == (2, f"windfall: {run.root}: the run is not running; there is nothing to stop\n")
    lock = RunLock(run)
    lock.acquire()
    code, out, _ = windfall(capsys, "stop", run.root, "--why", "night", "--author", "ann", "--expect", "paused")
    lock.release()
    assert code == 0
    assert out.startswith("asked; the coordinator acts at its next tick: sites hand in their work and the run stops")
    (left,) = requests(run)
    assert (left["kind"], left["who"], left["why"], left["expect"]) == ("stop", "ann", "night", "paused")


@pytest.mark.parametrize(
    ("key", "value", "kept"), [("max_sites", "1", 1), ("limits.max_power_w", "2.5e3", 2500.0), ("budget_tokens", "16_384", 16384)]
)
def test_a_key_is_changed_with_or_without_its_table(
    run: RunDir, capsys: pytest.CaptureFixture[str], key: str, value: str, kept: float
) -> None:
    ledger = Ledger.open(run.ledger)
    ledger.commit(t_run=START, t_wall=0.0, file="v0", sha256="0", mode="initial", contributions=[])
    ledger.close()
    code, out, err = windfall(capsys, "set", run.root, key, value)
    assert (code, err) == (0, "")
    assert "Write it into the configuration, too" in out
    assert requests(run)[0]["value"] == kept


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("speed", "3"), "speed: cannot be changed while the run goes on; there are run.budget_tokens, policy.deadline"),
        (("max_sites", "many"), "it takes a whole number, at least 1"),
        (("max_sites", "-1"), "limits.max_sites = -1: it takes a whole number, at least 1"),
        (("budget_tokens", "99999999", "--extend", "hold", "--expect", "5"), "run.budget_tokens is 8192, and not 5"),
        (("max_sites", "none"), "limits.max_sites is none already"),
    ],
)
def test_what_cannot_be_changed_says_why(
    run: RunDir, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], said: str
) -> None:
    ledger = Ledger.open(run.ledger)
    ledger.commit(t_run=START, t_wall=0.0, file="v0", sha256="0", mode="initial", contributions=[])
    ledger.close()
    code, _, err = windfall(capsys, "set", run.root, *words)
    assert (code, len(err.splitlines())) == (2, 1)
    assert said in err
    assert requests(run) == []


def test_requests_lists_what_was_asked_and_what_became_of_it(run: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    assert windfall(capsys, "requests", run.root)[:2] == (0, "")
    windfall(capsys, "hold", run.root, "california", "--for", "2h", "--why", "a \x1b[31mfuse", "--author", "ann")
    windfall(capsys, "release", run.root, "adelaide", "--expect", "held", "--author", "bob")
    ledger, telemetry = Ledger.open(run.ledger), Telemetry.open(run.telemetry)
    Operator(run, ledger, telemetry, sites={"california", "adelaide"}).look(START)
    telemetry.close()
    ledger.close()
    windfall(capsys, "drain", run.root, "adelaide", "--author", "eve")
    code, out, _ = windfall(capsys, "requests", run.root)
    assert code == 0
    held, refused, waits = out.splitlines()
    assert "applied at Jan 11 17:00" in held
    assert "hold of california for 2 h 00 min, by ann: a" in held
    assert "\x1b" not in held
    assert refused.endswith("release of adelaide, if it is held, by bob (adelaide is free, and not held as its asker saw it)")
    assert "waiting" in waits
    found = [json.loads(line) for line in windfall(capsys, "requests", run.root, "--json")[1].splitlines()]
    assert [(f["kind"], f["site"], f["state"]) for f in found] == [
        ("hold", "california", "applied"), ("release", "adelaide", "refused"), ("drain", "adelaide", "waiting"),
    ]  # fmt: skip


def test_wait_tells_what_became_of_it(run: RunDir, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    ledger, telemetry = Ledger.open(run.ledger), Telemetry.open(run.telemetry)
    desk = Operator(run, ledger, telemetry, sites={"california", "adelaide"})
    monkeypatch.setattr(clock, "pause", lambda _: desk.look(START))  # a coordinator acts meanwhile
    code, out, _ = windfall(capsys, "hold", run.root, "california", "--wait", "1d")
    assert (code, out) == (0, "done: california stays off, until it is released\n")
    code, out, _ = windfall(capsys, "release", run.root, "adelaide", "--expect", "held", "--wait", "1d")
    assert code == 1
    assert out == "refused: release of adelaide: adelaide is free, and not held as its asker saw it\n"
    code, out, _ = windfall(capsys, "hold", run.root, "adelaide", "--expect", "held", "--wait", "1d", "--json")
    assert (code, json.loads(out)["state"]) == (1, "refused")
    assert windfall(capsys, "hold", run.root, "adelaide", "--wait", "soon")[0] == 2
    telemetry.close()
    ledger.close()


# -- gc ------------------------------------------------------------------------------------------------------


@pytest.fixture
def left(run: RunDir) -> Iterator[subprocess.Popen[bytes]]:
    """A process of a site of the run."""
    child = subprocess.Popen(
        ["sleep", "1000"], env={**os.environ, **mark("small-1", run.root, "california", 3)}, start_new_session=True
    )
    yield child
    child.kill()
    child.wait()


def test_gc_tells_what_it_would_do_and_does_it(
    run: RunDir, left: subprocess.Popen[bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    (run.root / ".x.tmp").write_text("half")
    code, out, _ = windfall(capsys, "gc", run.root, "--dry-run")
    assert code == 0
    assert f"would end california: process {left.pid}" in out
    assert "would remove 1 file:\n  .x.tmp" in out
    code, out, _ = windfall(capsys, "gc", run.root, "--dry-run", "--json")
    expected = {"processes": [{"pid": left.pid, "site": "california", "generation": 3}], "elsewhere": [],
                "files": [".x.tmp"], "keys": 0,
                "notes": [], "stuck": [], "dry_run": True, "alive": False}  # fmt: skip
    assert json.loads(out) == expected
    assert left.poll() is None
    code, out, _ = windfall(capsys, "gc", run.root, "--json")
    assert json.loads(out) == {**expected, "dry_run": False}
    assert left.wait(timeout=PATIENCE_S) == -signal.SIGTERM
    assert windfall(capsys, "gc", run.root)[:2] == (0, "nothing is left over\n")


def test_gc_of_a_living_run(run: RunDir, left: subprocess.Popen[bytes], capsys: pytest.CaptureFixture[str]) -> None:
    (run.root / ".x.tmp").write_text("half")
    lock = RunLock(run)
    lock.acquire()
    try:
        code, out, err = windfall(capsys, "gc", run.root)
        assert (code, out, len(err.splitlines())) == (1, "", 1)
        assert "the run is alive" in err
        assert "windfall drain" in err
        code, out, _ = windfall(capsys, "gc", run.root, "--json")
        found = json.loads(out)
        assert (code, found["alive"], found["processes"], found["files"]) == (1, True, [], [])
    finally:
        lock.release()
    assert left.poll() is None
    assert (run.root / ".x.tmp").exists()


def test_a_clock_that_is_set_back_lets_no_request_overtake_another(
    run: RunDir, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr(clock, "wall", lambda: now[0])
    for verb in ("hold", "release", "hold"):
        assert windfall(capsys, verb, run.root, "california")[0] == 0
        now[0] = 400.0
    assert [r.kind for r in pending(run)] == ["hold", "release", "hold"]
