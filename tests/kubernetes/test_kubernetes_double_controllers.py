"""The double's controllers and scheduler: StatefulSets, Jobs, quotas, nodes, Kueue, in the real ones' words."""

from __future__ import annotations

from typing import Any

import pytest

from kubernetes.clients import STATEFUL_SETS, Http, job, messages, pod, stateful_set
from kubernetes.double import pods
from kubernetes.double.cluster import Cluster
from kubernetes.double.kinds import BY_NAME
from kubernetes.double.runtime import Hollow, HollowRuntime

Json = dict[str, Any]


def names(cluster: Cluster) -> list[str]:
    return [p["metadata"]["name"] for p in cluster.all("Pod")]


def scale(cluster: Cluster, replicas: int, name: str = "site") -> None:
    cluster.api.rescale(BY_NAME["StatefulSet"], "default", name, {"spec": {"replicas": replicas}}, manager="test")


def change(cluster: Cluster, kind: str, name: str, patch: Json) -> None:
    cluster.api.patch(BY_NAME[kind], "default", name, patch, "application/strategic-merge-patch+json", manager="test")


def hollow(cluster: Cluster) -> HollowRuntime:
    assert isinstance(cluster.runtime, HollowRuntime)
    return cluster.runtime


def test_a_set_scales_up_in_order_and_down_in_reverse(cluster: Cluster) -> None:
    hollow(cluster).term_s = 5
    cluster.create(stateful_set(replicas=2))
    cluster.settle()
    assert (names(cluster), cluster.running()) == (["site-0", "site-1"], ["site-0", "site-1"])
    status = cluster.all("StatefulSet")[0]["status"]
    assert (status["readyReplicas"], status["availableReplicas"], status["observedGeneration"]) == (2, 2, 1)
    scale(cluster, 0)
    cluster.settle()
    going = [p["metadata"]["name"] for p in cluster.all("Pod") if pods.terminating(p)]
    assert going == ["site-1"], "the last one goes first"
    assert cluster.running() == ["site-0", "site-1"], "and it is there until it has ended"
    cluster.pass_time(11)
    assert (names(cluster), cluster.running()) == ([], [])
    assert messages(cluster, "SuccessfulDelete")[0].startswith("delete Pod site-")


def test_a_new_template_replaces_a_ready_pod_and_leaves_a_broken_one_of_an_ordered_set(cluster: Cluster) -> None:
    cluster.create(stateful_set())
    cluster.settle()
    old = cluster.all("Pod")[0]["metadata"]["uid"]
    change(cluster, "StatefulSet", "site", {"spec": {"template": {"spec": {"containers": [{"name": "main", "image": "site:2"}]}}}})
    cluster.settle()
    new = cluster.all("Pod")[0]
    assert (new["metadata"]["uid"] != old, new["spec"]["containers"][0]["image"]) == (True, "site:2")
    for node in cluster.kubelets.values():
        node.images.missing["site:3"] = "not found"
    for image in ("site:3", "site:4"):
        change(cluster, "StatefulSet", "site", {"spec": {"template": {"spec": {"containers": [{"name": "main", "image": image}]}}}})
        cluster.pass_time(60, 10)
    stuck = cluster.all("Pod")[0]
    assert stuck["spec"]["containers"][0]["image"] == "site:3", "known issue 67250: an ordered set waits for its broken pod"


