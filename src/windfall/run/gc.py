"""`windfall gc`: ends and removes what a dead run has left behind, and touches nothing else.

It recognises processes by the mark of the run and its folder, and files by the ledger, which does not name them any more. It keeps
the ledger, what sites hold for the run (outboxes, snapshots), and everything of other runs and of copies of this one.
"""

from __future__ import annotations

import os
import re
import signal
import stat
import tomllib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

from windfall import clock
from windfall.errors import StoreError
from windfall.federation.checkpoints import Checkpoints
from windfall.processes import Marked, group_members, marked, signal_group, start_time
from windfall.run.requests import running
from windfall.store.bus_factory import with_users
from windfall.store.ledger import Ledger
from windfall.store.rundir import SUPERVISOR_LOCK, RunDir, RunLock
from windfall.wire.bulk import TOKEN_NAME, Shelf
from windfall.wire.bulk_transport import leftovers

#: How long processes have to end by themselves (s): an agent gives its trainer about 5 s to save its work.
TERM_S = 10.0
#: How long the system then has to end them by force (s).
_KILL_S = 5.0
_POLL_S = 0.05
_TEMPORARY = re.compile(r"\.(\d+)\.tmp$")


@dataclass
class Collected:
    """What was (or, in a dry run, would be) ended and removed."""

    #: Why the run counts as alive, or empty. If it is alive nothing was looked for.
    alive: str = ""
    processes: list[Marked] = field(default_factory=list)
    #: On other machines: of which site, what, and by which driver.
    elsewhere: list[str] = field(default_factory=list)
    #: Relative to the run directory.
    files: list[str] = field(default_factory=list)
    #: Keys in Redis.
    keys: int = 0
    #: Other things that a person should know.
    notes: list[str] = field(default_factory=list)
    #: What could not be ended or removed.
    stuck: list[str] = field(default_factory=list)


def collect(run: RunDir, *, dry_run: bool, term_s: float = TERM_S) -> Collected:
    """End and remove what is left of a run that is over or has died. ``term_s``: as `TERM_S`.

    Raises:
        StoreError: there is no run, its ledger cannot be read, or its lock cannot be written.
    """
    run_id = _run_id(run)
    alive = _alive(run, run_id)
    if alive:
        return Collected(alive=alive)
    if dry_run:
        return _collect(run, run_id, dry_run=True, term_s=term_s)
    # While these locks are held neither a supervisor nor a coordinator can start.
    locks = [RunLock(run, SUPERVISOR_LOCK), RunLock(run)]
    try:
        for lock in locks:
            lock.acquire()
        led_by = _supervisor(marked(run_id, run.root))
        return Collected(alive=led_by) if led_by else _collect(run, run_id, dry_run=False, term_s=term_s)
    except StoreError:
        for lock in locks:
            lock.release()
        if running(run) or running(run, SUPERVISOR_LOCK):
            return Collected(alive="it has just been started")
        raise
    finally:
        for lock in locks:
            lock.release()


def _alive(run: RunDir, run_id: str) -> str:
    if running(run):
        return f"its coordinator lives (process {_holder(run, 'lock')})"
    if running(run, SUPERVISOR_LOCK):
        return f"its supervisor lives (process {_holder(run, SUPERVISOR_LOCK)})"
    return _supervisor(marked(run_id, run.root))


def _holder(run: RunDir, lock: str) -> str:
    try:
        return (run.root / lock).read_text(encoding="utf-8").strip() or "unknown"
    except OSError:
        return "unknown"


def _run_id(run: RunDir) -> str:
    ledger = Ledger.open(run.open_existing().ledger, read_only=True)
    try:
        return ledger.meta("run_id") or ""
    finally:
        ledger.close()


def _collect(run: RunDir, run_id: str, *, dry_run: bool, term_s: float) -> Collected:
    found = Collected()
    found.processes = sorted(_others(marked(run_id, run.root)), key=lambda p: (p.site, p.generation, p.pid))
    if found.processes and not dry_run:
        left = _end(run, run_id, found.processes, term_s)
        found.stuck += [f"process {p.pid} of {p.site or 'the run'} does not end" for p in left]
    if _may_have_sites_elsewhere(run):
        from windfall.run.gc_elsewhere import collect_elsewhere  # the configuration takes a while to import

        away = collect_elsewhere(run, run_id, dry_run=dry_run, grace_s=term_s)
        found.elsewhere, found.stuck, found.notes = away.ended, [*found.stuck, *away.stuck], [*found.notes, *away.notes]
    ledger = Ledger.open(run.ledger, read_only=True)
    try:
        complete = ledger.complete()
        files = set(_temporaries(run.root, {p.pid for p in found.processes}))
        # Of large files on their way nobody waits for any now; sites have what they sent in their outboxes.
        files |= {*leftovers(Shelf(run.bulk)), *run.sites.glob(f"*/{TOKEN_NAME}"), *run.sites.glob("*/bulk/*")}
        if ledger.has_version():
            files |= set(Checkpoints(run, ledger, keep=1, keep_every=1).leftovers())
    finally:
        ledger.close()
    for path in sorted(files):
        try:
            if not dry_run:
                path.unlink(missing_ok=True)
            found.files.append(str(path.relative_to(run.root)))
        except OSError as e:
            found.stuck.append(f"{path}: cannot be removed: {e.strerror}")
    url = _bus(run)
    if url != "embedded" and complete:
        found.keys, note = _keys(url, run_id, dry_run=dry_run)
        found.notes += [note] if note else []
    return found


