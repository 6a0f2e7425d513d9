"""The API server double: objects, refusals, lists, deletion, tokens, in the real one's words."""

from __future__ import annotations

import httpx
import pytest

from kubernetes.clients import PODS, STATEFUL_SETS, Http, pod, stateful_set
from kubernetes.double import errors
from kubernetes.double.access import Rule, User
from kubernetes.double.cluster import Cluster
from kubernetes.double.faults import DROP, GARBLE, LOSE, Fault


def test_what_is_created_has_identity_version_generation_and_defaults(http: Http) -> None:
    code, made = http("POST", STATEFUL_SETS, stateful_set())
    assert code == 201
    meta = made["metadata"]
    assert len(meta["uid"]) == 36
    assert int(meta["resourceVersion"]) > 0
    assert (meta["generation"], meta["namespace"], meta["creationTimestamp"]) == (1, "default", "2026-11-01T00:00:00Z")
    assert made["spec"]["podManagementPolicy"] == "OrderedReady"
    assert made["spec"]["template"]["spec"]["restartPolicy"] == "Always"
    assert made["spec"]["template"]["spec"]["containers"][0]["resources"]["requests"] == {"nvidia.com/gpu": 1}
    code, again = http("POST", STATEFUL_SETS, stateful_set())
    assert (code, again["reason"], again["message"]) == (409, "AlreadyExists", 'statefulsets.apps "site" already exists')


def test_a_spec_that_changes_counts_up_the_generation_and_nothing_else_does(cluster: Cluster, http: Http) -> None:
    http("POST", STATEFUL_SETS, stateful_set())
    cluster.settle()
    code, found = http("PATCH", f"{STATEFUL_SETS}/site", {"metadata": {"labels": {"a": "b"}}}, patch="merge")
    assert (code, found["metadata"]["generation"], found["status"]["observedGeneration"]) == (200, 1, 1)
    _, found = http("PATCH", f"{STATEFUL_SETS}/site", {"spec": {"replicas": 0}}, patch="merge")
    assert (found["metadata"]["generation"], found["status"]["observedGeneration"]) == (2, 1)
    cluster.tick()
    _, found = http("GET", f"{STATEFUL_SETS}/site")
    assert found["status"]["observedGeneration"] == 2
    version = found["metadata"]["resourceVersion"]
    _, found = http("PATCH", f"{STATEFUL_SETS}/site", {"spec": {"replicas": 0}}, patch="merge")
    assert found["metadata"]["resourceVersion"] == version, "a patch that changes nothing writes nothing"


def test_a_write_from_an_old_version_is_a_conflict(http: Http) -> None:
    _, old = http("POST", STATEFUL_SETS, stateful_set())
    http("PATCH", f"{STATEFUL_SETS}/site", {"spec": {"replicas": 0}}, patch="merge")
    old["spec"]["replicas"] = 3
    code, refused = http("PUT", f"{STATEFUL_SETS}/site", old)
    assert (code, refused["reason"]) == (409, "Conflict")
    assert refused["message"] == (
        'Operation cannot be fulfilled on statefulsets.apps "site": the object has been modified; please apply your changes to the '
        "latest version and try again"
    )


def test_the_status_is_written_through_its_subresource_alone(http: Http) -> None:
    http("POST", STATEFUL_SETS, stateful_set())
    _, found = http("PATCH", f"{STATEFUL_SETS}/site", {"status": {"replicas": 9}, "spec": {"replicas": 2}}, patch="merge")
    assert (found["status"]["replicas"], found["spec"]["replicas"]) == (0, 2)
    _, found = http("PATCH", f"{STATEFUL_SETS}/site/status", {"status": {"replicas": 9}, "spec": {"replicas": 5}}, patch="merge")
    assert (found["status"]["replicas"], found["spec"]["replicas"]) == (9, 2)


