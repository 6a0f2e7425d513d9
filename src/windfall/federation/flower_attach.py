"""Attaching our own process to a SuperLink as the ServerApp of a new Flower run.

Everything of Flower that is not public API and that the coordinator uses is imported here and nowhere else (what a site uses is in
``site.flower_executor``); the version is pinned exactly and `tests/federation/test_federation_flower.py` holds the contract. One
attachment per process: Flower's task identity is global.
"""

from __future__ import annotations

import contextlib

import httpx
from flwr.app import Message
from flwr.cli.build import build_fab_from_files
from flwr.common.serde import run_from_proto
from flwr.proto.control_pb2 import StartRunRequest
from flwr.proto.fab_pb2 import Fab
from flwr.proto.runtime_pb2 import AcquireTaskRequest, PullTaskInputRequest, PushTaskOutputRequest, SendTaskHeartbeatRequest
from flwr.supercore.constant import TaskType
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.heartbeat import HeartbeatSender
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
from flwr.supercore.retry import RetryInvoker, make_simple_http_retry_invoker
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.grid import HttpGrid

from windfall import clock
from windfall.errors import FederationError

_PYPROJECT = b"""\
[project]
name = "windfall-app"
version = "1.0.0"
description = "Windfall"
dependencies = ["flwr==1.41.0"]

[tool.flwr.app]
publisher = "windfall"

[tool.flwr.app.components]
serverapp = "windfall_app:server"
clientapp = "windfall_app:app"
"""
#: Sites have Windfall installed; the bundle that Flower sends them only points at it.
_MODULE = b"from windfall.site.client_app import app as app\nserver = None\n"


class Lapsed(FederationError):
    """The SuperLink takes this process for dead: its Flower run is over, and a new one must be opened."""

    def __init__(self) -> None:
        super().__init__(
            "the SuperLink has given this coordinator up: it heard nothing of it for a minute (was the machine asleep, stopped or "
            "very busy?)"
        )


def patient() -> RetryInvoker:
    """Flower's retries, for a process whose SIGINT is the operator's word: theirs would send it one where a token has expired.

    A call raises Lapsed instead.
    """
    invoker = make_simple_http_retry_invoker()
    theirs = invoker.should_giveup

    def give_up(error: Exception) -> bool:
        if isinstance(error, httpx.HTTPStatusError) and error.response.status_code in (401, 403):
            raise Lapsed from error
        return theirs is not None and theirs(error)

    invoker.should_giveup = give_up
    return invoker


class Attachment:
    """A grid that belongs to this process. ``close`` ends the Flower run."""

    def __init__(self, address: str, *, wait_s: float = 30.0) -> None:
        """Attach to the SuperLink at ``host:port``.

        Raises:
            FederationError: nothing answers there within ``wait_s`` seconds, or it refuses.
        """
        self._client: RuntimeHttpClient | None = None
        self._heartbeat: HeartbeatSender | None = None
        #: Why the Flower run is over, or an empty string.
        self.lapsed = ""
        deadline = clock.monotonic() + wait_s
        while True:
            try:
                self._attach(address)
                return
            except (httpx.HTTPError, FederationError) as e:
                if clock.monotonic() > deadline:
                    raise FederationError(
                        f"SuperLink at {address}: cannot attach ({type(e).__name__}: {e}); see logs/superlink.log"
                    ) from None
                clock.pause(0.2)

    def _attach(self, address: str) -> None:
        fab, _ = build_fab_from_files({"pyproject.toml": _PYPROJECT, "windfall_app/__init__.py": _MODULE})
        control = ControlHttpClient.from_server_address(
            address, True, None, [RuntimeVersionHttpInterceptor(component_name="flwr-cli")]
        )
        try:
            control.StartRun(StartRunRequest(fab=Fab(hash_str="", content=fab)))
        finally:
            control.close()
        bare = RuntimeHttpClient.from_server_address(
            address, True, None, [RuntimeVersionHttpInterceptor(component_name="flwr-serverapp")]
        )
        try:
            task = bare.AcquireTask(AcquireTaskRequest(supported_task_types=[TaskType.SERVER_APP]))
        finally:
            bare.close()
        if not task.token:
            raise FederationError("the SuperLink gave no task")
        self.grid = HttpGrid(runtime_api_address=address, insecure=True, token=task.token)
        self.grid._retry_invoker = patient()
        self._client = self.grid._runtime_client
        task_input = self._client.PullTaskInput(PullTaskInputRequest())
        TaskIdentity.task_id = task_input.task_id
        TaskIdentity.run_id = task_input.run.run_id
        TaskIdentity.node_id = task_input.context.node_id
        self.grid.set_run(run_from_proto(task_input.run))
        self.run_id = int(task_input.run.run_id)
        self._heartbeat = HeartbeatSender(self._beat)
        self._heartbeat.start()

    def _beat(self) -> bool:
        """One heartbeat; False to try again soon. Flower's own function sends this process SIGINT where it is taken for dead."""
        assert self._client is not None
        try:
            if not self._client.SendTaskHeartbeat(SendTaskHeartbeatRequest()).success:
                raise Lapsed
        except Lapsed as e:
            self.lapsed = str(e)
        except httpx.HTTPError:
            return False
        return True

    def node_ids(self) -> list[int]:
        """Nodes that the SuperLink lists as online."""
        return list(self.grid.get_node_ids())

    def push(self, message: Message) -> str:
        """Send one message; its id.

        Raises:
            FederationError: the SuperLink did not take it.
        """
        ids = list(self.grid.push_messages([message]))
        if not ids or not ids[0]:
            raise FederationError("the SuperLink did not take the message (too large, or the node is gone)")
        return str(ids[0])

    def pull(self, message_ids: list[str]) -> list[Message]:
        """Replies that have come."""
        return list(self.grid.pull_messages(message_ids))

    def close(self) -> None:
        """Report the run as completed and disconnect."""
        if self._heartbeat and self._heartbeat.is_running:
            self._heartbeat.stop()
        if self._client is not None:
            self.grid._retry_invoker.max_tries = 1
            # If the SuperLink is going down as well there is nobody left to tell.
            with contextlib.suppress(httpx.HTTPError, Lapsed):
                self._client.PushTaskOutput(PushTaskOutputRequest(sub_status="completed", details=""))
            self.grid.close()
