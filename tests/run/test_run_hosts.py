"""A run over four hosts: network namespaces with addresses of their own, over TLS. Root only.

Of the three sites one loses its link for a while, one reaches the run through a CONNECT proxy alone, and one has a clock that is an
hour ahead.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from benchmarks.federation.links import Links, inside, possible

from patience import wait_for
from run.real import Living, events, status, windfall, write_config
from windfall import clock
from windfall.store.ledger import Ledger
from windfall.units import iso_utc

pytestmark = pytest.mark.slow

ADDRESS = "10.217.99.1"
PROXY_PORT = 3128
#: A CONNECT proxy, whole.
PROXY = """
import asyncio, sys

async def pump(reader, writer):
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()

async def serve(reader, writer):
    words = (await reader.readuntil(b"\\r\\n\\r\\n")).split()
    host, port = words[1].decode().rsplit(":", 1)
    if words[0] != b"CONNECT":
        writer.write(b"HTTP/1.1 405 Only CONNECT\\r\\n\\r\\n")
        writer.close()
        return
    there = await asyncio.open_connection(host, int(port))
    writer.write(b"HTTP/1.1 200 OK\\r\\n\\r\\n")
    await asyncio.gather(pump(reader, there[1]), pump(there[0], writer))

async def main():
    server = await asyncio.start_server(serve, sys.argv[1], int(sys.argv[2]))
    await server.serve_forever()

asyncio.run(main())
"""
#: Every Python process that finds this has a clock that is an hour ahead: ours and Flower's.
AHEAD = """
import datetime, time

_time, _time_ns, _datetime = time.time, time.time_ns, datetime.datetime
time.time = lambda: _time() + 3600
time.time_ns = lambda: _time_ns() + 3600 * 10**9

class Ahead(_datetime):
    @classmethod
    def now(cls, tz=None):
        return super().now(tz) + datetime.timedelta(hours=1)

    @classmethod
    def utcnow(cls):
        return super().utcnow() + datetime.timedelta(hours=1)

datetime.datetime = Ahead
"""


class Hosts(Links):
    """A coordinator's host and those of its sites, of which some reach it and one only the proxy on it."""

    def up(self) -> None:
        super().up()
        run("ip", "address", "add", f"{ADDRESS}/32", "dev", "lo", namespace=self.hub)
        for site, namespace in self.namespaces.items():
            if site != "behind":
                run("ip", "route", "add", ADDRESS, "via", self.addresses[site], namespace=namespace)

    def cut(self, site: str) -> None:
        """The link is gone."""
        run("ip", "link", "set", "hub", "down", namespace=self.namespaces[site])

    def mend(self, site: str) -> None:
        """It is there again."""
        run("ip", "link", "set", "hub", "up", namespace=self.namespaces[site])
        run("ip", "route", "add", ADDRESS, "via", self.addresses[site], namespace=self.namespaces[site])


def run(*command: str, namespace: str) -> None:
    subprocess.run(inside(namespace, command), check=True, capture_output=True)


@contextmanager
def hosts() -> Iterator[Hosts]:
    made = Hosts(["cut", "behind", "ahead"], 100)
    try:
        made.up()
        yield made
    finally:
        made.down()