def test_the_scale_subresource_shows_and_sets_replicas(cluster: Cluster, http: Http) -> None:
    http("POST", STATEFUL_SETS, stateful_set())
    cluster.settle()
    code, scale = http("GET", f"{STATEFUL_SETS}/site/scale")
    assert (code, scale["kind"], scale["spec"], scale["status"]) == (
        200, "Scale", {"replicas": 1}, {"replicas": 1, "selector": "app=site"},
    )  # fmt: skip
    code, scale = http("PATCH", f"{STATEFUL_SETS}/site/scale", {"spec": {"replicas": 0}}, patch="merge")
    assert (code, scale["spec"]["replicas"]) == (200, 0)
    cluster.settle()
    assert cluster.all("Pod") == []
    code, refused = http("PATCH", f"{STATEFUL_SETS}/site/scale", {"spec": {"replicas": -1}}, patch="merge")
    assert (code, refused["message"]) == (
        422, 'Scale.autoscaling "site" is invalid: spec.replicas: Invalid value: -1: must be greater than or equal to 0',
    )  # fmt: skip


@pytest.mark.parametrize(
    ("method", "path", "body", "code", "reason", "message"),
    [
        ("GET", f"{STATEFUL_SETS}/none", None, 404, "NotFound", 'statefulsets.apps "none" not found'),
        ("GET", "/apis/apps/v1/namespaces/default/nothings", None, 404, "NotFound", "the server could not find the requested"),
        ("POST", "/api/v1/namespaces/nowhere/pods", pod(), 404, "NotFound", 'namespaces "nowhere" not found'),
        ("PUT", STATEFUL_SETS, stateful_set(), 405, "MethodNotAllowed", "the server does not allow this method on the requested"),
        ("POST", PODS, stateful_set(), 400, "BadRequest", "StatefulSet in version 'apps/v1' cannot be handled as a Pod"),
        ("POST", PODS, pod(serviceAccountName="nobody"), 403, "Forbidden",
         'pods "pod" is forbidden: error looking up service account default/nobody: serviceaccount "nobody" not found'),
        ("POST", PODS, pod(container={"resources": {"limits": {"nvidia.com/gpu": "1.5"}}}), 422, "Invalid",
         'Pod "pod" is invalid: spec.containers[0].resources.limits[nvidia.com/gpu]: Invalid value: "1.5": must be an integer'),
        ("POST", PODS, pod(container={"volumeMounts": [{"name": "data", "mountPath": "/data"}]}), 422, "Invalid",
         'Pod "pod" is invalid: spec.containers[0].volumeMounts[0].name: Not found: "data"'),
        ("POST", PODS, pod("Pod_1"), 422, "Invalid", 'Pod "Pod_1" is invalid: metadata.name: Invalid value: "Pod_1": a lowercase'),
        ("POST", STATEFUL_SETS, stateful_set(replicas="1"), 400, "BadRequest",  # type: ignore[arg-type]
         'StatefulSet in version "v1" cannot be handled as a StatefulSet: json: cannot unmarshal string into Go struct field '
         "StatefulSet.spec.replicas of type int32"),
    ],
)  # fmt: skip
def test_refusals_have_codes_reasons_and_words(
    http: Http, method: str, path: str, body: object, code: int, reason: str, message: str
) -> None:
    got, refused = http(method, path, body)
    assert (got, refused["code"], refused["reason"], refused["status"]) == (code, code, reason, "Failure")
    assert refused["message"].startswith(message)


def test_unknown_fields_are_refused_or_warned_of_and_dropped(http: Http) -> None:
    wrong = stateful_set()
    wrong["spec"]["template"]["spec"]["containers"][0]["imgae"] = "x"
    code, refused = http("POST", STATEFUL_SETS, wrong, fieldValidation="Strict")
    path = "spec.template.spec.containers[0].imgae"
    assert code == 400
    assert refused["message"].endswith(f'strict decoding error: unknown field "{path}"')
    code, refused = http.apply(STATEFUL_SETS, wrong)
    assert (code, refused.get("reason")) == (500, None), "an apply's typo is an error without a reason"
    assert refused["message"].endswith(f".{path}: field not declared in schema")
    answer = http.client.post(STATEFUL_SETS, json=wrong)
    assert answer.headers["warning"] == f'299 - "unknown field \\"{path}\\""'
    assert "imgae" not in answer.json()["spec"]["template"]["spec"]["containers"][0]


def test_what_may_not_change_does_not(http: Http) -> None:
    http("POST", STATEFUL_SETS, stateful_set())
    code, refused = http("PATCH", f"{STATEFUL_SETS}/site", {"spec": {"serviceName": "other"}}, patch="merge")
    assert (code, refused["reason"]) == (422, "Invalid")
    assert "updates to statefulset spec for fields other than 'replicas'" in refused["message"]


