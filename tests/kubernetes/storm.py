"""A fleet of sites in doubled clusters on a manual clock, in a storm, and what must hold whatever comes."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from pathlib import Path

from fleet.test_fleet_machine import Work
from kubernetes.double import errors, faults
from kubernetes.double.cluster import Cluster
from kubernetes.double.faults import Fault
from kubernetes.double.kinds import BY_NAME
from kubernetes.double.runtime import Hollow, HollowRuntime
from kubernetes.sites import driver
from windfall.fleet.controller import Controller, NullJournal
from windfall.fleet.drivers.by_site import DriversBySite
from windfall.fleet.drivers.kubernetes import KubernetesDriver
from windfall.fleet.drivers.local import LocalDriver
from windfall.fleet.machine import Patience, Site, State
from windfall.policy.base import Decision

#: What an API server may answer in passing, beside nothing at all.
WEATHER = (
    "too_many_requests", "internal", "etcd_timeout", "etcd_leader", "webhook_down", "bad_gateway", "unavailable",
    "unavailable_later", "timeout", "server_timeout", "conflict", "expired", "unauthorized", "forbidden",
    faults.DROP, faults.LOSE, faults.GARBLE,
)  # fmt: skip
assert set(WEATHER) - {faults.DROP, faults.LOSE, faults.GARBLE} <= set(errors.BY_NAME)
_POD = BY_NAME["Pod"]
PATIENCE = Patience(spin_up_s=0, start_timeout_s=300, drain_timeout_s=60, backoff_s=30, backoff_max_s=120)


class Ready(Work):
    """The run's view: a site is ready when a container of its generation runs, and is lost when none has for a while."""

    def __init__(self, storm: Storm) -> None:
        self._storm = storm

    def ready(self, site: str, generation: int) -> bool:
        return generation in self._storm.generations(site)


@dataclass
class Storm:
    """``calm``: what goes wrong between client and server, but nothing at the sites themselves."""

    folder: Path
    seed: int
    sites: int = 1
    clusters: int = 1
    calm: bool = False
    queue: str | None = None
    tick_s: float = 5.0
    term_s: float = 8.0
    probability: float = 0.2
    moves: list[tuple[str, State, State, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.dice = random.Random(f"storm-{self.seed}")
        self.clouds: list[Cluster] = []
        self.drivers: dict[str, KubernetesDriver] = {}
        for i in range(self.clusters):
            runtime = HollowRuntime(term_s=self.term_s, shape=None if self.calm else self._shape)
            cluster = Cluster(self.folder / f"cluster-{i}", seed=self.seed + i, runtime=runtime)
            for n in range(2):
                cluster.node(f"node-{n}", gpus=self.sites)
            if self.queue:
                cluster.kueue(**{self.queue: self.sites})
            self.clouds.append(cluster)
        for s in range(self.sites):
            name, cluster = f"site-{s}", self.clouds[s % self.clusters]
            self.drivers[name] = driver(cluster, self.folder, site=name, queue=self.queue)
        local = LocalDriver(self.folder / "none", "run", lambda site: {})
        self.fleet = Controller(
            dict.fromkeys(self.drivers, PATIENCE), DriversBySite(local, dict(self.drivers)), NullJournal(), gated=False,
            seed=self.seed,
            observer=self._moved,
        )  # fmt: skip
        self.wanted = dict.fromkeys(self.drivers, False)
        self.time = 0.0

    def cluster_of(self, site: str) -> Cluster:
        return self.clouds[int(site.removeprefix("site-")) % self.clusters]

    def _shape(self, container: Hollow, now: float) -> None:
        if self.dice.random() < 0.15:
            container.end(now + self.dice.uniform(0, 60), self.dice.choice([0, 1, 137]))

    def _labelled(self, site: str) -> list[str]:
        return [
            p["metadata"]["name"] for p in self.cluster_of(site).all("Pod")
            if (p["metadata"].get("labels") or {}).get("windfall.io/site") == site
        ]  # fmt: skip

    def generations(self, site: str) -> list[int]:
        """Generations of the site's pods that run, whatever the API server says of them."""
        found = []
        for kubelet in self.cluster_of(site).kubelets.values():
            for worker in kubelet._workers.values():
                labels = worker.pod["metadata"].get("labels") or {}
                if labels.get("windfall.io/site") == site and any(c.is_up for c in worker.main):
                    found.append(int(labels["windfall.io/generation"]))
        return found

    def _moved(self, t: float, site: Site, old: State, new: State) -> None:
        self.moves.append((site.name, old, new, site.reason))
        if new is State.OFF:
            assert not self._labelled(site.name), f"{site.name} is off, and there is {self._labelled(site.name)}"
            assert not self.generations(site.name), f"{site.name} is off, and runs"

    def step(self) -> None:
        """One tick of everything, and what holds at each."""
        self.time += self.tick_s
        for cluster in self.clouds:
            cluster.tick(cluster.now + self.tick_s)
        self.fleet.observe()
        decisions = {s: Decision(on, "in a window" if on else "out of it", {}, None, {}) for s, on in self.wanted.items()}
        self.fleet.reconcile(self.time, self.time, decisions, Ready(self))
        for name in self.drivers:
            running = self.generations(name)
            assert len(running) <= 1, f"{name} runs twice"
            assert all(g <= self.fleet.sites[name].generation for g in running)

    def gust(self) -> None:
        """Something that goes wrong from now on, or a decision that changes."""
        for name in self.wanted:
            if self.dice.random() < 0.08:
                self.wanted[name] = not self.wanted[name]
        for cluster in self.clouds:
            if self.dice.random() < 0.3:
                cluster.faults.clear()
            if self.dice.random() < 0.3:
                action = self.dice.choice(WEATHER)
                times = self.dice.choice([1, 2, 10])
                cluster.faults.add(Fault(action, probability=self.probability, times=times, after=self.dice.random() < 0.3))
            if not self.calm and self.dice.random() < 0.05:
                kubelet = self.dice.choice(list(cluster.kubelets.values()))
                kubelet.reachable = not kubelet.reachable
            if not self.calm and self.dice.random() < 0.05 and cluster.all("Pod"):
                found = self.dice.choice(cluster.all("Pod"))["metadata"]
                cluster.api.delete(_POD, found["namespace"], found["name"])

    def clear_up(self) -> None:
        """The weather is fine, nobody wants anything: everything has to be off and gone."""
        for cluster in self.clouds:
            cluster.faults.clear()
            for kubelet in cluster.kubelets.values():
                kubelet.reachable = True
        self.wanted = dict.fromkeys(self.drivers, False)
        for _ in range(200):
            self.step()
            if all(s.state is State.OFF for s in self.fleet.sites.values()):
                break
        self.step()
        for cluster in self.clouds:
            assert (cluster.all("Pod"), cluster.running(), cluster.all("Secret")) == ([], [], [])
            assert all(s["spec"]["replicas"] == 0 for s in cluster.all("StatefulSet"))
            assert cluster.all("Job") == []
        assert {s.state for s in self.fleet.sites.values()} == {State.OFF}

    def blow(self, steps: int) -> None:
        for _ in range(steps):
            self.gust()
            self.step()
        self.clear_up()
        for cluster in self.clouds:
            cluster.close()
