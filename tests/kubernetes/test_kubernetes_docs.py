"""The page on Kubernetes names every key, and the rights that are asked for are those that are needed."""

from __future__ import annotations

from pathlib import Path

import pytest

from kubernetes.double.access import Rule, User
from kubernetes.double.cluster import Cluster
from kubernetes.sites import RUN, SITE, driver, look
from windfall.config.kubernetes import KubernetesTable
from windfall.errors import Permanent
from windfall.fleet.drivers.kubernetes_manifest import driver_rules
from windfall.fleet.machine import Observed

PAGE = (Path(__file__).parents[2] / "docs" / "kubernetes.md").read_text(encoding="utf-8")


def rules(*without: str) -> list[Rule]:
    return [Rule(r["verbs"], [x for x in r["resources"] if x not in without], ["default"]) for r in driver_rules()]


def test_the_page_names_every_key() -> None:
    for key in KubernetesTable.model_fields:
        assert f"`{key}`" in PAGE, key


@pytest.mark.parametrize("queue", [None, "gpus"])
def test_the_rights_that_a_manifest_gives_are_enough(cluster: Cluster, tmp_path: Path, queue: str | None) -> None:
    cluster.kueue(gpus=1)
    cluster.tokens.add("t", User("system:serviceaccount:default:windfall", rules()))
    site = driver(cluster, tmp_path, queue=queue)
    site.cluster._connected()._client._client.headers["Authorization"] = "Bearer t"
    for generation in (1, 2):
        site.ensure_up(SITE, generation)
        cluster.settle()
        assert look(site).state is Observed.UP
        assert [o.generation for o in site.list_owned(RUN)] == [generation]
        site.ensure_down(SITE, 10, "off")
        cluster.settle()
        assert look(site).state is Observed.ABSENT


@pytest.mark.parametrize("resource", ["pods", "secrets", "persistentvolumeclaims", "statefulsets", "statefulsets/scale"])
def test_each_of_them_is_needed(cluster: Cluster, tmp_path: Path, resource: str) -> None:
    cluster.tokens.add("t", User("system:serviceaccount:default:windfall", rules(resource)))
    site = driver(cluster, tmp_path)
    site.cluster._connected()._client._client.headers["Authorization"] = "Bearer t"

    def start_and_stop() -> None:
        site.ensure_up(SITE, 1)
        site.ensure_down(SITE, 10, "off")

    with pytest.raises(Permanent, match=f'cannot [a-z]+ resource "{resource}" in API group'):
        start_and_stop()
