"""Chaos: real runs whose processes are killed, ended and frozen at random, and what that cost.

    make chaos          (100 faults, one every 20 s; about half an hour)
    make chaos-short    (one run, a dozen faults; about 3 minutes)
    .venv/bin/python benchmarks/chaos.py --seed 7 --faults 20 --every 10 --keep DIR

Runs on the calendar: a supervisor with coordinator and SuperLink, three sites with SuperNode, agent and trainer each, a
real redis-server for the bus, windows that open and close. Victims get SIGKILL, SIGTERM, or SIGSTOP and later SIGCONT,
one at a time and sometimes two at once. A Redis that ends comes back empty a little later. Once in each run the terminal that it
was started from closes, and once the whole machine sleeps for longer than any of the run's time-outs; every spelling of a proxy
in its environment names one that is dead, or none that could be used.

Ends with one JSON line: faults, goodput (committed / trained tokens), availability (training seconds / seconds in
which the policy wanted the site on; an adopted site and a frozen trainer count as training until something is heard),
lost and repeated sequences (by the ledger's committed contributions, counted without its table of spans) and
quarantined ones, the share of runs finished, and seconds to recovery by victim: median, largest, and how many were not
seen within a minute (its window has closed, or a later fault has struck the same site).
Exits 1 unless nothing was lost, repeated or quarantined and every run finished.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import random
import signal
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from windfall import clock
from windfall.errors import DataError
from windfall.processes import marked
from windfall.site.outbox import TrainedTokens
from windfall.store.files import read_json
from windfall.store.ledger import Ledger
from windfall.store.rundir import RunDir
from windfall.store.tensors import load_file
from windfall.units import iso_utc
from windfall.wire.probe import free_port

SITES = ("a", "b", "c")
#: Minutes on, minutes off: a is almost always in a window, the others come and go.
WINDOWS = {"a": (9.0, 0.5), "b": (3.0, 1.0), "c": (1.5, 1.5)}
OWN = {"coordinator": "windfall.run.coordinator", "superlink": "flower-superlink"}
AT_SITE = {"agent": "windfall.site.agent", "trainer": "windfall.site.trainer_process", "supernode": "flower-supernode"}
VICTIMS = (*OWN, *AT_SITE, "redis")
ACTIONS = ("kill", "kill", "term", "stop")
#: What happens once in a run, after how many other faults.
ONCE = {2: "terminal", 5: "machine"}
#: How long a site trains without a word from its coordinator, and how long a machine sleeps: longer than that and than every other
#: time-out below. In the short form, half.
DEAD_MAN_S, ASLEEP_S = 40.0, 42.0

CONFIG = """
[run]
name = "chaos"
budget_tokens = {budget}
clock = "real"
tick_s = 1
bus = "{bus}"
[policy]
name = "threshold"
[model]
depth = 2
width = 64
sequence_length = 128
[data]
source = "corpus.txt"
eval_sequences = 8
[train]
batch_sequences = 8
block_sequences = 4
lr_scale = 0.3
[federation]
round_s = 10
solo_cut_s = 10
grace_s = 5
snapshot_s = 2
[fleet]
start_timeout_s = 60
drain_timeout_s = 20
stop_grace_s = 5
heartbeat_timeout_s = 15
coordinator_timeout_s = 15
dead_man_s = {dead_man}
backoff_s = 5
backoff_max_s = 10
max_failures = 50
"""
SITE = """
[[site]]
name = "{name}"
region = "{name}"
spin_up_s = 10
train_power_w = 2000
idle_power_w = 400
tokens_per_s = {rate}
[site.signal]
path = "{name}.csv"
column = "g"
period_s = 0
until = "{until}"
"""


@dataclass
class Fault:
    """One signal to one victim, and when its service was back."""

    victim: str
    action: str
    site: str
    at: float
    back: Callable[[], bool] | None = None
    recovery_s: float | None = None


@dataclass
class Result:
    """What a run showed."""

    finished: bool
    committed: int
    trained: int
    training_s: float
    wanted_s: float
    lost: int
    repeated: int
    quarantined: int
    faults: list[Fault] = field(default_factory=list)
    start_up_s: list[float] = field(default_factory=list)


def say(text: str) -> None:
    """Progress, on standard error: the last line of standard output is the result."""
    print(text, file=sys.stderr, flush=True)


def connects(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=0.2):
            return True
    except OSError:
        return False


def stopped(pid: int) -> bool:
    """Whether a process has been frozen."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] == "T"
    except OSError:
        return False


