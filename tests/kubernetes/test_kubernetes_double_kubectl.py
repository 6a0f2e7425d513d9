"""The official `kubectl` against the double: its own words and exit codes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from kubernetes.clients import Kubectl, stateful_set
from kubernetes.double.access import Rule, User
from kubernetes.double.cluster import Cluster
from patience import wait_for

pytestmark = pytest.mark.slow


@pytest.fixture
def live(tmp_path: Path) -> Iterator[Cluster]:
    with Cluster(tmp_path / "cluster") as made:
        made.node("node", gpus=1)
        made.live()
        yield made


def the_pod_is_there(live: Cluster) -> None:
    """The controller has made it: `kubectl wait` waits for nothing that does not exist, as at a real cluster."""
    wait_for("the pod", lambda: live.all("Pod"))


@pytest.fixture
def kubectl(live: Cluster, tmp_path: Path) -> Kubectl:
    return Kubectl(tmp_path, live.start())


def test_apply_wait_get_scale_and_delete(live: Cluster, kubectl: Kubectl) -> None:
    assert kubectl("apply", "--server-side", "-f", "-", says=stateful_set()) == (0, "statefulset.apps/site serverside-applied", "")
    the_pod_is_there(live)
    assert kubectl("wait", "--for=condition=Ready", "pod/site-0", "--timeout=600s") == (0, "pod/site-0 condition met", "")
    assert kubectl("rollout", "status", "sts/site", "--timeout=600s")[0] == 0
    code, shown, _ = kubectl("get", "sts,pods,nodes")
    lines = [line.split() for line in shown.splitlines() if line]
    assert code == 0
    assert lines[0] == ["NAME", "READY", "AGE"]
    assert lines[1][:2] == ["statefulset.apps/site", "1/1"]
    assert lines[3][:4] == ["pod/site-0", "1/1", "Running", "0"]
    assert lines[5][:2] == ["node/node", "Ready"]
    assert kubectl("scale", "sts/site", "--replicas=0") == (0, "statefulset.apps/site scaled", "")
    assert kubectl("wait", "--for=delete", "pod/site-0", "--timeout=600s")[0] == 0
    assert kubectl("get", "pods") == (0, "", "No resources found in default namespace.")
    assert kubectl("delete", "sts", "site") == (0, 'statefulset.apps "site" deleted from default namespace', "")
    assert kubectl("get", "sts", "site") == (1, "", 'Error from server (NotFound): statefulsets.apps "site" not found')


def test_conflicts_typos_and_invalid_objects_are_refused(kubectl: Kubectl) -> None:
    kubectl("apply", "--server-side", "--field-manager=windfall", "-f", "-", says=stateful_set())
    code, _, err = kubectl("apply", "--server-side", "-f", "-", says=stateful_set(replicas=0))
    assert code == 1
    assert err.startswith('error: Apply failed with 1 conflict: conflict with "windfall": .spec.replicas')
    forced = kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", says=stateful_set(replicas=0))
    assert forced[:2] == (0, "statefulset.apps/site serverside-applied")
    wrong = stateful_set()
    wrong["spec"]["replicsa"] = 2
    code, _, err = kubectl("create", "-f", "-", says=wrong)
    assert (code, 'strict decoding error: unknown field "spec.replicsa"' in err) == (1, True)
    code, _, err = kubectl("scale", "sts/none", "--replicas=0")
    assert (code, err) == (1, 'Error from server (NotFound): statefulsets.apps "none" not found')


def test_client_side_apply_diff_patch_and_describe(live: Cluster, kubectl: Kubectl) -> None:
    assert kubectl("apply", "-f", "-", says=stateful_set())[:2] == (0, "statefulset.apps/site created")
    the_pod_is_there(live)
    assert kubectl("apply", "-f", "-", says=stateful_set())[:2] == (0, "statefulset.apps/site unchanged")
    assert kubectl("apply", "-f", "-", says=stateful_set(container={"image": "site:2"}))[:2] == (
        0,
        "statefulset.apps/site configured",
    )
    assert kubectl("label", "sts", "site", "team=a")[:2] == (0, "statefulset.apps/site labeled")
    assert kubectl("patch", "sts", "site", "-p", '{"spec":{"replicas":0}}')[:2] == (0, "statefulset.apps/site patched")
    wait_for("its end", lambda: not live.all("Pod"))
    wait_for("the controller's word of it", lambda: live.all("StatefulSet")[0].get("status", {}).get("replicas", 0) == 0)
    code, shown, _ = kubectl("describe", "sts", "site")
    assert (code, "site:2" in shown, "SuccessfulDelete" in shown, "0 desired | 0 total" in shown) == (0, True, True, True)


def test_a_watch_shows_each_change_on_a_line(live: Cluster, kubectl: Kubectl) -> None:
    watch = kubectl.start("get", "sts", "-w", "--no-headers")
    assert watch.stdout is not None
    wait_for("the watch", lambda: ("watch", "statefulsets") in live.routes.asked)
    kubectl("apply", "--server-side", "-f", "-", says=stateful_set())
    seen = [watch.stdout.readline().split()[:2] for _ in range(2)]
    assert seen[0][0] == "site"
    while seen[-1] != ["site", "1/1"]:
        seen.append(watch.stdout.readline().split()[:2])
    watch.terminate()
    watch.communicate()


def test_a_token_that_is_wrong_or_may_not(tmp_path: Path, tls: tuple[object, str]) -> None:
    context, authority = tls
    with Cluster(tmp_path / "secure", tls=context) as cluster:  # type: ignore[arg-type]
        cluster.tokens.add("good", User("ann", [Rule(["get", "list"])]))
        url = cluster.start()
        assert Kubectl(tmp_path, url, "good", authority)("get", "pods")[0] == 0
        code, _, err = Kubectl(tmp_path, url, "bad", authority)("get", "pods")
        assert (code, err.splitlines()[-1]) == (1, "error: You must be logged in to the server (Unauthorized)")
        code, _, err = Kubectl(tmp_path, url, "good", authority)("delete", "pod", "x")
        why = 'User "ann" cannot delete resource "pods" in API group "" in the namespace "default"'
        assert (code, err) == (1, f'Error from server (Forbidden): pods "x" is forbidden: {why}')


def test_logs_events_and_json(live: Cluster, kubectl: Kubectl) -> None:
    kubectl("apply", "--server-side", "-f", "-", says=stateful_set(gpus=5))
    the_pod_is_there(live)
    code, _, err = kubectl("wait", "--for=condition=PodScheduled=false", "pod/site-0", "--timeout=600s")
    assert (code, err) == (0, "")
    code, shown, _ = kubectl("get", "events", "--field-selector=reason=FailedScheduling", "-o", "json")
    assert json.loads(shown)["items"][0]["message"].startswith("0/1 nodes are available: 1 Insufficient nvidia.com/gpu.")
    code, _, err = kubectl("logs", "site-0")
    assert (code, "is waiting to start" in err) == (1, True)
