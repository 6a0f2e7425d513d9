"""The API server double: who owns a field, and what several who write one object do to each other."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kubernetes.clients import STATEFUL_SETS, Http, stateful_set
from kubernetes.double import apply, schema

Json = dict[str, Any]


def owners(obj: Json) -> dict[tuple[str, str, str], Json]:
    found = obj["metadata"]["managedFields"]
    return {(e["manager"], e["operation"], e.get("subresource", "")): e["fieldsV1"] for e in found}


def test_an_apply_owns_what_it_says_and_no_default(http: Http) -> None:
    code, made = http.apply(STATEFUL_SETS, stateful_set())
    assert code == 201
    fields = owners(made)["windfall", "Apply", ""]
    assert fields["f:spec"]["f:replicas"] == {}
    assert "f:podManagementPolicy" not in fields["f:spec"]
    assert "f:metadata" not in fields
    container = fields["f:spec"]["f:template"]["f:spec"]["f:containers"]['k:{"name":"main"}']
    assert container == {".": {}, "f:image": {}, "f:name": {}, "f:resources": {"f:limits": {"f:nvidia.com/gpu": {}}}}
    code, same = http.apply(STATEFUL_SETS, stateful_set())
    assert (code, same["metadata"]["resourceVersion"]) == (200, made["metadata"]["resourceVersion"])


def test_a_field_of_another_manager_is_a_conflict_unless_it_is_forced(http: Http) -> None:
    http.apply(STATEFUL_SETS, stateful_set())
    http("PATCH", f"{STATEFUL_SETS}/site/scale", {"spec": {"replicas": 3}}, patch="merge", fieldManager="kubectl")
    code, refused = http.apply(STATEFUL_SETS, stateful_set(replicas=0))
    message = (
        'Apply failed with 1 conflict: conflict with "kubectl" with subresource "scale" using apps/v1 at 2026-11-01T00:00:00Z: '
        ".spec.replicas"
    )
    assert (code, refused["reason"], refused["message"]) == (409, "Conflict", message)
    assert refused["details"]["causes"][0]["reason"] == "FieldManagerConflict"
    assert refused["details"]["causes"][0]["field"] == ".spec.replicas"
    code, forced = http.apply(STATEFUL_SETS, stateful_set(replicas=0), force=True)
    assert (code, forced["spec"]["replicas"]) == (200, 0)
    assert ("kubectl", "Update", "scale") not in owners(forced)


def test_several_conflicts_are_told_by_manager(http: Http) -> None:
    http.apply(STATEFUL_SETS, stateful_set(), manager="gitops")
    other = stateful_set(replicas=2)
    other["spec"]["template"]["spec"]["containers"][0]["image"] = "site:2"
    code, refused = http.apply(STATEFUL_SETS, other)
    assert code == 409
    assert refused["message"] == (
        'Apply failed with 2 conflicts: conflicts with "gitops":\n- .spec.replicas\n'
        '- .spec.template.spec.containers[name="main"].image'
    )


def test_an_equal_value_is_owned_together_and_stays_until_the_last_gives_it_up(http: Http) -> None:
    labelled = stateful_set()
    labelled["metadata"]["labels"] = {"team": "a", "mine": "1"}
    http.apply(STATEFUL_SETS, labelled)
    theirs = stateful_set()
    theirs["metadata"]["labels"] = {"team": "a"}
    assert http.apply(STATEFUL_SETS, theirs, manager="gitops")[0] == 200
    _, left = http.apply(STATEFUL_SETS, stateful_set())
    assert left["metadata"]["labels"] == {"team": "a"}, "what nobody else owns goes with its owner"
    bare = stateful_set()
    _, left = http.apply(STATEFUL_SETS, bare, manager="gitops")
    assert "labels" not in left["metadata"]


def test_items_of_a_keyed_list_belong_to_who_added_them(http: Http) -> None:
    with_env = stateful_set(container={"env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}]})
    http.apply(STATEFUL_SETS, with_env)
    sidecar = {"spec": {"template": {"spec": {"containers": [{"name": "proxy", "image": "proxy:1"}]}}}}
    http("PATCH", f"{STATEFUL_SETS}/site", sidecar, patch="strategic", fieldManager="mesh")
    _, found = http.apply(STATEFUL_SETS, stateful_set(container={"env": [{"name": "B", "value": "3"}]}))
    containers = {c["name"]: c for c in found["spec"]["template"]["spec"]["containers"]}
    assert set(containers) == {"main", "proxy"}
    assert containers["main"]["env"] == [{"name": "B", "value": "3"}]


def test_a_default_comes_back_when_the_field_is_given_up(http: Http) -> None:
    parallel = stateful_set()
    parallel["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] = 99
    http.apply(STATEFUL_SETS, parallel)
    plain = stateful_set()
    del plain["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
    _, found = http.apply(STATEFUL_SETS, plain)
    assert found["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] == 30


def test_a_manager_is_asked_for(http: Http) -> None:
    code, refused = http.apply(STATEFUL_SETS, stateful_set(), manager="")
    assert (code, refused["message"]) == (
        422,
        'PatchOptions.meta.k8s.io "" is invalid: fieldManager: Required value: is required for apply patch',
    )


def test_an_apply_may_name_the_version_it_has_seen(http: Http) -> None:
    _, made = http.apply(STATEFUL_SETS, stateful_set())
    seen = stateful_set(replicas=0)
    seen["metadata"]["resourceVersion"] = made["metadata"]["resourceVersion"]
    http("PATCH", f"{STATEFUL_SETS}/site", {"metadata": {"labels": {"a": "b"}}}, patch="merge")
    assert http.apply(STATEFUL_SETS, seen)[1]["reason"] == "Conflict"
    seen["metadata"] = {"name": "site", "uid": "11111111-1111-4111-8111-111111111111"}
    assert "Precondition failed: UID in precondition" in http.apply(STATEFUL_SETS, seen)[1]["message"]


@pytest.mark.parametrize(
    ("patch", "how", "images"),
    [
        ({"containers": [{"name": "main", "image": "x"}]}, "strategic", {"main": "x", "extra": "b"}),
        ({"containers": [{"name": "main", "$patch": "delete"}]}, "strategic", {"extra": "b"}),
        ({"containers": [{"name": "new", "image": "n"}]}, "strategic", {"main": "site:1", "extra": "b", "new": "n"}),
        ({"containers": [{"name": "main", "image": "x"}]}, "merge", {"main": "x"}),
    ],
)
def test_patches_of_both_kinds(http: Http, patch: Json, how: str, images: dict[str, str]) -> None:
    made = stateful_set()
    made["spec"]["template"]["spec"]["containers"].append({"name": "extra", "image": "b"})
    http("POST", STATEFUL_SETS, made)
    _, found = http("PATCH", f"{STATEFUL_SETS}/site", {"spec": {"template": {"spec": patch}}}, patch=how)
    assert {c["name"]: c["image"] for c in found["spec"]["template"]["spec"]["containers"]} == images


def test_json_patch_tests_before_it_writes(http: Http) -> None:
    http("POST", STATEFUL_SETS, stateful_set())
    test = {"op": "test", "path": "/spec/replicas", "value": 5}
    code, refused = http("PATCH", f"{STATEFUL_SETS}/site", [test], patch="json")
    assert (code, refused["reason"]) == (422, "Invalid")
    ops = [{**test, "value": 1}, {"op": "replace", "path": "/spec/replicas", "value": 2}]
    assert http("PATCH", f"{STATEFUL_SETS}/site", ops, patch="json")[1]["spec"]["replicas"] == 2


_ENV = st.dictionaries(st.sampled_from("ABCD"), st.sampled_from("123"), max_size=4)
_CONFIG = st.fixed_dictionaries({"replicas": st.sampled_from([None, 0, 1]), "env": _ENV, "labels": _ENV})


def _config(draw: Json) -> Json:
    found = stateful_set(replicas=draw["replicas"], container={"env": [{"name": k, "value": v} for k, v in draw["env"].items()]})
    found["metadata"]["labels"] = dict(draw["labels"])
    return found


@settings(max_examples=40)
@given(st.lists(st.tuples(st.sampled_from(["a", "b", "c"]), _CONFIG), min_size=1, max_size=6))
def test_after_any_applies_every_owned_field_is_there_and_every_manager_has_what_it_said(writes: list[tuple[str, Json]]) -> None:
    node = schema.root("io.k8s.api.apps.v1.StatefulSet")
    live: Json | None = None
    for manager, draw in writes:
        config = _config(draw)
        live = apply.applied(live, config, node, manager, "apps/v1", "", "t", force=True)
        there = apply.leaves(live, node)
        said = apply._owned(apply.leaves(config, node), "")
        for owner in apply.owners_of(live):
            assert all(any(t[: len(p)] == p for t in there) for p in owner.fields)
            assert apply.decode(apply.encode(owner.fields)) == owner.fields
        mine = next(o for o in apply.owners_of(live) if o.manager == manager)
        assert mine.fields == set(said)
        assert all(there[p] == v for p, v in said.items() if v not in ({}, []))
        owned = set().union(*(o.fields for o in apply.owners_of(live)))
        assert set(apply._owned(there, "")) <= owned, "what nobody owns any more is gone"