class Redis:
    """A server without a disk: it comes back empty."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.child: subprocess.Popen[bytes] | None = None
        self.start_at = 0.0
        self.start()

    def start(self) -> None:
        self.child = subprocess.Popen(
            ["redis-server", "--bind", "127.0.0.1", "--port", str(self.port), "--save", "", "--appendonly", "no",
             "--dir", str(self.folder)],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def keep(self, rng: random.Random) -> None:
        """Bring it back a little after its end."""
        if self.child is not None and self.child.poll() is not None:
            self.child = None
            self.start_at = clock.monotonic() + rng.uniform(1, 5)
        if self.child is None and clock.monotonic() >= self.start_at:
            self.start()

    def end(self) -> None:
        if self.child is not None:
            self.child.kill()
            self.child.wait()


class Chaos:
    """One run and what befalls it."""

    def __init__(
        self, folder: Path, rng: random.Random, *, minutes: float, every_s: float, faults: int, haste: float = 1.0
    ) -> None:
        """``haste``: 2 halves what a machine sleeps, and the time-out that goes with it."""
        self.folder, self.rng, self.every_s, self.left = folder, rng, every_s, faults
        self.minutes, self.haste = minutes, haste
        self.run = RunDir(folder / "run")
        self.redis = Redis(folder)
        self.faults: list[Fault] = []
        self.frozen: list[tuple[float, list[int]]] = []
        self.run_id = ""
        self.child: subprocess.Popen[bytes] | None = None
        self.terminal: int | None = None
        self.once = dict(ONCE)

    # -- the run ---------------------------------------------------------------------------------------------

    def write(self) -> Path:
        now = clock.wall()
        words = ["the", "wind", "turns", "and", "power", "flows", "where", "none", "is", "wanted"]
        lines = [" ".join(self.rng.choices(words, k=12)) for _ in range(4000)]
        (self.folder / "corpus.txt").write_text("\n".join(lines), encoding="utf-8")
        rate = speed()
        # Three sites share two cores, come and go and are killed: about this much of a site's speed adds up.
        budget = int(rate * 60 * self.minutes * 1.1)
        text = CONFIG.format(budget=budget, bus=f"redis://127.0.0.1:{self.redis.port}/0", dead_man=DEAD_MAN_S / self.haste)
        for name in SITES:
            on, off = WINDOWS[name]
            rows, t = ["time_utc,g", f"{iso_utc(now - 3600)},{'10' if name == 'a' else '500'}"], now + 10 * SITES.index(name)
            while t < now + 4 * 3600:
                rows += [f"{iso_utc(t)},10", f"{iso_utc(t + 60 * on)},500"]
                t += 60 * (on + off)
            (self.folder / f"{name}.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
            text += SITE.format(name=name, rate=round(rate * 0.6), until=iso_utc(now + 5 * 3600))
        (self.folder / "chaos.toml").write_text(text, encoding="utf-8")
        return self.folder / "chaos.toml"

    def play(self) -> Result:
        """Start the run, strike until it ends, and look at what it left."""
        config = self.write()
        self.terminal, theirs = os.openpty()
        os.set_blocking(self.terminal, False)
        # As a shell does: the run leads its terminal's session, and is told when that closes.
        lead = "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execvp(sys.argv[1], sys.argv[1:])"
        verb = [sys.executable, "-m", "windfall.cli.main", "run", str(config), "--run-dir", str(self.run.root), "--quiet"]
        dead = f"http://wind:secret@127.0.0.1:{free_port()}"
        proxies = {"HTTP_PROXY": dead, "http_proxy": dead, "HTTPS_PROXY": dead, "ALL_PROXY": "socks5://127.0.0.1:9", "no_proxy": ""}
        self.child = child = subprocess.Popen(
            [sys.executable, "-c", lead, *verb], stdout=theirs, stderr=theirs, stdin=theirs, start_new_session=True,
            env={**os.environ, **proxies},
        )  # fmt: skip
        os.close(theirs)
        try:
            self._storm(child)
            finished = child.poll() == 0
            if child.poll() is None:
                say("  the run did not end in time")
        finally:
            finished = self._clear_away(child) and finished
        return self._result(finished)

    def _storm(self, child: subprocess.Popen[bytes]) -> None:
        """Strike until the run ends."""
        give_up = clock.monotonic() + 60 * (8 * self.minutes + 5)
        strike_at = float("inf")
        begun = clock.monotonic()
        while child.poll() is None and clock.monotonic() < give_up:
            clock.pause(0.1)
            self._read_terminal()
            self._thaw()
            self.redis.keep(self.rng)
            self._look()
            if strike_at == float("inf") and self._version() >= 1:
                say(f"  first version after {clock.monotonic() - begun:.0f} s")
                strike_at = clock.monotonic()
            if clock.monotonic() >= strike_at and self.left > 0:
                strike_at = clock.monotonic() + self.every_s * self.rng.uniform(0.6, 1.4)
                if (rare := self.once.pop(len(self.faults), "")) == "terminal":
                    self._close_terminal()
                elif rare == "machine":
                    self._sleep(child)
                    strike_at = clock.monotonic() + self.every_s
                else:
                    for _ in range(1 if len(self.faults) + 1 in self.once else self.rng.choice((1, 1, 1, 2))):
                        self._strike()

    def _clear_away(self, child: subprocess.Popen[bytes]) -> bool:
        """End what is still there; whether the run had ended everything itself."""
        self._thaw(all_of_them=True)
        ended = child.poll() == 0
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        self.redis.end()
        self._read_terminal()
        if self.terminal is not None:
            os.close(self.terminal)
        if not ended:
            say((self.folder / "windfall.log").read_text(errors="replace")[-2000:])
        for p in marked(self.run_id, self.run.root):
            say(f"  left over: {p}")
            ended = False
            with contextlib.suppress(ProcessLookupError):
                os.kill(p.pid, signal.SIGKILL)
        return ended

    def _version(self) -> int:
        try:
            ledger = Ledger.open(self.run.ledger, read_only=True)
            self.run_id = ledger.meta("run_id") or ""
            number = ledger.head().version
            ledger.close()
        except Exception:  # noqa: BLE001 - the run directory is being made
            return -1
        return number

    # -- faults ----------------------------------------------------------------------------------------------

    def _processes(self) -> dict[tuple[str, str], int]:
        """Process ids by (victim, site)."""
        found: dict[tuple[str, str], int] = {}
        for p in marked(self.run_id, self.run.root):
            try:
                line = Path(f"/proc/{p.pid}/cmdline").read_bytes().decode(errors="replace")
            except OSError:
                continue
            for victim, name in {**OWN, **AT_SITE}.items():
                if name in line and bool(p.site) == (victim in AT_SITE):
                    found.setdefault((victim, p.site), p.pid)
        if self.redis.child is not None:
            found[("redis", "")] = self.redis.child.pid
        return found

    def _strike(self) -> None:
        there = self._processes()
        victim = self.rng.choice(VICTIMS)
        choices = sorted(k for k in there if k[0] == victim)
        if not choices:
            return
        _, site = self.rng.choice(choices)
        pid = there[(victim, site)]
        if any(pid in pids for _, pids in self.frozen):
            return
        action = self.rng.choice(ACTIONS)
        fault = Fault(victim, action, site, clock.monotonic())
        fault.back = self._sign_of_life(victim, site, pid, killed=action != "stop")
        number = {"kill": signal.SIGKILL, "term": signal.SIGTERM, "stop": signal.SIGSTOP}[action]
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            return
        if action == "stop":
            self.frozen.append((clock.monotonic() + self.rng.choice((2, 5, 10, 25)), [pid]))
        self._note(fault)

    def _read_terminal(self) -> None:
        """What the run has said there."""
        if self.terminal is None:
            return
        with contextlib.suppress(OSError), open(self.folder / "windfall.log", "ab") as log:
            while said := os.read(self.terminal, 65536):
                log.write(said)

    def _close_terminal(self) -> None:
        assert self.terminal is not None
        self._read_terminal()
        os.close(self.terminal)
        self.terminal = None
        self._note(Fault("terminal", "close", "", clock.monotonic(), self._beats()))

    def _sleep(self, child: subprocess.Popen[bytes]) -> None:
        """Everything stops for a while, as on a laptop whose lid is closed, and goes on."""
        self._thaw(all_of_them=True)
        asleep: list[int] = []
        for _ in range(3):  # what the others start while they are being stopped is stopped as well
            redis = [self.redis.child.pid] if self.redis.child is not None else []
            for pid in {child.pid, *redis, *(p.pid for p in marked(self.run_id, self.run.root))} - set(asleep):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGSTOP)
                    asleep.append(pid)
        seconds = ASLEEP_S / self.haste
        say(f"      {len(asleep)} processes sleep for {seconds:.0f} s")
        clock.pause(seconds)
        for pid in asleep:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        self._note(Fault("machine", "stop", "", clock.monotonic(), self._beats()))

    def _beats(self) -> Callable[[], bool]:
        """A sign of life of the coordinator that is newer than now."""
        beat = read_json(self.run.beat) or {}
        return lambda: (read_json(self.run.beat) or beat) != beat

    def _note(self, fault: Fault) -> None:
        self.faults.append(fault)
        self.left -= 1
        say(f"  {len(self.faults):3d} {fault.action} {fault.victim}{' of ' + fault.site if fault.site else ''}")

    def _sign_of_life(self, victim: str, site: str, pid: int, *, killed: bool) -> Callable[[], bool]:
        """What shows that the victim's service is there again."""
        if victim == "redis":

            def redis_is_back() -> bool:
                child = self.redis.child
                return child is not None and child.pid != pid * killed and connects(self.redis.port) and not stopped(pid)

            return redis_is_back
        if victim == "superlink":
            port = int((read_json(self.run.root / "flower" / "superlink.json") or {}).get("port", 0))

            def superlink_is_back() -> bool:
                now = self._processes().get(("superlink", ""))
                return now not in (None, pid * killed) and connects(port) and (killed or not stopped(pid))

            return superlink_is_back
        if victim == "coordinator":
            beat = read_json(self.run.beat) or {}

            def coordinator_is_back() -> bool:
                now = read_json(self.run.beat) or beat
                return now != beat and (not killed or now.get("pid") != pid)

            return coordinator_is_back
        folder = self.run.sites / site / "trained"
        before = TrainedTokens.total(folder)
        if victim == "supernode":
            return lambda: self._processes().get(("supernode", site)) not in (None, pid * killed) and not stopped(pid)
        return lambda: self._processes().get((victim, site)) not in (None, pid * killed) and TrainedTokens.total(folder) > before

    def _look(self) -> None:
        """Which services are back."""
        for f in self.faults[-20:]:
            waited = clock.monotonic() - f.at
            if f.back is None:
                continue
            if waited > 60:
                f.back = None  # its window has closed, or a later fault has struck the same site: counted as unseen
            elif f.back():
                f.recovery_s, f.back = waited, None

    def _thaw(self, *, all_of_them: bool = False) -> None:
        now = clock.monotonic()
        for until, pids in list(self.frozen):
            if now >= until or all_of_them:
                self.frozen.remove((until, pids))
                for pid in pids:
                    try:
                        os.kill(pid, signal.SIGCONT)
                    except ProcessLookupError:
                        continue

    # -- what it left ----------------------------------------------------------------------------------------

    def _result(self, finished: bool) -> Result:
        ledger = Ledger.open(self.run.ledger, read_only=True)
        taken: dict[int, int] = {}
        tokens = 0
        for v in ledger.versions():
            for c in ledger.contributions(v.version):
                for used in c.header["consumed"]:
                    for block in range(used["start"], used["end"]):
                        taken[block] = taken.get(block, 0) + 1
                tokens += c.tokens
        aside = {b for start, end, state in ledger.spans() if state == "quarantined" for b in range(start, end)}
        lost = sum(1 for b in range(ledger.budget_blocks) if b not in taken and b not in aside)
        repeated = sum(n - 1 for n in taken.values())
        if finished and tokens != ledger.head().tokens_total:
            say(f"  tokens {tokens} of {ledger.head().tokens_total}")
            finished = False
        for v in ledger.retained():
            try:
                load_file(self.run.checkpoints / v.file, v.sha256)
            except DataError as e:
                say(f"  {e}")
                finished = False
        ledger.close()
        trained = sum(TrainedTokens.total(self.run.sites / s / "trained") for s in SITES)
        training, wanted, start_up = times(self.run.telemetry)
        per_block = 4
        lost, repeated, quarantined = lost * per_block, repeated * per_block, len(aside) * per_block
        return Result(finished, tokens, trained, training, wanted, lost, repeated, quarantined, self.faults, start_up)


