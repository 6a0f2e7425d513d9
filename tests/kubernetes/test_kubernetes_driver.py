"""The Kubernetes driver at a doubled cluster: what it applies, and what it makes of everything that a cluster says."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kubernetes.clients import messages
from kubernetes.double import pods
from kubernetes.double.access import Rule, User
from kubernetes.double.cluster import Cluster
from kubernetes.double.kinds import BY_NAME
from kubernetes.double.runtime import HollowRuntime
from kubernetes.sites import RUN, SITE, driver, look, table
from windfall.errors import Permanent, Transient, Unauthorized
from windfall.fleet.drivers.kubernetes import KubernetesDriver
from windfall.fleet.drivers.kubernetes_api import Cluster as Api
from windfall.fleet.drivers.kubernetes_objects import labels_of, name_of
from windfall.fleet.machine import DriverFault, Observation, Observed

NAME = name_of(RUN, SITE)
Json = dict[str, Any]


@pytest.fixture
def site(cluster: Cluster, tmp_path: Path) -> KubernetesDriver:
    return driver(cluster, tmp_path)


@pytest.fixture
def queued(tmp_path: Path) -> Iterator[Cluster]:
    with Cluster(tmp_path / "cluster", seed=7) as made:
        made.node("node-a", gpus=2)
        made.kueue(gpus=1)
        yield made


def up(cluster: Cluster, site: KubernetesDriver, generation: int = 1) -> None:
    site.ensure_up(SITE, generation)
    cluster.settle()
    assert look(site) == Observation(Observed.UP)


def hollow(cluster: Cluster) -> HollowRuntime:
    assert isinstance(cluster.runtime, HollowRuntime)
    return cluster.runtime


def edit(cluster: Cluster, kind: str, name: str, patch: Json) -> None:
    cluster.api.patch(BY_NAME[kind], "default", name, patch, "application/merge-patch+json", manager="kubectl")


def test_a_start_and_a_stop(cluster: Cluster, site: KubernetesDriver) -> None:
    hollow(cluster).term_s = 5
    assert look(site) == Observation(Observed.ABSENT)
    site.ensure_up(SITE, 3)
    assert look(site) == Observation(Observed.STARTING, "its StatefulSet has not been seen by the cluster's controller yet")
    cluster.settle()
    assert look(site) == Observation(Observed.UP)
    assert [(o.site, o.generation, o.handle) for o in site.list_owned(RUN)] == [(SITE, 3, f"{NAME}-0")]
    site.ensure_down(SITE, 10, "off")
    assert look(site) == Observation(Observed.STOPPING, f"pod {NAME}-0 is terminating")
    cluster.settle()
    assert (look(site).state, cluster.running()) == (Observed.STOPPING, [f"{NAME}-0"]), "off is no pod, not replicas 0"
    cluster.pass_time(6)
    assert (look(site), site.list_owned(RUN), cluster.running()) == (Observation(Observed.ABSENT), [], [])
    assert [c["metadata"]["name"] for c in cluster.all("PersistentVolumeClaim")] == [NAME], "its disk stays for the next start"
    assert cluster.all("Secret") == []


def test_what_is_applied_belongs_to_windfall_and_passes_the_restricted_standard(cluster: Cluster, tmp_path: Path) -> None:
    tolerations = [{"key": "gpu", "operator": "Exists"}]
    rest: Json = {
        "cpus": "8", "memory": "64Gi", "node_selector": {"gpu": "h200"}, "tolerations": tolerations, "priority_class": "low",
        "image_pull_secret": "pull", "storage_class": "standard",
    }  # fmt: skip
    driver(cluster, tmp_path, **rest).ensure_up(SITE, 3)
    found = cluster.get("StatefulSet", NAME) or {}
    assert {e["manager"] for e in found["metadata"]["managedFields"]} == {"windfall"}
    template = found["spec"]["template"]
    assert template["metadata"]["labels"].items() >= {**labels_of(RUN, SITE), "windfall.io/generation": "3"}.items()
    assert template["metadata"]["annotations"]["karpenter.sh/do-not-disrupt"] == "true"
    spec, container = template["spec"], template["spec"]["containers"][0]
    assert (spec["nodeSelector"], spec["tolerations"], spec["automountServiceAccountToken"]) == (
        {"gpu": "h200"},
        tolerations,
        False,
    )
    assert container["resources"]["limits"] == {"nvidia.com/gpu": "1", "memory": "64Gi"}
    assert container["resources"]["requests"] == {"nvidia.com/gpu": "1", "memory": "64Gi", "cpu": "8"}
    assert container["command"][:3] == ["windfall", "site", "start"]
    assert (spec["securityContext"]["runAsNonRoot"], container["securityContext"]["readOnlyRootFilesystem"]) == (True, True)
    secret = cluster.get("Secret", NAME) or {}
    assert base64.b64decode(secret["data"]["token"]) == f"token-of-{SITE}-3".encode()
    assert f"token-of-{SITE}-3" not in str(found), "a token is in its Secret and nowhere else"


def test_a_start_that_is_asked_for_again_changes_nothing(cluster: Cluster, site: KubernetesDriver) -> None:
    up(cluster, site)
    version = cluster.store.version
    site.ensure_up(SITE, 1)
    assert cluster.store.version == version


def test_what_somebody_else_has_changed_is_taken_back_at_the_next_start(cluster: Cluster, site: KubernetesDriver) -> None:
    up(cluster, site)
    cluster.api.rescale(BY_NAME["StatefulSet"], "default", NAME, {"spec": {"replicas": 0}}, manager="kubectl")
    cluster.settle()
    assert look(site) == Observation(Observed.FAILED, f"StatefulSet {NAME} has been scaled to 0 by kubectl")
    site.ensure_down(SITE, 10, "failed")
    up(cluster, site, 2)


def test_a_pod_that_somebody_deletes_has_failed_although_the_set_makes_another(cluster: Cluster, site: KubernetesDriver) -> None:
    up(cluster, site)
    cluster.api.delete(BY_NAME["Pod"], "default", f"{NAME}-0")
    cluster.settle()
    assert cluster.running() == [f"{NAME}-0"]
    assert look(site) == Observation(Observed.FAILED, f"its pod has been replaced by another one, {NAME}-0")
    site.ensure_down(SITE, 10, "failed")
    cluster.settle()
    assert (look(site), cluster.running()) == (Observation(Observed.ABSENT), [])


def test_an_older_pod_is_waited_for_before_the_next_start(cluster: Cluster, site: KubernetesDriver) -> None:
    hollow(cluster).term_s = 5
    up(cluster, site)
    site.ensure_down(SITE, 10, "off")
    with pytest.raises(Transient, match=f"pod {NAME}-0 of an earlier start is still there"):
        site.ensure_up(SITE, 2)
    cluster.pass_time(6)
    up(cluster, site, 2)


def test_the_grace_of_a_stop_is_that_of_the_run_and_never_nothing(cluster: Cluster, site: KubernetesDriver) -> None:
    hollow(cluster).term_s = 1e6
    up(cluster, site)
    site.ensure_down(SITE, 10.2, "off")
    assert cluster.all("Pod")[0]["metadata"]["deletionGracePeriodSeconds"] == 11
    site.ensure_down(SITE, 0.0, "the run was stopped at once")
    assert cluster.all("Pod")[0]["metadata"]["deletionGracePeriodSeconds"] == 1
    cluster.pass_time(4)
    assert (look(site).state, cluster.running()) == (Observed.ABSENT, [])


def test_no_room_on_any_node(cluster: Cluster, tmp_path: Path) -> None:
    site = driver(cluster, tmp_path, gpus=8)
    site.ensure_up(SITE, 1)
    cluster.settle()
    seen = look(site)
    assert (seen.state, seen.queued) == (Observed.STARTING, True)
    assert seen.words.startswith(f"pod {NAME}-0 waits for a node: 0/2 nodes are available: 2 Insufficient nvidia.com/gpu.")
    site.ensure_down(SITE, 10, "its window is over")
    cluster.settle()
    assert look(site) == Observation(Observed.ABSENT)


def test_a_quota_that_is_used_up(cluster: Cluster, site: KubernetesDriver) -> None:
    cluster.quota("default", "gpus", requests_nvidia_com__gpu="0")
    site.ensure_up(SITE, 1)
    cluster.settle()
    seen = look(site)
    assert (seen.state, seen.queued) == (Observed.STARTING, True)
    assert "is forbidden: exceeded quota: gpus, requested: requests.nvidia.com/gpu=1, used: requests.nvidia.com/gpu=0" in seen.words
    assert [o.generation for o in site.list_owned(RUN)] == [1], "there is no pod yet, and there will be"


def test_an_image_that_cannot_be_pulled(cluster: Cluster, site: KubernetesDriver) -> None:
    for node in cluster.kubelets.values():
        node.images.missing["windfall:1"] = "docker.io/library/windfall:1: not found"
    site.ensure_up(SITE, 1)
    seen = []
    for _ in range(6):
        cluster.tick()
        seen.append(look(site))
    tried = next(o for o in seen if "ErrImagePull" in o.words)
    assert (tried.state, tried.fault) == (Observed.STARTING, None)
    assert (seen[-1].state, seen[-1].fault) == (Observed.FAILED, DriverFault.PERMANENT)
    assert seen[-1].words.startswith(
        f'pod {NAME}-0: its image cannot be pulled (ImagePullBackOff): Back-off pulling image "windfall:1"'
    )
    for node in cluster.kubelets.values():
        node.images.missing["windfall:1"] = "dial tcp 10.0.0.1:443: i/o timeout"
    cluster.pass_time(12)
    cluster.settle()
    assert look(site).fault is DriverFault.TRANSIENT


def test_a_container_that_ends_has_failed_and_a_restart_does_not_hide_it(cluster: Cluster, site: KubernetesDriver) -> None:
    up(cluster, site)
    hollow(cluster).last(f"{NAME}-0", "site").end(cluster.now, 137)
    cluster.settle()
    assert cluster.running() == [f"{NAME}-0"], "the kubelet has started it again"
    assert look(site) == Observation(Observed.FAILED, f"pod {NAME}-0: its container ended with exit code 137")
    site.ensure_down(SITE, 10, "failed")
    cluster.settle()
    assert (look(site), cluster.running()) == (Observation(Observed.ABSENT), [])


def test_a_container_that_crashes_again_and_again(cluster: Cluster, site: KubernetesDriver) -> None:
    hollow(cluster).shape = lambda c, now: c.end(now + 1, 2)
    site.ensure_up(SITE, 1)
    cluster.pass_time(60)
    seen = look(site)
    assert (seen.state, seen.fault, seen.words) == (
        Observed.FAILED, None, f"pod {NAME}-0: its container ended with exit code 2",
    )  # fmt: skip


def test_a_secret_that_somebody_deletes_before_the_pod_is_there(cluster: Cluster, site: KubernetesDriver) -> None:
    site.ensure_up(SITE, 1)
    cluster.api.delete(BY_NAME["Secret"], "default", NAME)
    cluster.settle()
    seen = look(site)
    assert (seen.state, seen.queued) == (Observed.STARTING, False)
    assert f'its container is being made: MountVolume.SetUp failed for volume "start" : secret "{NAME}" not found' in seen.words


def test_a_node_that_is_lost_is_unknown_and_then_stays_terminating_until_that_is_confirmed(
    cluster: Cluster, site: KubernetesDriver
) -> None:  # fmt: skip
    up(cluster, site)
    node = cluster.kubelets[cluster.all("Pod")[0]["spec"]["nodeName"]]
    node.reachable = False
    cluster.pass_time(60, 5)
    seen = look(site)
    assert seen.state is Observed.UNKNOWN
    assert seen.words == (
        f"pod {NAME}-0 was running when its node was last heard; node {node.name} does not answer (NodeStatusUnknown): "
        "Kubelet stopped posting node status."
    )
    site.ensure_down(SITE, 10, "lost")
    cluster.pass_time(3600, 60)
    seen = look(site)
    assert (seen.state, cluster.running()) == (Observed.STOPPING, [f"{NAME}-0"]), "it costs energy until its end is confirmed"
    assert "nobody confirms it, so it may still run" in seen.words
    assert f"kubectl taint node {node.name} node.kubernetes.io/out-of-service" in seen.words
    node.reachable = True
    cluster.pass_time(15)
    assert (look(site), cluster.running()) == (Observation(Observed.ABSENT), [])


def test_without_the_right_to_see_nodes_and_events_there_are_fewer_words(cluster: Cluster, site: KubernetesDriver) -> None:
    up(cluster, site)
    cluster.kubelets[cluster.all("Pod")[0]["spec"]["nodeName"]].reachable = False
    cluster.pass_time(60, 5)
    cluster.tokens.add("t", User("windfall", [Rule(resources=["pods", "statefulsets", "statefulsets/scale", "secrets"])]))
    site.cluster._connected()._client._client.headers["Authorization"] = "Bearer t"
    assert look(site).words.endswith("does not answer")


def test_a_pod_that_the_cluster_evicts(cluster: Cluster, site: KubernetesDriver) -> None:
    up(cluster, site)
    pod = cluster.all("Pod")[0]
    status = {**pod["status"], "phase": "Failed", "reason": "Evicted", "message": "The node was low on resource: memory."}
    cluster.api.set_status(pod, status, manager="kubelet")
    seen = look(site)
    assert seen == Observation(
        Observed.FAILED, f"pod {NAME}-0 was ended by the cluster (Evicted): The node was low on resource: memory."
    )  # fmt: skip


def test_the_next_coordinator_goes_on_with_what_is_there(cluster: Cluster, site: KubernetesDriver, tmp_path: Path) -> None:
    up(cluster, site, 7)
    after = driver(cluster, tmp_path)
    assert [(o.site, o.generation) for o in after.list_owned(RUN)] == [(SITE, 7)]
    assert look(after) == Observation(Observed.UP)
    assert after.list_owned("another") == []
    stranger = driver(cluster, tmp_path, run_id="another")
    assert (look(stranger), stranger.list_owned("another")) == (Observation(Observed.ABSENT), [])
    stranger.ensure_down(SITE, 10, "not its own")
    after.ensure_down(SITE, 10, "off")
    cluster.settle()
    assert look(after) == Observation(Observed.ABSENT)


def test_a_start_that_fails_half_way_leaves_nothing_after_its_stop(cluster: Cluster, site: KubernetesDriver) -> None:
    cluster.tokens.add("t", User("windfall", [Rule(resources=["pods", "secrets", "persistentvolumeclaims", "statefulsets/scale"])]))
    site.cluster._connected()._client._client.headers["Authorization"] = "Bearer t"
    with pytest.raises(Permanent, match='cannot patch resource "statefulsets" in API group "apps" in the namespace "default"'):
        site.ensure_up(SITE, 1)
    site.ensure_down(SITE, 10, "failed")
    assert (cluster.all("Secret"), cluster.all("Pod")) == ([], [])


def test_a_namespace_that_is_not_there(cluster: Cluster, tmp_path: Path) -> None:
    site = driver(cluster, tmp_path, namespace="nowhere")
    with pytest.raises(Permanent, match='namespaces "nowhere" not found'):
        site.ensure_up(SITE, 1)
    site.ensure_down(SITE, 10, "failed")
    assert look(site) == Observation(Observed.ABSENT)


# -- queued jobs ---------------------------------------------------------------------------------------------


def test_a_queued_start_waits_for_its_turn_in_the_words_of_the_queue(queued: Cluster, tmp_path: Path) -> None:
    first, second = (driver(queued, tmp_path, site=s, queue="gpus") for s in ("first", "second"))
    first.ensure_up("first", 1)
    queued.settle()
    assert look(first, "first") == Observation(Observed.UP)
    second.ensure_up("second", 1)
    queued.settle()
    seen = look(second, "second")
    assert (seen.state, seen.queued) == (Observed.STARTING, True)
    assert (
        "waits in queue gpus: couldn't assign flavors to pod set main: insufficient unused quota for nvidia.com/gpu" in seen.words
    )
    assert [o.generation for o in second.list_owned(RUN)] == [1]
    first.ensure_down("first", 10, "off")
    queued.settle()
    assert look(first, "first") == Observation(Observed.ABSENT)
    assert look(second, "second") == Observation(Observed.UP)
    second.ensure_down("second", 10, "off")
    queued.settle()
    assert (look(second, "second").state, queued.all("Job"), queued.all("Pod")) == (Observed.ABSENT, [], [])


def test_a_queue_that_does_not_exist(queued: Cluster, tmp_path: Path) -> None:
    site = driver(queued, tmp_path, queue="none")
    site.ensure_up(SITE, 1)
    queued.settle()
    assert look(site).words == f"job {NAME}-g1 waits in queue none: LocalQueue none doesn't exist"
    site.ensure_down(SITE, 10, "off")
    queued.settle()
    assert look(site) == Observation(Observed.ABSENT)


def test_a_job_whose_pod_fails_has_failed_until_it_is_cleared(queued: Cluster, tmp_path: Path) -> None:
    site = driver(queued, tmp_path, queue="gpus")
    up(queued, site)
    pod = queued.running()[0]
    hollow(queued).last(pod, "site").end(queued.now, 1)
    queued.settle()
    assert look(site) == Observation(Observed.FAILED, f"pod {pod} has ended: its container ended with exit code 1")
    assert site.list_owned(RUN) == []
    site.ensure_down(SITE, 10, "failed")
    queued.settle()
    assert look(site) == Observation(Observed.ABSENT)
    up(queued, site, 2)


# -- logins and addresses ------------------------------------------------------------------------------------


def test_a_login_that_was_renewed_counts_from_the_next_request_on(cluster: Cluster, tmp_path: Path) -> None:
    site = driver(cluster, tmp_path)
    config = tmp_path / "kubeconfig"
    plain = config.read_text()
    cluster.tokens.add("new", User("windfall"))
    config.write_text(plain.replace("user: {}", "user: {token: old}"))
    with pytest.raises(Unauthorized, match=r"the cluster at http://cluster.test refuses the login: Unauthorized \(401\)"):
        look(site)
    config.write_text(plain.replace("user: {}", "user: {token: new}"))
    assert look(site) == Observation(Observed.ABSENT)


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        (("double", "other"), Permanent, "Context"),
        (("user: {}", "user: {exec: {apiVersion: client.authentication.k8s.io/v1beta1, command: /no/such/program}}"), Unauthorized,
         "its login cannot be had: .*No such file"),
        (("user: {}", "user: {exec: {apiVersion: client.authentication.k8s.io/v1beta1, command: 'false'}}"), Unauthorized,
         "Exec false returned 1"),
        (("user: {}", "user: {tokenFile: /no/such/token}"), Unauthorized, "Token file /no/such/token not found"),
        (("clusters:", "clusters: [}"), Permanent, "its kubeconfig cannot be used"),
        (("user: user", "user: somebody"), Permanent, "its kubeconfig cannot be used"),
        (("http://cluster.test", "http://127.0.0.1:9"), Transient, "cannot be reached"),
    ],
)  # fmt: skip
def test_a_kubeconfig_that_cannot_be_used(tmp_path: Path, change: tuple[str, str], kind: type[Exception], words: str) -> None:
    config = tmp_path / "kubeconfig"
    settings = table(tmp_path, context="double")
    config.write_text(config.read_text().replace(*change))
    api = Api(settings)
    with pytest.raises(kind, match=words) as told:
        api.all("Pod")
    assert type(told.value) is kind
    api.close()


def test_a_kubeconfig_that_is_missing(tmp_path: Path) -> None:
    api = Api(table(tmp_path).model_copy(update={"kubeconfig": str(tmp_path / "none")}))
    with pytest.raises(Permanent, match=r"Configuration file .*none not found"):
        api.all("Pod")


def test_names_and_labels_are_such_as_the_cluster_takes(cluster: Cluster, tmp_path: Path) -> None:
    for site in ("A_very-long_Site-name_that_ends_in-a_dash-", "x", "Lab_1"):
        made = driver(cluster, tmp_path, site=site, gpus=None)
        made.ensure_up(site, 1)
        cluster.settle()
        assert look(made, site) == Observation(Observed.UP)
    assert len(cluster.running()) == 3
    assert messages(cluster, "FailedCreate") == []
    assert all(not pods.terminating(p) for p in cluster.all("Pod"))
