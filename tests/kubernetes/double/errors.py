"""The API server's refusals: `Status` objects with the real one's codes, reasons and words."""

from __future__ import annotations

from typing import Any

Json = dict[str, Any]


class ApiError(Exception):
    """A refusal as it goes over the wire. ``plain``: the words are the whole body, as of refusals before the API itself."""

    def __init__(
        self,
        code: int,
        reason: str,
        message: str,
        *,
        details: Json | None = None,
        retry_after_s: int | None = None,
        plain: bool = False,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message
        self.details = details
        self.retry_after_s = retry_after_s
        self.plain = plain

    def status(self) -> Json:
        body: Json = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": self.message}
        if self.reason:
            body["reason"] = self.reason
        details = dict(self.details or {})
        if self.retry_after_s is not None:
            details["retryAfterSeconds"] = self.retry_after_s
        if details:
            body["details"] = details
        body["code"] = self.code
        return body


def success(name: str, group: str, plural: str, uid: str) -> Json:
    details = {"name": name, "kind": plural, "uid": uid}
    if group:
        details["group"] = group
    return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}


def qualified(group: str, plural: str) -> str:
    return f"{plural}.{group}" if group else plural


def _details(group: str, plural: str, name: str) -> Json:
    details = {"name": name} if name else {}
    if group:
        details["group"] = group
    if plural:
        details["kind"] = plural
    return details


def not_found(group: str, plural: str, name: str) -> ApiError:
    return ApiError(404, "NotFound", f'{qualified(group, plural)} "{name}" not found', details=_details(group, plural, name))


def no_such_resource() -> ApiError:
    return ApiError(404, "NotFound", "the server could not find the requested resource", details={})


def already_exists(group: str, plural: str, name: str) -> ApiError:
    message = f'{qualified(group, plural)} "{name}" already exists'
    return ApiError(409, "AlreadyExists", message, details=_details(group, plural, name))


def conflict(group: str, plural: str, name: str, why: str = "") -> ApiError:
    why = why or "the object has been modified; please apply your changes to the latest version and try again"
    message = f'Operation cannot be fulfilled on {qualified(group, plural)} "{name}": {why}'
    return ApiError(409, "Conflict", message, details=_details(group, plural, name))


def invalid(group: str, kind: str, name: str, problems: list[tuple[str, str, str]]) -> ApiError:
    """``problems``: field, the cause's type (such as `FieldValueInvalid`), and words."""
    causes = [{"reason": reason, "message": words, "field": field} for field, reason, words in problems]
    told = [f"{field}: {words}" for field, _, words in problems]
    head = f'{kind}.{group} "{name}"' if group else f'{kind} "{name}"'
    words = told[0] if len(told) == 1 else "[" + ", ".join(told) + "]"
    details = {**_details(group, kind, name), "causes": causes}
    return ApiError(422, "Invalid", f"{head} is invalid: {words}", details=details)


def forbidden(group: str, plural: str, name: str, why: str) -> ApiError:
    what = qualified(group, plural) + (f' "{name}"' if name else "")
    return ApiError(403, "Forbidden", f"{what} is forbidden: {why}", details=_details(group, plural, name))


def unauthorized() -> ApiError:
    return ApiError(401, "Unauthorized", "Unauthorized")


def bad_request(message: str) -> ApiError:
    return ApiError(400, "BadRequest", message)


def expired(message: str) -> ApiError:
    return ApiError(410, "Expired", message)


def too_old(asked: int, oldest: int) -> ApiError:
    return expired(f"too old resource version: {asked} ({oldest})")


def method_not_allowed(method: str = "") -> ApiError:
    return ApiError(405, "MethodNotAllowed", "the server does not allow this method on the requested resource", details={})


def unsupported_media_type(accepted: str) -> ApiError:
    message = f"the body of the request was in an unknown format - accepted media types include: {accepted}"
    return ApiError(415, "UnsupportedMediaType", message)


def untyped(message: str) -> ApiError:
    """What the server did not expect itself: an error without a reason."""
    return ApiError(500, "", message)


#: Refusals that a busy or broken cluster gives, by a name that tests and fault plans use.
BY_NAME: dict[str, ApiError] = {
    "too_many_requests": ApiError(
        429, "TooManyRequests", "Too many requests, please try again later.", retry_after_s=1, plain=True
    ),
    "internal": ApiError(
        500, "InternalError", "Internal error occurred: an error on the server has prevented the request from succeeding"
    ),
    "etcd_timeout": untyped("etcdserver: request timed out"),
    "etcd_leader": untyped("etcdserver: leader changed"),
    "etcd_space": untyped("etcdserver: mvcc: database space exceeded"),
    "webhook_down": ApiError(
        500,
        "InternalError",
        'Internal error occurred: failed calling webhook "mjob.kb.io": failed to call webhook: Post '
        '"https://kueue-webhook-service.kueue-system.svc:443/mutate-batch-v1-job?timeout=10s": dial tcp 10.96.7.12:443: '
        "connect: connection refused",
    ),
    "webhook_denied": ApiError(
        400, "BadRequest", 'admission webhook "validate.policy.example" denied the request: image registry is not allowed'
    ),
    "bad_gateway": ApiError(502, "", "<html><body><h1>502 Bad Gateway</h1></body></html>", plain=True),
    "unavailable": ApiError(503, "ServiceUnavailable", "the server is currently unable to handle the request", details={}),
    "unavailable_later": ApiError(
        503, "ServiceUnavailable", "the server is currently unable to handle the request", details={}, retry_after_s=2
    ),
    "timeout": ApiError(
        504, "Timeout", "Timeout: request did not complete within requested timeout - context deadline exceeded", details={}
    ),
    "server_timeout": ApiError(
        500,
        "ServerTimeout",
        "The POST operation against Pod could not be completed at this time, please try again.",
        details={},
        retry_after_s=1,
    ),
    "unauthorized": unauthorized(),
    "forbidden": ApiError(
        403,
        "Forbidden",
        'statefulsets.apps "site" is forbidden: User "windfall" cannot patch resource "statefulsets" in API group "apps" '
        'in the namespace "training"',
        details={"name": "site", "group": "apps", "kind": "statefulsets"},
    ),
    "conflict": conflict("apps", "statefulsets", "site"),
    "expired": expired(
        "The provided continue parameter is too old to display a consistent list result. You can start a new list "
        "without the continue parameter."
    ),
    "no_such_resource": no_such_resource(),
    "unprocessable": invalid(
        "apps",
        "StatefulSet",
        "site",
        [
            (
                "spec",
                "FieldValueForbidden",
                "Forbidden: updates to statefulset spec for fields other than 'replicas', 'ordinals', "
                "'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and "
                "'minReadySeconds' "
                "are forbidden",
            ),
        ],
    ),
}