def times(telemetry: Path) -> tuple[float, float, list[float]]:
    """Seconds of training, seconds wanted, and wall seconds of each start-up."""
    db = sqlite3.connect(f"{telemetry.absolute().as_uri()}?mode=ro", uri=True)
    (training,) = db.execute("SELECT SUM(t1 - t0) FROM energy WHERE phase = 'training'").fetchone()
    wanted = 0.0
    for (site,) in db.execute("SELECT DISTINCT site FROM decisions").fetchall():
        rows = db.execute("SELECT t_run, wanted FROM decisions WHERE site = ? ORDER BY t_run", (site,)).fetchall()
        wanted += sum(b[0] - a[0] for a, b in itertools.pairwise(rows) if a[1])
    start_up, begun = [], dict[str, float]()
    for site, at, state in db.execute("SELECT site, t_wall, state FROM states ORDER BY t_wall"):
        if state == "provisioning":
            begun[site] = at
        elif state == "training" and site in begun:
            start_up.append(at - begun.pop(site))
    db.close()
    return training or 0.0, wanted, start_up


def speed() -> float:
    """Tokens per second of one such site with a core to itself, roughly."""
    script = """
import torch, tempfile, pathlib
from windfall import clock
from windfall.train.prepare import prepare
from windfall.train.spec import TrainerSpec
from windfall.train.trainer import LocalTrainer
torch.set_num_threads(1)
d = pathlib.Path(tempfile.mkdtemp())
(d / "c.txt").write_text("the wind turns and power flows where none is wanted\\n" * 4000)
prepare(d / "c.txt", d / "data", sequence_length=128)
t = LocalTrainer(TrainerSpec(str(d / "data"), 2, 64, None, 128, 0, 8, 4, 10**7, "normuon", .3, .4, 0., .005, "fp32", 8))
[t.step([0, 1], 0.) for _ in range(20)]
a = clock.monotonic()
[t.step([0, 1], 0.) for _ in range(100)]
print(100 * t.tokens_per_step / (clock.monotonic() - a))
"""
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=env)
    return float(done.stdout)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seed", type=int, default=None, help="default: one by chance, printed")
    parser.add_argument("--faults", type=int, default=100, help="at least so many, over as many runs as it takes")
    parser.add_argument("--every", type=float, default=20.0, help="seconds between strikes, on average")
    parser.add_argument("--minutes", type=float, default=10.0, help="length of one run, about")
    parser.add_argument("--short", action="store_true", help="a dozen faults, in one run of a minute and a half")
    parser.add_argument("--keep", type=Path, default=None, help="keep the run directories in this folder")
    args = parser.parse_args()
    seed = args.seed if args.seed is not None else random.SystemRandom().randrange(10**6)
    say(f"seed {seed}")
    rng = random.Random(seed)
    results: list[Result] = []
    faults = 0
    wanted = 12 if args.short else args.faults
    every = 4.0 if args.short else args.every
    while faults < wanted:  # also in the short form, where a machine has become quicker than it was found to be
        folder = Path(tempfile.mkdtemp(prefix="windfall-chaos-")) if args.keep is None else args.keep / f"run-{len(results) + 1}"
        folder.mkdir(parents=True, exist_ok=True)
        say(f"run {len(results) + 1} in {folder}")
        chaos = Chaos(
            folder, rng, minutes=1.0 if args.short else args.minutes, every_s=every, faults=wanted - faults,
            haste=2.0 if args.short else 1.0,
        )  # fmt: skip
        results.append(chaos.play())
        faults += len(results[-1].faults)
        r = results[-1]
        say(f"  finished {r.finished}, committed {r.committed}, trained {r.trained}, lost {r.lost}, repeated {r.repeated}")
    return report(results, faults)


