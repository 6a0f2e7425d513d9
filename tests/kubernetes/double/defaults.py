"""What the API server fills in, with the real one's defaults."""

from __future__ import annotations

import base64
from typing import Any

from kubernetes.double.kinds import Kind
from kubernetes.double.schema import Json


def set_defaults(kind: Kind, obj: Json) -> None:
    """Fill in, in place, what a kind's object does not say."""
    fill = _BY_KIND.get(kind.name)
    if fill is not None:
        fill(obj)


def _default(obj: Json, **values: Any) -> None:
    for key, value in values.items():
        if obj.get(key) is None:
            obj[key] = value


def pod_spec(spec: Json) -> None:
    _default(
        spec,
        restartPolicy="Always",
        dnsPolicy="ClusterFirst",
        terminationGracePeriodSeconds=30,
        schedulerName="default-scheduler",
        securityContext={},
    )
    if spec.get("serviceAccountName"):
        spec["serviceAccount"] = spec["serviceAccountName"]
    for container in [*(spec.get("containers") or []), *(spec.get("initContainers") or [])]:
        _container(container)
    for volume in spec.get("volumes") or []:
        for source in ("secret", "configMap", "projected", "downwardAPI"):
            if source in volume:
                _default(volume[source], defaultMode=0o644)
        if "hostPath" in volume:
            _default(volume["hostPath"], type="")
        if not any(k != "name" for k in volume):
            volume["emptyDir"] = {}


def _container(container: Json) -> None:
    image = container.get("image", "")
    tag = image.rpartition("/")[2].partition(":")[2]
    always = "@" not in image and tag in ("", "latest")
    _default(
        container,
        imagePullPolicy="Always" if always else "IfNotPresent",
        terminationMessagePath="/dev/termination-log",
        terminationMessagePolicy="File",
        resources={},
    )
    limits = container["resources"].get("limits") or {}
    if limits:
        container["resources"]["requests"] = {**limits, **(container["resources"].get("requests") or {})}
    for port in container.get("ports") or []:
        _default(port, protocol="TCP")
    for env in container.get("env") or []:
        if "fieldRef" in (env.get("valueFrom") or {}):
            _default(env["valueFrom"]["fieldRef"], apiVersion="v1")
    for probe in ("readinessProbe", "livenessProbe", "startupProbe"):
        if container.get(probe):
            _default(container[probe], timeoutSeconds=1, periodSeconds=10, successThreshold=1, failureThreshold=3)
            if "httpGet" in container[probe]:
                _default(container[probe]["httpGet"], path="/", scheme="HTTP")


def _pod(obj: Json) -> None:
    spec = obj.setdefault("spec", {})
    pod_spec(spec)
    _default(spec, serviceAccountName="default", enableServiceLinks=True, preemptionPolicy="PreemptLowerPriority", priority=0)
    spec["serviceAccount"] = spec["serviceAccountName"]
    tolerations = spec.setdefault("tolerations", [])
    for key in ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"):
        if not any(t.get("key") in (key, None) and t.get("effect") in ("NoExecute", None) for t in tolerations):
            tolerations.append({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300})
    obj.setdefault("status", {}).setdefault("phase", "Pending")
    obj["status"].setdefault("qosClass", qos(spec))


def qos(spec: Json) -> str:
    named = [c.get("resources") or {} for c in spec.get("containers", [])]
    if not any((r.get("requests") or r.get("limits") or {}).keys() & {"cpu", "memory"} for r in named):
        return "BestEffort"
    same = all(
        all(r.get("limits", {}).get(k) and r["limits"][k] == r.get("requests", {}).get(k) for k in ("cpu", "memory")) for r in named
    )
    return "Guaranteed" if same else "Burstable"


def _template(spec: Json) -> None:
    template = spec.setdefault("template", {})
    template.setdefault("metadata", {})
    if template.get("spec"):
        pod_spec(template["spec"])


