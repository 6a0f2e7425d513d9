"""A control plane per test, with a pool of two nodes and a cluster that has none of them, on a manual clock."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from exalsius.double import Exalsius
from kubernetes.double.cluster import Cluster


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[Exalsius]:
    with Cluster(tmp_path / "cluster", seed=7) as cluster, Exalsius(cluster) as made:
        made.node("gpu-a")
        made.node("gpu-b")
        yield made
