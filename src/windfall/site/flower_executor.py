"""Messages carried by the SuperNode's own process, which stays, instead of by a process that is started for each of them.

Flower starts a process per message, which imports for a second or more of a core, and looks for the next message every three
seconds. Here the SuperNode calls our ClientApp itself between receiving a message and sending its reply, and looks more often.
Everything of Flower's site side that is not public API and that we use is in this file and nowhere else. ``adopt`` looks whether it
is still what we know, and rehearses a message; where it is not, the SuperNode goes on as Flower made it.
"""

from __future__ import annotations

import datetime
import functools
import importlib
import inspect
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any, NoReturn

from flwr.app import ConfigRecord, Context, Error, Message, Metadata, RecordDict

from windfall import clock
from windfall.errors import FederationError, WindfallError
from windfall.site.spawning import BROKEN_STATUS

#: What a ClientApp is to a message.
App = Callable[[Message, Context], Message]
#: How long a SuperNode may wait for the process that it starts for a message.
START_S = 300.0
#: Between two looks for a message: while messages come, and where none has come for a while.
_BUSY_S, _IDLE_S, _BUSY_FOR_S = 0.25, 1.0, 60.0
#: Flower's code of a reply that only says what went wrong in the ClientApp.
_APP_RAISED = 2

_LOOP = "flwr.supernode.start_client_internal"
_SIGNING = "flwr.supernode.node_auth_http_interceptor"
#: What a change in Flower shows itself by.
_CHANGED = (ImportError, AttributeError, TypeError, ValueError, LookupError, RuntimeError, AssertionError)


class Changed(FederationError):
    """Flower is not as we know it."""


def let_messages_take_their_time() -> None:
    """In a SuperNode's process: a message's process may take ``START_S`` to come up. How long it may be silent after that stays.

    Flower gives it 30 s. Where it takes longer (it imports for some seconds of a core, and the machine may be shared by many), the
    process's token is taken back, which then fails with "401 ... task-token authentication failed", and another one is started,
    which is no faster. There is no option for this time.
    """
    from flwr.supercore.corestate import in_memory_corestate

    silent_s = in_memory_corestate.HEARTBEAT_PATIENCE * in_memory_corestate.HEARTBEAT_DEFAULT_INTERVAL
    in_memory_corestate.HEARTBEAT_DEFAULT_INTERVAL = START_S
    in_memory_corestate.HEARTBEAT_PATIENCE = silent_s / START_S


def correct_clock(offset_s: float) -> None:
    """In a SuperNode's process: sign requests with the run's time, which is this machine's and ``offset_s``.

    A SuperLink lets no node in whose requests are signed for a time more than 5 s ahead of its own, or 5 min behind.

    Raises:
        Changed: Flower is not as we know it; nothing has been touched.
    """
    try:
        theirs = importlib.import_module(_SIGNING)
        real = theirs.now
        assert real().tzinfo is not None
    except _CHANGED as e:
        raise Changed(f"{type(e).__name__}: {e}") from e
    theirs.now = lambda: real() + datetime.timedelta(seconds=offset_s)  # type: ignore[attr-defined]


def import_ahead() -> None:
    """What a SuperNode imports, and its command only when it runs."""
    for name in (_LOOP, "flwr.supernode.cli.flower_supernode", "flwr.supernode.main"):
        importlib.import_module(name)


def adopt(app: App) -> None:
    """From now on a SuperNode in this process, run with ``--isolation process``, has its messages answered by ``app``.

    Raises:
        Changed: Flower is not as we know it; nothing has been touched.
    """
    try:
        loop = importlib.import_module(_LOOP)
        examine(loop)
        rehearse(loop)
    except _CHANGED as e:
        raise Changed(f"{type(e).__name__}: {e}") from e
    pull, rest = loop._pull_and_store_message, _Rest(loop.time)

    @functools.wraps(pull)
    def pull_and_answer(**given: Any) -> int | None:
        run_id: int | None = pull(**given)
        if run_id is not None:
            rest.busy()
            try:
                answer(loop, app, given["state"], given["object_store"], run_id)
            except _CHANGED as e:
                _give_up(e)
            rest.busy()
        return run_id

    loop._pull_and_store_message = pull_and_answer  # type: ignore[attr-defined]
    loop.time = rest  # type: ignore[attr-defined]


def answer(loop: ModuleType, app: App, state: Any, store: Any, run_id: int) -> None:
    """Take the message that has just been stored, let ``app`` answer it and store the reply; nothing if there is no message.

    What ``app`` raises is the reply.
    """
    for task in state.get_tasks(run_ids=[run_id], statuses=["pending"]):
        state.finish_task(task.task_id, "stopped", "answered by the SuperNode itself")  # nobody else is to take it
    found = state.get_messages_legacy(run_ids=[run_id], is_reply=False, limit=1)
    if not found:
        return
    message_id = found[0].metadata.message_id
    state.record_message_processing_start(message_id)
    tree = store.get_object_tree(message_id)
    contents = {part.object_id: store.get(part.object_id) for part in loop.iterate_object_tree(tree)}
    store.delete(message_id)
    message = _inflate(message_id, contents)
    message.metadata.__dict__["_message_id"] = message_id  # its own name is not in what has travelled
    run = state.get_run(run_id)
    reply = _reply(app, message, state.get_run_series_context(run.series_id))
    del message
    state.record_message_processing_end(message_id)
    loop._insert_message(reply, state, store)


