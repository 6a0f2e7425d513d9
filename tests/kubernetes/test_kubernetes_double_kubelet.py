"""The double's kubelet: containers as processes, and everything that goes wrong with them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kubernetes.clients import messages, pod
from kubernetes.double import pods
from kubernetes.double.cluster import Cluster
from kubernetes.double.kinds import BY_NAME
from kubernetes.double.runtime import HollowRuntime, Processes
from patience import PATIENCE_S
from windfall import clock

Json = dict[str, Any]


@pytest.fixture
def real(tmp_path: Path) -> Iterator[Cluster]:
    with Cluster(tmp_path / "cluster", runtime=Processes(), environment={"PATH": os.environ["PATH"]}) as made:
        made.node("node", gpus=2)
        yield made


def shell(text: str, **rest: Any) -> Json:
    container = {"command": ["sh", "-c", text], **rest.pop("container", {})}
    return pod(container=container, **rest)


def until(cluster: Cluster, what: Any) -> None:
    """Let the cluster work, with no time passing for it, until something has happened."""
    end = clock.monotonic() + PATIENCE_S
    while not what():
        assert clock.monotonic() < end
        cluster.tick()


def status(cluster: Cluster, name: str = "pod") -> Json:
    return (cluster.get("Pod", name) or {}).get("status") or {}


def main(cluster: Cluster, name: str = "pod") -> Json:
    return dict((status(cluster, name).get("containerStatuses") or [{}])[0])


def log(cluster: Cluster) -> str:
    return cluster.kubelets["node"].log(cluster.get("Pod", "pod") or {}, "main", False).decode()  # type: ignore[union-attr]


def test_a_container_sees_its_environment_files_and_claims(real: Cluster) -> None:
    real.create({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "key"}, "stringData": {"token": "s3cret"}})
    real.create(
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "conf"}, "data": {"site.json": "{}", "COLOUR": "red"}}
    )
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    real.create({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "data"}, "spec": spec})
    volumes = [
        {"name": "key", "secret": {"secretName": "key", "defaultMode": 0o600}}, {"name": "conf", "configMap": {"name": "conf"}},
        {"name": "data", "persistentVolumeClaim": {"claimName": "data"}},
    ]  # fmt: skip
    mounts = [{"name": n, "mountPath": f"/run/windfall/{n}"} for n in ("key", "conf", "data")]
    env = [
        {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "key", "key": "token"}}},
        {"name": "ME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        {"name": "PLACE", "value": "/run/windfall/data/$(ME)"},
    ]
    text = (
        "cat /run/windfall/key/token /run/windfall/conf/site.json; stat -c %a /run/windfall/key/token; "
        "echo $TOKEN $COLOUR > $PLACE; exec sleep 1000"
    )
    extra = {"volumeMounts": mounts, "env": env, "envFrom": [{"configMapRef": {"name": "conf"}}]}
    real.create(shell(text, volumes=volumes, container=extra))
    folder = real.claims.root
    until(real, lambda: list(folder.glob("*/pod")) and next(folder.glob("*/pod")).read_text())
    assert next(folder.glob("*/pod")).read_text() == "s3cret red\n"
    assert log(real) == "s3cret{}600\n"
    real.api.delete(BY_NAME["Pod"], "default", "pod")
    until(real, lambda: real.get("Pod", "pod") is None)
    assert next(folder.glob("*/pod")).read_text() == "s3cret red\n"


def test_before_the_end_comes_the_hook_then_the_request_then_force(real: Cluster, tmp_path: Path) -> None:
    word = tmp_path / "word"
    hook = {"preStop": {"exec": {"command": ["sh", "-c", f"echo hook >> {word}; while [ ! -e {word}.go ]; do sleep 0.01; done"]}}}
    stubborn = f"trap 'echo term >> {word}' TERM; echo up >> {word}; while :; do sleep 0.01; done"
    real.create(shell(stubborn, container={"lifecycle": hook}))
    until(real, lambda: word.exists())
    real.api.delete(BY_NAME["Pod"], "default", "pod")
    until(real, lambda: "hook" in word.read_text())
    for _ in range(3):
        real.tick()
    assert "term" not in word.read_text(), "the hook is waited for"
    Path(f"{word}.go").touch()
    until(real, lambda: "term" in word.read_text())
    assert real.running() == ["pod"]
    real.tick(real.now + 29)
    assert real.running() == ["pod"]
    real.tick(real.now + 1)
    until(real, lambda: real.get("Pod", "pod") is None)
    assert (real.running(), word.read_text().split()) == ([], ["up", "hook", "term"])


def test_a_pod_that_is_done_says_how_it_ended(real: Cluster) -> None:
    real.create(shell("exit 3", restartPolicy="Never"))
    until(real, lambda: status(real).get("phase") == "Failed")
    assert (main(real)["state"]["terminated"]["exitCode"], main(real)["state"]["terminated"]["reason"]) == (3, "Error")
    real.api.delete(BY_NAME["Pod"], "default", "pod")
    real.create(shell("exit 0", restartPolicy="Never"))
    until(real, lambda: status(real).get("phase") == "Succeeded")
    assert main(real)["state"]["terminated"]["reason"] == "Completed"


def test_a_program_that_is_not_there_is_a_start_error(real: Cluster) -> None:
    real.create(pod(container={"command": ["/no/such/program"]}))
    until(real, lambda: main(real).get("lastState", {}).get("terminated") or main(real).get("state", {}).get("terminated"))
    ended = main(real)["state"].get("terminated") or main(real)["lastState"]["terminated"]
    assert (ended["exitCode"], ended["reason"]) == (128, "StartError")
    assert 'exec: "/no/such/program": no such file or directory' in ended["message"]


def test_readiness_is_what_the_probe_says(real: Cluster, tmp_path: Path) -> None:
    flag = tmp_path / "ready"
    probe = {"exec": {"command": ["test", "-e", str(flag)]}, "periodSeconds": 5}
    real.create(shell("exec sleep 1000", container={"readinessProbe": probe}))
    until(real, lambda: status(real).get("phase") == "Running")
    for _ in range(10):
        real.tick(real.now + 1)
    assert pods.condition(real.get("Pod", "pod") or {}, "Ready")["message"] == "containers with unready status: [main]"
    flag.touch()

    def ready() -> bool:
        real.now += 1
        return pods.ready(real.get("Pod", "pod") or {})

    until(real, ready)


def test_force_takes_the_object_at_once_and_the_process_soon(real: Cluster) -> None:
    real.create(shell("exec sleep 1000"))
    until(real, lambda: real.running() == ["pod"])
    real.api.delete(BY_NAME["Pod"], "default", "pod", {"gracePeriodSeconds": 0})
    assert (real.get("Pod", "pod"), real.running()) == (None, ["pod"])
    until(real, lambda: real.running() == [])


def test_an_image_that_is_not_there_is_asked_for_again_with_patience(cluster: Cluster) -> None:
    for node in cluster.kubelets.values():
        node.images.missing["site:1"] = 'failed to resolve reference "docker.io/library/site:1": not found'
    cluster.create(pod())
    cluster.tick()
    assert main(cluster)["state"]["waiting"]["reason"] == "ErrImagePull"
    cluster.tick()
    waiting = main(cluster)["state"]["waiting"]
    assert (waiting["reason"], waiting["message"][:33]) == ("ImagePullBackOff", 'Back-off pulling image "site:1": ')
    assert status(cluster)["phase"] == "Pending"
    for node in cluster.kubelets.values():
        node.images.missing.clear()
    cluster.pass_time(9)
    assert main(cluster)["state"].get("waiting")
    cluster.pass_time(2)
    assert cluster.running() == ["pod"]


def test_a_container_that_crashes_is_restarted_with_patience(cluster: Cluster) -> None:
    runtime = cluster.runtime
    assert isinstance(runtime, HollowRuntime)
    runtime.shape = lambda c, now: c.end(now + 1, 1)
    cluster.create(pod())
    starts = []
    for _ in range(100):
        cluster.tick(cluster.now + 1)
        starts.append(len(runtime.started.get(("pod", "main"), [])))
    assert [starts.index(n) for n in (1, 2, 3, 4)] == [0, 1, 12, 33], "at once, after 10 s, after 20 s"
    waiting = main(cluster)
    assert waiting["state"]["waiting"]["reason"] == "CrashLoopBackOff"
    assert waiting["state"]["waiting"]["message"].startswith("back-off 1m20s restarting failed container=main pod=pod_default(")
    assert (waiting["lastState"]["terminated"]["exitCode"], waiting["restartCount"], status(cluster)["phase"]) == (1, 4, "Running")


def test_a_missing_secret_or_account_of_values_keeps_a_pod_from_starting(cluster: Cluster) -> None:
    cluster.create(pod("mount", gpus=0, volumes=[{"name": "key", "secret": {"secretName": "none"}}]))
    env = [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "none", "key": "a"}}}]
    cluster.create(pod("env", gpus=0, container={"env": env}))
    cluster.settle()
    assert messages(cluster, "FailedMount") == ['MountVolume.SetUp failed for volume "key" : secret "none" not found']
    assert main(cluster, "mount")["state"]["waiting"]["reason"] == "ContainerCreating"
    waiting = main(cluster, "env")["state"]["waiting"]
    assert (waiting["reason"], waiting["message"]) == ("CreateContainerConfigError", 'secret "none" not found')
    cluster.create({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "none"}, "stringData": {"a": "b"}})
    cluster.settle()
    assert cluster.running() == ["env", "mount"]
