"""A SuperNode that answers messages itself: the contract with Flower that this takes, and what happens where it does not hold."""

from __future__ import annotations

import datetime
import importlib
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from flwr.app import ConfigRecord, Context, Message, Metadata, RecordDict
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.supercore.run import Run
from flwr.supernode.nodestate import NodeStateFactory

from windfall.errors import DataError
from windfall.site import flower_executor, supernode
from windfall.site.flower_executor import Changed, adopt, correct_clock, examine, rehearse
from windfall.site.spawning import BROKEN_STATUS, SPAWNING


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module of the SuperNode's loop, as it was again afterwards."""
    found = importlib.import_module(flower_executor._LOOP)
    for name in ("_pull_and_store_message", "_push_messages", "_insert_message", "time", "start_client_internal"):
        monkeypatch.setattr(found, name, getattr(found, name))
    return found


class Node:
    """A SuperNode's memory, to which messages come from nowhere."""

    def __init__(self, loop: ModuleType) -> None:
        stores = ObjectStoreFactory()
        self.loop, self.store = loop, stores.store()
        self.state = NodeStateFactory(objectstore_factory=stores).state()
        run = Run.create_empty(run_id=1)
        self.state.store_run(run)
        context = Context(run_id=1, node_id=2, node_config={"site-dir": "/s"}, state=RecordDict(), run_config={})
        self.state.set_run_series_context(run.series_id, context)
        self.coming: list[bytes] = []

    def receive(self, **_: Any) -> int | None:
        """What takes the place of Flower's receiving, behind ours."""
        if not self.coming:
            return None
        self.state.create_task(task_type="flwr-clientapp", run_id=1, fab_hash="")
        about = Metadata(1, "", 1, 2, "", "", 1.7e9, 1e12, "train")
        message = Message(content=RecordDict({"c": ConfigRecord({"bytes": self.coming.pop(0)})}), metadata=about)
        self.loop._insert_message(message, self.state, self.store)
        return 1

    def look(self) -> int | None:
        """One turn of the SuperNode's loop up to sending."""
        found: int | None = self.loop._pull_and_store_message(state=self.state, object_store=self.store)
        return found

    def replies(self) -> list[Message]:
        found = []
        for reply in self.state.get_messages_legacy(is_reply=True):
            tree = self.store.get_object_tree(reply.metadata.message_id)
            parts = {p.object_id: self.store.get(p.object_id) or b"" for p in self.loop.iterate_object_tree(tree)}
            found.append(flower_executor._inflate(reply.metadata.message_id, parts))
        return found


def adopted(loop: ModuleType, app: flower_executor.App, monkeypatch: pytest.MonkeyPatch) -> Node:
    node = Node(loop)
    monkeypatch.setattr(loop, "_pull_and_store_message", _as(loop._pull_and_store_message, node.receive))
    adopt(app)
    return node


def _as(theirs: Any, ours: Any) -> Any:
    """A function of ours with the signature of one of theirs."""
    import functools

    return functools.wraps(theirs)(lambda **given: ours(**given))


def echo(message: Message, context: Context) -> Message:
    sent = bytes(message.content.config_records["c"]["bytes"])  # type: ignore[arg-type]
    answer = sent + str(context.node_config["site-dir"]).encode()
    return Message(RecordDict({"c": ConfigRecord({"bytes": answer})}), reply_to=message)


# -- as Flower is ----------------------------------------------------------------------------------------------


def test_the_installed_flower_is_as_we_know_it(loop: ModuleType) -> None:
    examine(loop)
    rehearse(loop)


