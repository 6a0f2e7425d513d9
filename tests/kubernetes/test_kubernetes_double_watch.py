"""The API server double: watches, from where they start to how they end."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from lightkube.core.exceptions import ApiError
from lightkube.resources.core_v1 import Pod

from kubernetes.clients import PODS, Http, lightkube, pod
from kubernetes.double.cluster import Cluster
from kubernetes.double.faults import CUT, Fault
from patience import PATIENCE_S


def lines(http: Http, **query: Any) -> Iterator[dict[str, Any]]:
    with http.client.stream("GET", PODS, params={"watch": "true", **query}, timeout=PATIENCE_S) as answer:
        for line in answer.iter_lines():
            yield json.loads(line)


def seen(events: Iterator[dict[str, Any]], count: int) -> list[tuple[str, str]]:
    return [(e["type"], e["object"]["metadata"].get("name", "")) for _, e in zip(range(count), events, strict=False)]


def version(http: Http) -> str:
    return str(http("GET", PODS)[1]["metadata"]["resourceVersion"])


def test_a_watch_goes_on_from_a_list(cluster: Cluster, http: Http) -> None:
    http("POST", PODS, pod("old", gpus=0))
    since = version(http)
    http("POST", PODS, pod("new", gpus=0))
    http("PATCH", f"{PODS}/new", {"metadata": {"labels": {"a": "b"}}}, patch="merge")
    http("DELETE", f"{PODS}/old")
    events = [("ADDED", "new"), ("MODIFIED", "new"), ("DELETED", "old")]
    assert seen(lines(http, resourceVersion=since), 3) == events
    assert seen(lines(http, resourceVersion=since, labelSelector="a=b"), 1) == [("ADDED", "new")]
    assert seen(lines(http, resourceVersion=since, fieldSelector="metadata.name=old"), 1) == [("DELETED", "old")]


def test_a_watch_without_a_version_begins_with_what_is_there(http: Http) -> None:
    http("POST", PODS, pod("old", gpus=0))
    assert seen(lines(http), 1) == [("ADDED", "old")]


def test_a_watch_that_asks_for_its_list_is_told_where_that_ends(http: Http) -> None:
    http("POST", PODS, pod("old", gpus=0))
    asked = {"sendInitialEvents": "true", "allowWatchBookmarks": "true", "resourceVersionMatch": "NotOlderThan"}
    first, mark = (e for _, e in zip(range(2), lines(http, **asked), strict=False))
    assert (first["type"], mark["type"]) == ("ADDED", "BOOKMARK")
    assert mark["object"]["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}


def test_a_watch_hears_of_what_happens_while_it_waits(http: Http) -> None:
    events = lines(http, resourceVersion=version(http))
    other = httpx.Client(base_url=http.client.base_url, trust_env=False, timeout=PATIENCE_S)
    later = threading.Thread(target=lambda: other.post(PODS, json=pod("late", gpus=0)))
    later.start()
    assert seen(events, 1) == [("ADDED", "late")]
    later.join()
    other.close()


def test_a_watch_ends_when_its_time_is_up_with_a_bookmark_if_it_asked(http: Http) -> None:
    assert list(lines(http, resourceVersion=version(http), timeoutSeconds=0.1)) == []
    (mark,) = lines(http, resourceVersion=version(http), timeoutSeconds=0.1, allowWatchBookmarks="true")
    assert (mark["type"], mark["object"]["metadata"]["resourceVersion"]) == ("BOOKMARK", version(http))


def test_a_watch_from_a_forgotten_version_is_told_so(cluster: Cluster, http: Http) -> None:
    since = version(http)
    http("POST", PODS, pod("new", gpus=0))
    cluster.store.compact()
    (gone,) = lines(http, resourceVersion=since)
    assert gone["type"] == "ERROR"
    assert (gone["object"]["code"], gone["object"]["reason"]) == (410, "Expired")
    assert gone["object"]["message"].startswith(f"too old resource version: {since} (")


def test_a_watch_can_be_broken_off(cluster: Cluster, http: Http) -> None:
    cluster.faults.add(Fault(CUT, ["watch"], times=1))
    http("POST", PODS, pod("a", gpus=0))
    http("POST", PODS, pod("b", gpus=0))
    with pytest.raises(httpx.RemoteProtocolError):
        list(lines(http))


def test_lightkube_watches_and_hears_of_expiry(cluster: Cluster) -> None:
    cluster.start()
    client = lightkube(cluster)
    cluster.create(pod("a", gpus=0))
    assert next(iter(client.watch(Pod)))[1].metadata.name == "a"
    cluster.store.compact()
    with pytest.raises(ApiError) as refused:
        next(iter(client.watch(Pod, resource_version="1")))
    assert refused.value.status.code == 410
    client.close()


def test_a_server_that_was_away_is_back_at_the_same_address(cluster: Cluster, http: Http) -> None:
    cluster.server.stop()
    with pytest.raises(httpx.TransportError):
        http("GET", PODS)
    cluster.start()
    assert http("GET", PODS)[0] == 200
