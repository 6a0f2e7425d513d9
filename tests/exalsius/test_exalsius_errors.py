"""Every error that exalsius gives, at every request of every call of the driver: its kind, and nothing left behind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from exalsius.double import DROP, GARBLE, LOSE, Exalsius, Fault
from exalsius.sites import driver, look, table
from kubernetes.sites import RUN, SITE
from windfall.errors import DriverError, Permanent, Transient, Unauthorized
from windfall.fleet.drivers.exalsius import ExalsiusDriver
from windfall.fleet.drivers.exalsius_api import ControlPlane
from windfall.fleet.machine import Observed

#: Documented ones, and what stands between a client and any service.
ERRORS: dict[int | str, type[DriverError]] = {
    400: Permanent, 401: Unauthorized, 403: Permanent, 404: Permanent, 409: Transient, 422: Permanent, 429: Transient,
    500: Transient, 502: Transient, 503: Transient, 504: Transient, 302: Permanent,
    DROP: Transient, LOSE: Transient, GARBLE: Transient,
}  # fmt: skip
#: What only says that nodes are no longer as they were read: they are read again, and nobody is told.
READ_AGAIN = {("POST", 409), ("DELETE", 409), ("DELETE", 404)}
#: Whether the site is there before, and what is asked.
CALLS: dict[str, tuple[str, Callable[[ExalsiusDriver], object]]] = {
    "a start": ("", lambda d: d.ensure_up(SITE, 1)),
    "a start that is there": ("starting", lambda d: d.ensure_up(SITE, 1)),
    "a stop, as the next coordinator": ("up", lambda d: d.ensure_down(SITE, 10, "off")),
    "a stop half-way": ("starting", lambda d: d.ensure_down(SITE, 10, "off")),
    "a stop when its pod is gone": ("stopping", lambda d: d.ensure_down(SITE, 10, "off")),
    "a stop of nothing": ("", lambda d: d.ensure_down(SITE, 10, "off")),
    "a look while it starts": ("starting", look),
    "a look while it stops": ("stopping", look),
    "a look at nothing": ("", look),
    "a list, as the next coordinator": ("starting", lambda d: d.list_owned(RUN)),
    "a look, as the next coordinator": ("up", look),
}


def refusal(do: Callable[[], object]) -> DriverError | None:
    try:
        do()
    except DriverError as e:
        return e
    return None


def settle(plane: Exalsius, site: ExalsiusDriver, state: Observed) -> None:
    """Let time pass until the site is so."""
    for _ in range(12):
        plane.kube.settle()
        if look(site).state is state:
            return
        plane.kube.now += 5
    raise AssertionError(f"it does not become {state}: {look(site)}")


def strike(plane: Exalsius, folder: Path, action: int | str, call: str, skip: int) -> bool:
    """One call with one fault at its request number ``skip``; False: the call makes no such request."""
    there, do = CALLS[call]
    site = driver(plane, folder)
    if there:
        site.ensure_up(SITE, 1)
        if there != "starting":
            settle(plane, site, Observed.UP)
        if there == "stopping":
            site.ensure_down(SITE, 10, "off")
            plane.kube.settle()
    if "next coordinator" in call:
        site = driver(plane, folder)
    fault = Fault(action, times=1, skip=skip, headers={"Location": f"{plane.host}/nodes"} if action == 302 else {})
    plane.faults = [fault]
    told = refusal(lambda: do(site))
    if fault.struck and (fault.struck_at, action) not in READ_AGAIN:
        assert type(told) is ERRORS[action] or (isinstance(told, ERRORS[action]) and action in (404, 409)), f"{call}: {told!r}"
        assert "good" not in str(told)
        assert "\n" not in str(told)
    else:
        assert told is None
    plane.faults = []
    assert look(site).state is not Observed.FAILED, "an error of the control plane says nothing of the site"
    site.ensure_down(SITE, 10, "the test is over")
    settle(plane, site, Observed.ABSENT)
    assert (plane.members(), plane.kube.running(), plane.kube.all("Pod"), plane.kube.all("Secret")) == ([], [], [], [])
    assert {n.status for n in plane.pool.values()} == {"AVAILABLE"}
    assert site.list_owned(RUN) == []
    return bool(fault.struck)


@pytest.fixture
def quick(plane: Exalsius) -> Exalsius:
    plane.join_s = plane.leave_s = 4
    return plane


REQUESTS: dict[str, Callable[[ControlPlane], object]] = {
    "list_clusters": lambda c: c.clusters(),
    "get_cluster_kubeconfig": lambda c: c.kubeconfig("c-1"),
    "get_nodes": lambda c: c.members("c-1"),
    "list_nodes": lambda c: c.nodes(),
    "add_nodes": lambda c: c.add("c-1", ["id-gpu-a"]),
    "delete_node_from_cluster": lambda c: c.remove("c-1", "id-gpu-a"),
}


@pytest.mark.parametrize("action", ERRORS)
def test_each_error_has_its_kind_at_each_request(quick: Exalsius, tmp_path: Path, action: int | str) -> None:
    for name, do in REQUESTS.items():
        control = ControlPlane(table(quick, tmp_path), now=lambda: quick.kube.now)
        quick.faults = [Fault(action, headers={"Location": f"{quick.host}/nodes"} if action == 302 else {})]
        before = len(quick.asked)
        told = refusal(lambda do=do, control=control: do(control))
        assert isinstance(told, ERRORS[action]), f"{name}: {told!r}"
        assert len(quick.asked) == before + 1, "nothing is asked twice, and no other address"
        if isinstance(action, int):
            assert str(told) == f"exalsius: Planned: a fault of the test ({action})"


#: One of each kind, and those that are read as something else by some requests.
ONE_OF_EACH = (401, 404, 409, 503, LOSE)


def test_an_answer_that_is_lost_is_told_at_each_call_and_nothing_is_left(quick: Exalsius, tmp_path: Path) -> None:
    for n, call in enumerate(CALLS):
        strike(quick, tmp_path, LOSE, call, n % 3)


@pytest.mark.slow
@pytest.mark.parametrize("action", ONE_OF_EACH)
def test_each_error_at_each_request_of_each_call(quick: Exalsius, tmp_path: Path, action: int | str) -> None:
    for call in CALLS:
        skip = 0
        while strike(quick, tmp_path, action, call, skip):
            skip += 1
        assert skip >= 1, call
