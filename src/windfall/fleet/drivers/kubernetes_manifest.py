"""What a cluster needs before sites of a run can be in it, as plain objects: for people who read, keep and apply them themselves.

What belongs to a run, its sites' claims and sets, is made by the driver's own functions, so that it finds them as it would have
made them. No secret is among them.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Any

from windfall.config.kubernetes import KubernetesTable
from windfall.fleet.drivers.kubernetes_objects import SITE, Objects, label, name_of
from windfall.fleet.drivers.start import Start

Json = dict[str, Any]
#: As whom a run's coordinator acts in the cluster.
DRIVER = "windfall-driver"
_OWN = {"app.kubernetes.io/name": "windfall", "app.kubernetes.io/managed-by": "windfall"}
_RBAC = "rbac.authorization.k8s.io"


@dataclass(frozen=True)
class Reached:
    """How the sites of a run reach it."""

    #: Name or address of the endpoint, and its port.
    address: str
    port: int
    tls: bool
    #: What else its sites speak to: names or addresses, and ports.
    also: tuple[tuple[str, int], ...] = ()

    @property
    def url(self) -> str:
        """Of the endpoint."""
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"{'https' if self.tls else 'http'}://{host}:{self.port}"


def driver_rules() -> list[Json]:
    """What the driver asks of an API server, and no more: the rules of a Role in the sites' namespace."""
    return [
        {"apiGroups": [""], "resources": ["persistentvolumeclaims"], "verbs": ["create", "patch"]},
        {"apiGroups": [""], "resources": ["secrets"], "verbs": ["create", "patch", "delete"]},
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["list", "delete"]},
        {"apiGroups": [""], "resources": ["events"], "verbs": ["list"]},
        {"apiGroups": ["apps"], "resources": ["statefulsets"], "verbs": ["create", "patch", "get"]},
        {"apiGroups": ["apps"], "resources": ["statefulsets/scale"], "verbs": ["patch"]},
        {"apiGroups": ["batch"], "resources": ["jobs"], "verbs": ["create", "patch", "list", "delete"]},
        {"apiGroups": ["kueue.x-k8s.io"], "resources": ["workloads"], "verbs": ["list"]},
    ]


def of_cluster(table: KubernetesTable) -> dict[str, list[Json]]:
    """What all sites of a namespace, which has to be named, share: the namespace, and who acts in it."""
    assert table.namespace is not None
    spaces, access = [], [_object("v1", "ServiceAccount", DRIVER, table)]
    if table.namespace != "default":
        # Sites' pods pass the strictest of the pod security standards, so nothing else has to be let in.
        labels = {**_OWN, "pod-security.kubernetes.io/enforce": "restricted"}
        spaces = [{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": table.namespace, "labels": labels}}]
    if table.service_account and table.service_account not in ("default", DRIVER):
        account = _object("v1", "ServiceAccount", table.service_account, table)
        access.append({**account, "automountServiceAccountToken": False})
    who = {"kind": "ServiceAccount", "name": DRIVER, "namespace": table.namespace}
    access += [
        {**_object(f"{_RBAC}/v1", "Role", DRIVER, table), "rules": driver_rules()},
        {
            **_object(f"{_RBAC}/v1", "RoleBinding", DRIVER, table),
            "roleRef": {"apiGroup": _RBAC, "kind": "Role", "name": DRIVER}, "subjects": [who],
        },
    ]  # fmt: skip
    return {"namespace": spaces, "access": access}


def network_policy(table: KubernetesTable, site: str, reached: Reached, *, own_signal: bool) -> Json:
    """Nothing comes in to the site's pods, and nothing goes out but to the endpoint, and for names to be looked up.

    ``own_signal``: it asks its region's signal itself, which is out there somewhere.
    """
    names = {"ports": [{"protocol": p, "port": 53} for p in ("UDP", "TCP")]}
    egress: list[Json] = [names]
    for host, port in ((reached.address, reached.port), *reached.also):
        tcp: Json = {"ports": [{"protocol": "TCP", "port": port}]}
        try:
            address = ipaddress.ip_address(host)
            tcp["to"] = [{"ipBlock": {"cidr": f"{address}/{address.max_prefixlen}"}}]
        except ValueError:
            pass  # a policy knows no names
        egress.append(tcp)
    if own_signal and reached.port != 443:
        egress.append({"ports": [{"protocol": "TCP", "port": 443}]})
    made = _object("networking.k8s.io/v1", "NetworkPolicy", name_of("", site), table)
    chosen = {"app.kubernetes.io/name": "windfall", SITE: label(site)}
    made["spec"] = {
        "podSelector": {"matchLabels": chosen}, "policyTypes": ["Ingress", "Egress"], "ingress": [], "egress": egress
    }  # fmt: skip
    return made


def of_run(table: KubernetesTable, site: str, run_id: str, reached: Reached) -> list[Json]:
    """A site's disk in one run, and its pod, which does not run: the driver adds what it proves itself with, and starts it.

    With a queue each start is a Job of its own, which Kueue would let go on at once; then the pod is a template, for reading alone.
    """
    objects = Objects(table, run_id, site)
    start = Start(run_id, site, 0, reached.url, token="", ca="its own" if reached.tls else "")
    if table.queue:
        job = objects.job(start, table.queue)
        meta = {**objects.claim()["metadata"], "name": objects.name}
        pod: Json = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": meta, "template": job["spec"]["template"]}
    else:
        pod = objects.stateful_set(start)
        pod["spec"]["replicas"] = 0
    return [_in(table, o) for o in (objects.claim(), pod)]


def _object(version: str, kind: str, name: str, table: KubernetesTable) -> Json:
    return _in(table, {"apiVersion": version, "kind": kind, "metadata": {"name": name, "labels": dict(_OWN)}})


def _in(table: KubernetesTable, obj: Json) -> Json:
    """The object, in the site's namespace."""
    return {**obj, "metadata": {"name": obj["metadata"]["name"], "namespace": table.namespace, **obj["metadata"]}}