def _inflate(message_id: str, contents: dict[str, bytes]) -> Message:
    from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents

    message = inflate_object_from_contents(message_id, contents)
    if not isinstance(message, Message):
        raise TypeError(f"a message came as {type(message).__name__}")
    return message


def _reply(app: App, message: Message, context: Context) -> Message:
    try:
        return app(message, context)
    except (WindfallError, OSError, LookupError, ValueError, TypeError, MemoryError) as e:
        print(f"Windfall: a message could not be answered: {type(e).__name__}: {e}", file=sys.stderr, flush=True)
        return Message(Error(_APP_RAISED, f"{type(e).__name__}: {e}"), reply_to=message)


def _give_up(why: Exception) -> NoReturn:
    """End this process: the message is lost with it, and asked again of the next one, which is as Flower made it."""
    print(f"Windfall: this SuperNode cannot answer messages itself ({type(why).__name__}: {why})", file=sys.stderr, flush=True)
    raise SystemExit(BROKEN_STATUS)


class _Rest:
    """Takes the place of the module ``time`` in the SuperNode's loop, which looks for a message every three seconds."""

    def __init__(self, real: ModuleType) -> None:
        self._real = real
        self._busy_until = 0.0
        self.busy()

    def busy(self) -> None:
        """Messages come."""
        self._busy_until = clock.monotonic() + _BUSY_FOR_S

    def sleep(self, seconds: float) -> None:
        """At most so long."""
        clock.pause(min(seconds, _BUSY_S if clock.monotonic() < self._busy_until else _IDLE_S))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


def examine(loop: ModuleType) -> None:
    """Look whether what is put in place of other things is still called by the SuperNode's loop.

    Raises:
        AssertionError: it is not.
        AttributeError, TypeError, ValueError: nor is it there.
    """
    pull, insert = loop._pull_and_store_message, loop._insert_message
    for function, wanted in ((pull, {"state", "object_store"}), (insert, {"msg", "state", "store"})):
        has = set(inspect.signature(function).parameters)
        if not wanted <= has:
            raise AssertionError(f"{function.__name__} takes {', '.join(sorted(has))}")
    called = loop.start_client_internal.__code__.co_names
    for name in ("_pull_and_store_message", "_push_messages", "time", "sleep"):
        if name not in called:
            raise AssertionError(f"the SuperNode's loop does not use {name}")
    if loop.ISOLATION_MODE_SUBPROCESS != "subprocess":
        raise AssertionError("isolation has other names")


def rehearse(loop: ModuleType) -> None:
    """Answer a message in a state of its own, from what a SuperNode would have stored to what it would send.

    Raises:
        AssertionError: the reply is not what was answered; or whatever Flower raises where it has changed.
    """
    from flwr.supercore.object_store import ObjectStoreFactory
    from flwr.supercore.run import Run
    from flwr.supernode.nodestate import NodeStateFactory

    stores = ObjectStoreFactory()
    state, store = NodeStateFactory(objectstore_factory=stores).state(), stores.store()
    run = Run.create_empty(run_id=1)
    state.store_run(run)
    state.set_run_series_context(
        run.series_id, Context(run_id=1, node_id=2, node_config={"k": "v"}, state=RecordDict(), run_config={})
    )
    state.create_task(task_type="flwr-clientapp", run_id=1, fab_hash="")
    about = Metadata(
        run_id=1, message_id="", src_node_id=1, dst_node_id=2, reply_to_message_id="", group_id="", created_at=clock.wall(),
        ttl=3600.0, message_type="train",
    )  # fmt: skip
    sent = Message(content=RecordDict({"r": ConfigRecord({"n": 1})}), metadata=about)
    loop._insert_message(sent, state, store)
    sent_id = sent.metadata.message_id

    def app(message: Message, context: Context) -> Message:
        n = message.content.config_records["r"]["n"]
        return Message(RecordDict({"r": ConfigRecord({"n": n, "k": context.node_config["k"]})}), reply_to=message)

    answer(loop, app, state, store, 1)
    (reply,) = state.get_messages_legacy(is_reply=True)
    tree = store.get_object_tree(reply.metadata.message_id)
    back = _inflate(reply.metadata.message_id, {p.object_id: store.get(p.object_id) for p in loop.iterate_object_tree(tree)})
    if dict(back.content.config_records["r"]) != {"n": 1, "k": "v"} or reply.metadata.reply_to_message_id != sent_id:
        raise AssertionError("a message was not answered as it should be")
    if state.get_message_processing_duration(sent_id) < 0 or state.get_tasks(statuses=["pending"]):
        raise AssertionError("a message that was answered is still waited for")
    state.delete_messages(message_ids=[reply.metadata.message_id, sent_id])
    store.delete(reply.metadata.message_id)
    if len(store):
        raise AssertionError("something of a message is kept")