def test_messages_are_answered_one_after_the_other_and_nothing_of_them_is_kept(
    loop: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = adopted(loop, echo, monkeypatch)
    assert node.look() is None
    for sent in (b"", b"one", b"x" * 1_000_000):
        node.coming.append(sent)
        assert node.look() == 1
        (reply,) = node.replies()
        assert reply.content.config_records["c"]["bytes"] == sent + b"/s"
        assert reply.metadata.dst_node_id == 1
        assert node.state.get_tasks(statuses=["pending", "starting", "running"]) == []
        node.store.delete(reply.object_id)
        assert len(node.store) == 0


def test_what_goes_wrong_in_the_client_app_is_the_reply_and_the_next_message_is_answered(
    loop: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = [True]

    def app(message: Message, context: Context) -> Message:
        if broken.pop(0):
            raise DataError("message: cut short in its header")
        return echo(message, context)

    node = adopted(loop, app, monkeypatch)
    node.coming = [b"one", b"two"]
    broken.append(False)
    node.look()
    (reply,) = node.replies()
    assert "cut short in its header" in (reply.error.reason or "")
    assert "cut short" in capsys.readouterr().err
    node.look()
    (reply,) = node.replies()
    assert reply.content.config_records["c"]["bytes"] == b"two/s"


def test_the_loop_waits_less_and_never_longer_than_flower_asks(loop: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    now, paused = [1000.0], []
    monkeypatch.setattr("windfall.clock.monotonic", lambda: now[0])
    monkeypatch.setattr("windfall.clock.pause", paused.append)
    node = adopted(loop, echo, monkeypatch)
    loop.time.sleep(3)
    loop.time.sleep(0.01)
    now[0] += 3600
    loop.time.sleep(3)
    node.coming.append(b"")
    node.look()
    loop.time.sleep(3)
    assert paused == [0.25, 0.01, 1.0, 0.25]
    assert loop.time.monotonic() > 0, "what else the loop may want of the module is there"


# -- where it has changed --------------------------------------------------------------------------------------


def _nothing(**_: Any) -> None: ...


def _other_loop(**_: Any) -> None:
    """A loop that receives and sends in another way."""
    raise NotImplementedError


@pytest.mark.parametrize(
    ("name", "now", "said"),
    [
        ("_insert_message", None, "_insert_message"),
        ("_insert_message", lambda message: None, "takes message"),
        ("_insert_message", lambda msg, state, store: None, "not enough values"),
        ("_pull_and_store_message", _nothing, "_nothing takes"),
        ("start_client_internal", _other_loop, "does not use _pull_and_store_message"),
        ("iterate_object_tree", None, "iterate_object_tree"),
    ],
)
def test_a_flower_that_has_changed_is_not_touched_and_starts_processes_which_is_said(
    loop: ModuleType, name: str, now: Any, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    patient: list[None] = []
    monkeypatch.setattr(supernode, "let_messages_take_their_time", lambda: patient.append(None))
    if now is None:
        monkeypatch.delattr(loop, name)
    else:
        monkeypatch.setattr(loop, name, now)
    before = dict(vars(loop))
    with pytest.raises(Changed, match=said):
        adopt(echo)
    assert supernode.isolation(asked_to_spawn=False) == "subprocess"
    assert vars(loop) == before
    assert f"{SPAWNING}: Flower is not as we know it" in capsys.readouterr().err
    assert patient == [None]


def test_a_flower_without_such_a_loop_starts_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flower_executor, "_LOOP", "flwr.supernode.gone")
    with pytest.raises(Changed, match=r"flwr\.supernode\.gone"):
        adopt(echo)


def test_a_supernode_that_was_asked_to_start_processes_does(monkeypatch: pytest.MonkeyPatch, loop: ModuleType) -> None:
    monkeypatch.setattr(supernode, "let_messages_take_their_time", lambda: None)
    before = loop._pull_and_store_message
    assert supernode.isolation(asked_to_spawn=True) == "subprocess"
    assert loop._pull_and_store_message is before
    assert supernode.isolation(asked_to_spawn=False) == "process"
    assert loop._pull_and_store_message is not before


def test_what_fails_only_with_a_real_message_ends_the_supernode_with_a_status_of_its_own(
    loop: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = adopted(loop, echo, monkeypatch)
    node.coming.append(b"one")
    node.state = SimpleNamespace(create_task=_nothing, store_message=_nothing)  # type: ignore[assignment]
    monkeypatch.setattr(loop, "_insert_message", lambda *_: None)
    with pytest.raises(SystemExit) as ended:
        node.look()
    assert ended.value.code == BROKEN_STATUS


def test_requests_are_signed_with_the_runs_time_where_a_clock_is_off(monkeypatch: pytest.MonkeyPatch) -> None:
    signing = importlib.import_module("flwr.supernode.node_auth_http_interceptor")
    monkeypatch.setattr(signing, "now", signing.now)  # it is put back at the end
    before = signing.now()
    correct_clock(-3600.0)
    assert datetime.timedelta(minutes=59) < before - signing.now() <= datetime.timedelta(hours=1)


def test_where_flower_signs_in_another_way_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    signing = importlib.import_module("flwr.supernode.node_auth_http_interceptor")
    monkeypatch.delattr(signing, "now")
    with pytest.raises(Changed, match="now"):
        correct_clock(60.0)
