"""What the Kubernetes driver applies for a site: a claim, a Secret, and a StatefulSet or a Job around one pod.

A site's objects have one name, made of run and site. The pod passes the `restricted` pod security standard.
"""

from __future__ import annotations

import base64
import re
from hashlib import sha256
from typing import Any

from windfall.config.kubernetes import KubernetesTable
from windfall.fleet.drivers.start import Start

Json = dict[str, Any]
RUN, SITE, GENERATION = "windfall.io/run", "windfall.io/site", "windfall.io/generation"
KUEUE_QUEUE = "kueue.x-k8s.io/queue-name"
CONTAINER = "site"
#: Where the container finds what it is given, and its own disk.
GIVEN, FOLDER = "/etc/windfall/start", "/var/lib/windfall"
#: Of a pod of which nobody says how long it may take to end: one that is only to be looked at, or ended.
_GRACE_S = 120
_LABEL = re.compile(r"^[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$")
#: What cluster autoscalers read: this pod is not to be moved.
_STAY = {"karpenter.sh/do-not-disrupt": "true", "cluster-autoscaler.kubernetes.io/safe-to-evict": "false"}


def name_of(run_id: str, site: str) -> str:
    """The name of everything of a site: short enough for a StatefulSet's pods and their labels."""
    slug = re.sub(r"[^a-z0-9]+", "-", site.lower()).strip("-")[:24].strip("-")
    return f"windfall-{slug}-{sha256(f'{run_id}/{site}'.encode()).hexdigest()[:10]}"


def label(text: str) -> str:
    """``text`` as a label's value, in which not everything is allowed."""
    return text if _LABEL.match(text) else f"x{sha256(text.encode()).hexdigest()[:16]}"


def labels_of(run_id: str, site: str) -> dict[str, str]:
    """What everything of a site is found by."""
    return {RUN: label(run_id), SITE: label(site)}


def job_name(name: str, generation: int) -> str:
    """A generation's Job."""
    return f"{name}-g{generation}"


class Objects:
    """The objects of one site."""

    def __init__(self, table: KubernetesTable, run_id: str, site: str) -> None:
        self._table = table
        self.name = name_of(run_id, site)
        self.labels = labels_of(run_id, site)

    def _meta(self, name: str, **labels: str) -> Json:
        own = {"app.kubernetes.io/name": "windfall", "app.kubernetes.io/managed-by": "windfall"}
        return {"name": name, "labels": {**own, **self.labels, **labels}}

    def claim(self) -> Json:
        """The site's own disk, which outlives its pods."""
        spec: Json = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": self._table.storage}}}
        if self._table.storage_class:
            spec["storageClassName"] = self._table.storage_class
        return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": self._meta(self.name), "spec": spec}

    def secret(self, start: Start) -> Json:
        """What one life of the site proves itself with."""
        given = {"token": start.token, **({"ca.pem": start.ca} if start.ca else {})}
        # Not `stringData`: the server turns that into `data`, and an apply then owns fields that are not there.
        data = {k: base64.b64encode(v.encode()).decode() for k, v in given.items()}
        meta = self._meta(self.name, **{GENERATION: str(start.generation)})
        return {"apiVersion": "v1", "kind": "Secret", "metadata": meta, "type": "Opaque", "data": data}

    def stateful_set(self, start: Start) -> Json:
        """A set of one pod. A changed template replaces no pod that runs: only a new generation has it."""
        spec = {
            "replicas": 1, "serviceName": self.name, "podManagementPolicy": "Parallel", "updateStrategy": {"type": "OnDelete"},
            "revisionHistoryLimit": 2, "selector": {"matchLabels": self.labels}, "template": self._template(start, "Always"),
        }  # fmt: skip
        meta = self._meta(self.name, **{GENERATION: str(start.generation)})
        return {"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": meta, "spec": spec}

    def job(self, start: Start, queue: str) -> Json:
        """One life of the site, which waits in a queue until Kueue lets it go on."""
        spec = {
            "parallelism": 1, "completions": 1, "backoffLimit": 0, "podReplacementPolicy": "Failed",
            "template": self._template(start, "Never"),
        }  # fmt: skip
        meta = self._meta(job_name(self.name, start.generation), **{GENERATION: str(start.generation), KUEUE_QUEUE: queue})
        return {"apiVersion": "batch/v1", "kind": "Job", "metadata": meta, "spec": spec}

    def _template(self, start: Start, restart: str) -> Json:
        meta = self._meta("", **{GENERATION: str(start.generation)})
        return {"metadata": {"labels": meta["labels"], "annotations": _STAY}, "spec": self._pod(start, restart)}

    def _pod(self, start: Start, restart: str) -> Json:
        t = self._table
        given = {"name": "start", "secret": {"secretName": self.name, "defaultMode": 0o440}}
        disk = {"name": "site", "persistentVolumeClaim": {"claimName": self.name}}
        spec: Json = {
            "restartPolicy": restart, "terminationGracePeriodSeconds": t.grace_s or _GRACE_S, "automountServiceAccountToken": False,
            "enableServiceLinks": False, "containers": [self._container(start)],
            "securityContext": {
                "runAsNonRoot": True, "runAsUser": t.user_id, "runAsGroup": t.user_id, "fsGroup": t.user_id,
                "fsGroupChangePolicy": "OnRootMismatch", "seccompProfile": {"type": "RuntimeDefault"},
            },
            "volumes": [given, disk, {"name": "tmp", "emptyDir": {}}, {"name": "shm", "emptyDir": {"medium": "Memory"}}],
        }  # fmt: skip
        if t.node_selector:
            spec["nodeSelector"] = dict(t.node_selector)
        if t.tolerations:
            spec["tolerations"] = [row.model_dump(exclude_none=True) for row in t.tolerations]
        for key, value in (("serviceAccountName", t.service_account), ("priorityClassName", t.priority_class),
                           ("runtimeClassName", t.runtime_class)):  # fmt: skip
            if value:
                spec[key] = value
        if t.image_pull_secret:
            spec["imagePullSecrets"] = [{"name": t.image_pull_secret}]
        return spec

    def _container(self, start: Start) -> Json:
        t = self._table
        asked = {"cpu": t.cpus, "memory": t.memory, t.gpu_resource: str(t.gpus) if t.gpus else None}
        requests = {k: v for k, v in asked.items() if v}
        limits = {k: v for k, v in requests.items() if k != "cpu"}
        caches = {"TORCHINDUCTOR_CACHE_DIR": f"{FOLDER}/cache/inductor", "TRITON_CACHE_DIR": f"{FOLDER}/cache/triton"}
        return {
            # The last words of its log are then what the cluster says of why it ended.
            "name": CONTAINER, "image": t.image, "terminationMessagePolicy": "FallbackToLogsOnError",
            "command": start.arguments(f"{GIVEN}/token", f"{GIVEN}/ca.pem", f"{FOLDER}/site"),
            "env": [{"name": k, "value": v} for k, v in {"HOME": FOLDER, **caches}.items()],
            "resources": {**({"requests": requests} if requests else {}), **({"limits": limits} if limits else {})},
            "securityContext": {
                "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
            },
            "volumeMounts": [
                {"name": "start", "mountPath": GIVEN, "readOnly": True}, {"name": "site", "mountPath": FOLDER},
                {"name": "tmp", "mountPath": "/tmp"}, {"name": "shm", "mountPath": "/dev/shm"},
            ],
        }  # fmt: skip
