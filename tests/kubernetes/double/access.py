"""Who asks, and what they may: bearer tokens and their rights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from kubernetes.double import errors
from kubernetes.double.kinds import Kind

_EVERYTHING = ("*",)


@dataclass(frozen=True)
class Rule:
    """What a user may, as of a Role. ``resources`` are plurals, with a subresource as in `statefulsets/scale`."""

    verbs: Sequence[str] = _EVERYTHING
    resources: Sequence[str] = _EVERYTHING
    namespaces: Sequence[str] = _EVERYTHING

    def allows(self, verb: str, resource: str, namespace: str) -> bool:
        return all(
            "*" in allowed or asked in allowed
            for allowed, asked in ((self.verbs, verb), (self.resources, resource), (self.namespaces, namespace))
        )


@dataclass
class User:
    name: str
    rules: list[Rule] = field(default_factory=lambda: [Rule()])


class Tokens:
    """Without any token, everybody may do everything, as on a test cluster's insecure port."""

    def __init__(self) -> None:
        self._users: dict[str, User] = {}
        self._closed = False

    def add(self, token: str, user: User) -> None:
        self._users[token] = user
        self._closed = True

    def revoke(self, token: str) -> None:
        """As a token does that has expired."""
        self._users.pop(token, None)

    def user(self, authorization: str) -> User:
        """Raises:
        ApiError: 401, no such token.
        """
        if not self._closed:
            return User("system:admin")
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer" or token.strip() not in self._users:
            raise errors.unauthorized()
        return self._users[token.strip()]


def authorize(user: User, verb: str, kind: Kind, subresource: str, namespace: str, name: str) -> None:
    """Raises:
    ApiError: 403, the user may not.
    """
    resource = f"{kind.plural}/{subresource}" if subresource else kind.plural
    if any(rule.allows(verb, resource, namespace) for rule in user.rules):
        return
    place = f' in the namespace "{namespace}"' if namespace else " at the cluster scope"
    why = f'User "{user.name}" cannot {verb} resource "{resource}" in API group "{kind.group}"{place}'
    raise errors.forbidden(kind.group, kind.plural, name, why)
