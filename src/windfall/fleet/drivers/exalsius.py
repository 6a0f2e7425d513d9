"""exalsius driver: a site is a pod in a cluster to which its nodes belong only while it is wanted.

exalsius adds nodes of its pool to a cluster and removes them; the Kubernetes driver runs the pod. The pod's StatefulSet is made
first: run, site and generation are written on it, where the next coordinator finds them. There it waits until a node has joined.
Nodes leave after the pod is gone. Which nodes are the site's is in the configuration: exalsius has no
labels. Nothing is written down here: each look compares what there is with what is wanted, and asks for what is missing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, TypeVar

import httpx2
import yaml
from lightkube import KubeConfig

from windfall.config.exalsius import ExalsiusTable
from windfall.errors import Permanent, Transient, Unauthorized
from windfall.fleet.driver import Owned
from windfall.fleet.drivers.exalsius_api import ControlPlane, NotThere, OutOfDate
from windfall.fleet.drivers.kubernetes import KubernetesDriver
from windfall.fleet.drivers.kubernetes_api import Cluster
from windfall.fleet.drivers.start import Starts
from windfall.fleet.machine import DriverFault, Observation, Observed

Json = dict[str, Any]
_T = TypeVar("_T")
#: A node with such a status belongs to a cluster.
_TAKEN = ("ADDED", "DEPLOYED")
#: In a kubeconfig from elsewhere: what would run a program here, or read a file here and send it away.
_NOT_FROM_ELSEWHERE = ("exec", "auth-provider", "tokenFile", "client-certificate", "client-key", "certificate-authority")


class ExalsiusDriver:
    """One site's nodes and pod. Implements ``fleet.driver.Driver``; it waits for exalsius and for the cluster."""

    def __init__(
        self, site: str, table: ExalsiusTable, run_id: str, starts: Starts, *, control: ControlPlane | None = None,
        transport: httpx2.BaseTransport | None = None,
    ) -> None:  # fmt: skip
        """``transport``: in place of the network to the cluster, for tests."""
        self._site, self._table, self._run_id = site, table, run_id
        self.control = control if control is not None else ControlPlane(table)
        given = None if table.kubernetes.kubeconfig else self._kubeconfig
        cluster = Cluster(table.kubernetes, transport=transport, kubeconfig=given)
        self._pod = KubernetesDriver(site, table.kubernetes, run_id, starts, cluster=cluster)
        self._cluster_id = ""
        #: The site is to be off, and its nodes are to leave when its pod has.
        self._stopping = False
        #: Nodes that have been asked to leave since the site was last asked to stop; and those that have not yet been seen free.
        self._asked: set[str] = set()
        self._leaving: set[str] = set()
        #: What exalsius last said to a request that came too early or too late.
        self._said = ""

    # -- the driver ------------------------------------------------------------------------------------------

    def ensure_up(self, site: str, generation: int) -> None:
        found = self._cluster()
        status = found.get("cluster_status")
        if status in ("PENDING", "FAILED", "DELETING"):
            raise Permanent(f"cluster {self._table.cluster} is {status}, and nothing can run in it; deploy it")
        if status != "READY":
            raise Transient(f"InstallingPrerequisites: cluster {self._table.cluster} is {status}")
        self._nodes()  # a node that there is not is told before anything is made
        self._on_pod(lambda: self._pod.ensure_up(site, generation))
        self._stopping = False
        self._said = ""
        self._leaving.clear()
        self._join()

    def ensure_down(self, site: str, grace_s: float, reason: str) -> None:
        self._stopping = True
        self._said = ""
        self._asked.clear()
        self._on_pod(lambda: self._pod.ensure_down(site, grace_s, reason))
        if self._look_at_pod().state is Observed.ABSENT:
            self._leave()

    def observe(self, sites: Iterable[str]) -> dict[str, Observation]:
        return dict.fromkeys(sites, self._look())

    def list_owned(self, run_id: str) -> list[Owned]:
        return [] if run_id != self._run_id else self._on_pod(lambda: self._pod.list_owned(run_id))

    # -- looking ---------------------------------------------------------------------------------------------

    def _look(self) -> Observation:
        pod = self._look_at_pod()
        if pod.state is Observed.STARTING and not self._stopping:
            return self._join() or (replace(pod, words=f"Deploying: {pod.words}") if pod.words else pod)
        if pod.state is not Observed.ABSENT:
            return pod  # that a node is lost is told by the cluster
        if self._stopping:
            return self._leave()
        inside = [n for n in self._nodes() if n["inside"]]
        if inside:
            # Whoever started the site did not live to end it: a failed site is stopped, which makes them leave.
            return Observation(Observed.FAILED, f"{_named(inside)} in the cluster, and nothing of the site is there")
        return pod

    def _look_at_pod(self) -> Observation:
        return self._on_pod(lambda: self._pod.observe([self._site]))[self._site]

    def _join(self) -> Observation | None:
        """Have the nodes join that can; what keeps the site waiting, or None once all have joined."""
        nodes = self._nodes()
        for node in nodes:
            status, why = node.get("node_status"), node.get("warning_message") or ""
            if status in ("FAILED", "WARNING"):
                told = f"Failed: node {_name(node)} is {status}{f', {why}' if why else ''}"
                return Observation(Observed.FAILED, told, DriverFault.PERMANENT)
        out = [n for n in nodes if not n["inside"]]
        free = [n["id"] for n in out if n.get("node_status") == "AVAILABLE"]
        if free:
            try:
                self.control.add(self._id(), free)
                self._said = ""
            except OutOfDate as e:
                self._said = str(e)  # it is not as it was read; the next look reads it again
            return Observation(Observed.STARTING, self._with_said(f"Deploying: {_named(out)} told to join"))
        busy = [n for n in out if n.get("node_status") in _TAKEN]
        if busy:
            return Observation(Observed.STARTING, f"Waiting: {_named(busy)} in use in another cluster", queued=True)
        if out:
            status = out[0].get("node_status", "unknown")
            return Observation(Observed.STARTING, f"Pending: {_named(out)} {status}, and not free yet")
        coming = [n for n in nodes if n.get("node_status") != "DEPLOYED"]
        return Observation(Observed.STARTING, f"Deploying: {_named(coming)} joining the cluster") if coming else None

    def _leave(self) -> Observation:
        """Have the nodes leave that are in the cluster; absent once none is."""
        nodes = self._nodes()
        self._leaving -= {n["id"] for n in nodes if not n["inside"] and n.get("node_status") not in _TAKEN}
        for node in nodes:
            if not node["inside"] or node["id"] in self._asked:
                continue
            self._leaving.add(node["id"])
            try:
                self.control.remove(self._id(), node["id"])
            except (OutOfDate, NotThere) as e:
                self._said = str(e)
            else:
                self._asked.add(node["id"])
        still = [n for n in nodes if n["inside"] or n["id"] in self._leaving]
        if still:
            return Observation(Observed.STOPPING, self._with_said(f"Deleting: {_named(still)} leaving the cluster"))
        return Observation(Observed.ABSENT)

    def _with_said(self, words: str) -> str:
        return f"{words}; {self._said}" if self._said else words

    # -- what exalsius has -----------------------------------------------------------------------------------

    def _nodes(self) -> list[Json]:
        """The site's nodes; ``inside``: the cluster has it, or it is on its way in or out."""
        members = self.control.members(self._id())
        pool = self.control.nodes()
        nodes = []
        for name in self._table.nodes:
            found = [n for n in pool if n["id"] == name] or [n for n in pool if n.get("hostname") == name]
            if len(found) != 1:
                there = "is not in the pool" if not found else "is the host name of more than one node; give its id"
                raise Permanent(f"node {name} {there}")
            nodes.append({**found[0], "inside": found[0]["id"] in members})
        return nodes

    def _cluster(self) -> Json:
        """The site's cluster as it is now."""
        name = self._table.cluster
        clusters = self.control.clusters()
        found = [c for c in clusters if c["id"] == name] or [c for c in clusters if c.get("name") == name]
        if len(found) != 1:
            raise Permanent(f"cluster {name} {'is the name of more than one; give its id' if found else 'is not there'}")
        self._cluster_id = found[0]["id"]
        return found[0]

    def _id(self) -> str:
        return self._cluster_id or str(self._cluster()["id"])

    # -- the cluster itself ----------------------------------------------------------------------------------

    def _kubeconfig(self) -> KubeConfig:
        text = self.control.kubeconfig(self._id())
        try:
            config = yaml.safe_load(text)
            parts = [u.get("user") or {} for u in config.get("users") or []] + [c["cluster"] for c in config["clusters"]]
            strange = [k for k in _NOT_FROM_ELSEWHERE if any(k in part for part in parts)]
            if not strange:
                return KubeConfig.from_dict(config)
        except (yaml.YAMLError, KeyError, TypeError, AttributeError):
            raise Permanent("the kubeconfig that exalsius gives for the cluster cannot be read") from None
        raise Permanent(
            f"the kubeconfig that exalsius gives has {strange[0]}, which would use programs or files of this machine; "
            "write one yourself, and name it in [site.exalsius.kubernetes]"
        )

    def _on_pod(self, do: Callable[[], _T]) -> _T:
        """Ask the cluster. A kubeconfig that it refuses is fetched anew, once: exalsius gives ones that end."""
        asked = self.control.requests
        try:
            return do()
        except Unauthorized:
            if self._table.kubernetes.kubeconfig or self.control.requests != asked:
                raise
            return do()


def _name(node: Json) -> str:
    return str(node.get("hostname") or node["id"])


def _named(nodes: list[Json]) -> str:
    """`node a is`, `nodes a, b are`."""
    names = ", ".join(_name(n) for n in nodes)
    return f"node {names} is" if len(nodes) == 1 else f"nodes {names} are"
