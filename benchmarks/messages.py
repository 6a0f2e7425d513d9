"""What a message and a start cost over real Flower, with a process per message and without, in the same run.

    make bench-messages

A SuperLink, and two sites with agent and SuperNode each. The first two lines are of messages that ask for nothing, answered by a
stand-in for the trainer; the last one is of a real trainer (a small model), from `ensure_up` to the answer to its hello. Each is
measured both ways in turn; ratios are of medians.

| line | fields |
|---|---|
| `round` | seconds from sending both sites a message until both have answered; CPU seconds of sites and SuperLink for one message |
| `tls` | the same round through tunnel and endpoint, over TLS and with a token, as sites on other machines have it |
| `beside` | what trainers that share the machine with back-to-back messages get done, as a share of what they do without messages |
| `start` | seconds and CPU seconds from a site's `ensure_up` to its answer to hello; `forked`: from what has imported already |
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import secrets
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from windfall import clock
from windfall.config.load import load
from windfall.config.schema import Config
from windfall.federation.flower_attach import Attachment
from windfall.federation.flower_transport import FlowerTransport
from windfall.fleet.drivers.local import AGENT, LocalDriver
from windfall.fleet.machine import Action, Observed
from windfall.processes import mark, marked, spawn
from windfall.run.prepare import prepare_run
from windfall.run.recorder import LedgerJournal
from windfall.run.sites import describe_site, nursery_for
from windfall.run.superlink import SuperLink
from windfall.site import agent
from windfall.site.nursery import Nursery
from windfall.store.files import Envelope, read_json, write_json
from windfall.store.ledger import Ledger
from windfall.store.rundir import RunDir
from windfall.units import iso_utc
from windfall.wire.certificates import make
from windfall.wire.flower_environment import flower_environment
from windfall.wire.messages import Greeting
from windfall.wire.probe import free_port, port_is_free
from windfall.wire.transport import FileMailbox

SITES = ("a", "b")
#: By what is printed: what a site is told about its messages.
WAYS: dict[str, dict[str, Any]] = {"spawn": {"messages": "spawn"}, "warm": {}}
PATIENCE_S = 300.0
_TICKS = os.sysconf("SC_CLK_TCK")

CONFIG = """
[run]
name = "messages"
budget_tokens = 1024000
start = "2026-01-01T00:00Z"
clock = "scaled"
speed = 1e6
[policy]
name = "threshold"
[model]
depth = 2
width = 64
sequence_length = 64
[data]
source = "corpus.txt"
[train]
batch_sequences = 8
block_sequences = 2
"""
SITE = """
[[site]]
name = "{name}"
region = "{name}"
spin_up_s = 60
train_power_w = 2000
idle_power_w = 400
tokens_per_s = 1000
[site.signal]
path = "signal.csv"
column = "g"
period_s = 0
until = "2026-02-01T00:00Z"
"""


def main() -> int:
    """Print a JSON line per figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=12, help="empty rounds of each way")
    parser.add_argument("--starts", type=int, default=5, help="starts of each way")
    parser.add_argument("--beside-s", type=float, default=20.0, help="how long trainers are watched beside messages")
    parser.add_argument("--agent", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--trainer", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.agent:
        return agent.main([str(args.agent)], make=StandInAgent)
    if args.trainer:
        return stand_in(args.trainer)
    with tempfile.TemporaryDirectory() as folder:
        config = a_config(Path(folder))
        run = RunDir(Path(folder) / "run")
        prepare_run(config, run, lambda _: None)
        bench = Bench(config, run)
        try:
            measure(bench, args.rounds, args.starts, args.beside_s)
        finally:
            bench.close()
    return 0


def a_config(folder: Path) -> Config:
    """A run of two sites with a small model."""
    rng = np.random.default_rng(0)
    words = ["the", "wind", "turns", "and", "power", "flows", "where", "none", "is", "wanted"]
    (folder / "corpus.txt").write_text("\n".join(" ".join(rng.choice(words, 12)) for _ in range(4000)), encoding="utf-8")
    (folder / "signal.csv").write_text(f"time_utc,g\n{iso_utc(1_767_000_000.0)},10\n", encoding="utf-8")
    file = folder / "messages.toml"
    file.write_text(CONFIG + "".join(SITE.format(name=name) for name in SITES), encoding="utf-8")
    return load(file)


class Bench:
    """A SuperLink with our end of it, and sites of either way."""

    def __init__(self, config: Config, run: RunDir) -> None:
        ledger = Ledger.open(run.ledger, read_only=True)
        self.run_id = ledger.meta("run_id") or ""
        ledger.close()
        self._config, self._run, self.sites = config, run, run.sites
        self._generation = 0
        self.link = SuperLink(run, self.run_id, 0)
        self.link.start()
        self.transport = FlowerTransport(Attachment(f"127.0.0.1:{self.link.port}", wait_s=PATIENCE_S))
        self._drivers: list[LocalDriver] = []
        self._endpoint: subprocess.Popen[bytes] | None = None

    def driver(
        self, way: str, command: tuple[str, ...], nursery: Nursery | None = None, more: dict[str, Any] | None = None
    ) -> LocalDriver:
        """What starts sites whose messages go this way; ``more``: what they are told besides."""

        def describe(site: str) -> dict[str, Any]:
            return {
                **describe_site(self._config, self._run, site, f"127.0.0.1:{self.link.port}", free_port()),
                **WAYS[way],
                **(more or {}),
            }

        made = LocalDriver(
            self._run.sites, self.run_id, describe, environment=flower_environment(str(self._run.root / "flower")), agent=command,
            nursery=nursery, token_for=self.new_token if "endpoint" in (more or {}) else None,
        )  # fmt: skip
        self._drivers.append(made)
        return made

    def over_tls(self) -> dict[str, Any]:
        """Begin an endpoint before the SuperLink; what a site is told whose messages go through it."""
        certificates = make(self._run.root / "certs", ["127.0.0.1"], clock.wall(), days=1)
        self._run.bulk.mkdir(exist_ok=True)
        serves = {"certificate": str(certificates.endpoint), "key": str(certificates.endpoint_key), "residents": []}
        write_json(self._run.served, {"host": "127.0.0.1", "superlink_port": self.link.port, **serves})
        port = free_port()
        self._endpoint = spawn(
            [sys.executable, "-m", "windfall.run.endpoint_process", str(self._run.root.resolve()), str(port)],
            log=self._run.logs / "endpoint.log", env={**os.environ, **mark(self.run_id, self._run.root)},
        )  # fmt: skip
        wait_for("the endpoint", lambda: not port_is_free(port))
        return {"endpoint": f"https://127.0.0.1:{port}", "ca_file": str(certificates.ca)}

    def new_token(self, site: str, generation: int) -> str:
        """A token of a site's life, as a coordinator makes it."""
        token = secrets.token_hex(32)
        ledger = Ledger.open(self._run.ledger)
        LedgerJournal(ledger).asked(0.0, site, generation, Action.UP.value, "measured")  # which makes it the current life
        ledger.keep_token(site, generation, hashlib.sha256(token.encode()).hexdigest())
        ledger.close()
        return token

    def nursery(self) -> Nursery:
        """What a coordinator of this run would have."""
        made = nursery_for(self._config, self._run, self.run_id)
        assert made is not None
        return made

    def up(self, driver: LocalDriver, sites: tuple[str, ...]) -> list[str]:
        """Start sites and wait for their nodes."""
        before = self.transport.nodes()
        self._generation += 1
        for site in sites:
            driver.ensure_up(site, self._generation)
        found: set[str] = set()

        def came() -> bool:
            self.transport.poll()
            found.update(self.transport.nodes() - before)
            return len(found) == len(sites)

        wait_for(f"nodes of {', '.join(sites)}", came)
        return sorted(found)

    def down(self, driver: LocalDriver, sites: tuple[str, ...], nodes: list[str]) -> None:
        """End sites and wait until they are gone."""
        for site in sites:
            driver.ensure_down(site, 10.0, "measured")
        wait_for("sites to end", lambda: all(o.state is Observed.ABSENT for o in driver.observe(sites).values()))
        wait_for("nodes to leave", lambda: self.transport.poll() is not None and not self.transport.nodes() & set(nodes))

    def ask(self, nodes: list[str], header: dict[str, Any]) -> list[dict[str, Any]]:
        """Send each of them a message; what they answer."""
        waiting = {self.transport.push(node, Envelope(header)) for node in nodes}
        answers: list[dict[str, Any]] = []

        def answered() -> bool:
            for reply in self.transport.poll():
                if reply.message_id in waiting:
                    if reply.envelope is None:
                        raise RuntimeError(f"no answer: {reply.error}")
                    waiting.discard(reply.message_id)
                    answers.append(reply.envelope.header)
            return not waiting

        wait_for("answers", answered, 0.005)
        return answers

    def cpu_s(self, driver: LocalDriver) -> float:
        """What all processes of living sites and the SuperLink have used so far, those that have ended included."""
        sites = {owned.site for owned in driver.list_owned(self.run_id)}
        processes = marked(self.run_id, self._run.root)
        return sum(used_s(group) for group in {p.pgid for p in processes if p.site in sites or not p.site})

    def close(self) -> None:
        for driver in self._drivers:
            driver.kill_all()
            driver.close()
        if self._endpoint is not None:
            self._endpoint.terminate()
            self._endpoint.wait()
        self.transport.close()
        self.link.stop()


def used_s(group: int) -> float:
    """CPU seconds of a process group: its processes, those that have ended and not been asked for yet, and those that have."""
    total = 0
    for entry in os.listdir("/proc"):
        with contextlib.suppress(OSError, ValueError):
            fields = Path(f"/proc/{int(entry)}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
            if int(fields[2]) == group:
                total += sum(int(f) for f in fields[11:15])
    return total / _TICKS


def wait_for(what: str, ready: Callable[[], object], pause_s: float = 0.02) -> None:
    """Look until it is so. Raises RuntimeError if it never is."""
    deadline = clock.monotonic() + PATIENCE_S
    while not ready():
        if clock.monotonic() > deadline:
            raise RuntimeError(f"timed out waiting for {what}")
        clock.pause(pause_s)


# -- the stand-in ----------------------------------------------------------------------------------------------


class StandInAgent(agent.Agent):
    """An agent whose trainer only answers, and works where it is asked to."""

    def trainer_command(self) -> list[str]:
        return [sys.executable, str(Path(__file__).resolve()), "--trainer", str(self._folder)]


def stand_in(folder: Path) -> int:
    """Answer every message; while there is a file ``busy``, work, and say in ``work.json`` how much has been done."""
    asked: list[int] = []
    signal.signal(signal.SIGTERM, lambda n, _: asked.append(n))
    mailbox, busy, done, told = FileMailbox(folder), folder / "busy", 0, 0.0
    work = np.random.default_rng(0).standard_normal((160, 160)).astype(np.float32)
    while not asked:
        taken = mailbox.take()
        if taken is not None:
            mailbox.answer(taken[0], Envelope({"kind": "nothing"}))
        elif busy.exists():
            for _ in range(20):
                work = np.tanh(work @ work)
            done += 1
            if clock.monotonic() - told > 0.2:
                told = clock.monotonic()
                write_json(folder / "work.json", {"done": done, "at": told})
        else:
            clock.pause(0.005)
    return 0


# -- the figures -----------------------------------------------------------------------------------------------


def measure(bench: Bench, rounds: int, starts: int, beside_s: float) -> None:
    """Print them."""
    command = (sys.executable, str(Path(__file__).resolve()), "--agent")
    walls: dict[str, list[float]] = {way: [] for way in WAYS}
    cpus: dict[str, float] = {}
    shares: dict[str, float] = {}
    for way in WAYS:
        driver = bench.driver(way, command)
        nodes = bench.up(driver, SITES)
        bench.ask(nodes, {"kind": "nothing"})  # the first one of a Flower run brings its bundle along
        used = bench.cpu_s(driver)
        for _ in range(rounds):
            begun = clock.monotonic()
            bench.ask(nodes, {"kind": "nothing"})
            walls[way].append(clock.monotonic() - begun)
        cpus[way] = (bench.cpu_s(driver) - used) / rounds / len(SITES)
        shares[way] = beside(bench, nodes, beside_s)
        bench.down(driver, SITES, nodes)
    more: dict[str, Any] = {"rounds": rounds}
    for way in WAYS:
        more |= {f"{way}_largest_s": max(walls[way]), f"{way}_cpu_s": cpus[way]}
    line("round", {way: statistics.median(walls[way]) for way in WAYS}, limit=0.4, more=more)
    tls(bench, command, rounds)
    print(json.dumps({"figure": "beside", **{f"{way}_share": round(shares[way], 3) for way in WAYS}}), flush=True)
    started: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
    started["forked"] = []
    nursery = bench.nursery()
    wait_for("the nursery", nursery.ready)
    drivers = {way: bench.driver(way, AGENT) for way in WAYS} | {"forked": bench.driver("warm", AGENT, nursery)}
    for _ in range(starts):
        for way, driver in drivers.items():
            begun = clock.monotonic()
            nodes = bench.up(driver, SITES[:1])
            (said,) = bench.ask(nodes, Greeting(1).header())
            assert said["kind"] == "hello", said
            wall = clock.monotonic() - begun
            started[way].append((wall, sum(used_s(int(owned.handle)) for owned in driver.list_owned(bench.run_id))))
            bench.down(driver, SITES[:1], nodes)
    more = {"starts": starts}
    for way in started:
        more |= {
            f"{way}_largest_s": max(wall for wall, _ in started[way]),
            f"{way}_cpu_s": statistics.median(cpu for _, cpu in started[way]),
        }
    line("start", {way: statistics.median(wall for wall, _ in started[way]) for way in started}, limit=0.5, more=more)


def tls(bench: Bench, command: tuple[str, ...], rounds: int) -> None:
    """Print what a round takes over TLS, beside one that does not, a round of each in turn."""
    plain, secured = bench.driver("warm", command), bench.driver("warm", command, more=bench.over_tls())
    nodes = {"warm": bench.up(plain, SITES[:1]), "tls": bench.up(secured, SITES[1:])}
    walls: dict[str, list[float]] = {way: [] for way in nodes}
    for way in nodes:
        bench.ask(nodes[way], {"kind": "nothing"})
    for _ in range(rounds):
        for way in nodes:
            begun = clock.monotonic()
            bench.ask(nodes[way], {"kind": "nothing"})
            walls[way].append(clock.monotonic() - begun)
    medians = {way: statistics.median(walls[way]) for way in walls}
    ratio = round(medians["tls"] / medians["warm"], 3)
    figure = {"figure": "tls", **{f"{way}_s": round(s, 3) for way, s in medians.items()}, "ratio": ratio, "limit": 1.05}
    print(json.dumps({**figure, "met": ratio <= 1.05}), flush=True)
    bench.down(plain, SITES[:1], nodes["warm"])
    bench.down(secured, SITES[1:], nodes["tls"])


def beside(bench: Bench, nodes: list[str], for_s: float) -> float:
    """What stand-ins that work get done beside back-to-back messages, as a share of what they do without."""
    folders = [bench.sites / site for site in SITES]
    for folder in folders:
        (folder / "work.json").unlink(missing_ok=True)  # of the other way
        (folder / "busy").touch()
    wait_for("work", lambda: all((f / "work.json").exists() for f in folders))

    def rate(meanwhile: Callable[[], object]) -> float:
        first = [read_json(f / "work.json") for f in folders]
        until = clock.monotonic() + for_s
        while clock.monotonic() < until:
            meanwhile()
        last = [read_json(f / "work.json") for f in folders]
        return sum(float((b["done"] - a["done"]) / (b["at"] - a["at"])) for a, b in zip(first, last, strict=True) if a and b)

    alone = rate(lambda: clock.pause(0.2))
    asked = rate(lambda: bench.ask(nodes, {"kind": "nothing"}))
    for folder in folders:
        (folder / "busy").unlink()
    return asked / alone


def line(figure: str, seconds: dict[str, float], *, limit: float, more: dict[str, Any]) -> None:
    """One JSON line with the ratio of the new way to the other."""
    values = {**{f"{way}_s": s for way, s in seconds.items()}, **more}
    rounded = {k: round(v, 3) if isinstance(v, float) else v for k, v in values.items()}
    newest = [*seconds.values()][-1]  # ways come from the oldest to the newest
    print(json.dumps({"figure": figure, "ratio": round(newest / seconds["spawn"], 3), "limit": limit, **rounded}), flush=True)


if __name__ == "__main__":
    sys.exit(main())
