"""What the API server refuses about an object, with its words."""

from __future__ import annotations

import json
from typing import Any

from kubernetes.double import errors, schema, words
from kubernetes.double.kinds import Kind
from kubernetes.double.schema import Json

_NAME_RULE = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an "
    "alphanumeric character (e.g. 'example.com', regex used for validation is "
    "'[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
)
_SET_MAY_CHANGE = (
    "replicas",
    "ordinals",
    "template",
    "updateStrategy",
    "revisionHistoryLimit",
    "persistentVolumeClaimRetentionPolicy",
    "minReadySeconds",
)
_SET_FROZEN = (
    "Forbidden: updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', "
    "'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden"
)
_POD_FROZEN = (
    "Forbidden: pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,"
    "`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` "
    "(allow it to be set to 1 if it was previously negative)"
)
Problems = list[tuple[str, str, str]]


def check_types(kind: Kind, obj: Json) -> None:
    """Raises:
    ApiError: 400, a value is of a wrong type.
    """
    if not kind.model:
        return
    for path, is_, wanted in schema.wrong_types(obj, schema.root(kind.model)):
        head = f'{kind.name} in version "{kind.version}" cannot be handled as a {kind.name}'
        raise errors.bad_request(f"{head}: json: cannot unmarshal {is_} into Go struct field {kind.name}.{path} of type {wanted}")


def known_fields(kind: Kind, obj: Json, *, strict: bool) -> tuple[Json, list[str]]:
    """The object without fields that its kind does not have, and a warning for each of those.

    Raises:
        ApiError: 400, there are such fields and ``strict`` is set.
    """
    if not kind.model:
        return obj, []
    node = schema.root(kind.model)
    found = [f'unknown field "{p}"' for p in schema.unknown_fields(obj, node)]
    if found and strict:
        head = f'{kind.name} in version "{kind.version}" cannot be handled as a {kind.name}: strict decoding error: '
        raise errors.bad_request(head + ", ".join(found))
    return (schema.prune(obj, node) if found else obj), found


def validate(kind: Kind, obj: Json, old: Json | None) -> None:
    """Raises:
    ApiError: 422, with every problem.
    """
    problems: Problems = []
    meta = obj["metadata"]
    if not words.is_name(meta["name"]):
        problems.append(("metadata.name", "FieldValueInvalid", f"Invalid value: {json.dumps(meta['name'])}: {_NAME_RULE}"))
    problems += _labels(meta.get("labels"), "metadata.labels")
    if kind.model:
        for path in schema.missing_fields(obj, schema.root(kind.model)):
            problems.append((path, "FieldValueRequired", "Required value"))
    if not problems:
        check = _BY_KIND.get(kind.name)
        if check is not None:
            check(obj, problems)
        if old is not None:
            _changes(kind, obj, old, problems)
    if problems:
        raise errors.invalid(kind.group, kind.name, meta["name"], problems)


def _labels(labels: Any, path: str) -> Problems:
    found = [(v, words.label_problem(str(v))) for v in (labels or {}).values()]
    found += [(k, words.label_problem(k.rpartition("/")[2])) for k in (labels or {})]
    return [(path, "FieldValueInvalid", f"Invalid value: {json.dumps(v)}: {p}") for v, p in found if p]


def _pod_spec(spec: Json, path: str, problems: Problems) -> None:
    volumes = {v["name"] for v in spec.get("volumes") or []}
    names: set[str] = set()
    if not spec.get("containers"):
        problems.append((f"{path}.containers", "FieldValueRequired", "Required value"))
    for where in ("initContainers", "containers"):
        for i, container in enumerate(spec.get(where) or []):
            here = f"{path}.{where}[{i}]"
            if container["name"] in names:
                problems.append((f"{here}.name", "FieldValueDuplicate", f'Duplicate value: "{container["name"]}"'))
            names.add(container["name"])
            if not container.get("image"):
                problems.append((f"{here}.image", "FieldValueRequired", "Required value"))
            for j, mount in enumerate(container.get("volumeMounts") or []):
                if mount["name"] not in volumes:
                    problems.append((f"{here}.volumeMounts[{j}].name", "FieldValueNotFound", f'Not found: "{mount["name"]}"'))
            _resources(container.get("resources") or {}, f"{here}.resources", problems)
    if spec["restartPolicy"] not in ("Always", "OnFailure", "Never"):
        value = json.dumps(spec["restartPolicy"])
        text = f'Unsupported value: {value}: supported values: "Always", "OnFailure", "Never"'
        problems.append((f"{path}.restartPolicy", "FieldValueNotSupported", text))


def _resources(resources: Json, path: str, problems: Problems) -> None:
    limits, requests = resources.get("limits") or {}, resources.get("requests") or {}
    for name, value in {**limits, **requests}.items():
        words.quantity(value)
        if "/" in name:
            if words.quantity(value) != int(words.quantity(value)):
                problems.append((f"{path}.limits[{name}]", "FieldValueInvalid", f'Invalid value: "{value}": must be an integer'))
            if name not in limits:
                problems.append(
                    (f"{path}.limits", "FieldValueRequired", "Required value: Limit must be set for non overcommitable resources")
                )
            elif words.quantity(limits[name]) != words.quantity(requests.get(name, limits[name])):
                text = f'Invalid value: "{requests[name]}": must be equal to {name} limit of {limits[name]}'
                problems.append((f"{path}.requests", "FieldValueInvalid", text))
        elif name in limits and name in requests and words.quantity(requests[name]) > words.quantity(limits[name]):
            text = f'Invalid value: "{requests[name]}": must be less than or equal to {name} limit of {limits[name]}'
            problems.append((f"{path}.requests", "FieldValueInvalid", text))


