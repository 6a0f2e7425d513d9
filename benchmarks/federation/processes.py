"""A run's real processes (supervisor, SuperLink, file server, coordinator, agents, SuperNodes) whose trainers are those of
``trainers``. ``python -m benchmarks.federation.processes ROLE ...``; what they need to know of each other is in ``plan.json``.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from benchmarks.federation.links import Links, inside
from benchmarks.federation.trainers import NOTES, Noted, Notes, StandIn, first_weights, study

from windfall import clock
from windfall.cli import streams
from windfall.config.load import load
from windfall.errors import StoreError, WindfallError
from windfall.processes import marked
from windfall.run import coordinator, endpoint_process
from windfall.run.endpoint import EndpointProcess
from windfall.run.prepare import begin_run
from windfall.run.superlink import SuperLink
from windfall.run.supervisor import NoView, Supervisor
from windfall.site import agent, trainer_process
from windfall.store.files import read_json, write_json
from windfall.store.ledger import Ledger
from windfall.store.rundir import RunDir
from windfall.store.telemetry import Event, Telemetry
from windfall.wire.bulk_server import serving

#: Where this package can be imported from.
ROOT = Path(__file__).resolve().parents[2]
TICKS = "ticks.json"
#: Ticks of the loop that took less are not written down (s).
_WORTH_NOTING_S = 0.05
PATIENCE_S = 600.0
#: How long trainers are watched that only train.
_ALONE_S = 60.0
_LONG_AGO, _LONG_FROM_NOW = "2020-01-01T00:00:00Z", "2100-01-01T00:00Z"

CONFIG = """
[run]
name = "measured"
budget_tokens = {budget}
{clock}
tick_s = 1
[policy]
name = "threshold"
[model]
depth = {depth}
width = {width}
sequence_length = {sequence_length}
[data]
source = "corpus.txt"
eval_every_tokens = {eval_every_tokens}
[train]
batch_sequences = {blocks_per_step}
block_sequences = 1
[federation]
round_s = {round_s}
solo_cut_s = {round_s}
overlap = {overlap}
codec = "{codec}"
{federation}
[fleet]
start_timeout_s = 600
"""
SITE = """
[[site]]
name = "{name}"
region = "{name}"
spin_up_s = 10
train_power_w = 2000
idle_power_w = 400
tokens_per_s = {tokens_per_s}
{more}
[site.signal]
path = "signal.csv"
column = "g"
period_s = 0
until = "{until}"
"""


@dataclass
class Plan:
    """A run that is to be measured."""

    #: By site: seconds that it takes for a block.
    block_s: dict[str, float]
    depth: int = 3
    vocabulary: int = 65536
    round_s: float = 40.0
    overlap: bool = True
    codec: str = "int8"
    blocks_per_step: int = 8
    sequence_length: int = 256
    eval_s: float = 1.0
    eval_every_tokens: int = 10**15
    budget_steps: int = 100_000
    #: A fresh process per message, as Flower does it by itself.
    spawn: bool = False
    #: Trainers that train: else stand-ins.
    real: bool = False
    #: Width of a model that trains.
    width: int = 256
    bandwidth_mbit_s: float | None = None
    #: More lines of the table [federation].
    federation: str = ""
    #: By site: its network namespace and the address of the hub from there.
    namespaces: dict[str, str] = field(default_factory=dict)
    addresses: dict[str, str] = field(default_factory=dict)

    @property
    def tokens_per_step(self) -> int:
        return self.blocks_per_step * self.sequence_length


def plan_of(root: Path) -> Plan:
    """The plan beside a run directory."""
    return Plan(**json.loads((root / "plan.json").read_text(encoding="utf-8")))


def make(root: Path, plan: Plan, *, clock_table: str = 'clock = "real"') -> RunDir:
    """A run directory beside its configuration. A stand-in reads no corpus; what trains gets one."""
    root.mkdir(parents=True)
    (root / "plan.json").write_text(json.dumps(asdict(plan)), encoding="utf-8")
    (root / "signal.csv").write_text(f"time_utc,g\n{_LONG_AGO},10\n", encoding="utf-8")
    text = CONFIG.format(
        clock=clock_table, budget=plan.budget_steps * plan.tokens_per_step, depth=plan.depth,
        width=plan.width if plan.real else 64 * plan.depth, sequence_length=plan.sequence_length,
        eval_every_tokens=plan.eval_every_tokens, blocks_per_step=plan.blocks_per_step, round_s=plan.round_s,
        overlap=str(plan.overlap).lower(), codec=plan.codec, federation=plan.federation,
    )  # fmt: skip
    more = f"bandwidth_mbit_s = {plan.bandwidth_mbit_s}" if plan.bandwidth_mbit_s else ""
    for name, block_s in plan.block_s.items():
        rate = plan.sequence_length / block_s
        text += SITE.format(name=name, tokens_per_s=rate, more=more, until=_LONG_FROM_NOW)
    (root / "measured.toml").write_text(text, encoding="utf-8")
    run = RunDir(root / "run")
    if plan.real:
        words = ["the", "wind", "turns", "and", "power", "flows", "where", "none", "is", "wanted"]
        lines = (" ".join(words[(i * k + i) % 10] for k in range(12)) for i in range(20000))
        (root / "corpus.txt").write_text("\n".join(lines), encoding="utf-8")
        return run  # the supervisor makes it, as for anybody
    config = load(root / "measured.toml")
    run.make()
    weights = first_weights(study(plan.depth, plan.vocabulary))
    begin_run(config, run, weights, manifest=StandIn.manifest, folder=root, start=clock.wall())
    return run


def environment() -> dict[str, str]:
    """In which this package is found, and processes that share a machine leave each other their processors."""
    path = os.pathsep.join([str(ROOT), *sys.path])
    return {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "PYTHONPATH": path}


def command(role: str) -> tuple[str, ...]:
    return (sys.executable, "-m", "benchmarks.federation.processes", role)


# -- the parts of a run ------------------------------------------------------------------------------------------


class _SuperLink(SuperLink):
    """One that sites reach over links."""

    def command(self) -> list[str]:
        return ["0.0.0.0" if part == "127.0.0.1" else part for part in super().command()]


class _FileServer(EndpointProcess):
    """One that sites reach over links."""

    def command(self) -> list[str]:
        return [*command("files"), str(self._run.root.resolve()), str(self.port)]


class _Supervisor(Supervisor):
    coordinator = command("coordinator")

    def make_superlink(self, run_id: str) -> SuperLink:
        return _SuperLink(self._run, run_id, 0)

    def prepare(self) -> None:
        super().prepare()
        if self._bulk is not None:
            self._bulk = _FileServer(self._run, self._run_id)


class _Coordinator(coordinator.Coordinator):
    """Writes down how long the loop was away from its waiting."""

    _since: float | None = None
    _ticks: list[tuple[float, float]] | None = None

    def idle(self) -> None:
        if self._ticks is None:
            self._ticks = []
        now = clock.monotonic()
        if self._since is not None and now - self._since > _WORTH_NOTING_S:
            self._ticks.append((clock.wall(), now - self._since))
            write_json(self.run.logs / TICKS, self._ticks)
        super().idle()
        self._since = clock.monotonic()


class _Agent(agent.Agent):
    def trainer_command(self) -> list[str]:
        return [*command("trainer"), str(self._folder)]


def a_trainer(site: Mapping[str, Any]) -> Any:
    """What trains at a site."""
    folder = Path(site["folder"])
    plan = plan_of(folder.parents[2])
    notes = Notes(folder / NOTES)
    if plan.real:
        return Noted(trainer_process.local_trainer(site), notes)
    made = StandIn(
        study(plan.depth, plan.vocabulary), block_s=plan.block_s[site["site"]], eval_s=plan.eval_s,
        blocks_per_step=plan.blocks_per_step, tokens_per_step=plan.tokens_per_step,
    )  # fmt: skip
    return Noted(made, notes)


def an_agent(folder: Path) -> int:
    """A site's agent, in its own namespace if it has one."""
    plan, site = plan_of(folder.parents[2]), folder.name
    told = read_json(folder / "site.json") or {}
    if plan.spawn:
        told["messages"] = "spawn"
    namespace = plan.namespaces.get(site)
    if namespace:
        address = plan.addresses[site]
        told["superlink"] = told["superlink"].replace("127.0.0.1", address)
        if told.get("bulk"):
            told["bulk"]["url"] = told["bulk"]["url"].replace("127.0.0.1", address)
    write_json(folder / "site.json", told)
    if namespace:
        line = inside(namespace, [*command("agent-there"), str(folder)])
        os.execvp(line[0], line)
    return agent.main([str(folder)], make=_Agent)