def report(results: list[Result], faults: int) -> int:
    """Print the figures; 0 if nothing was lost and everything finished."""
    recovery: dict[str, dict[str, float]] = {}
    for victim in (*VICTIMS, *ONCE.values()):
        for action in ("kill", "stop"):
            seconds = [
                f.recovery_s
                for r in results
                for f in r.faults
                if f.victim == victim and f.recovery_s is not None and (f.action == "stop") == (action == "stop")
            ]
            unseen = sum(
                f.victim == victim and f.recovery_s is None and (f.action == "stop") == (action == "stop")
                for r in results
                for f in r.faults
            )
            if seconds:
                name = victim if action == "kill" else f"{victim} (stopped)"
                recovery[name] = {
                    "median": round(statistics.median(seconds), 1),
                    "max": round(max(seconds), 1),
                    "n": len(seconds),
                    "unseen": unseen,
                }
                say(f"recovery of {name}: median {recovery[name]['median']} s, largest {max(seconds):.1f} s, {len(seconds)} times")
    start_up = [s for r in results for s in r.start_up_s]
    if start_up:
        say(f"start-up of a site: median {statistics.median(start_up):.1f} s, largest {max(start_up):.1f} s")
    lost, repeated = sum(r.lost for r in results), sum(r.repeated for r in results)
    quarantined = sum(r.quarantined for r in results)
    finished = sum(r.finished for r in results) / len(results)
    line = {
        "faults": faults,
        "goodput": round(sum(r.committed for r in results) / max(1, sum(r.trained for r in results)), 4),
        "availability": round(sum(r.training_s for r in results) / max(1.0, sum(r.wanted_s for r in results)), 4),
        "lost": lost, "repeated": repeated, "quarantined": quarantined, "finished": finished, "recovery_s": recovery,
        "start_up_s": round(statistics.median(start_up), 1) if start_up else None, "runs": len(results),
    }  # fmt: skip
    print(json.dumps(line))
    return 0 if lost == repeated == quarantined == 0 and finished == 1.0 else 1


if __name__ == "__main__":
    sys.exit(main())