def test_claims_of_a_set_outlive_its_pods(cluster: Cluster) -> None:
    made = stateful_set()
    claim = {
        "metadata": {"name": "data"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
    }
    made["spec"]["volumeClaimTemplates"] = [claim]
    cluster.create(made)
    cluster.settle()
    assert cluster.running() == ["site-0"]
    volume = cluster.all("PersistentVolumeClaim")[0]["spec"]["volumeName"]
    (cluster.claims.root / volume / "kept").write_text("work")
    scale(cluster, 0)
    cluster.settle()
    scale(cluster, 1)
    cluster.settle()
    assert cluster.all("PersistentVolumeClaim")[0]["spec"]["volumeName"] == volume
    assert (cluster.claims.root / volume / "kept").read_text() == "work"


def test_the_scheduler_says_why_there_is_no_place(cluster: Cluster) -> None:
    cluster.node("node-c", gpus=1, taints=[{"key": "dedicated", "value": "other", "effect": "NoSchedule"}])
    cluster.node("node-d")
    cluster.create(pod("first"))
    cluster.create(pod("second"))
    cluster.settle()
    cluster.create(pod("third"))
    cluster.settle()
    scheduled = pods.condition(cluster.get("Pod", "third") or {}, "PodScheduled")
    assert (scheduled["status"], scheduled["reason"]) == ("False", "Unschedulable")
    assert scheduled["message"] == (
        "0/4 nodes are available: 1 node(s) had untolerated taint {dedicated: other}, 3 Insufficient nvidia.com/gpu. preemption: "
        "0/4 nodes are available: 2 No preemption victims found for incoming pod, 2 Preemption is not helpful for scheduling."
    )
    assert messages(cluster, "FailedScheduling") == [scheduled["message"]]
    cluster.create(
        pod("fourth", tolerations=[{"key": "dedicated", "operator": "Exists"}], nodeSelector={"kubernetes.io/os": "linux"})
    )
    cluster.create(pod("fifth", nodeSelector={"gpu": "h200"}))
    cluster.settle()
    assert (cluster.get("Pod", "fourth") or {})["spec"]["nodeName"] == "node-c"
    fifth = pods.condition(cluster.get("Pod", "fifth") or {}, "PodScheduled")["message"]
    assert "3 node(s) didn't match Pod's node affinity/selector" in fifth
    cluster.api.delete(BY_NAME["Pod"], "default", "first")
    cluster.settle()
    assert (cluster.get("Pod", "third") or {})["spec"]["nodeName"] in ("node-a", "node-b")


def test_a_quota_refuses_the_pod_and_the_set_says_so(cluster: Cluster) -> None:
    cluster.quota("default", "gpus", requests_nvidia_com__gpu="1")
    cluster.create(stateful_set("one"))
    cluster.settle()
    cluster.create(stateful_set("two"))
    cluster.settle()
    refused = (
        'create Pod two-0 in StatefulSet two failed error: pods "two-0" is forbidden: exceeded quota: gpus, requested: '
        "requests.nvidia.com/gpu=1, used: requests.nvidia.com/gpu=1, limited: requests.nvidia.com/gpu=1"
    )
    assert messages(cluster, "FailedCreate") == [refused]
    assert cluster.all("ResourceQuota")[0]["status"]["used"] == {"requests.nvidia.com/gpu": "1"}
    scale(cluster, 0, "one")
    cluster.pass_time(5)
    assert cluster.running() == ["two-0"]


def test_a_quota_on_memory_wants_memory_named(cluster: Cluster, http: Http) -> None:
    cluster.quota("default", "mem", limits_memory="1Gi")
    code, refused = http("POST", "/api/v1/namespaces/default/pods", pod())
    assert (code, refused["message"]) == (403, 'pods "pod" is forbidden: failed quota: mem: must specify limits.memory for: main')


def conditions(cluster: Cluster, name: str = "job") -> dict[str, str]:
    found = cluster.get("Job", name) or {}
    return {c["type"]: c.get("reason", "") for c in found["status"].get("conditions", []) if c["status"] == "True"}


def test_a_job_ends_well_and_counts_its_pod_once(cluster: Cluster) -> None:
    hollow(cluster).shape = lambda c, now: c.end(now + 60, 0)
    cluster.create(job())
    cluster.settle()
    (made,) = cluster.all("Pod")
    assert made["metadata"]["labels"]["batch.kubernetes.io/job-name"] == "job"
    cluster.pass_time(70)
    assert conditions(cluster) == {"SuccessCriteriaMet": "CompletionsReached", "Complete": "CompletionsReached"}
    assert (cluster.get("Job", "job") or {})["status"]["succeeded"] == 1
    assert (cluster.get("Job", "job") or {})["status"]["completionTime"]


def test_a_job_tries_again_with_patience_and_then_gives_up(cluster: Cluster) -> None:
    hollow(cluster).shape = lambda c, now: c.end(now + 1, 3)
    cluster.create(job(backoffLimit=2))
    cluster.pass_time(8)
    assert len(cluster.all("Pod")) == 1, "the second pod comes 10 s after the first failed"
    cluster.pass_time(60)
    found = cluster.get("Job", "job") or {}
    assert (found["status"]["failed"], len(cluster.all("Pod"))) == (3, 3)
    assert conditions(cluster)["Failed"] == "BackoffLimitExceeded"
    assert messages(cluster, "BackoffLimitExceeded") == ["Job has reached the specified backoff limit"]


def test_a_suspended_job_has_no_pod_and_counts_none_as_failed(cluster: Cluster) -> None:
    cluster.create(job(suspend=True, backoffLimit=0))
    cluster.settle()
    assert (names(cluster), conditions(cluster)) == ([], {"Suspended": "JobSuspended"})
    change(cluster, "Job", "job", {"spec": {"suspend": False}})
    cluster.settle()
    assert len(cluster.running()) == 1
    change(cluster, "Job", "job", {"spec": {"suspend": True}})
    cluster.settle()
    assert (names(cluster), cluster.running()) == ([], [])
    assert (conditions(cluster), (cluster.get("Job", "job") or {})["status"].get("failed")) == ({"Suspended": "JobSuspended"}, None)


def test_a_job_has_a_deadline_and_is_cleared_away(cluster: Cluster) -> None:
    cluster.create(job(activeDeadlineSeconds=30, ttlSecondsAfterFinished=60))
    cluster.pass_time(40)
    assert conditions(cluster)["Failed"] == "DeadlineExceeded"
    cluster.pass_time(90)
    assert (cluster.all("Job"), cluster.all("Pod")) == ([], [])


def test_kueue_holds_jobs_back_and_lets_them_in_as_gpus_come_free(cluster: Cluster) -> None:
    cluster.kueue(gpus=1)
    for name in ("one", "two"):
        cluster.create(job(name, labels={"kueue.x-k8s.io/queue-name": "gpus"}))
        cluster.pass_time(2)
    assert [(j["metadata"]["name"], j["spec"]["suspend"]) for j in cluster.all("Job")] == [("one", False), ("two", True)]
    waiting = cluster.all("Workload")[1]
    reserved = pods.condition(waiting, "QuotaReserved")
    assert (reserved["status"], reserved["reason"]) == ("False", "Pending")
    assert "insufficient unused quota for nvidia.com/gpu in flavor default-flavor, 1 more needed" in reserved["message"]
    cluster.api.delete(BY_NAME["Job"], "default", "one", {"propagationPolicy": "Background"})
    cluster.settle()
    assert [(j["metadata"]["name"], j["spec"]["suspend"]) for j in cluster.all("Job")] == [("two", False)]
    assert len(cluster.running()) == 1


def test_a_node_that_is_lost_keeps_its_pod_terminating_until_it_is_back(cluster: Cluster) -> None:
    cluster.create(stateful_set())
    cluster.settle()
    node = cluster.kubelets[cluster.all("Pod")[0]["spec"]["nodeName"]]
    node.reachable = False
    cluster.pass_time(60, 5)
    assert pods.condition(cluster.get("Node", node.name) or {}, "Ready")["status"] == "Unknown"
    assert pods.condition(cluster.all("Pod")[0], "Ready")["status"] == "False"
    cluster.pass_time(320, 10)
    (lost,) = cluster.all("Pod")
    assert pods.terminating(lost), "evicted after 300 s"
    cluster.pass_time(3600, 60)
    assert names(cluster) == ["site-0"], "nobody confirms that it has ended"
    assert cluster.running() == ["site-0"], "because it has not"
    node.reachable = True
    cluster.pass_time(10)
    (back,) = cluster.all("Pod")
    assert (back["metadata"]["uid"] != lost["metadata"]["uid"], cluster.running()) == (True, ["site-0"])


@pytest.mark.parametrize("how", ["force", "node deleted", "out of service"])
def test_a_pod_of_a_lost_node_can_be_given_up(cluster: Cluster, how: str) -> None:
    cluster.create(pod())
    cluster.settle()
    name = cluster.all("Pod")[0]["spec"]["nodeName"]
    cluster.kubelets[name].power_off()
    cluster.pass_time(400, 20)
    assert names(cluster) == ["pod"]
    if how == "force":
        cluster.api.delete(BY_NAME["Pod"], "default", "pod", {"gracePeriodSeconds": 0})
    elif how == "node deleted":
        cluster.api.delete(BY_NAME["Node"], "", name)
    else:
        taint = {"key": "node.kubernetes.io/out-of-service", "value": "nodeshutdown", "effect": "NoExecute"}
        cluster.api.edit(cluster.get("Node", name) or {}, lambda n: n["spec"]["taints"].append(taint), manager="test")
    cluster.pass_time(60, 5)
    assert names(cluster) == []


def test_a_disruption_budget_stops_an_eviction(cluster: Cluster, http: Http) -> None:
    cluster.create(stateful_set())
    budget = {"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "site"},
              "spec": {"maxUnavailable": 0, "selector": {"matchLabels": {"app": "site"}}}}  # fmt: skip
    cluster.create(budget)
    cluster.settle()
    evict = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "site-0"}}
    code, refused = http("POST", "/api/v1/namespaces/default/pods/site-0/eviction", evict)
    assert (code, refused["reason"]) == (429, "TooManyRequests")
    assert refused["message"] == "Cannot evict pod as it would violate the pod's disruption budget."
    assert refused["details"]["causes"][0]["message"] == "The disruption budget site needs 1 healthy pods and has 1 currently"
    cluster.api.delete(BY_NAME["PodDisruptionBudget"], "default", "site")
    assert http("POST", "/api/v1/namespaces/default/pods/site-0/eviction", evict)[0] == 201


def test_the_same_seed_gives_the_same_cluster(tmp_path: Any) -> None:
    def history(seed: int) -> list[Json]:
        def shape(c: Hollow, now: float) -> None:
            c.end(now + 5, 1)

        with Cluster(tmp_path / str(seed), seed=seed, runtime=HollowRuntime(shape=shape)) as made:
            made.node("node", gpus=1)
            made.create(job(backoffLimit=1))
            made.pass_time(40)
            return [*made.all("Pod"), *made.all("Event"), *made.all("Job")]

    assert history(1) == history(1)
    assert history(1) != history(2)


def test_a_service_of_a_stateful_set_is_only_stored(http: Http) -> None:
    made = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "site"},
        "spec": {"clusterIP": "None", "ports": [{"port": 80}]},
    }
    code, found = http("POST", "/api/v1/namespaces/default/services", made)
    assert (code, found["spec"]["clusterIP"], found["spec"]["ports"][0]["targetPort"]) == (201, "None", 80)
    assert http("GET", STATEFUL_SETS)[1]["items"] == []
