"""Hosts for a test: network namespaces with addresses of their own, and what can be wrong with links, routers and clocks.

Root only. Nothing leaves the namespaces that are made here.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from benchmarks.federation.links import Links, inside, possible

from needs import missing

#: The coordinator's address, the one that it moves to, and its name wherever it is.
ADDRESS, MOVED, NAME = "10.217.99.1", "10.217.98.1", "coordinator.lan"
PROXY_PORT = 3128
#: A CONNECT proxy, whole.
_PROXY = """
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
#: Every Python process that finds this has a clock that is off by OFFSET seconds: ours and Flower's.
_OFF = """
import datetime, time

_time, _time_ns, _datetime = time.time, time.time_ns, datetime.datetime
time.time = lambda: _time() + OFFSET
time.time_ns = lambda: _time_ns() + OFFSET * 10**9

class Off(_datetime):
    @classmethod
    def now(cls, tz=None):
        return super().now(tz) + datetime.timedelta(seconds=OFFSET)

    @classmethod
    def utcnow(cls):
        return super().utcnow() + datetime.timedelta(seconds=OFFSET)

datetime.datetime = Off
"""


class Hosts(Links):
    """A coordinator's host and those of its sites. They know it by its address and by its name."""

    def __init__(
        self, sites: Sequence[str], *, mbit_s: Mapping[str, float] | None = None, nat: Collection[str] = (),
        proxied: Collection[str] = (),
    ) -> None:  # fmt: skip
        """``mbit_s``: of links that are slower than the others; ``nat``: sites behind a router of their own, whose address is all
        that the coordinator's host knows; ``proxied``: sites that reach no address but that of a proxy on the coordinator's host.
        """
        super().__init__(sites, 100)
        self._slow, self._nat, self._proxied = mbit_s or {}, nat, proxied
        self._at = ADDRESS
        #: The namespace at a site's end of its link: its router, if it has one.
        self._ends_there = dict(self.namespaces)
        #: By site: how many of 100 packets to it, and from it, are lost.
        self._losses: dict[str, tuple[int, int]] = {}

    def up(self) -> None:
        super().up()
        do("ip", "address", "add", f"{ADDRESS}/32", "dev", "lo", within=self.hub)
        for site, there in self._ends_there.items():
            if site in self._slow:
                for end, within in (("hub", there), (self._ends[site], self.hub)):
                    rate = ["tbf", "rate", f"{self._slow[site]}mbit", "burst", "64kb", "latency", "50ms"]
                    do("tc", "qdisc", "change", "dev", end, "root", *rate, within=within)
            self._route(site)
            if site in self._nat:
                self._put_behind_nat(site, there)
            names = _names(self.namespaces[site])
            names.parent.mkdir(parents=True)
            names.write_text(f"127.0.0.1 localhost\n{ADDRESS} {NAME}\n")

    def _put_behind_nat(self, site: str, router: str) -> None:
        behind = self.namespaces[site] = f"{router}-lan"
        do("ip", "netns", "add", behind)
        do("ip", "link", "add", "lan", "netns", router, "type", "veth", "peer", "name", "lan", "netns", behind)
        for within, address in ((router, "192.168.77.1/24"), (behind, "192.168.77.2/24")):
            do("ip", "link", "set", "lo", "up", within=within)
            do("ip", "address", "add", address, "dev", "lan", within=within)
            do("ip", "link", "set", "lan", "up", within=within)
        do("ip", "route", "add", "default", "via", "192.168.77.1", within=behind)
        do("sysctl", "-q", "-w", "net.ipv4.ip_forward=1", within=router)
        rules = ["add table ip nat", _chain("nat", "out", "nat hook postrouting priority srcnat")]
        do("nft", "; ".join([*rules, "add rule ip nat out oifname hub masquerade"]), within=router)

    def _route(self, site: str) -> None:
        if site not in self._proxied:
            do("ip", "route", "replace", self._at, "via", self.addresses[site], within=self._ends_there[site])

    def cut(self, site: str) -> None:
        """The link is gone, and who is at its ends knows."""
        do("ip", "link", "set", "hub", "down", within=self._ends_there[site])

    def mend(self, site: str) -> None:
        """It is there again."""
        do("ip", "link", "set", "hub", "up", within=self._ends_there[site])
        self._route(site)

    def lose(self, site: str, *, to_site: int = 0, from_site: int = 0) -> None:
        """Of 100 packets so many are lost from now on, and nobody is told."""
        self._losses[site] = (to_site, from_site)
        rules = ["add table ip loss", "delete table ip loss", "add table ip loss"]
        for chain, hook, device, n in (("to", "output", "oifname", 0), ("from", "input", "iifname", 1)):
            rules.append(_chain("loss", chain, f"filter hook {hook} priority filter"))
            for s, lost in self._losses.items():
                some = f"numgen random mod 100 < {lost[n]} " if lost[n] < 100 else ""
                if lost[n]:
                    rules.append(f"add rule ip loss {chain} {device} {self._ends[s]} {some}drop")
        do("nft", "; ".join(rules), within=self.hub)

    def move(self) -> None:
        """The coordinator's host has another address; its name is that address's from now on."""
        do("ip", "address", "del", f"{ADDRESS}/32", "dev", "lo", within=self.hub)
        do("ip", "address", "add", f"{MOVED}/32", "dev", "lo", within=self.hub)
        self._at = MOVED
        for site in self._ends_there:
            self._route(site)
            _names(self.namespaces[site]).write_text(f"127.0.0.1 localhost\n{MOVED} {NAME}\n")

    def command_lines(self, site: str) -> list[str]:
        """Of the processes that are at a site."""
        pids = do("ip", "netns", "pids", self.namespaces[site]).split()
        found = []
        for pid in pids:
            with contextlib.suppress(OSError):
                found.append(Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        return found

    def down(self) -> None:
        super().down()
        for namespace in {*self._ends_there.values(), *self.namespaces.values()}:
            subprocess.run(["ip", "netns", "del", namespace], capture_output=True, check=False)
            shutil.rmtree(_names(namespace).parent, ignore_errors=True)


def _chain(table: str, name: str, kind: str) -> str:
    return f"add chain ip {table} {name} {{ type {kind} ; }}"


def _names(namespace: str) -> Path:
    """What `ip netns exec` shows as /etc/hosts."""
    return Path("/etc/netns", namespace, "hosts")


def do(*command: str, within: str = "") -> str:
    """Run a command, in a namespace if one is given."""
    whole = inside(within, command) if within else list(command)
    done = subprocess.run(whole, check=False, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(whole)}: {done.stderr}"
    return done.stdout


@contextmanager
def hosts(
    sites: Sequence[str], *, mbit_s: Mapping[str, float] | None = None, nat: Collection[str] = (), proxied: Collection[str] = ()
) -> Iterator[Hosts]:
    """Hosts as long as they are needed."""
    if os.geteuid() != 0 or not possible():
        pytest.skip("network namespaces cannot be made here: that takes root, and a kernel that lets it")
    if shutil.which("nft") is None:
        missing("nft (Debian: apt-get install nftables)")
    made = Hosts(sites, mbit_s=mbit_s, nat=nat, proxied=proxied)
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


def proxy(folder: Path, there: Hosts, site: str) -> tuple[list[str], dict[str, str]]:
    """The command of a CONNECT proxy for a site on the coordinator's host, and the environment in which the site finds it."""
    folder.mkdir(exist_ok=True)
    (folder / "proxy.py").write_text(_PROXY, encoding="utf-8")
    address = there.addresses[site]
    command = inside(there.hub, [sys.executable, str(folder / "proxy.py"), address, str(PROXY_PORT)])
    return command, {"HTTPS_PROXY": f"http://{address}:{PROXY_PORT}", "NO_PROXY": ""}


def clock_off(folder: Path, offset_s: int) -> dict[str, str]:
    """The environment of processes whose clock is off by so much."""
    folder.mkdir(exist_ok=True)
    (folder / "sitecustomize.py").write_text(_OFF.replace("OFFSET", str(offset_s)), encoding="utf-8")
    return {"PYTHONPATH": f"{folder}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