def test_a_long_list_comes_in_pieces_of_one_moment(cluster: Cluster, http: Http) -> None:
    for i in range(5):
        http("POST", PODS, pod(f"pod-{i}", gpus=0))
    _, first = http("GET", PODS, limit=2)
    assert (len(first["items"]), first["metadata"]["remainingItemCount"]) == (2, 3)
    http("DELETE", f"{PODS}/pod-4")
    _, second = http("GET", PODS, limit=2, **{"continue": first["metadata"]["continue"]})
    _, third = http("GET", PODS, limit=2, **{"continue": second["metadata"]["continue"]})
    assert [p["metadata"]["name"] for page in (first, second, third) for p in page["items"]] == [f"pod-{i}" for i in range(5)]
    assert "continue" not in third["metadata"]
    assert first["metadata"]["resourceVersion"] == third["metadata"]["resourceVersion"]
    cluster.store.compact()
    code, refused = http("GET", PODS, limit=2, **{"continue": second["metadata"]["continue"]})
    assert (code, refused["reason"]) == (410, "Expired")


def test_selectors_select(http: Http) -> None:
    for name, labels in (("a", {"app": "x", "tier": "1"}), ("b", {"app": "x"}), ("c", {"app": "y", "tier": "2"})):
        made = pod(name, gpus=0)
        made["metadata"]["labels"] = labels
        http("POST", PODS, made)

    def names(**query: str) -> str:
        return "".join(p["metadata"]["name"] for p in http("GET", PODS, **query)[1]["items"])

    assert names(labelSelector="app=x") == "ab"
    assert names(labelSelector="app in (x,y),tier") == "ac"
    assert names(labelSelector="app!=x") == "c"
    assert names(labelSelector="!tier") == "b"
    assert names(labelSelector="tier notin (2)") == "ab"
    assert names(fieldSelector="metadata.name=b") == "b"
    assert http("GET", PODS, fieldSelector="spec.nonsense=1")[1]["message"] == "field label not supported: spec.nonsense"


def test_a_pod_is_deleted_in_its_grace_and_the_grace_can_only_shrink(cluster: Cluster, http: Http) -> None:
    http("POST", PODS, pod())
    cluster.settle()
    code, going = http("DELETE", f"{PODS}/pod")
    assert (code, going["metadata"]["deletionGracePeriodSeconds"], going["metadata"]["deletionTimestamp"]) == (
        200, 30, "2026-11-01T00:00:30Z",
    )  # fmt: skip
    _, going = http("DELETE", f"{PODS}/pod", {"gracePeriodSeconds": 60})
    assert going["metadata"]["deletionGracePeriodSeconds"] == 30
    _, going = http("DELETE", f"{PODS}/pod", {"gracePeriodSeconds": 5})
    assert going["metadata"]["deletionTimestamp"] == "2026-11-01T00:00:05Z"
    assert http("GET", f"{PODS}/pod")[0] == 200
    cluster.settle()
    assert http("GET", f"{PODS}/pod")[0] == 404


def test_a_pod_without_a_node_goes_at_once_unless_a_finalizer_holds_it(http: Http) -> None:
    http("POST", PODS, pod())
    assert http("DELETE", f"{PODS}/pod")[0] == 200
    assert http("GET", f"{PODS}/pod")[0] == 404
    held = pod()
    held["metadata"]["finalizers"] = ["example.com/hold"]
    http("POST", PODS, held)
    _, going = http("DELETE", f"{PODS}/pod")
    assert going["metadata"]["deletionTimestamp"]
    assert http("PATCH", f"{PODS}/pod", {"metadata": {"finalizers": None}}, patch="merge")[0] == 200
    assert http("GET", f"{PODS}/pod")[0] == 404


def test_a_deletion_may_name_the_object_it_means(http: Http) -> None:
    _, made = http("POST", STATEFUL_SETS, stateful_set())
    code, refused = http("DELETE", f"{STATEFUL_SETS}/site", {"preconditions": {"uid": "other"}})
    assert (code, refused["reason"]) == (409, "Conflict")
    assert f"UID in precondition: other, UID in object meta: {made['metadata']['uid']}" in refused["message"]
    code, done = http("DELETE", f"{STATEFUL_SETS}/site", {"preconditions": {"uid": made["metadata"]["uid"]}})
    assert (code, done["status"], done["details"]["uid"]) == (200, "Success", made["metadata"]["uid"])


