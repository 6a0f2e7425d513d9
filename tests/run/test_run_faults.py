"""Faults in a real run, by name: what is killed, frozen, full or held, and that the run finishes with nothing lost.

Paced by ``speed`` to some optimizer steps a second, so that a fault strikes in the middle of training on any machine.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from needs import missing
from run.real import T0, Living, assert_whole, status, versions, wait_for, windfall, write_config
from store.redis_server import RedisServer
from windfall import clock
from windfall.config.load import load
from windfall.processes import start_time
from windfall.site.outbox import TrainedTokens
from windfall.store.files import read_json
from windfall.store.ledger import Ledger
from windfall.store.telemetry import Event

pytestmark = pytest.mark.slow
STEP = 128  # tokens
NEVER = 10**6  # minutes
QUICKLY = ("--speed", 100_000)  # as fast as the machine can, where nothing is to strike any more


def flower_runs(run: Path) -> int:
    """How many runs the SuperLink's database has seen."""
    db = sqlite3.connect(f"{(run / 'flower' / 'superlink.db').as_uri()}?mode=ro", uri=True)
    try:
        return int(db.execute("SELECT COUNT(*) FROM run").fetchone()[0])
    finally:
        db.close()


def refused(config: Path, run: Path) -> str:
    """What a `windfall run` that must not start says: one message, exit 1."""
    done = windfall("run", config, "--run-dir", run, "--quiet")
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


def say(capsys: pytest.CaptureFixture[str], text: str) -> None:
    """A figure worth seeing, whatever pytest hides."""
    with capsys.disabled():
        print(f"\n  {text}", flush=True)


# -- the run's own processes ---------------------------------------------------------------------------------


def test_a_site_trains_on_while_coordinator_superlink_and_supernode_are_killed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    config = write_config(tmp_path, {"a": [(0, 600)]}, budget=STEP * 120, speed=150, solo_cut_s=1200)
    with Living(config, run) as r:
        r.trains("a")
        site = {part: r.find(part, "a") for part in ("agent", "trainer", "supernode")}
        port = read_json(run / "flower" / "superlink.json")

        old, at = r.hit("coordinator"), clock.monotonic()
        wait_for("the next coordinator to serve", lambda: r.beat().get("pid") not in (None, old))
        say(capsys, f"the coordinator serves again {clock.monotonic() - at:.1f} s after its end (goal: 20 s)")
        wait_for("the site to answer it", lambda: len(r.events("hello")) == 2 or r.over())
        say(capsys, f"and has heard from the site after {clock.monotonic() - at:.1f} s")
        r.trains("a")
        assert [(e.site, e.detail["generation"]) for e in r.events("adopted")] == [("a", 1)]
        assert flower_runs(run) == 2, "a coordinator opens a Flower run of its own"
        assert {part: r.find(part, "a") for part in site} == site

        old = r.hit("superlink")
        wait_for("the next SuperLink", lambda: r.find("superlink") not in (0, old))
        r.commits()
        assert read_json(run / "flower" / "superlink.json") == port
        assert flower_runs(run) == 2, "it has its old database, and the coordinator its old run"
        assert not list((run / "flower").glob("damaged-*"))
        assert {part: r.find(part, "a") for part in site} == site

        r.trains("a")
        old = r.hit("supernode", "a")
        wait_for("the next SuperNode", lambda: r.find("supernode", "a") not in (0, old))
        assert (r.find("agent", "a"), r.find("trainer", "a")) == (site["agent"], site["trainer"])

        assert r.end() == 0, r.said
        assert len(r.events("adopted")) == 1, "one coordinator was killed, and no other one ended"
        assert r.events("lease_ended", "swept", "refused", "discarded") == []
    assert_whole(run)
    assert status(run)["sites"]["a"]["starts"] == 1
    assert "Traceback" not in r.said


# -- a site's processes --------------------------------------------------------------------------------------


def of_second_life(r: Living) -> list[Event]:
    """Contributions of the second life of site a that have arrived."""
    return [e for e in r.events("contribution") if (e.site, e.detail["generation"]) == ("a", 2)]


