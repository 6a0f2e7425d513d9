"""A run in one process to which anything can happen: sites, links and coordinators that die, freeze, and come again.

Wall time is counted in units of work instead of being measured, so that time-outs and graces play their part and the
same storm always takes the same course.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from federation.fake import counting
from federation.harness import BATCH, BLOCK, SEQ, Run
from windfall import clock, faults
from windfall.errors import WindfallError
from windfall.site.worker import SiteWorker
from windfall.store.files import Envelope
from windfall.wire.transport import Reply

#: Steps of a storm's run; a counting trainer has one parameter for each block.
STEPS = 240
BLOCKS = STEPS * BATCH // BLOCK
#: A storm that has not ended after so many units of work never will.
_LIMIT = 10_000


class CoordinatorDies(BaseException):
    """Raised where a coordinator is killed. Not an Exception: nothing may catch it."""


class StormRun(Run):
    """A life of the coordinator in a storm."""

    storm: Storm

    def idle(self) -> None:
        self.storm.pass_time()
        super().idle()

    def pump(self, name: str, worker: SiteWorker) -> None:
        if self.storm.frozen.get(name, 0) > self.storm.now:
            return
        try:
            worker.pump()
        except (faults.InjectedFault, WindfallError):  # as the trainer process ends, whichever it is
            self.world.kill(name)


class Storm:
    """A run, what is going to happen to it, and its coordinators one after another."""

    def __init__(self, root: Path, data: Path, windows: dict[str, list[tuple[float, float]]], **options: Any) -> None:
        self.now = 0.0
        self.frozen: dict[str, float] = {}
        self.plan: list[tuple[float, Callable[[], None]]] = []
        self.told: list[str] = []
        self._twists: list[str] = []
        self._held: list[tuple[float, Reply]] = []
        self._links = 0
        self._make: Callable[[StormRun | None], StormRun] = lambda earlier: StormRun(
            root, data, windows, earlier=earlier,
            **{"steps": STEPS, "trainer": counting(BLOCKS), "round_min": 6, "solo_min": 6, **options},
        )  # fmt: skip
        self.run = self._begin(None)
        self._poll = self.run.transport.poll
        self.run.transport.poll = self._twisted  # type: ignore[method-assign]

    def _begin(self, earlier: StormRun | None) -> StormRun:
        run = self._make(earlier)
        run.storm = self
        return run

    # -- time ------------------------------------------------------------------------------------------------

    @contextmanager
    def weather(self) -> Iterator[None]:
        """Wall time is this storm's."""
        with mock.patch.object(clock, "monotonic", self.wall_time):
            yield
        faults.disarm()

    def wall_time(self) -> float:
        """Units of work so far."""
        return self.now

    def at(self, when: float, what: Callable[[], None]) -> None:
        """Let something happen after ``when`` units of work."""
        self.plan.append((when, what))
        self.plan.sort(key=lambda entry: entry[0])

    def pass_time(self) -> None:
        self.now += 1
        assert self.now < _LIMIT, f"the run makes no progress; {self.told}"
        while self.plan and self.plan[0][0] <= self.now:
            self.plan.pop(0)[1]()

    def to_the_end(self) -> None:
        """Serve, with as many coordinators as it takes."""
        while True:
            try:
                result = self.run.serve()
            except (CoordinatorDies, faults.InjectedFault):
                self.restart()
                continue
            assert result == "done"
            return

    def restart(self, dead_for: int = 0) -> None:
        """The coordinator is gone; its sites go on by themselves for a while; the next one comes."""
        self.told.append("restart")
        for _ in range(dead_for):
            self.pass_time()
            for name, worker in list(self.run.workers.items()):
                self.run.pump(name, worker)
        self.run.crash()
        self.run = self._begin(self.run)

    # -- what may happen -------------------------------------------------------------------------------------

    def kill_agent(self, site: str) -> None:
        """SuperNode and trainer are gone."""
        self.told.append(f"kill agent {site}")
        self.run.world.kill(site)

    def kill_trainer(self, site: str) -> None:
        """The trainer is gone, and its SuperNode is still there."""
        self.told.append(f"kill trainer {site}")
        self.run.world.kill(site, node_too=False)

    def freeze(self, site: str, units: float) -> None:
        """The site's processes do nothing for a while."""
        self.told.append(f"freeze {site} for {units}")
        self.frozen[site] = self.now + units

    def cut_link(self, site: str) -> None:
        """The site's SuperNode is replaced by another one; what was under way fails a little later."""
        world = self.run.world
        worker, old = self.run.workers.get(site), world.nodes.get(site)
        if worker is None or old is None:
            return
        self.told.append(f"cut link {site}")
        for message, (_, node) in self.run.federation.members._nodes._asked.items():
            if node == old:
                self._held.append((self.now + 15, Reply(message, old, None, "Node Unavailable")))
        world.transport.disconnect(old)
        self._links += 1
        world.nodes[site] = f"{old.split('.')[0]}.{self._links}"
        worker._mailbox = world.transport.connect(world.nodes[site])

    def kill_coordinator(self) -> None:
        """At once, wherever it is."""
        raise CoordinatorDies

    def blackout(self) -> None:
        """Every process of the run is gone at once."""
        self.told.append("blackout")
        for site in list(self.run.workers):
            self.run.world.kill(site)
        raise CoordinatorDies

    def twist(self, kind: str) -> None:
        """What becomes of the next contribution on its way: `lose`, `twice`, `late`, `corrupt` or `garble`."""
        self._twists.append(kind)

    def _twisted(self) -> list[Reply]:
        found = [r for due, r in self._held if due <= self.now]
        self._held = [(due, r) for due, r in self._held if due > self.now]
        for reply in self._poll():
            contribution = reply.envelope is not None and bool(reply.envelope.header.get("consumed"))
            if not (contribution and self._twists):
                found.append(reply)
                continue
            kind = self._twists.pop(0)
            self.told.append(kind)
            match kind:
                case "lose":
                    self._held.append((self.now + 20, replace(reply, envelope=None, error="lost")))
                case "twice":
                    found += [reply, reply]
                case "late":
                    self._held.append((self.now + 25, reply))
                case "corrupt":
                    found.append(replace(reply, envelope=None, error="unreadable reply: checksum"))
                case "garble":
                    assert reply.envelope
                    found.append(replace(reply, envelope=replace(reply.envelope, header={**reply.envelope.header, "tokens": -1})))
        return found

    # -- what must be true -----------------------------------------------------------------------------------

    def assert_exactly_once(self) -> None:
        """Every block was committed once, by the contributions themselves; every retained version can be read."""
        ledger = self.run.ledger
        assert ledger.complete()
        times = np.zeros(BLOCKS, int)
        for v in ledger.versions():
            for c in ledger.contributions(v.version):
                for used in c.header["consumed"]:
                    times[used["start"] : used["end"]] += 1
        quarantined = [b for start, end, state in ledger.spans() if state == "quarantined" for b in range(start, end)]
        times[quarantined] += 1
        assert (times == 1).all(), (self.told, times)
        assert ledger.head().tokens_total == (BLOCKS - len(quarantined)) * BLOCK * SEQ
        for v in ledger.retained():
            self.run.checkpoints._cache = None
            self.run.checkpoints.weights(v)
        assert not self.run.workers, "no site is left"

    def close(self) -> None:
        """Let go of files."""
        self.run.close()


def garbage(envelope: Envelope) -> Envelope:
    """An envelope whose header is nonsense."""
    return replace(envelope, header={"kind": "contribution"})
