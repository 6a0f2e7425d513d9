"""Every error that an API server gives, at every request of every call of the driver: its kind, and nothing left behind."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from kubernetes.double import errors, faults
from kubernetes.double.cluster import Cluster
from kubernetes.double.faults import Fault
from kubernetes.double.routes import Response
from kubernetes.sites import RUN, SITE, driver, look
from windfall.errors import DriverError, Permanent, Transient, Unauthorized
from windfall.fleet.drivers.kubernetes import KubernetesDriver
from windfall.fleet.machine import Observed

#: What nobody has to do anything about; all others are for a person.
PASSES = {
    "too_many_requests", "internal", "etcd_timeout", "etcd_leader", "webhook_down", "bad_gateway", "unavailable",
    "unavailable_later", "timeout", "server_timeout", "conflict", "expired", faults.DROP, faults.LOSE, faults.GARBLE,
}  # fmt: skip
ALL = [*errors.BY_NAME, faults.DROP, faults.LOSE, faults.GARBLE]
#: One of each kind, and what is no answer at all. WINDFALL_LONG=1: all of them.
SOME = ["unauthorized", "forbidden", "internal", faults.DROP, faults.LOSE, faults.GARBLE]
LONG = os.environ.get("WINDFALL_LONG") == "1"
CALLS: dict[str, tuple[bool, Callable[[KubernetesDriver], object]]] = {
    "a start": (False, lambda d: d.ensure_up(SITE, 1)),
    "a start that is there": (True, lambda d: d.ensure_up(SITE, 1)),
    "a stop": (True, lambda d: d.ensure_down(SITE, 10, "off")),
    "a stop of nothing": (False, lambda d: d.ensure_down(SITE, 10, "off")),
    "a look": (True, look),
    "a look at nothing": (False, look),
    "a list": (True, lambda d: d.list_owned(RUN)),
    "a list of nothing": (False, lambda d: d.list_owned(RUN)),
}


def kind_of(name: str) -> type[DriverError]:
    if name == "unauthorized":
        return Unauthorized
    return Transient if name in PASSES else Permanent


def refusal(do: Callable[[], object]) -> DriverError | None:
    try:
        do()
    except DriverError as e:
        return e
    return None


def strike(cluster: Cluster, site: KubernetesDriver, name: str, call: str, skip: int) -> bool:
    """One call with one fault at its request number ``skip``; False: the call makes no such request."""
    there, do = CALLS[call]
    if there:
        site.ensure_up(SITE, 1)
        cluster.settle()
    fault = cluster.faults.add(Fault(name, times=1, skip=skip))
    told = refusal(lambda: do(site))
    if fault.struck and not (name == faults.GARBLE and told is None):  # a deletion's answer has nothing to be read
        assert type(told) is kind_of(name), f"{call}, request {skip}: {told!r}"
        assert "\n" not in str(told)
        assert len(str(told)) < 700
    else:
        assert told is None
    cluster.faults.clear()
    cluster.now += 5
    assert look(site).state is not Observed.FAILED, "an error of the API server says nothing of the site"
    site.ensure_down(SITE, 10, "the test is over")
    cluster.settle()
    assert (look(site).state, cluster.running(), cluster.all("Pod"), cluster.all("Secret")) == (Observed.ABSENT, [], [], [])
    assert site.list_owned(RUN) == []
    return bool(fault.struck)


@pytest.mark.parametrize("name", ALL if LONG else SOME)  # all of them at each request: below
def test_each_error_has_its_kind_at_each_call_and_nothing_is_left(cluster: Cluster, tmp_path: Path, name: str) -> None:
    site = driver(cluster, tmp_path)
    for call in CALLS:
        assert strike(cluster, site, name, call, 0)


@pytest.mark.slow
@pytest.mark.parametrize(
    # Both kinds of objects go through one client: every error is tried with one of them, an error of each kind with the other.
    ("name", "queue"),
    [*((name, "gpus") for name in ALL), *((name, None) for name in (ALL if LONG else SOME))],
)
def test_each_error_at_each_request_of_each_call(tmp_path: Path, name: str, queue: str | None) -> None:
    with Cluster(tmp_path / "cluster") as cluster:
        cluster.node("node", gpus=1)
        cluster.kueue(gpus=1)
        site = driver(cluster, tmp_path, queue=queue)
        for call in CALLS:
            skip = 0
            while strike(cluster, site, name, call, skip):
                skip += 1
            assert skip >= 1


def test_a_server_that_wants_quiet_is_left_alone_for_so_long(cluster: Cluster, tmp_path: Path) -> None:
    site = driver(cluster, tmp_path)
    cluster.faults.add(Fault("too_many_requests", retry_after_s=7, times=1))
    with pytest.raises(Transient, match=r"Too many requests, please try again later. \(429\)$"):
        look(site)
    asked = site.cluster.requests
    for _ in range(3):
        cluster.now += 2
        with pytest.raises(Transient, match=r"asked for . s of quiet"):
            look(site)
    assert site.cluster.requests == asked
    cluster.now += 1.5
    assert look(site).state is Observed.ABSENT


def test_a_refusal_is_read_whatever_it_says_of_its_own_format(cluster: Cluster, tmp_path: Path) -> None:
    site = driver(cluster, tmp_path)
    known = errors.BY_NAME["forbidden"]
    for content in ("application/json; charset=utf-8", "text/plain"):
        answer = Response(known.code, json.dumps(known.status()).encode(), {"Content-Type": content})
        cluster.routes.handle = lambda request, answer=answer: answer  # type: ignore[method-assign, misc]
        with pytest.raises(Permanent, match=r'^statefulsets.apps "site" is forbidden: User "windfall" cannot patch') as told:
            look(site)
        assert str(told.value).endswith("(403)")
