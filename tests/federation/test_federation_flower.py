"""The contract with Flower: what is not public and that we lean on is still there, in the version that we pin."""

from __future__ import annotations

import inspect
import tomllib
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Message
from flwr.clientapp import ClientApp

from windfall.federation import client_app, flower_attach
from windfall.store.files import Envelope


def test_the_pin_is_exact_and_is_what_is_installed() -> None:
    root = Path(__file__).parents[2]
    wanted = tomllib.loads((root / "pyproject.toml").read_text())["project"]["dependencies"]
    assert f"flwr=={version('flwr')}" in wanted
    assert f"flwr=={version('flwr')}\n" in (root / "constraints.txt").read_text()


def test_the_non_public_parts_have_the_parameters_that_we_pass() -> None:
    def parameters(f: object) -> list[str]:
        return list(inspect.signature(f).parameters)  # type: ignore[arg-type]

    assert parameters(flower_attach.build_fab_from_files) == ["files"]
    assert parameters(flower_attach.HttpGrid) == ["runtime_api_address", "insecure", "root_certificates", "token"]
    assert parameters(flower_attach.make_task_heartbeat_fn_http) == ["client"]
    assert {"server_address", "insecure", "root_certificates", "interceptors"} <= set(
        parameters(flower_attach.ControlHttpClient.from_server_address)
    )
    for name in ("push_messages", "pull_messages", "get_node_ids", "set_run", "close", "_runtime_client", "run"):
        assert hasattr(flower_attach.HttpGrid, name), name
    for name in ("AcquireTask", "PullTaskInput", "PushTaskOutput", "SendTaskHeartbeat"):
        assert hasattr(flower_attach.RuntimeHttpClient, name), name
    assert hasattr(flower_attach.ControlHttpClient, "StartRun")
    assert flower_attach.TaskType.SERVER_APP == "flwr-serverapp"


@pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning")  # in Flower, not in us
def test_the_bundle_points_at_the_installed_client_app() -> None:
    fab, _ = flower_attach.build_fab_from_files(
        {"pyproject.toml": flower_attach._PYPROJECT, "windfall_app/__init__.py": flower_attach._MODULE}
    )
    assert fab
    scope: dict[str, object] = {}
    exec(flower_attach._MODULE, scope)
    assert scope["app"] is client_app.app
    assert isinstance(client_app.app, ClientApp)


def test_bytes_travel_in_flower_records_as_they_are() -> None:
    envelope = Envelope({"kind": "x", "n": 3}, {"weights": np.arange(1000, dtype=np.float32).tobytes()})
    assert client_app.unpack(client_app.pack(envelope)) == envelope
    assert Message  # the class that carries them is public