def test_a_site_whose_agent_or_trainer_is_killed_or_frozen_comes_back_with_its_work(tmp_path: Path) -> None:
    run = tmp_path / "run"
    config = write_config(
        tmp_path, {"a": [(0, 600)], "b": [(0, 600)]}, budget=STEP * 240, speed=200, round_s=2400, max_failures=9,
        heartbeat_timeout_s=15, snapshot_s=0.5,
    )  # fmt: skip
    with Living(config, run) as r:
        for site in "ab":
            r.trains(site)
            wait_for(f"a snapshot of {site}", (run / "sites" / site / "snapshot.env").exists)
        trainer = r.find("trainer", "a"), start_time(r.find("trainer", "a"))
        r.hit("agent", "a")
        r.hit("trainer", "b")
        wait_for("the trainer to go with its agent", lambda: start_time(trainer[0]) != trainer[1])
        for site in "ab":
            r.trains(site, generation=2)
        offers = {e.site: e.detail["offered"] for e in r.events("hello") if e.detail["generation"] == 2}
        assert set(offers) == {"a", "b"}
        assert all(offers.values()), "each offers the work of its last snapshot"
        taken = {e.site for e in r.events("contribution") if e.detail["generation"] == 1}
        assert taken == {"a", "b"}, r.events("refused", "discarded")

        wait_for("a snapshot of a", lambda: (run / "sites" / "a" / "snapshot.env").exists() or r.over())
        frozen = r.hit("trainer", "a", signal.SIGSTOP)
        before = len(of_second_life(r))
        r.trains("a", generation=3)
        assert len(of_second_life(r)) > before, "what it had trained before it froze"
        assert start_time(frozen) is None, "who is frozen for good is not left behind"
        assert any("silent" in e.detail["reason"] for e in r.events("state") if e.detail["now"] == "failed")

        assert r.end() == 0, r.said
    assert_whole(run)
    assert {name: s["starts"] for name, s in status(run)["sites"].items()} == {"a": 3, "b": 2}


# -- two at once, and the operator --------------------------------------------------------------------------------------------


def test_a_second_run_is_turned_away_and_a_held_site_stays_off_over_a_restart_until_it_is_released(tmp_path: Path) -> None:
    run = tmp_path / "run"
    config = write_config(tmp_path, {"a": [(0, NEVER)]}, budget=STEP * 160, speed=60, until_min=NEVER, solo_cut_s=4800)
    with Living(config, run) as r:
        r.trains("a")
        assert "another coordinator (process" in refused(config, run)
        # Between two coordinators as well. That moment, made long: the supervisor does not come to start the next one.
        r.send(signal.SIGSTOP)
        old = r.hit("coordinator")
        wait_for("the coordinator's end", lambda: start_time(old) is None)
        assert "another coordinator (process" in refused(config, run)
        assert len(r.events("started", "resumed")) == 1
        r.send(signal.SIGCONT)
        wait_for("the next coordinator", lambda: r.events("adopted") or r.over())
        r.trains("a")
        trained = TrainedTokens.total(run / "sites" / "a" / "trained")
        asked = windfall("hold", run, "a", "--why", "a transformer hums")
        assert asked.returncode == 0, asked.stderr
        wait_for("a to stop", lambda: r.now()["sites"]["a"][0] == "off" or r.over())
        (held,) = r.events("held")
        assert held.detail["reason"] == "a transformer hums"
        off = [e for e in r.events("state") if e.detail["now"] == "off"]
        assert 0 <= off[0].t_run - held.t_run <= 3 * 60, "within a few ticks"
        ledger = Ledger.open(run / "ledger.db", read_only=True)
        assert ledger.head().tokens_total >= trained, "it has handed in what it had"
        assert ledger.counts().leased == 0
        ledger.close()
        shown = status(run)
        assert "a transformer hums" in shown["sites"]["a"]["held"]
        assert shown["holds"][0]["site"] == "a"
        r.send(signal.SIGINT)
        assert r.end() == 130, r.said
        before = r.now()["t_run"]

    with Living(config, run, *QUICKLY) as r:
        wait_for("its coordinator", lambda: r.events("resumed")[1:] or r.over())
        assert load(run / "config.toml").run.speed == 100_000, "what may change from start to start does"
        wait_for("some ticks", lambda: r.now()["t_run"] > before + 10 * 60 or r.over())
        assert r.now()["sites"]["a"][:2] == ["off", 1]
        assert r.find("agent", "a") == 0
        assert windfall("release", run, "a").returncode == 0
        r.trains("a", generation=2)
        assert r.end() == 0, r.said
        assert [e.detail["reason"] for e in r.events("released")] == ["no reason given"]
    assert_whole(run)
    assert status(run)["sites"]["a"]["starts"] == 2


# -- Redis ---------------------------------------------------------------------------------------------------


