"""What the driver has exalsius do, and what it says of it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from exalsius_api_client import ApiClient, ClustersApi, Configuration, NodesApi

from exalsius.double import Exalsius, Fault
from exalsius.sites import driver, look, table
from kubernetes.double.faults import Fault as KubeFault
from kubernetes.sites import RUN, SITE
from windfall.errors import Permanent, Transient, Unauthorized
from windfall.fleet.drivers.exalsius import ExalsiusDriver
from windfall.fleet.drivers.exalsius_api import ControlPlane
from windfall.fleet.machine import DriverFault, Observed


def passes(plane: Exalsius, seconds: float) -> None:
    """Let time pass at the cluster; nodes move when they are next looked at."""
    plane.kube.now += seconds
    plane.members()
    plane.kube.settle()


def up(plane: Exalsius, folder: Path, **rest: Any) -> ExalsiusDriver:
    site = driver(plane, folder, **rest)
    site.ensure_up(SITE, 1)
    passes(plane, plane.join_s)
    plane.kube.settle()
    assert look(site).state is Observed.UP
    return site


def test_a_start_is_told_in_phases_until_its_pod_is_up_and_a_stop_until_its_nodes_are_free(plane: Exalsius, tmp_path: Path) -> None:
    site = driver(plane, tmp_path, nodes=["gpu-a", "id-gpu-b"], kubernetes={"image": "windfall:1", "gpus": 1})
    site.ensure_up(SITE, 3)
    assert plane.members() == ["gpu-a", "gpu-b"]
    seen = look(site)
    assert (seen.state, seen.words) == (Observed.STARTING, "Deploying: nodes gpu-a, gpu-b are joining the cluster")
    passes(plane, 59)
    assert look(site).words == "Deploying: nodes gpu-a, gpu-b are joining the cluster"
    passes(plane, 1)
    assert look(site).state is Observed.UP
    site.ensure_down(SITE, 10, "the price is high")
    assert plane.members() == ["gpu-a", "gpu-b"], "as long as its pod is there"
    plane.kube.settle()
    seen = look(site)
    assert (seen.state, seen.words) == (Observed.STOPPING, "Deleting: nodes gpu-a, gpu-b are leaving the cluster")
    passes(plane, 29)
    assert look(site).state is Observed.STOPPING
    passes(plane, 1)
    assert look(site).state is Observed.ABSENT
    assert [n.status for n in plane.pool.values()] == ["AVAILABLE", "AVAILABLE"]
    assert sum(a.startswith(("POST", "DELETE")) for a in plane.asked) == 3, "one request adds both, and one removes each"


def test_a_site_that_is_up_asks_nothing_of_exalsius(plane: Exalsius, tmp_path: Path) -> None:
    site = up(plane, tmp_path)
    plane.faults = [Fault(500)]
    asked = len(plane.asked)
    assert look(site).state is Observed.UP
    assert len(plane.asked) == asked


@pytest.mark.parametrize(
    ("status", "warning", "state", "told"),
    [
        ("PENDING", None, Observed.STARTING, "Pending: node gpu-a is PENDING, and not free yet"),
        ("DISCOVERING", None, Observed.STARTING, "Pending: node gpu-a is DISCOVERING, and not free yet"),
        ("MOVING", None, Observed.STARTING, "Pending: node gpu-a is MOVING, and not free yet"),
        ("DEPLOYED", None, Observed.STARTING, "Waiting: node gpu-a is in use in another cluster"),
        ("FAILED", None, Observed.FAILED, "Failed: node gpu-a is FAILED"),
        ("WARNING", "docker is installed", Observed.FAILED, "Failed: node gpu-a is WARNING, docker is installed"),
    ],
)
def test_why_a_node_does_not_come_is_told(
    plane: Exalsius, tmp_path: Path, status: str, warning: str | None, state: Observed, told: str
) -> None:
    plane.pool["id-gpu-a"].status, plane.pool["id-gpu-a"].warning = status, warning
    site = driver(plane, tmp_path)
    site.ensure_up(SITE, 1)
    seen = look(site)
    assert (seen.state, seen.words) == (state, told)
    assert seen.queued is (status == "DEPLOYED"), "its turn comes when the other cluster gives it back"
    assert seen.fault is (DriverFault.PERMANENT if state is Observed.FAILED else None)
    site.ensure_down(SITE, 10, "a failed start")
    plane.kube.settle()
    assert look(site).state is Observed.ABSENT
    assert plane.members() == []


def test_a_node_that_becomes_free_joins(plane: Exalsius, tmp_path: Path) -> None:
    plane.pool["id-gpu-a"].status = "DISCOVERING"
    site = driver(plane, tmp_path)
    site.ensure_up(SITE, 1)
    assert plane.members() == []
    plane.pool["id-gpu-a"].status = "AVAILABLE"
    assert look(site).words == "Deploying: node gpu-a is told to join"
    assert plane.members() == ["gpu-a"]


@pytest.mark.parametrize(
    ("rest", "told"),
    [
        ({"cluster": "other"}, "cluster other is not there"),
        ({"nodes": ["gpu-z"]}, "node gpu-z is not in the pool"),
        ({"nodes": ["twin"]}, "node twin is the host name of more than one node; give its id"),
    ],
)
def test_what_there_is_not_is_told_before_anything_is_made(plane: Exalsius, tmp_path: Path, rest: Any, told: str) -> None:
    plane.node("twin")
    plane.pool["id-2"] = plane.node("twin")
    plane.pool["id-2"].id = "id-2"
    plane.node("twin")
    with pytest.raises(Permanent, match=told):
        driver(plane, tmp_path, **rest).ensure_up(SITE, 1)
    assert plane.kube.all("StatefulSet") == []


@pytest.mark.parametrize(("status", "kind"), [("PENDING", Permanent), ("DEPLOYING", Transient), ("FAILED", Permanent)])
def test_a_cluster_that_is_not_ready_is_told(plane: Exalsius, tmp_path: Path, status: str, kind: type[Exception]) -> None:
    plane.cluster["cluster_status"] = status
    with pytest.raises(kind, match=f"cluster lab is {status}"):
        driver(plane, tmp_path).ensure_up(SITE, 1)
    assert plane.members() == []


def test_a_start_that_is_called_off_half_way_gives_the_node_back(plane: Exalsius, tmp_path: Path) -> None:
    site = driver(plane, tmp_path)
    site.ensure_up(SITE, 1)
    passes(plane, 20)
    site.ensure_down(SITE, 10, "not wanted any more")
    plane.kube.settle()
    seen = look(site)
    assert seen.state is Observed.STOPPING
    assert seen.words.endswith("node id-gpu-a is being deployed (409)"), "it cannot leave before it has come"
    passes(plane, 40)
    assert look(site).state is Observed.STOPPING
    passes(plane, 30)
    assert look(site).state is Observed.ABSENT
    assert plane.pool["id-gpu-a"].status == "AVAILABLE"


def test_nodes_that_a_coordinator_left_in_the_cluster_are_found_and_given_back(plane: Exalsius, tmp_path: Path) -> None:
    site = up(plane, tmp_path)
    site.ensure_down(SITE, 10, "off")
    plane.kube.settle()  # the coordinator dies before it has asked for its node back
    after = driver(plane, tmp_path)
    seen = look(after)
    assert (seen.state, seen.words) == (Observed.FAILED, "node gpu-a is in the cluster, and nothing of the site is there")
    after.ensure_down(SITE, 10, "nobody wants it")
    passes(plane, 30)
    assert look(after).state is Observed.ABSENT
    assert plane.members() == []


def test_the_next_coordinator_completes_a_start_that_the_last_one_had_only_begun(plane: Exalsius, tmp_path: Path) -> None:
    plane.faults = [Fault(500, verb="POST")]
    with pytest.raises(Transient):
        driver(plane, tmp_path).ensure_up(SITE, 4)
    plane.faults = []
    after = driver(plane, tmp_path)
    assert [(o.site, o.generation) for o in after.list_owned(RUN)] == [(SITE, 4)]
    look(after)
    passes(plane, 60)
    assert look(after).state is Observed.UP


def renewal(folder: Path, token: str) -> list[str]:
    """A command that writes the next token, and a line for each time that it was run."""
    code = f"open({str(folder / 'token')!r}, 'w').write({token!r}); open({str(folder / 'ran')!r}, 'a').write('x')"
    return [sys.executable, "-S", "-c", code]


def test_a_token_that_has_ended_is_renewed_once_and_the_call_goes_on(plane: Exalsius, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("old")
    up(plane, tmp_path, renew_command=renewal(tmp_path, "good"))
    assert (tmp_path / "ran").read_text() == "x"


def test_a_renewal_that_does_not_help_is_told_and_not_tried_at_once_again(plane: Exalsius, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("old")
    site = driver(plane, tmp_path, renew_command=renewal(tmp_path, "old too"))
    for _ in range(3):
        with pytest.raises(Unauthorized, match=r"the token is invalid or has expired \(401\)$"):
            site.ensure_up(SITE, 1)
    assert (tmp_path / "ran").read_text() == "x"
    plane.kube.now += 61
    with pytest.raises(Unauthorized):
        site.ensure_up(SITE, 1)
    assert (tmp_path / "ran").read_text() == "xx"


@pytest.mark.parametrize(
    ("rest", "told"),
    [
        ({"token_from": "env:WINDFALL_TEST_NO_TOKEN"}, "the variable WINDFALL_TEST_NO_TOKEN, which token_from names, is not set"),
        ({"token_from": "file:/nowhere/token"}, "/nowhere/token, which token_from names, cannot be read: No such file"),
        (
            {"renew_command": [sys.executable, "-S", "-c", "import sys; sys.exit('log in again')"]},
            "renew_command ended with status 1: log in again",
        ),
    ],
)
def test_a_token_that_cannot_be_had_is_told(plane: Exalsius, tmp_path: Path, rest: Any, told: str) -> None:
    plane.tokens = {"another"}
    with pytest.raises(Unauthorized, match=told):
        driver(plane, tmp_path, **rest).ensure_up(SITE, 1)


def test_a_kubeconfig_that_has_ended_is_fetched_anew(plane: Exalsius, tmp_path: Path) -> None:
    site = up(plane, tmp_path)
    plane.kube.faults.add(KubeFault("unauthorized", times=1))
    assert look(site).state is Observed.UP
    assert plane.asked.count("GET /cluster/c-1/kubeconfig") == 2


@pytest.mark.parametrize(
    "user", [{"exec": {"command": "sh", "apiVersion": "client.authentication.k8s.io/v1"}}, {"tokenFile": "/etc/shadow"}]
)
def test_a_kubeconfig_that_would_use_this_machine_is_not_taken(plane: Exalsius, tmp_path: Path, user: Any) -> None:
    config = yaml.safe_load(plane.kubeconfig)
    config["users"][0]["user"] = user
    plane.kubeconfig = yaml.safe_dump(config)
    with pytest.raises(Permanent, match=f"has {next(iter(user))}, which would use programs or files of this machine"):
        driver(plane, tmp_path).ensure_up(SITE, 1)


def test_a_service_that_wants_quiet_is_left_alone_for_so_long(plane: Exalsius, tmp_path: Path) -> None:
    control = ControlPlane(table(plane, tmp_path), now=lambda: plane.kube.now)
    plane.faults = [Fault(429, times=1, headers={"Retry-After": "7"})]
    with pytest.raises(Transient, match=r"\(429\)$"):
        control.nodes()
    plane.kube.now += 5
    with pytest.raises(Transient, match=r"asked for 2 s of quiet"):
        control.nodes()
    assert len(plane.asked) == 1
    plane.kube.now += 2
    assert len(control.nodes()) == 2


def test_a_service_that_is_not_there_is_told(plane: Exalsius, tmp_path: Path) -> None:
    control = ControlPlane(table(plane, tmp_path, host="http://127.0.0.1:1/v1"))
    with pytest.raises(Transient, match=r"^http://127.0.0.1:1/v1 cannot be reached: .*refused"):
        control.nodes()


def test_the_doubles_answers_are_those_that_the_clients_own_models_read(plane: Exalsius) -> None:
    with ApiClient(Configuration(host=plane.host, access_token="good")) as client:
        clusters, nodes = ClustersApi(client), NodesApi(client)
        assert [c.cluster_status for c in clusters.list_clusters().clusters] == ["READY"]
        assert clusters.get_nodes("c-1").worker_node_ids == []
        assert clusters.get_cluster_kubeconfig("c-1").kubeconfig == plane.kubeconfig
        assert [n.actual_instance.node_status for n in nodes.list_nodes().nodes] == ["AVAILABLE", "AVAILABLE"]
        assert clusters.add_nodes("c-1", {"nodes_to_add": [{"node_id": "id-gpu-a", "node_role": "WORKER"}]}).worker_node_ids == [
            "id-gpu-a"
        ]
        plane.kube.now += 60
        assert clusters.delete_node_from_cluster("c-1", "id-gpu-a").node_id == "id-gpu-a"
        client.rest_client.pool_manager.clear()
