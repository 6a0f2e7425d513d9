"""A site on another machine: it joins, and everything of it goes through the endpoint, over TLS."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from patience import wait_for
from run.real import Living, events, status, windfall, write_config
from run.secrets_scan import scanning

pytestmark = pytest.mark.slow


def config_with_resident(folder: Path, certificates: Path) -> Path:
    """Two sites, of which `far` is a resident machine."""
    config = write_config(folder, {"near": [(0, 500)], "far": [(20, 500)]}, budget=128 * 400)
    text = config.read_text(encoding="utf-8")
    before, name, after = text.partition('name = "far"\n')
    after = after.replace('driver = "local"\n', "", 1)
    text = f'{before}{name}driver = "resident"\n{after}\n[network]\ncertificates = "{certificates}"\n'
    config.write_text(text, encoding="utf-8")
    return config


@contextmanager
def machine(folder: Path, *words: object) -> Iterator[subprocess.Popen[bytes]]:
    """Another machine's agent: a process that shares nothing with the run but the endpoint. What it started ends with it."""
    folder.mkdir(exist_ok=True)
    with open(folder / "said.txt", "ab") as said:
        child = subprocess.Popen(
            [sys.executable, "-m", "windfall", "site", *map(str, words)], stdin=subprocess.DEVNULL, stdout=said, stderr=said,
            cwd=folder, start_new_session=True,
        )  # fmt: skip
    try:
        yield child
    finally:
        child.kill()
        child.wait()
        for entry in os.listdir("/proc"):
            if entry.isdigit() and str(folder).encode() in _command(entry):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(entry), signal.SIGKILL)


def _command(entry: str) -> bytes:
    try:
        return Path(f"/proc/{entry}/cmdline").read_bytes()
    except OSError:
        return b""


def test_a_machine_joins_over_tls_trains_with_others_and_is_released(tmp_path: Path) -> None:
    certificates, run, far = tmp_path / "certs", tmp_path / "run", tmp_path / "far"
    assert windfall("certs", "init", certificates, "--address", "127.0.0.1").returncode == 0
    with scanning(tmp_path) as scan, Living(config_with_resident(tmp_path, certificates), run) as living:
        wait_for("the run directory", lambda: (run / "bulk" / "port.json").is_file() and (run / "config.toml").is_file())
        wait_for("the invitation", lambda: windfall("site", "invite", run, "far", "--out", tmp_path / "far.token").returncode == 0)
        wait_for("what is said of it", lambda: "no machine has joined as far" in status(run)["platforms"].get("far", ""))
        url = windfall("site", "invite", run, "far", "--out", tmp_path / "far.token").stderr.split("join ")[1].split()[0]
        with machine(
            far, "join", url, "--token-file", tmp_path / "far.token", "--ca-file", certificates / "ca.pem", "--folder", far
        ):
            code = living.end()
        assert code == 0, living.said + (far / "said.txt").read_text()
    found = status(run)
    assert found["sites"]["far"]["tokens"] > 0, (far / "said.txt").read_text()
    assert [e["detail"] for e in events(run, "error", "stranger", "refused")] == []
    states = [e["detail"]["now"] for e in events(run, "state") if e["site"] == "far"]
    assert states[:3] == ["provisioning", "ready", "training"]
    assert states[-1] == "off"
    key = (far / "site.key").read_bytes().strip()
    join_tokens = (tmp_path / "far.token").read_bytes().strip()
    assert {key, join_tokens} < scan.secrets, "and tokens of lives"
    scan.require_clean()