def test_a_run_over_redis_outlives_a_redis_that_comes_back_empty_and_a_copy_of_it_is_refused(tmp_path: Path) -> None:
    server = RedisServer(tmp_path)
    run, copy = tmp_path / "run", tmp_path / "copy"
    try:
        config = write_config(
            tmp_path, {"a": [(0, NEVER)]}, budget=STEP * 90, speed=100, until_min=NEVER, solo_cut_s=1800, bus=server.url,
            heartbeat_timeout_s=60,
        )  # fmt: skip
        with Living(config, run) as r:
            wait_for("its coordinator", lambda: r.events("started") or r.over())
            # Held, so that the run lasts for as long as the copy takes to give up.
            assert windfall("hold", run, "a").returncode == 0
            wait_for("a to be held", lambda: r.events("held") or r.over())
            wait_for("a to stop", lambda: r.now()["sites"]["a"][0] == "off" or r.over())
            r.hit("coordinator", number=signal.SIGSTOP)  # so that it is one moment that is copied
            try:
                shutil.copytree(run, copy, ignore=shutil.ignore_patterns("lock", "flower", "operator"))
            finally:
                r.hit("coordinator", number=signal.SIGCONT)
            message = refused(config, copy)
            assert "another coordinator" in message
            assert str(run) in message.replace("\n", ""), "and it says where the other one is"
            assert versions(copy) == versions(run)

            assert windfall("release", run, "a").returncode == 0
            r.trains("a")
            life = r.generation("a")
            server.kill()
            wait_for("the run to notice", lambda: r.events("bus_down") or r.over())
            r.trains("a")  # without Redis
            server.start()
            wait_for("the run to notice", lambda: r.events("bus_up") or r.over())
            assert r.end() == 0, r.said
            assert [e.kind for e in r.events("bus_down", "bus_up")] == ["bus_down", "bus_up"]
        assert_whole(run)
        assert status(run)["sites"]["a"]["starts"] == life, "no site was replaced because Redis was away"
    finally:
        server.kill()


# -- the disk ------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 16 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    try:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "windfall-test", str(folder)], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        missing("the right to mount a tmpfs (root)")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True, capture_output=True)


def fill(path: Path) -> None:
    """Write until there is no room for a single byte."""
    with open(path, "ab", buffering=0) as f:
        for size in (1 << 20, 4096, 1):
            with contextlib.suppress(OSError):
                while f.write(b"\0" * size):
                    pass


def test_a_run_on_a_full_or_read_only_disk_stops_with_one_message_and_goes_on_when_there_is_room(
    tmp_path: Path, small_disk: Path
) -> None:
    run = small_disk / "run"
    config = write_config(tmp_path, {"a": [(0, 600)]}, budget=STEP * 80, speed=200, solo_cut_s=1200)
    with Living(config, run) as r:
        r.commits()
        r.trains("a")
        fill(small_disk / "filler")
        assert r.end() == 1, r.said
        said = r.said
    assert "Traceback" not in said
    assert len([line for line in said.splitlines() if line.startswith("windfall")]) >= 1
    assert "room" in said or "No space" in said, said
    at = versions(run)
    assert at >= 1
    again = windfall("run", config, "--run-dir", run, "--quiet")
    assert again.returncode == 1, "still full"
    assert "Traceback" not in again.stderr
    os.unlink(small_disk / "filler")
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    closed = windfall("run", config, "--run-dir", run, "--quiet")
    assert closed.returncode == 1, "read-only"
    assert "Read-only" in closed.stderr or "readonly" in closed.stderr, closed.stderr
    assert "Traceback" not in closed.stderr
    assert versions(run) == at
    assert status(run)["version"] == at, "it can still be looked at"
    subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
    with Living(config, run, *QUICKLY) as r:
        assert r.end() == 0, r.said
    assert_whole(run)


# -- a long pause --------------------------------------------------------------------------------------------


def test_a_run_stopped_in_a_pause_of_a_week_goes_on_where_it_was_and_finishes(tmp_path: Path) -> None:
    run = tmp_path / "run"
    week = 10_080
    config = write_config(
        tmp_path, {"a": [(0, 20), (20 + week, 200 + week)]}, until_min=300 + week, budget=STEP * 60, speed=60_000, tick_s=600,
    )  # fmt: skip

    def minutes() -> float:
        return float((r.now()["t_run"] - T0) / 60) if r.beat() else 0.0

    with Living(config, run) as r:
        r.trains("a")
        wait_for("the pause", lambda: minutes() > 60 or r.over())
        assert r.find("agent", "a") == 0, "in a pause only coordinator and SuperLink remain"
        r.send(signal.SIGINT)
        assert r.end() == 130, r.said
        assert 60 < minutes() < week
        assert not r.find("superlink")
        stopped, at = minutes(), versions(run)
        assert at >= 1
    with Living(config, run) as r:
        assert r.end() == 0, r.said
        (resumed,) = r.events("resumed")
        assert ((resumed.t_run - T0) / 60, resumed.version) == (stopped, at)
        starts = [(e.t_run - T0) / 60 for e in r.events("state") if e.detail["now"] == "provisioning"]
        assert starts == [0, 20 + week], "nobody was woken in between"
    assert_whole(run)
