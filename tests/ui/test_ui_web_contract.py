"""The dashboard's JSON against its own OpenAPI document: schemathesis asks, and each answer has to be as the document says."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, seed, settings

from asgi import Asked
from ui_runs import finished_run
from windfall.ui.web.app import Dashboard
from windfall.ui.web.guard import Gate
from windfall.view.run_folders import RunFolders

pytest.importorskip("schemathesis.specs.openapi.checks", reason="needs schemathesis, a dependency of the tests")
schemathesis = pytest.importorskip("schemathesis", reason="needs schemathesis, a dependency of the tests")

from schemathesis.specs.openapi.checks import positive_data_acceptance  # noqa: E402 - where it is there

pytestmark = pytest.mark.slow  # importing schemathesis takes seconds
TOKEN = "a-token-of-many-characters"
#: Cases for each operation; by hand many more (`WINDFALL_LONG=1`).
CASES = 400 if os.environ.get("WINDFALL_LONG") else 12
METHODS = {"get", "post"}


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Asked]:
    root = tmp_path_factory.mktemp("runs")
    finished_run(root / "small")
    served = Dashboard(RunFolders([root]), Gate.of(TOKEN, "127.0.0.1", 8731, tls=False), compares=False)
    with Asked(served.app(), "http://127.0.0.1:8731") as found:
        yield found


def _operations() -> list[tuple[str, str]]:
    from windfall.ui.web.openapi import document

    return [(path, method) for path, item in document()["paths"].items() for method in item if method in METHODS]


@pytest.mark.parametrize(("path", "method"), _operations())
def test_every_answer_is_as_the_document_says(here: Asked, path: str, method: str) -> None:
    schema = schemathesis.openapi.from_dict(here.get("/api/v1/openapi.json").json())
    strategy = schema[path][method.upper()].as_strategy()
    statuses: set[int] = set()

    @seed(1)
    @settings(max_examples=CASES, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(case=strategy)
    def ask(case: schemathesis.Case) -> None:
        if "run" in (case.path_parameters or {}):
            case.path_parameters["run"] = "small"
        sent = case.as_transport_kwargs(base_url="http://127.0.0.1:8731")
        request = {k: sent[k] for k in ("params", "json", "content", "headers") if sent.get(k) is not None}
        headers = {k: v for k, v in dict(request.get("headers") or {}).items() if k.lower() not in ("authorization", "host")}
        request["headers"] = {**headers, "authorization": f"Bearer {TOKEN}"}
        answer = here.request(sent["method"], sent["url"], **request)
        statuses.add(answer.status_code)
        assert answer.status_code < 500, answer.text
        # A schema cannot say that `from` is before `to`, or that a run is done: such requests may be refused.
        case.validate_response(schemathesis.Response.from_httpx(answer, verify=False), excluded_checks=[positive_data_acceptance])

    ask()
    assert statuses & {200, 202, 404, 422}
