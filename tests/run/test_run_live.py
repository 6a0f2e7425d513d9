"""A real run on the calendar and a live signal: it follows the source, and a source that dies turns it off."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from run.real import SECRET, Living, events, status, wait_for, windfall, write_config
from run.secrets_scan import scanning
from windfall import clock
from windfall.store.files import write_secret
from windfall.units import iso_utc

pytestmark = pytest.mark.slow
#: Which is in a file.
OTHER = "purple-monkey-dishwasher"


class Source:
    """A source that says ``value`` of right now, or nothing but errors where that is None. Asks for a key."""

    def __init__(self) -> None:
        self.value: float | None = 500.0
        self.asked = 0


@contextmanager
def serving(source: Source) -> Iterator[str]:
    """The source's address, while it lives."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            source.asked += 1
            value = source.value
            body = json.dumps({"grid": {"g": value, "at": iso_utc(clock.wall())}}).encode()
            keys = self.headers.get("X-Key"), self.headers.get("X-Other")
            self.send_response(401 if keys != (SECRET, OTHER) else 503 if value is None else 200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            return None

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/now"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def live_config(folder: Path, url: str) -> Path:
    config = write_config(folder, {"a": [(0, 1)]}, budget=128 * 200_000, tick_s=1, solo_cut_s=5)
    text = config.read_text(encoding="utf-8")
    text = (
        text.replace('clock = "scaled"', 'clock = "real"')
        .replace('start = "2026-01-01T00:00Z"\n', "")
        .replace("speed = 100000\n", "")
    )
    text = (
        text[: text.index("[site.signal]")]
        + f"""[site.signal]
kind = "http"
url = "{url}"
value_path = "grid.g"
time_path = "grid.at"
period_s = 3
poll_s = 1.5
timeout_s = 30
headers_from_env = {{ X-Key = "WINDFALL_TEST_KEY", X-Other = "WINDFALL_TEST_OTHER" }}
credentials_file = "credentials"
"""
    )
    config.write_text(text, encoding="utf-8")
    write_secret(folder / "credentials", f"WINDFALL_TEST_OTHER={OTHER}\n")
    return config


def site(run: Path) -> dict[str, Any]:
    return dict(status(run)["sites"]["a"])


def test_a_run_follows_a_live_signal_and_a_dead_source_turns_it_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WINDFALL_TEST_KEY", SECRET)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    source, run = Source(), tmp_path / "run"
    with serving(source) as url, scanning(tmp_path) as scan, Living(live_config(tmp_path, url), run) as living:
        wait_for("a decision on a reading", lambda: (run / "telemetry.db").is_file() and site(run)["value"] == 500.0)
        assert site(run)["state"] == "off"
        source.value = 20.0
        wait_for("training", lambda: site(run)["state"] == "training")
        assert "20 g is under" in site(run)["reason"]
        source.value = None
        # Late at first, which keeps a site on; then it no longer holds (three periods), which turns it off.
        wait_for("the site to be off", lambda: site(run)["state"] == "off")
        assert "no longer holds" in site(run)["reason"] or "no reading" in site(run)["reason"]
        (lost_now,) = status(run)["signals_lost"]
        assert "503" in lost_now["reason"]
        source.value = 30.0
        wait_for("training again", lambda: site(run)["state"] == "training")
        assert status(run)["signals_lost"] == []
        living.send(signal.SIGINT)
        assert living.end() == 130
    (lost, *_) = events(run, "signal_lost")
    assert "503" in lost["detail"]["reason"]
    assert events(run, "signal_back")
    found = windfall("backtest", "--replay", run, "--json")
    assert found.returncode == 0, found.stdout
    told = json.loads(found.stdout)
    assert told["equal"]
    assert told["decisions"] >= 4  # off, on, off, on
    # The run itself was given one, and its coordinator asks with it; nobody else has it.
    scan.forget("windfall.cli.main", "windfall.run.coordinator")
    scan.require_clean(SECRET.encode(), OTHER.encode(), holders=(tmp_path / "credentials",))


def test_a_run_without_the_credentials_that_its_signal_needs_says_which_and_starts_nothing(tmp_path: Path) -> None:
    done = windfall("run", live_config(tmp_path, "http://127.0.0.1:9/now"), "--run-dir", tmp_path / "run", "--quiet")
    assert done.returncode == 1
    assert "WINDFALL_TEST_KEY" in done.stderr
    assert "Traceback" not in done.stderr