def train_alone(config_file: str, run: str, site: str) -> int:
    """Steps of one site as it takes them in a joint round, and nothing else; prints tokens per second."""
    from windfall.run.training_inputs import data_dir, trainer_spec
    from windfall.train.trainer import LocalTrainer

    torch.set_num_threads(1)
    config = load(Path(config_file))
    trainer = LocalTrainer(trainer_spec(config, data_dir(config, RunDir(Path(run)))))
    plan = plan_of(Path(run).parent)
    each = plan.blocks_per_step // len(plan.block_s)
    first = list(plan.block_s).index(site) * each
    trainer.step(list(range(first, first + each)), 0.0)  # the first one takes longer
    begun, blocks = clock.monotonic(), 0
    while clock.monotonic() - begun < _ALONE_S:
        first = (first + 2 * each) % (trainer.data.train_sequences - each)
        trainer.step(list(range(first, first + each)), 0.0)
        blocks += each
    print(blocks * plan.sequence_length / (clock.monotonic() - begun))
    return 0


def supervise(root: Path) -> int:
    """See a run to its end."""
    streams.take_over()
    streams.be_patient()  # as `windfall run` is
    supervisor = _Supervisor(load(root / "measured.toml"), RunDir(root / "run"), NoView(), lambda text: print(text, flush=True))
    try:
        supervisor.prepare()
        return supervisor.serve()
    except WindfallError as e:
        print(e, flush=True)
        return e.exit_code


