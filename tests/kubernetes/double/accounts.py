"""Service accounts' tokens, which bear the rights of the Roles that are bound to the account when they are made."""

from __future__ import annotations

import secrets
from typing import Any

from kubernetes.double.access import Rule, Tokens, User
from kubernetes.double.api import Api
from kubernetes.double.kinds import BY_NAME
from kubernetes.double.words import stamp

Json = dict[str, Any]


def token(api: Api, tokens: Tokens, namespace: str, name: str, request: Json) -> Json:
    """The answer to a TokenRequest. Raises ApiError: 404, no such account."""
    api.get(BY_NAME["ServiceAccount"], namespace, name)
    made = secrets.token_urlsafe(24)
    tokens.add(made, User(f"system:serviceaccount:{namespace}:{name}", rules(api, namespace, name)))
    ends = api.now() + float((request.get("spec") or {}).get("expirationSeconds") or 3600)
    return {
        "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "metadata": {"name": name, "namespace": namespace},
        "spec": request.get("spec") or {}, "status": {"token": made, "expirationTimestamp": stamp(ends)},
    }  # fmt: skip


def rules(api: Api, namespace: str, name: str) -> list[Rule]:
    """What an account may, by all RoleBindings that name it."""
    found = []
    for binding in api.store.all(BY_NAME["RoleBinding"]):
        asked = [(s.get("kind"), s.get("namespace"), s.get("name")) for s in binding.get("subjects") or []]
        if ("ServiceAccount", namespace, name) not in asked:
            continue
        place = binding["metadata"]["namespace"]
        role = api.get(BY_NAME["Role"], place, binding["roleRef"]["name"])
        found += [Rule(r["verbs"], r["resources"], [place]) for r in role.get("rules") or []]
    return found
