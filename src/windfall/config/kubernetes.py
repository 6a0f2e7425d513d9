"""`[site.kubernetes]`: where in which cluster a site runs, and what its pod asks for."""

from __future__ import annotations

import re

from pydantic import Field, field_validator

from windfall.config.base import Positive, Table

_QUANTITY = re.compile(r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?$")
_LABEL = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"


class TolerationTable(Table):
    """`[[site.kubernetes.tolerations]]`: a taint that the site's pod puts up with."""

    key: str | None = Field(None, min_length=1, description="of the taint (default: any)")
    operator: str = Field("Exists", pattern="^(Exists|Equal)$", description="Exists or Equal")
    value: str | None = Field(None, description="with Equal: the taint's value")
    effect: str | None = Field(None, pattern="^(NoSchedule|PreferNoSchedule|NoExecute)$", description="default: any")


class KubernetesTable(Table):
    """`[site.kubernetes]`: a site in a Kubernetes cluster. Needs `pip install windfall[kubernetes]`."""

    image: str = Field(min_length=1, description="container image in which `windfall` is installed")
    kubeconfig: str | None = Field(
        None, min_length=1, description="file (default: the pod's own account, then $KUBECONFIG, then ~/.kube/config)"
    )
    context: str | None = Field(None, min_length=1, description="of the kubeconfig (default: its current one)")
    namespace: str | None = Field(None, pattern=_LABEL, description="default: the context's, or `default`")
    queue: str | None = Field(
        None, pattern=_LABEL, description="Kueue's local queue: each start is then a Job that waits there for its turn"
    )
    gpus: int | None = Field(None, ge=1, description="whole GPUs of the pod")
    gpu_resource: str = Field("nvidia.com/gpu", min_length=1, description="what the cluster calls them")
    cpus: str | None = Field(None, description='processors, as "8" or "500m"')
    memory: str | None = Field(None, description='as "64Gi"')
    storage: str = Field("50Gi", description="of the claim that keeps outbox, snapshots and prepared data between starts")
    storage_class: str | None = Field(None, min_length=1, description="of that claim (default: the cluster's own)")
    node_selector: dict[str, str] = Field(default_factory=dict, description="labels that the node has to have")
    tolerations: list[TolerationTable] = Field(default_factory=list, description="taints of nodes that it puts up with")
    service_account: str | None = Field(None, pattern=_LABEL, description="of the pod (default: the namespace's)")
    image_pull_secret: str | None = Field(None, pattern=_LABEL, description="a Secret with which the image can be pulled")
    priority_class: str | None = Field(None, pattern=_LABEL, description="of the pod")
    runtime_class: str | None = Field(None, pattern=_LABEL, description="of the pod, as `nvidia`")
    user_id: int = Field(10001, ge=1, description="user and group as which the container runs, and to which its files belong")
    grace_s: int | None = Field(
        None,
        ge=1,
        description="how long the pod may take to hand in its work if the cluster, not the run, ends it (default: "
        "fleet.drain_timeout_s and fleet.stop_grace_s)",
    )
    timeout_s: Positive = Field(10.0, description="how long one answer of the API server may take (wall time)")

    @field_validator("cpus", "memory", "storage")
    @classmethod
    def _quantity(cls, value: str | None) -> str | None:
        if value is not None and not _QUANTITY.match(value):
            raise ValueError(f'{value} is no quantity; write it as "8", "500m" or "64Gi"')
        return value