def main(role: str, *args: str) -> int:
    match role:
        case "run":
            return supervise(Path(args[0]))
        case "coordinator":
            coordinator.Coordinator = _Coordinator  # type: ignore[misc]
            return coordinator.main(list(args), agent=command("agent"))
        case "files":
            endpoint_process.serving = lambda app, _, port: serving(app, "0.0.0.0", port)  # type: ignore[assignment,attr-defined,misc]
            return endpoint_process.main(list(args))
        case "agent":
            return an_agent(Path(args[0]).resolve())
        case "agent-there":
            return agent.main(list(args), make=_Agent)
        case "alone":
            return train_alone(*args)
        case "trainer":
            return trainer_process.main(list(args), make=a_trainer)
    return 2


# -- from outside ------------------------------------------------------------------------------------------------


class Living:
    """A run under way. Nothing of it survives the end of its context."""

    def __init__(self, root: Path, plan: Plan, over: Links | None = None) -> None:
        if over is not None:
            plan.namespaces, plan.addresses = over.namespaces, over.addresses
        self.root, self.plan = root, plan
        self.run = make(root, plan)
        self._command = [*command("run"), str(root)]
        if over is not None:
            self._command = inside(over.hub, self._command)
        self._run_id = ""

    def __enter__(self) -> Living:
        with open(self.root / "said.txt", "ab") as said:
            self._child = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=said, stderr=said, start_new_session=True, env=environment()
            )
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self, within_s: float = 60.0) -> None:
        """End it: in order if that is possible."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._child.pid, signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._child.wait(within_s)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._child.pid, signal.SIGKILL)
        self._child.wait()
        deadline = clock.monotonic() + PATIENCE_S
        while (left := self.processes()) and clock.monotonic() < deadline:
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            clock.pause(0.1)

    @property
    def run_id(self) -> str:
        if not self._run_id:
            with contextlib.suppress(StoreError):
                ledger = Ledger.open(self.run.ledger, read_only=True)
                self._run_id = ledger.meta("run_id") or ""
                ledger.close()
        return self._run_id

    def processes(self, part: str = "", site: str = "") -> list[int]:
        """Process ids, of those whose command line has ``part``."""
        found = []
        for p in marked(self.run_id, self.run.root) if self.run_id else ():
            with contextlib.suppress(OSError):
                line = Path(f"/proc/{p.pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                if part in line and (not part or p.site == site):
                    found.append(p.pid)
        return found

    def wait_for(self, what: str, ready: Callable[[], object], pause_s: float = 0.5, within_s: float = PATIENCE_S) -> None:
        """Look until it is so. Raises RuntimeError if it never is, or the run has ended."""
        deadline = clock.monotonic() + within_s
        while not ready():
            if self._child.poll() is not None or clock.monotonic() > deadline:
                said = (self.root / "said.txt").read_text(encoding="utf-8")[-2000:]
                raise RuntimeError(f"no {what} came; the run's status is {self._child.returncode}; it said: {said}")
            clock.pause(pause_s)

    def events(self, *kinds: str) -> list[Event]:
        """Events of these kinds so far."""
        try:
            telemetry = Telemetry.open(self.run.telemetry, read_only=True)
        except StoreError:  # it is being made
            return []
        try:
            return [e for _, e in telemetry.events() if e.kind in kinds]
        finally:
            telemetry.close()

    def joint_rounds(self) -> list[Event]:
        """Beginnings of rounds of all sites."""
        return [e for e in self.events("round") if len(e.detail["sites"]) == len(self.plan.block_s)]

    def notes(self, site: str) -> list[dict[str, Any]]:
        """What its trainer has written down."""
        path = self.run.sites / site / NOTES
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        return [json.loads(line) for line in lines if line.endswith("}")]

    def longest_tick_s(self) -> float:
        """Of the coordinator's loop, the last coordinator's."""
        said = read_json(self.run.logs / TICKS)
        return max((float(s) for _, s in said), default=0.0) if isinstance(said, list) else 0.0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
