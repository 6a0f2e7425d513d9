"""Alerts leave by a thread of their own: whatever the webhook does, nobody waits for it, and no secret is told."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from run.hook import Hook, HookAnswer
from ui_runs import empty_run
from windfall import clock
from windfall.cli.main import main
from windfall.config.alerts import AlertsTable
from windfall.errors import SignalError, Unauthorized
from windfall.grid.http import TryLater
from windfall.run.webhook import Sender, Webhook

MESSAGE = {
    "version": 1, "source": "windfall", "name": "small", "run_id": "r", "alert": "flapping", "site": "a", "state": "firing",
    "text": "a: 4 starts within an hour <!channel> & more", "numbers": {"starts": 4}, "t_run": "", "t_wall": "",
    "id": "r:flapping:a:0",
}  # fmt: skip


@pytest.fixture
def opened() -> Iterator[Callable[..., Hook]]:
    with ExitStack() as stack:
        yield lambda *answers: stack.enter_context(Hook(*answers))


def until(true: Callable[[], bool]) -> None:
    while not true():
        clock.pause(0.005)


def numbered(i: int) -> dict[str, Any]:
    return {**MESSAGE, "id": str(i)}


# -- what is sent --------------------------------------------------------------------------------------------


def test_it_is_the_whole_object_with_headers_from_environment_and_file(
    opened: Callable[..., Hook], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hook = opened()
    (tmp_path / "token").write_text("Bearer abc\n")
    monkeypatch.setenv("WHERE", hook.url)
    table = AlertsTable.model_validate({"webhook": "env:WHERE", "headers": {"Authorization": f"file:{tmp_path / 'token'}"}})
    Webhook(table).send(MESSAGE)
    ((path, headers, body),) = hook.got
    assert path == "/hook/T0PSECRET"
    assert (headers["authorization"], headers["content-type"]) == ("Bearer abc", "application/json")
    assert body == MESSAGE


def test_slack_gets_a_text_in_which_nothing_means_more_than_it_says(opened: Callable[..., Hook]) -> None:
    hook = opened()
    webhook = Webhook(AlertsTable(webhook=hook.url, format="slack"))
    webhook.send(MESSAGE)
    webhook.send({**MESSAGE, "state": "over"})
    text = "small: a: 4 starts within an hour &lt;!channel&gt; &amp; more"
    assert [body for _, _, body in hook.got] == [{"text": text}, {"text": f"over: {text}"}]


# -- what goes wrong -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "kind", "said"),
    [
        (HookAnswer(500, body="broken at T0PSECRET"), TryLater, "does not answer properly (HTTP 500: broken at "),
        (HookAnswer(429, {"Retry-After": "7"}), TryLater, "asks for fewer requests"),
        (HookAnswer(403, body="no"), Unauthorized, "refuses access (HTTP 403: no)"),
        (HookAnswer(404, body="no_service"), SignalError, "HTTP 404: no_service; check the address, and what it takes"),
    ],
)
def test_each_answer_has_its_meaning_and_tells_no_secret(
    opened: Callable[..., Hook], monkeypatch: pytest.MonkeyPatch, answer: HookAnswer, kind: type[Exception], said: str
) -> None:
    hook = opened(answer)
    monkeypatch.setenv("WHERE", hook.url)
    with pytest.raises(kind) as e:
        Webhook(AlertsTable(webhook="env:WHERE")).send(MESSAGE)
    assert said in str(e.value)
    assert hook.url not in str(e.value)
    assert getattr(e.value, "retry_after_s", None) == (7.0 if answer.status == 429 else None)


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_to_another_host_is_not_followed_and_no_credentials_go_along(
    opened: Callable[..., Hook], monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    other = opened()
    hook = opened(HookAnswer(status, {"Location": other.url.replace("127.0.0.1", "localhost")}))
    monkeypatch.setenv("TOKEN", "Bearer abc")
    with pytest.raises(SignalError, match=r"sends on to http://localhost:.* credentials would go along"):
        Webhook(AlertsTable(webhook=hook.url, headers={"Authorization": "env:TOKEN"})).send(MESSAGE)
    assert len(hook.got) == 1
    assert other.got == []


@pytest.mark.parametrize("where", ["env:NOT_THERE", "file:/nowhere/at/all"])
def test_an_address_that_is_not_where_it_should_be_is_said_by_its_key(where: str) -> None:
    with pytest.raises(Unauthorized, match=r"which alerts\.webhook names"):
        Webhook(AlertsTable(webhook=where)).send(MESSAGE)


def test_nobody_there(opened: Callable[..., Hook]) -> None:
    with Hook() as gone:
        url = gone.url
    with pytest.raises(TryLater, match="no connection"):
        Webhook(AlertsTable(webhook=url)).send(MESSAGE)


# -- the thread ----------------------------------------------------------------------------------------------


def test_what_fails_is_sent_again_until_it_is_taken_and_in_order(opened: Callable[..., Hook]) -> None:
    hook = opened(HookAnswer(500), HookAnswer(503), HookAnswer())
    sender = Sender(Webhook(AlertsTable(webhook=hook.url)).send, base_s=0.001)
    sender.put(numbered(1))
    sender.put(numbered(2))
    assert [m["id"] for m in hook.wait(4)] == ["1", "1", "1", "2"]
    until(lambda: not sender.trouble)
    sender.close()
    assert sender.let_go == 0


def test_one_that_is_refused_is_let_go_of_and_the_next_one_goes(opened: Callable[..., Hook]) -> None:
    hook = opened(HookAnswer(403))
    sender = Sender(Webhook(AlertsTable(webhook=hook.url)).send, base_s=0.001)
    sender.put(numbered(1))
    until(lambda: bool(sender.trouble))
    assert "refuses access" in sender.trouble
    sender.put(numbered(2))
    assert [m["id"] for m in hook.wait(2)] == ["1", "2"]
    until(lambda: not sender.trouble)
    sender.close()
    assert sender.let_go == 1


def test_while_the_webhook_hangs_nobody_waits_and_of_too_many_the_oldest_are_let_go(opened: Callable[..., Hook]) -> None:
    release = threading.Event()
    hook = opened(HookAnswer(held=release))
    sender = Sender(Webhook(AlertsTable(webhook=hook.url)).send, base_s=0.001, most=10)
    sender.put(numbered(0))
    hook.wait(1)
    for i in range(1, 51):  # each of these would wait for ever if it waited at all
        sender.put(numbered(i))
    assert sender.let_go == 41
    release.set()
    assert [m["id"] for m in hook.wait(11)] == ["0", *(str(i) for i in range(41, 51))]
    sender.close()


def test_a_run_that_ends_does_not_wait_for_a_webhook_that_is_away(opened: Callable[..., Hook]) -> None:
    hook = opened(*[HookAnswer(500)] * 100)
    sender = Sender(Webhook(AlertsTable(webhook=hook.url)).send, base_s=1e6)
    sender.put(numbered(1))
    until(lambda: bool(sender.trouble))
    sender.close(patience_s=1e9)
    sender._thread.join()
    assert len(hook.got) == 1


# -- windfall alerts -----------------------------------------------------------------------------------------


def windfall(capsys: pytest.CaptureFixture[str], *args: object) -> tuple[int, str, str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["windfall", *map(str, args)])
        with pytest.raises(SystemExit) as e:
            main()
    out, err = capsys.readouterr()
    return int(e.value.code or 0), out, err


def config(tmp_path: Path, more: str) -> Path:
    run = empty_run(tmp_path / "run")
    file = tmp_path / "x.toml"
    file.write_text(run.config.read_text() + more)
    return file


def test_a_test_is_sent_and_what_is_told_of_is_listed(
    tmp_path: Path, opened: Callable[..., Hook], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    hook = opened(HookAnswer(), HookAnswer(500, body="broken"))
    monkeypatch.setenv("WHERE", hook.url)
    file = config(tmp_path, '\n[alerts]\nwebhook = "env:WHERE"\nstarts_per_h = 0\n')
    code, out, err = windfall(capsys, "alerts", file, "--test")
    assert (code, err) == (0, "")
    assert "flapping        a site starts again and again: left out" in out
    assert "missed_window   a window is open and its site does not train: after 30 min" in out
    assert "alerts are sent to env:WHERE (json)" in out
    assert out.splitlines()[-1].startswith("a test was sent to 127.0.0.1:")
    ((_, _, body),) = hook.got
    assert (body["alert"], body["name"], body["site"]) == ("test", "small", None)
    code, out, err = windfall(capsys, "alerts", file, "--test")
    assert (code, out, len(err.splitlines())) == (1, "", 1)
    assert "the test was not sent: alerts: 127.0.0.1" in err
    assert "HTTP 500: broken" in err
    assert "T0PSECRET" not in err


def test_a_webhook_that_is_not_there_is_one_plain_word(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lacks = config(tmp_path, '\n[alerts]\nwebhook = "env:NOT_THERE"\n')
    code, out, _ = windfall(capsys, "alerts", lacks)
    assert (code, out.splitlines()[-1]) == (
        0, "the variable NOT_THERE, which alerts.webhook names, is not set; alerts are kept as events, and not sent"
    )  # fmt: skip
    assert "alerts are sent" not in out
    dead = config(tmp_path / "dead", '\n[alerts]\nwebhook = "http://127.0.0.1:9/x"\n')
    code, out, err = windfall(capsys, "alerts", dead, "--test")
    assert (code, out) == (1, "")
    assert "the test was not sent: alerts: no connection to 127.0.0.1:9" in err
    assert "again" not in err


def test_without_a_webhook_alerts_are_events_and_no_test_can_be_sent(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = config(tmp_path, "")
    assert "alerts are kept as events; alerts.webhook is not set" in windfall(capsys, "alerts", file)[1]
    code, _, err = windfall(capsys, "alerts", file, "--test")
    assert (code, "alerts.webhook is not set" in err) == (2, True)
    found = json.loads(windfall(capsys, "alerts", tmp_path / "run", "--json")[1])
    assert (found["webhook"], found["sent"], found["alerts"]["slow_start"]) == (None, None, "after 2 times spin_up_s")


def test_check_warns_of_an_address_that_is_not_where_it_should_be(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = config(tmp_path, '\n[alerts]\nwebhook = "env:NOT_THERE"\nheaders = { X = "file:/nowhere" }\n')
    code, out, _ = windfall(capsys, "check", file)
    assert code == 0
    assert "warning: the variable NOT_THERE, which alerts.webhook names, is not set; alerts are kept as events" in out
    assert "warning: /nowhere, which alerts.headers.X names, cannot be read: No such file" in out


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('webhook = "https://hooks.slack.com/services/T0/B0/xyz"', "may hold a secret"),
        ('webhook = "https://user:pw@host/x"', "may hold a secret"),
        ('webhook = "https://host/x?token=3"', "may hold a secret"),
        ('webhook = "somewhere"', "is no address"),
        ('webhook = "ftp://host/x"', "is no address"),
        ('headers = { Authorization = "Bearer abc" }', "headers"),
        ('webhook = "http://example.org/x"', "in the clear"),
        ("spin_up_factor = -1", "at least 0"),
        ('format = "teams"', "format"),
    ],
)
def test_what_is_wrong_with_the_table_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str], line: str, said: str) -> None:
    code, _, err = windfall(capsys, "alerts", config(tmp_path, f"\n[alerts]\n{line}\n"))
    assert code == 2
    assert said in err
    assert "xyz" not in err
    assert "Bearer" not in err


@pytest.mark.parametrize("wrong", ["webhook = 5", "headers = { A = 5 }"])
def test_check_tells_of_a_table_that_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str], wrong: str) -> None:
    code, out, err = windfall(capsys, "check", config(tmp_path, f"\n[alerts]\n{wrong}\n"))
    assert code == 2
    assert f"alerts.{wrong.split(' ')[0]}" in out + err
