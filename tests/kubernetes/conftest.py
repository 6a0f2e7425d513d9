"""A cluster per test, with two nodes of one GPU each, on a manual clock."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from kubernetes.clients import Http
from kubernetes.double.cluster import Cluster


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with Cluster(tmp_path / "cluster", seed=7) as made:
        made.node("node-a", gpus=1)
        made.node("node-b", gpus=1)
        yield made


@pytest.fixture
def http(cluster: Cluster) -> Iterator[Http]:
    made = Http(cluster)
    yield made
    made.client.close()