# -- processes -----------------------------------------------------------------------------------------------


def _others(processes: Iterable[Marked]) -> list[Marked]:
    return [p for p in processes if p.pid != os.getpid()]


def _supervisor(processes: Sequence[Marked]) -> str:
    """Which supervisor leads the run although no coordinator holds its lock, in words; this is so between two coordinators.

    The supervisor has no mark, but coordinator and SuperLink have, and it is their parent. They die with it; where they cannot,
    process 1 becomes their parent.
    """
    own = {p.pid for p in processes}
    for p in processes:
        parent = None if p.site else _parent(p.pid)
        if parent is None or parent in own or parent == 0:
            continue
        if parent != 1 or _runs_windfall(parent):
            return f"its supervisor lives (process {parent})"
    return ""


def _parent(pid: int) -> int | None:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1])
    except OSError:
        return None


def _runs_windfall(pid: int) -> bool:
    """Whether a process is `windfall run` or `windfall demo`, as process 1 of a container may be."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return False
    named = any(Path(w).name == "windfall" or w == "windfall.cli.main" for w in words)
    return named and bool({"run", "demo"} & set(words))


def _end(run: RunDir, run_id: str, processes: Sequence[Marked], term_s: float) -> list[Marked]:
    """Ask processes to end, then end them by force with their groups. Returns those that are still alive."""
    born = {p.pid: start_time(p.pid) for p in processes}
    leaders = {p.pid for p in processes if p.pid == p.pgid}

    def lives(pid: int) -> bool:
        return born[pid] is not None and start_time(pid) == born[pid]

    def left() -> list[Marked]:
        return [p for p in processes if lives(p.pid)]

    for p in processes:
        # An agent passes the request on to its trainer, which then saves its work. A process whose leader is gone is asked itself.
        if p.pid in leaders or p.pgid not in leaders:
            _signal(p.pid, signal.SIGTERM)
    _wait(lambda: not left(), term_s)
    for pid in leaders:
        # A group keeps its number as long as it has a member. A number that is in use again may belong to others, and is left
        # alone.
        if lives(pid) or (start_time(pid) is None and group_members(pid)):
            signal_group(pid, signal.SIGKILL)
    # This includes what sites have started meanwhile. We hold the lock, so nobody else starts sites of this run.
    for p in _others(marked(run_id, run.root)):
        if p.site or (p.pid in born and lives(p.pid)):
            _signal(p.pid, signal.SIGKILL)
    _wait(lambda: not left(), _KILL_S)
    return left()


def _wait(done: Callable[[], bool], for_s: float) -> None:
    deadline = clock.monotonic() + for_s
    while not done() and clock.monotonic() < deadline:
        clock.pause(_POLL_S)


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except (ProcessLookupError, PermissionError):
        return


# -- files ---------------------------------------------------------------------------------------------------


def _temporaries(root: Path, ended: set[int]) -> list[Path]:
    """Temporary files whose writer has died. Files of a living process are left out, unless it is one of ``ended``."""
    found = []
    for folder, _, names in os.walk(root):
        for name in names:
            path = Path(folder) / name
            writer = _TEMPORARY.search(name)
            at_work = writer is not None and int(writer[1]) not in ended and start_time(int(writer[1])) is not None
            if fnmatchcase(name, ".*.tmp") and not at_work and _is_plain(path):
                found.append(path)
    return found


def _is_plain(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return False


# -- Redis ---------------------------------------------------------------------------------------------------


def _may_have_sites_elsewhere(run: RunDir) -> bool:
    try:
        sites = tomllib.loads(run.config.read_text(encoding="utf-8")).get("site", [])
    except (OSError, ValueError):
        return False
    return any(isinstance(s, dict) and s.get("driver", "local") != "local" for s in sites)


def _bus(run: RunDir) -> str:
    try:
        return str(tomllib.loads(run.config.read_text(encoding="utf-8")).get("run", {}).get("bus", "embedded"))
    except (OSError, ValueError):
        return "embedded"


def _keys(url: str, run_id: str, *, dry_run: bool) -> tuple[int, str]:
    """Delete what a complete run keeps in Redis. Returns the number of keys, and a note if it was impossible."""
    import redis

    from windfall.store.redis_access import forget
    from windfall.store.redis_link import connect, why

    try:
        client = connect(url)
    except ValueError as e:
        return 0, f"run.bus: {e}"
    try:
        if client.exists(f"windfall:{run_id}:coordinator"):
            return 0, "a coordinator holds this run in Redis (or died less than 15 s ago): its keys stay"
        keys = list(client.scan_iter(match=f"windfall:{run_id}:*", count=1000))
        if keys and not dry_run:
            client.delete(*keys)
        if with_users(url):
            forget(client, run_id, dry_run=dry_run)
        return len(keys), ""
    except (redis.RedisError, OSError) as e:
        return 0, f"{why(e, url)}: what the run keeps there stays"
    finally:
        client.close()
