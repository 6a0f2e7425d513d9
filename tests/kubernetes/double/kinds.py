"""The kinds that the double serves, and how their addresses are built."""

from __future__ import annotations

from dataclasses import dataclass

#: Kinds whose `spec` a person writes and a controller follows: its changes count up `metadata.generation`.
WITH_GENERATION = {"Pod", "StatefulSet", "Job", "Deployment", "PodDisruptionBudget", "NetworkPolicy"}


@dataclass(frozen=True)
class Kind:
    name: str
    plural: str
    group: str = ""
    namespaced: bool = True
    short: tuple[str, ...] = ()
    subresources: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    version: str = "v1"
    #: Its place in the OpenAPI document; empty for kinds of a custom resource definition, whose fields are not checked.
    model: str = ""

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def prefix(self) -> str:
        return f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"

    @property
    def singular(self) -> str:
        return self.name.lower()

    @property
    def qualified(self) -> str:
        return f"{self.plural}.{self.group}" if self.group else self.plural


def _core(name: str, plural: str, **rest: object) -> Kind:
    return Kind(name, plural, model=f"io.k8s.api.core.v1.{name}", **rest)  # type: ignore[arg-type]


KINDS = [
    _core("Namespace", "namespaces", namespaced=False, short=("ns",), subresources=("status", "finalize")),
    _core("Node", "nodes", namespaced=False, short=("no",), subresources=("status",)),
    _core("Pod", "pods", short=("po",), subresources=("status", "log", "eviction", "binding"), categories=("all",)),
    _core("Service", "services", short=("svc",), subresources=("status",), categories=("all",)),
    _core("ServiceAccount", "serviceaccounts", short=("sa",), subresources=("token",)),
    _core("PodTemplate", "podtemplates"),
    _core("Secret", "secrets"),
    _core("ConfigMap", "configmaps", short=("cm",)),
    _core("PersistentVolumeClaim", "persistentvolumeclaims", short=("pvc",), subresources=("status",)),
    _core("Event", "events", short=("ev",)),
    _core("ResourceQuota", "resourcequotas", short=("quota",), subresources=("status",)),
    Kind(
        "StatefulSet",
        "statefulsets",
        "apps",
        short=("sts",),
        subresources=("status", "scale"),
        categories=("all",),
        model="io.k8s.api.apps.v1.StatefulSet",
    ),
    Kind(
        "Deployment",
        "deployments",
        "apps",
        short=("deploy",),
        subresources=("status", "scale"),
        categories=("all",),
        model="io.k8s.api.apps.v1.Deployment",
    ),
    Kind("Job", "jobs", "batch", subresources=("status",), categories=("all",), model="io.k8s.api.batch.v1.Job"),
    Kind(
        "PodDisruptionBudget",
        "poddisruptionbudgets",
        "policy",
        short=("pdb",),
        subresources=("status",),
        model="io.k8s.api.policy.v1.PodDisruptionBudget",
    ),
    Kind(
        "NetworkPolicy", "networkpolicies", "networking.k8s.io", short=("netpol",), model="io.k8s.api.networking.v1.NetworkPolicy"
    ),
    Kind("Ingress", "ingresses", "networking.k8s.io", short=("ing",), model="io.k8s.api.networking.v1.Ingress"),
    Kind("Role", "roles", "rbac.authorization.k8s.io", model="io.k8s.api.rbac.v1.Role"),
    Kind("RoleBinding", "rolebindings", "rbac.authorization.k8s.io", model="io.k8s.api.rbac.v1.RoleBinding"),
    Kind("Workload", "workloads", "kueue.x-k8s.io", version="v1beta1", short=("wl",), subresources=("status",)),
]
BY_NAME = {k.name: k for k in KINDS}
BY_PLURAL = {(k.group, k.plural): k for k in KINDS}
GROUPS = sorted({(k.group, k.version) for k in KINDS if k.group})