@pytest.mark.parametrize(("policy", "pods_left"), [("Background", False), ("Foreground", False), ("Orphan", True)])
def test_an_owner_takes_its_own_with_it_as_the_policy_says(cluster: Cluster, http: Http, policy: str, pods_left: bool) -> None:
    http("POST", STATEFUL_SETS, stateful_set())
    cluster.settle()
    http("DELETE", f"{STATEFUL_SETS}/site", {"propagationPolicy": policy})
    there = http("GET", f"{STATEFUL_SETS}/site")[0] == 200
    assert there == (policy != "Background"), "only a background deletion is over at once"
    cluster.settle()
    assert http("GET", f"{STATEFUL_SETS}/site")[0] == 404
    left = cluster.all("Pod")
    assert bool(left) == pods_left
    assert not any(p["metadata"]["ownerReferences"] for p in left)


def test_a_namespace_that_goes_takes_everything_and_takes_nothing_new(cluster: Cluster, http: Http) -> None:
    cluster.namespace("gone")
    http("POST", "/api/v1/namespaces/gone/pods", pod())
    cluster.settle()
    http("DELETE", "/api/v1/namespaces/gone")
    code, refused = http("POST", "/api/v1/namespaces/gone/pods", pod("late"))
    assert (code, refused["message"]) == (
        403, 'pods "late" is forbidden: unable to create new content in namespace gone because it is being terminated',
    )  # fmt: skip
    cluster.settle()
    assert http("GET", "/api/v1/namespaces/gone")[0] == 404


def test_tokens_and_rights(cluster: Cluster, http: Http) -> None:
    cluster.tokens.add("good", User("system:serviceaccount:default:windfall", [Rule(["get", "list"], ["pods"], ["default"])]))
    assert http("GET", PODS)[1]["message"] == "Unauthorized"
    http.client.headers["Authorization"] = "Bearer good"
    assert http("GET", PODS)[0] == 200
    code, refused = http("DELETE", f"{PODS}/pod")
    assert (code, refused["message"]) == (
        403,
        'pods "pod" is forbidden: User "system:serviceaccount:default:windfall" cannot delete resource "pods" in API group "" '
        'in the namespace "default"',
    )  # fmt: skip
    cluster.tokens.revoke("good")
    assert http("GET", PODS)[0] == 401


@pytest.mark.parametrize("name", sorted(errors.BY_NAME))
def test_every_planned_refusal_arrives_as_it_is(cluster: Cluster, http: Http, name: str) -> None:
    known = errors.BY_NAME[name]
    cluster.faults.add(Fault(name, times=1))
    answer = http.client.get(PODS)
    assert answer.status_code == known.code
    assert answer.headers.get("retry-after") == (str(known.retry_after_s) if known.retry_after_s is not None else None)
    if known.plain:
        assert answer.text.strip() == known.message
    else:
        assert answer.json() == known.status()
    assert http.client.get(PODS).status_code == 200


def test_a_lost_answer_is_to_a_request_that_was_carried_out(cluster: Cluster, http: Http) -> None:
    cluster.faults.add(Fault(DROP, ["create"], times=1))
    with pytest.raises(httpx.RemoteProtocolError):
        http("POST", PODS, pod())
    assert cluster.get("Pod", "pod") is None
    cluster.faults.add(Fault(LOSE, ["create"], times=1))
    with pytest.raises(httpx.RemoteProtocolError):
        http("POST", PODS, pod())
    assert cluster.get("Pod", "pod") is not None
    cluster.faults.add(Fault(GARBLE, ["list"], times=1))
    with pytest.raises(ValueError, match="Unterminated"):
        http("GET", PODS)


def test_faults_fall_the_same_way_for_the_same_seed(cluster: Cluster, http: Http) -> None:
    def pattern(seed: int) -> list[int]:
        cluster.faults.__init__(seed)  # type: ignore[misc]
        cluster.faults.add(Fault("unavailable", probability=0.5))
        return [http("GET", PODS)[0] for _ in range(20)]

    assert pattern(1) == pattern(1) != pattern(2)
