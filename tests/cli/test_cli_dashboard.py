"""`windfall dashboard` as it is typed: what is refused before anything is served, and its end."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from patience import PATIENCE_S
from ui_runs import finished_run
from windfall.cli.dashboard import dashboard
from windfall.errors import ConfigError, StoreError


def _typed(root: Path, **more: object) -> None:
    given = {
        "host": "127.0.0.1",
        "port": 0,
        "token_file": None,
        "certificates": None,
        "insecure": "",
        "names": [],
        "as_json": False,
    }
    dashboard([root], **{**given, **more})  # type: ignore[arg-type]


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="is not there"):
        _typed(tmp_path / "runs")


def test_a_token_that_could_be_guessed_is_refused(tmp_path: Path) -> None:
    run = finished_run(tmp_path / "run")
    for text, why in (("short", "16"), ("", "is empty")):
        (tmp_path / "token").write_text(text)
        with pytest.raises(ConfigError, match=why):
            _typed(run.root, token_file=tmp_path / "token")
    with pytest.raises(ConfigError, match="cannot be read"):
        _typed(run.root, token_file=tmp_path / "nowhere")


def test_an_address_that_is_taken_or_none_of_this_machine_is_named(tmp_path: Path) -> None:
    run = finished_run(tmp_path / "run")
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(ConfigError, match=f"--port {port}"):
            _typed(run.root, port=port)
    with pytest.raises(ConfigError, match=r"192\.0\.2\.1"):
        _typed(run.root, host="192.0.2.1", insecure="I know")


def test_off_the_loopback_certificates_are_asked_for_by_name(tmp_path: Path) -> None:
    run = finished_run(tmp_path / "run")
    with pytest.raises(ConfigError, match="windfall certs init"):
        _typed(run.root, host="0.0.0.0")
    with pytest.raises(ConfigError, match="missing"):
        _typed(run.root, host="0.0.0.0", certificates=str(tmp_path / "certs"))


@pytest.mark.slow
def test_it_ends_in_order_and_without_a_word_while_a_page_listens(tmp_path: Path) -> None:
    run = finished_run(tmp_path / "run")
    command = [sys.executable, "-m", "windfall", "dashboard", str(run.root), "--port", "0", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            url = json.loads(process.stdout.readline())["url"]
            with httpx.stream("GET", f"{url}api/v1/runs/run/stream", timeout=PATIENCE_S, trust_env=False) as heard:
                lines = heard.iter_lines()
                assert any(line.startswith("event: words") for line in lines)
                process.terminate()
                list(lines)  # to the end of the answer, which is a whole one
            _, said = process.communicate(timeout=PATIENCE_S)
        finally:
            process.kill()
    assert said == ""