def _template(spec: Json, problems: Problems, restart: tuple[str, ...]) -> None:
    template = spec["template"]
    problems += _labels(template["metadata"].get("labels"), "spec.template.labels")
    extra = spec.get("volumeClaimTemplates") or []
    inner = {
        **template["spec"],
        "volumes": [*(template["spec"].get("volumes") or []), *({"name": c["metadata"]["name"]} for c in extra)],
    }
    _pod_spec(inner, "spec.template.spec", problems)
    if inner["restartPolicy"] not in restart:
        told = ", ".join(f'"{r}"' for r in restart)
        text = f"Unsupported value: {json.dumps(inner['restartPolicy'])}: supported values: {told}"
        problems.append(("spec.template.spec.restartPolicy", "FieldValueNotSupported", text))


def _selector(spec: Json, problems: Problems) -> None:
    labels = spec["template"]["metadata"].get("labels")
    if not words.selects(spec.get("selector"), labels):
        text = f"Invalid value: {json.dumps(labels or {})}: `selector` does not match template `labels`"
        problems.append(("spec.template.metadata.labels", "FieldValueInvalid", text))


def _stateful_set(obj: Json, problems: Problems) -> None:
    spec = obj["spec"]
    _negative(spec, "replicas", problems)
    _selector(spec, problems)
    _template(spec, problems, ("Always",))


def _job(obj: Json, problems: Problems) -> None:
    spec = obj["spec"]
    for name in ("backoffLimit", "parallelism", "completions", "activeDeadlineSeconds"):
        _negative(spec, name, problems)
    _template(spec, problems, ("OnFailure", "Never"))


def _negative(spec: Json, name: str, problems: Problems) -> None:
    if (spec.get(name) or 0) < 0:
        text = f"Invalid value: {spec[name]}: must be greater than or equal to 0"
        problems.append((f"spec.{name}", "FieldValueInvalid", text))


def _pod(obj: Json, problems: Problems) -> None:
    _pod_spec(obj["spec"], "spec", problems)


def _changes(kind: Kind, obj: Json, old: Json, problems: Problems) -> None:
    new_spec, old_spec = obj.get("spec") or {}, old.get("spec") or {}
    if kind.name == "StatefulSet" and _without(new_spec, _SET_MAY_CHANGE) != _without(old_spec, _SET_MAY_CHANGE):
        problems.append(("spec", "FieldValueForbidden", _SET_FROZEN))
    elif kind.name == "Job":
        free = old_spec.get("suspend") and not old.get("status", {}).get("startTime")
        for name in ("template", "selector", "completions", "completionMode"):
            if new_spec.get(name) != old_spec.get(name) and not (
                name == "template" and free and _only_scheduling(new_spec, old_spec)
            ):
                text = f"Invalid value: {json.dumps(new_spec.get(name))}: field is immutable"
                problems.append((f"spec.{name}", "FieldValueInvalid", text))
    elif kind.name == "Pod":
        free_ = (
            "containers",
            "initContainers",
            "activeDeadlineSeconds",
            "tolerations",
            "terminationGracePeriodSeconds",
            "nodeName",
        )
        bare = [[_without(c, ("image",)) for c in s.get("containers") or []] for s in (new_spec, old_spec)]
        if _without(new_spec, free_) != _without(old_spec, free_) or bare[0] != bare[1]:
            problems.append(("spec", "FieldValueForbidden", _POD_FROZEN))
    elif kind.name == "PersistentVolumeClaim":
        free_ = ("resources", "volumeName", "volumeAttributesClassName")
        if _without(new_spec, free_) != _without(old_spec, free_):
            text = "Forbidden: spec is immutable after creation except resources.requests and volumeAttributesClassName for bound"
            text += " claims"
            problems.append(("spec", "FieldValueForbidden", text))
    elif kind.name in ("Secret", "ConfigMap"):
        if old.get("immutable") and (obj.get("data") != old.get("data") or not obj.get("immutable")):
            problems.append(("data", "FieldValueForbidden", "Forbidden: field is immutable when `immutable` is set"))
        if obj.get("type") != old.get("type"):
            problems.append(("type", "FieldValueInvalid", f"Invalid value: {json.dumps(obj.get('type'))}: field is immutable"))


def _only_scheduling(new: Json, old: Json) -> bool:
    """What Kueue may change of a suspended job that never started."""
    free = ("nodeSelector", "tolerations", "affinity", "schedulingGates", "containers")
    return bool(_without(new["template"]["spec"], free) == _without(old["template"]["spec"], free))


def _without(value: Json, names: tuple[str, ...]) -> Json:
    return {k: v for k, v in value.items() if k not in names}


_BY_KIND = {"Pod": _pod, "StatefulSet": _stateful_set, "Job": _job, "Deployment": lambda o, p: _selector(o["spec"], p)}
