"""`windfall gc` ends and removes what a dead run left behind, and nothing that is anybody else's."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from patience import PATIENCE_S
from store.redis_server import RedisServer, wait_for
from ui_runs import NOBODY, START, finished_run
from windfall import clock
from windfall.errors import StoreError
from windfall.processes import mark, start_time
from windfall.run.gc import collect
from windfall.store.ledger import Ledger
from windfall.store.records import Consumed
from windfall.store.redis_link import PASSWORD
from windfall.store.rundir import RunDir, RunLock

OURS = "small-1"
Spawn = Callable[..., "subprocess.Popen[bytes]"]
#: Says that it is ready, and what it is told to do at SIGTERM.
_OBEDIENT = (
    "import signal, sys, time\nsignal.signal(signal.SIGTERM, lambda *_: (open(sys.argv[1], 'w').write('saved'), sys.exit(0)))\n"
)
_STUBBORN = "import signal, sys, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
_READY = "print('ready', flush=True)\nwhile True: time.sleep(1000)\n"


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    """A run that is done and has nothing left over: versions with files, a site with an outbox."""
    made = finished_run(tmp_path / "run")
    ledger = Ledger.open(made.ledger)
    for v in ledger.versions():
        (made.checkpoints / v.file).write_text("weights")
    ledger.close()
    return made


@pytest.fixture
def spawn() -> Iterator[Spawn]:
    """Marked processes in sessions of their own; what is left of them is killed."""
    made: list[subprocess.Popen[bytes]] = []

    def start(env: dict[str, str], *command: str, **more: Any) -> subprocess.Popen[bytes]:
        child = subprocess.Popen(
            command or ("sleep", "1000"), env={**os.environ, **env}, start_new_session=True, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if command else subprocess.DEVNULL, **more,
        )  # fmt: skip
        made.append(child)
        if command:
            assert child.stdout is not None
            assert child.stdout.readline().strip()
        # A process has its environment a moment after it was started.
        wait_for("its environment", lambda: Path(f"/proc/{child.pid}/environ").read_bytes())
        return child

    yield start
    for child in made:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        if child.stdout is not None:
            child.stdout.close()


def lives(child: subprocess.Popen[bytes]) -> bool:
    return child.poll() is None


def everything(root: Path) -> dict[str, bytes]:
    """Files and contents, without what reading a database leaves beside it."""
    return {str(p): p.read_bytes() for p in root.rglob("*") if p.is_file() and not p.name.endswith(("-shm", "-wal"))}


def litter(run: RunDir) -> set[str]:
    """Leave what a crash leaves; the names."""
    names = {
        "checkpoints/v000099.safetensors", "checkpoints/outer-v000099.safetensors", "checkpoints/inner-x-v000009.safetensors",
        "checkpoints/received/california-9-9.env", f"checkpoints/.v3.safetensors.{NOBODY}.tmp", ".config.toml.tmp",
        f"sites/california/outbox/.000001-000002.env.{NOBODY}.tmp", f"report/.index.html.{NOBODY}.tmp",
    }  # fmt: skip
    for name in names:
        (run.root / name).parent.mkdir(parents=True, exist_ok=True)
        (run.root / name).write_text("half")
    return names


def treasure(run: RunDir) -> None:
    """Leave what nobody may touch."""
    for name in ("sites/california/outbox/000001-000002.env", "sites/california/snapshot.env", "sites/california/inner.env",
                 "operator/1.json", "logs/x.tmp", "sites/california/logs/agent.log", "stranger.txt"):  # fmt: skip
        (run.root / name).parent.mkdir(parents=True, exist_ok=True)
        (run.root / name).write_text("dear")


# -- processes -----------------------------------------------------------------------------------------------


def test_only_this_runs_processes_die(run: RunDir, tmp_path: Path, spawn: Spawn) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    ours = [spawn(mark(OURS, run.root, "california", 2)), spawn(mark(OURS, run.root, "adelaide", 1))]
    others = [
        spawn(mark("small-2", run.root, "california", 2)),
        spawn(mark(OURS, copy, "california", 2)),
        spawn(mark(OURS, copy)),
        spawn({}),
    ]
    found = collect(run, dry_run=False)
    assert [(p.site, p.generation) for p in found.processes] == [("adelaide", 1), ("california", 2)]
    assert {p.pid for p in found.processes} == {p.pid for p in ours}
    for child in ours:
        assert child.wait(timeout=PATIENCE_S) == -signal.SIGTERM
    assert all(lives(p) for p in others)
    assert found.stuck == []
    assert collect(run, dry_run=False).processes == []


def test_an_agent_is_asked_first_and_saves_its_work(run: RunDir, tmp_path: Path, spawn: Spawn) -> None:
    child = spawn(mark(OURS, run.root, "california", 1), sys.executable, "-c", _OBEDIENT + _READY, str(tmp_path / "saved"))
    collect(run, dry_run=False)
    assert child.wait(timeout=PATIENCE_S) == 0
    assert (tmp_path / "saved").read_text() == "saved"


def test_who_does_not_listen_is_ended_with_its_group(run: RunDir) -> None:
    # The agent's child has lost its mark, as a process that cleans its environment has.
    code = _STUBBORN + "import subprocess\nc = subprocess.Popen(['sleep', '1000'], env={})\nprint(c.pid, flush=True)\n"
    child = subprocess.Popen(
        [sys.executable, "-c", code + "while True: time.sleep(1000)\n"], stdout=subprocess.PIPE, start_new_session=True,
        env={**os.environ, **mark(OURS, run.root, "california", 1)},
    )  # fmt: skip
    assert child.stdout is not None
    try:
        inner = int(child.stdout.readline())
        found = collect(run, dry_run=False, term_s=0.2)
        assert child.wait(timeout=PATIENCE_S) == -signal.SIGKILL
        wait_for("the agent's child to end", lambda: start_time(inner) is None)
        assert found.stuck == []
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        child.stdout.close()


def test_a_marked_process_in_a_strangers_group_dies_alone(run: RunDir, spawn: Spawn) -> None:
    code = "import os, subprocess, sys, time\n"
    code += "c = subprocess.Popen([sys.executable, '-c', sys.argv[3]], env={**os.environ, sys.argv[1]: sys.argv[2]}, stdout=-1)\n"
    # It listens as little as an agent that hangs; `c.wait` so that no zombie stays. Then the stranger goes on.
    code += "print(c.stdout.readline(), flush=True)\nc.wait()\nwhile True: time.sleep(1000)\n"
    ((name, value),) = mark(OURS, run.root, "california", 1).items()
    leader = spawn({}, sys.executable, "-c", code, name, value, _STUBBORN + _READY)
    found = collect(run, dry_run=False, term_s=0.2)
    assert len(found.processes) == 1
    assert found.stuck == []
    wait_for("the marked one to end", lambda: start_time(found.processes[0].pid) is None)
    assert lives(leader)


def orphan(env: dict[str, str]) -> int:
    """A process whose parent is gone; its number."""
    done = subprocess.run(
        ["sh", "-c", "sleep 1000 >/dev/null 2>&1 & echo $!"], env={**os.environ, **env}, capture_output=True, text=True,
        check=True, start_new_session=True,
    )  # fmt: skip
    pid = int(done.stdout)
    wait_for("the orphan's new parent", lambda: parent(pid) != os.getpid())
    if parent(pid) != 1:
        os.kill(pid, signal.SIGKILL)
        pytest.skip("orphans do not go to process 1 here")
    return pid


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def test_a_superlink_that_outlived_its_supervisor_is_ended(run: RunDir) -> None:
    pid = orphan(mark(OURS, run.root))
    try:
        found = collect(run, dry_run=False)
        assert [(p.pid, p.site) for p in found.processes] == [(pid, "")]
        wait_for("it to end", lambda: start_time(pid) is None)
    finally:
        if start_time(pid) is not None:
            os.kill(pid, signal.SIGKILL)


# -- a run that lives ----------------------------------------------------------------------------------------


def test_of_a_run_with_a_coordinator_nothing_is_touched(run: RunDir, spawn: Spawn) -> None:
    litter(run)
    site = spawn(mark(OURS, run.root, "california", 1))
    lock = RunLock(run)
    lock.acquire()
    before = everything(run.root)
    try:
        for dry_run in (True, False):
            found = collect(run, dry_run=dry_run)
            assert found.alive == f"its coordinator lives (process {os.getpid()})"
            assert (found.processes, found.files) == ([], [])
    finally:
        lock.release()
    assert everything(run.root) == before
    assert lives(site)


def test_between_two_coordinators_the_supervisor_counts(run: RunDir, spawn: Spawn) -> None:
    litter(run)
    superlink = spawn(mark(OURS, run.root))  # its parent, which is us, lives
    site = spawn(mark(OURS, run.root, "california", 1))
    before = everything(run.root)
    found = collect(run, dry_run=False)
    assert found.alive == f"its supervisor lives (process {os.getpid()})"
    assert everything(run.root) == before  # not even the lock was taken
    assert lives(superlink)
    assert lives(site)


def test_the_lock_is_held_while_collecting_and_given_back(run: RunDir, spawn: Spawn, tmp_path: Path) -> None:
    code = _OBEDIENT.replace("'saved'", "str(locked())") + (
        "import fcntl\ndef locked():\n  with open(sys.argv[2]) as f:\n    try: fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)\n"
        "    except BlockingIOError: return True\n  return False\n"
    )
    spawn(
        mark(OURS, run.root, "california", 1), sys.executable, "-c", code + _READY, str(tmp_path / "said"), str(run.root / "lock")
    )
    collect(run, dry_run=False)
    assert (tmp_path / "said").read_text() == "True"
    lock = RunLock(run)
    lock.acquire()
    lock.release()


# -- files ---------------------------------------------------------------------------------------------------


def test_leftover_files_go_and_named_ones_stay(run: RunDir) -> None:
    treasure(run)
    before = set(everything(run.root))
    names = litter(run)
    found = collect(run, dry_run=False)
    assert set(found.files) == names
    assert set(everything(run.root)) - {str(run.root / "lock"), str(run.root / "supervisor.lock")} == before
    ledger = Ledger.open(run.ledger)
    assert ledger.complete()
    ledger.close()


def test_files_on_their_way_and_tokens_go_and_the_file_servers_port_stays(run: RunDir) -> None:
    going = ["bulk/to/a/f", "bulk/from/b/f", "bulk/from/b/.f.7.part", "sites/a/bulk/f", "sites/a/bulk-token"]
    staying = ["bulk/port.json", "sites/a/outbox/000001-000001.env", "sites/a/inner.env"]
    for name in going + staying:
        (run.root / name).parent.mkdir(parents=True, exist_ok=True)
        (run.root / name).write_text("x")
    assert sorted(collect(run, dry_run=False).files) == sorted(going)
    assert all((run.root / name).exists() for name in staying)


def test_a_dry_run_tells_the_same_and_touches_nothing(run: RunDir, spawn: Spawn) -> None:
    names = litter(run)
    site = spawn(mark(OURS, run.root, "california", 1))
    before = everything(run.root)
    found = collect(run, dry_run=True)
    assert set(found.files) == names
    assert [p.pid for p in found.processes] == [site.pid]
    assert everything(run.root) == before
    assert lives(site)


def test_what_a_living_process_writes_is_its_own(run: RunDir, spawn: Spawn) -> None:
    other, ours = spawn({}), spawn(mark(OURS, run.root, "california", 1))
    kept, gone = run.report / f".index.html.{other.pid}.tmp", run.sites / f".x.{ours.pid}.tmp"
    for path in (kept, gone):
        path.write_text("half")
    assert collect(run, dry_run=True).files == [str(gone.relative_to(run.root))]
    ours_gone = collect(run, dry_run=False)
    assert ours_gone.files == [str(gone.relative_to(run.root))]
    assert kept.exists()


def test_contributions_that_wait_and_outer_states_that_are_needed_stay(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    run.make()
    run.config.write_text("")
    ledger = Ledger.create(run.ledger, run_id=OURS, fingerprint="x", budget_blocks=8, tokens_per_block=4)
    used = ("v0", "v1", "v2")
    ledger.commit(t_run=START, t_wall=clock.wall(), file="v0.safetensors", sha256="0", mode="initial", contributions=[])
    for n, last in ((1, False), (2, False), (3, True)):
        lease = ledger.lease("a", 1, 1, START, START + 60)
        assert lease is not None
        header = {"consumed": [{"epoch": lease.epoch, "start": lease.start, "end": lease.end, "skipped": False}]}
        consumed = [Consumed(lease.epoch, lease.start, lease.end)]
        c = ledger.receive("a", 1, n, n - 1, 4, consumed, header, f"a-1-{n}.env", START, 0)
        if not last:
            ledger.commit(
                t_run=START, t_wall=clock.wall(), file=f"v{n}.safetensors", sha256="0", mode="local", contributions=[c],
                outer_file=f"outer-v{n}.safetensors", inner=[(c, f"inner-a-v{n}.safetensors", "0")],
            )  # fmt: skip
    ledger.close()
    kept = {f"{v}.safetensors" for v in used} | {"outer-v1.safetensors", "outer-v2.safetensors", "inner-a-v2.safetensors"}
    for name in (*kept, "inner-a-v1.safetensors", "outer-v0.safetensors"):
        (run.checkpoints / name).write_text("x")
    for n in (1, 2, 3):
        (run.spool / f"a-1-{n}.env").write_text("x")
    found = collect(run, dry_run=False)
    assert set(found.files) == {
        "checkpoints/inner-a-v1.safetensors", "checkpoints/outer-v0.safetensors", "checkpoints/received/a-1-1.env",
    }  # fmt: skip
    assert {p.name for p in run.checkpoints.glob("*.safetensors")} == kept
    assert {p.name for p in run.spool.iterdir()} == {"a-1-2.env", "a-1-3.env"}


def test_no_run_there(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no run here"):
        collect(RunDir(tmp_path), dry_run=False)


# -- Redis ---------------------------------------------------------------------------------------------------


def over_redis(run: RunDir, url: str) -> None:
    run.config.write_text(run.config.read_text().replace("[run]", f'[run]\nbus = "{url}"'))


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    folder = tmp_path / "redis"
    folder.mkdir()
    server = RedisServer(folder, password="pw")
    yield server
    server.kill()


def test_keys_of_a_complete_run_are_deleted_and_no_others(
    run: RunDir, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    over_redis(run, redis_server.url)
    with redis_server.client() as client:
        for key in (f"windfall:{OURS}:instance", f"windfall:{OURS}:a:events", "windfall:small-11:instance", "other"):
            client.set(key, "x")
        note = collect(run, dry_run=False).notes
        assert "WINDFALL_REDIS_PASSWORD" in note[0]  # without the password: a note, and no failure
        monkeypatch.setenv(PASSWORD, "pw")
        assert collect(run, dry_run=True).keys == 2
        assert len(client.keys()) == 4
        client.set(f"windfall:{OURS}:coordinator", "{}")
        held = collect(run, dry_run=False)
        assert (held.keys, len(client.keys())) == (0, 5)
        assert "a coordinator holds this run in Redis" in held.notes[0]
        client.delete(f"windfall:{OURS}:coordinator")
        found = collect(run, dry_run=False)
        assert (found.keys, found.notes, found.stuck) == (2, [], [])
        assert set(client.keys()) == {"windfall:small-11:instance", "other"}


def test_a_run_that_goes_on_keeps_its_keys(tmp_path: Path, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PASSWORD, "pw")
    run = RunDir(tmp_path / "run")
    run.make()
    run.config.write_text(f'[run]\nbus = "{redis_server.url}"\n')
    Ledger.create(run.ledger, run_id=OURS, fingerprint="x", budget_blocks=8, tokens_per_block=4).close()
    with redis_server.client() as client:
        client.set(f"windfall:{OURS}:instance", "x")
        assert collect(run, dry_run=False).keys == 0
        assert client.keys() == [f"windfall:{OURS}:instance"]


def test_redis_that_is_away_is_a_note(run: RunDir) -> None:
    over_redis(run, "redis://127.0.0.1:1")
    found = collect(run, dry_run=False)
    assert "cannot be reached" in found.notes[0]
    assert found.stuck == []