def _stateful_set(obj: Json) -> None:
    spec = obj["spec"]
    _default(
        spec,
        replicas=1,
        podManagementPolicy="OrderedReady",
        revisionHistoryLimit=10,
        updateStrategy={},
        persistentVolumeClaimRetentionPolicy={},
    )
    _default(spec["updateStrategy"], type="RollingUpdate")
    if spec["updateStrategy"]["type"] == "RollingUpdate":
        _default(spec["updateStrategy"].setdefault("rollingUpdate", {}), partition=0)
    _default(spec["persistentVolumeClaimRetentionPolicy"], whenDeleted="Retain", whenScaled="Retain")
    _template(spec)
    for claim in spec.get("volumeClaimTemplates") or []:
        _default(claim, apiVersion="v1", kind="PersistentVolumeClaim", status={"phase": "Pending"})
        _default(claim["spec"], volumeMode="Filesystem")


def _deployment(obj: Json) -> None:
    spec = obj["spec"]
    _default(spec, replicas=1, revisionHistoryLimit=10, progressDeadlineSeconds=600, strategy={})
    _default(spec["strategy"], type="RollingUpdate")
    if spec["strategy"]["type"] == "RollingUpdate":
        _default(spec["strategy"].setdefault("rollingUpdate", {}), maxSurge="25%", maxUnavailable="25%")
    _template(spec)


def _job(obj: Json) -> None:
    spec = obj["spec"]
    _default(
        spec,
        backoffLimit=6,
        completionMode="NonIndexed",
        suspend=False,
        podReplacementPolicy="TerminatingOrFailed",
        manualSelector=False,
        parallelism=1,
    )
    if spec.get("completions") is None and spec["parallelism"] == 1:
        spec["completions"] = 1
    _template(spec)
    uid = obj["metadata"].get("uid")
    if uid and not spec["manualSelector"] and not spec.get("selector"):
        labels = spec["template"]["metadata"].setdefault("labels", {})
        labels |= {
            "batch.kubernetes.io/controller-uid": uid,
            "batch.kubernetes.io/job-name": obj["metadata"]["name"],
            "controller-uid": uid,
            "job-name": obj["metadata"]["name"],
        }
        spec["selector"] = {"matchLabels": {"batch.kubernetes.io/controller-uid": uid}}


def _service(obj: Json) -> None:
    spec = obj.setdefault("spec", {})
    _default(
        spec,
        type="ClusterIP",
        sessionAffinity="None",
        internalTrafficPolicy="Cluster",
        ipFamilyPolicy="SingleStack",
        ipFamilies=["IPv4"],
    )
    if "clusterIP" not in spec:
        spec["clusterIP"] = f"10.96.{sum(map(ord, obj['metadata']['name'])) % 256}.{len(obj['metadata']['name']) + 1}"
    _default(spec, clusterIPs=[spec["clusterIP"]])
    for port in spec.get("ports") or []:
        _default(port, protocol="TCP", targetPort=port.get("port"))


def _claim(obj: Json) -> None:
    _default(obj["spec"], volumeMode="Filesystem", storageClassName="standard")
    if not obj.get("status"):
        obj["status"] = {"phase": "Pending"}
    finalizers = obj["metadata"].setdefault("finalizers", [])
    if not obj["metadata"].get("deletionTimestamp") and "kubernetes.io/pvc-protection" not in finalizers:
        finalizers.append("kubernetes.io/pvc-protection")


def _secret(obj: Json) -> None:
    _default(obj, type="Opaque")
    plain = obj.pop("stringData", None)
    if plain:
        coded = {k: base64.b64encode(v.encode()).decode() for k, v in plain.items()}
        obj["data"] = {**(obj.get("data") or {}), **coded}


def _namespace(obj: Json) -> None:
    obj["metadata"].setdefault("labels", {}).setdefault("kubernetes.io/metadata.name", obj["metadata"]["name"])
    if not obj["metadata"].get("deletionTimestamp"):
        obj.setdefault("spec", {}).setdefault("finalizers", ["kubernetes"])
        obj.setdefault("status", {})["phase"] = "Active"


_BY_KIND = {
    "Pod": _pod,
    "StatefulSet": _stateful_set,
    "Deployment": _deployment,
    "Job": _job,
    "Service": _service,
    "PersistentVolumeClaim": _claim,
    "Secret": _secret,
    "Namespace": _namespace,
}