@contextmanager
def process(folder: Path, command: Sequence[object], **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process on some host; all that it started ends with it."""
    folder.mkdir(exist_ok=True)
    with open(folder / "said.txt", "ab") as said:
        child = subprocess.Popen(
            [*map(str, command)], stdin=subprocess.DEVNULL, stdout=said, stderr=said, cwd=folder, start_new_session=True,
            env={**os.environ, **environment},
        )  # fmt: skip
    try:
        yield child
    finally:
        child.kill()
        child.wait()
        for entry in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError):
                if str(folder).encode() in Path(f"/proc/{entry}/cmdline").read_bytes():
                    os.kill(int(entry), signal.SIGKILL)


def config(folder: Path, certificates: Path) -> Path:
    """Three sites that are always in a window, on the calendar."""
    file = write_config(
        folder, {s: [(0, 1)] for s in ("cut", "behind", "ahead")}, budget=128 * 9000, tick_s=1, dead_man_s=60, snapshot_s=10,
        heartbeat_timeout_s=120, solo_cut_s=5, round_s=10,
    )  # fmt: skip
    now = clock.wall()
    text = file.read_text(encoding="utf-8")
    text = (
        text.replace('clock = "scaled"', 'clock = "real"')
        .replace('start = "2026-01-01T00:00Z"\n', "")
        .replace("speed = 100000\n", "")
    )
    text = text.replace("[federation]\n", "[federation]\nround_min_s = 3\ngrace_s = 3\n")
    for line in {x for x in text.splitlines() if x.startswith("until = ")}:
        text = text.replace(line, f'until = "{iso_utc(now + 86400)}"')
    text = text.replace("spin_up_s = 120\n", 'spin_up_s = 20\ndriver = "resident"\n')
    text = text.replace("tokens_per_s = 4.2666666667", "tokens_per_s = 1000")
    text += f'\n[network]\naddress = "{ADDRESS}"\ncertificates = "{certificates}"\n'
    file.write_text(text, encoding="utf-8")
    for site in ("cut", "behind", "ahead"):
        (folder / f"{site}.csv").write_text(f"time_utc,g\n{iso_utc(now - 3600)},10\n", encoding="utf-8")
    return file


def require_parts() -> None:
    if os.geteuid() != 0 or not possible():
        pytest.skip("network namespaces cannot be made here: that takes root, and a kernel that lets it")


def test_links_proxies_and_clocks_are_normal_conditions(tmp_path: Path) -> None:
    require_parts()
    certificates, run_dir = tmp_path / "certs", tmp_path / "run"
    assert windfall("certs", "init", certificates, "--address", ADDRESS).returncode == 0
    with hosts() as there, contextlib.ExitStack() as stack:
        living = stack.enter_context(Living(config(tmp_path, certificates), run_dir, within=there.hub))
        wait_for("the run directory", lambda: (run_dir / "bulk" / "port.json").is_file() and (run_dir / "config.toml").is_file())
        (tmp_path / "ahead-clock").mkdir()
        (tmp_path / "ahead-clock" / "sitecustomize.py").write_text(AHEAD, encoding="utf-8")
        (tmp_path / "proxy.py").write_text(PROXY, encoding="utf-8")
        proxy = inside(there.hub, [sys.executable, str(tmp_path / "proxy.py"), there.addresses["behind"], str(PROXY_PORT)])
        stack.enter_context(process(tmp_path / "proxy", proxy))
        for site in ("cut", "behind", "ahead"):
            told: list[str] = []

            def invited(site: str = site, told: list[str] = told) -> bool:
                done = windfall("site", "invite", run_dir, site, "--out", tmp_path / f"{site}.token")
                told.append(done.stderr)
                return done.returncode == 0

            wait_for("an invitation", invited)
            url = told[-1].split("join ")[1].split()[0]
            join = [
                sys.executable, "-m", "windfall", "site", "join", url, "--token-file", str(tmp_path / f"{site}.token"),
                "--ca-file", str(certificates / "ca.pem"), "--folder", str(tmp_path / site),
            ]  # fmt: skip
            environment = {
                "behind": {"HTTPS_PROXY": f"http://{there.addresses['behind']}:{PROXY_PORT}", "NO_PROXY": ""},
                "ahead": {"PYTHONPATH": f"{tmp_path / 'ahead-clock'}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"},
            }.get(site, {})
            stack.enter_context(process(tmp_path / site, inside(there.namespaces[site], join), **environment))
        wait_for("all three together", lambda: any(len(e["detail"]["sites"]) == 3 for e in events(run_dir, "round")))
        begun = clock.monotonic()
        there.cut("cut")
        wait_for("the others to go on without it", lambda: _rounds_without(run_dir, "cut") >= 1)
        wait_for("a while", lambda: clock.monotonic() - begun > 10)
        there.mend("cut")
        code = living.end()
        said = living.said + "".join((tmp_path / s / "said.txt").read_text() for s in ("cut", "behind", "ahead"))
        assert code == 0, said
    assert "clock is 3600 s ahead of the run's" in (tmp_path / "ahead" / "site" / "logs" / "agent.log").read_text()
    found = status(run_dir)["sites"]
    assert all(found[s]["tokens"] > 0 for s in found), found
    assert not events(run_dir, "stranger", "error", "quarantined")
    ledger = Ledger.open(run_dir / "ledger.db", read_only=True)
    blocks = [
        b
        for v in ledger.versions()
        for c in ledger.contributions(v.version)
        for s in c.header["consumed"]
        for b in range(s["start"], s["end"])
    ]
    assert sorted(blocks) == list(range(ledger.budget_blocks)), "each block once"
    ledger.close()


def _rounds_without(run_dir: Path, site: str) -> int:
    """Joint rounds that were closed, or have begun, without a site since all were together."""
    together = False
    found = 0
    for e in events(run_dir, "round", "round_closed_without"):
        if e["kind"] == "round":
            together = together or len(e["detail"]["sites"]) == 3
        found += together and (e["kind"] == "round_closed_without" or (e["kind"] == "round" and site not in e["detail"]["sites"]))
    return found
