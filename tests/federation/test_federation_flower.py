"""The contract with Flower: what is not public and that we lean on is still there, in the version that we pin."""

from __future__ import annotations

import inspect
import signal
import tomllib
from collections.abc import Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.metadata import version
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from flwr.app import Message
from flwr.clientapp import ClientApp

from windfall.federation import flower_attach
from windfall.site import client_app, flower_executor
from windfall.store.files import Envelope
from windfall.wire import records


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
    assert parameters(flower_attach.HeartbeatSender) == ["heartbeat_fn"]
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
    assert records.unpack(records.pack(envelope)) == envelope
    assert Message  # the class that carries them is public


# -- a lapse of Flower's heartbeat is not the operator's word ------------------------------------------------


@pytest.fixture
def interrupts() -> Iterator[list[int]]:
    """SIGINTs that this process got."""
    got: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: got.append(number))
    yield got
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def refusing() -> Iterator[str]:
    """Address of a SuperLink at which every token has expired."""

    class Refuses(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(401)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Refuses)
    thread = Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_flowers_own_heartbeat_interrupts_its_process_where_that_is_taken_for_dead(interrupts: list[int]) -> None:
    """Why ours takes its place: the day that this fails, theirs can be used again."""
    from flwr.supercore.heartbeat import make_task_heartbeat_fn_http

    gone = SimpleNamespace(SendTaskHeartbeat=lambda _: SimpleNamespace(success=False))
    make_task_heartbeat_fn_http(gone)()  # type: ignore[arg-type]
    assert interrupts == [signal.SIGINT]


def test_an_expired_token_is_a_lapse_and_no_interrupt(refusing: str, interrupts: list[int]) -> None:
    grid = flower_attach.HttpGrid(runtime_api_address=refusing, insecure=True, token="t")
    grid._retry_invoker = flower_attach.patient()
    with pytest.raises(flower_attach.Lapsed, match="asleep, stopped or very busy"):
        grid.get_node_ids()
    attached = object.__new__(flower_attach.Attachment)
    attached.lapsed, attached._client, attached._heartbeat, attached.grid = "", grid._runtime_client, None, grid
    assert attached._beat()
    assert "given this coordinator up" in attached.lapsed
    attached.close()  # and nobody is left to be told that the run is over
    assert interrupts == []


def test_a_heartbeat_that_is_not_acknowledged_is_a_lapse_too(interrupts: list[int]) -> None:
    attached = object.__new__(flower_attach.Attachment)
    attached.lapsed = ""
    attached._client = SimpleNamespace(SendTaskHeartbeat=lambda _: SimpleNamespace(success=False))  # type: ignore[assignment]
    assert attached._beat()
    assert attached.lapsed
    assert interrupts == []


# -- the patience of a SuperNode -----------------------------------------------------------------------------


def test_a_messages_process_may_take_minutes_to_come_up_and_is_missed_as_soon_as_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    from flwr.supercore.constant import TaskType
    from flwr.supercore.corestate import in_memory_corestate as state
    from flwr.supercore.object_store import ObjectStoreFactory
    from flwr.supernode.nodestate import NodeStateFactory

    real, late_s = state.now, [0.0]
    monkeypatch.setattr(state, "now", lambda: real() + timedelta(seconds=late_s[0]))
    for name in ("HEARTBEAT_DEFAULT_INTERVAL", "HEARTBEAT_PATIENCE"):
        monkeypatch.setattr(state, name, getattr(state, name))

    def token_after(*seconds: float) -> bool:
        """Whether a token is still good after so long, having been used for the first time after the first of them."""
        late_s[0] = 0.0
        node = NodeStateFactory(objectstore_factory=ObjectStoreFactory()).state()
        task = node.create_task(task_type=TaskType.CLIENT_APP, run_id=1, fab_hash="f")
        assert task is not None
        token = node.claim_task(task)
        assert token
        for passed in seconds:
            late_s[0] += passed
            if node.get_task_by_token(token) is None:
                return False
            node.activate_task(task)
        return True

    assert token_after(29)
    assert not token_after(31), "what the log calls 401, task-token authentication failed"
    assert token_after(29, 59)
    assert not token_after(29, 61)
    flower_executor.let_messages_take_their_time()
    assert token_after(flower_executor.START_S - 1)
    assert token_after(200, 59)
    assert not token_after(200, 61)
