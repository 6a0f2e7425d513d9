"""Network namespaces: one for a run and one for each of its sites, joined by links of a given rate. Linux, as root."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path


def possible() -> bool:
    """Whether links can be made here."""
    if os.geteuid() != 0 or not shutil.which("ip") or not shutil.which("tc"):
        return False
    probe = f"wf{os.getpid()}-probe"
    made = subprocess.run(["ip", "netns", "add", probe], capture_output=True, check=False).returncode == 0
    if made:
        shaped = ["tc", "qdisc", "add", "dev", "lo", "root", "tbf", "rate", "100mbit", "burst", "64kb", "latency", "50ms"]
        made = subprocess.run(inside(probe, shaped), capture_output=True, check=False).returncode == 0
        _do("ip", "netns", "del", probe)
    return made


def inside(namespace: str, command: Sequence[str]) -> list[str]:
    """A command, to be run in a namespace."""
    return ["ip", "netns", "exec", namespace, *command]


class Links:
    """A hub, and sites that reach it and nothing else."""

    def __init__(self, sites: Sequence[str], mbit_s: float) -> None:
        self._sites, self._mbit_s = list(sites), mbit_s
        name = f"wf{os.getpid()}"
        self.hub = f"{name}-hub"
        #: By site: its namespace, and the address at which it reaches the hub.
        self.namespaces = {site: f"{name}-{site}" for site in sites}
        self.addresses = {site: f"10.217.{n}.1" for n, site in enumerate(sites)}
        self._ends = {site: f"v{n}" for n, site in enumerate(sites)}

    def up(self) -> None:
        """Make them."""
        _do("ip", "netns", "add", self.hub)
        _do(*inside(self.hub, ["ip", "link", "set", "lo", "up"]))
        shaped = ["root", "tbf", "rate", f"{self._mbit_s}mbit", "burst", "64kb", "latency", "50ms"]
        for n, site in enumerate(self._sites):
            there, end = self.namespaces[site], self._ends[site]
            _do("ip", "netns", "add", there)
            _do("ip", "link", "add", end, "netns", self.hub, "type", "veth", "peer", "name", "hub", "netns", there)
            for namespace, device, address in ((self.hub, end, f"10.217.{n}.1/24"), (there, "hub", f"10.217.{n}.2/24")):
                _do(*inside(namespace, ["ip", "link", "set", "lo", "up"]))
                _do(*inside(namespace, ["ip", "address", "add", address, "dev", device]))
                _do(*inside(namespace, ["ip", "link", "set", device, "up"]))
                _do(*inside(namespace, ["tc", "qdisc", "add", "dev", device, *shaped]))

    def counted(self, site: str) -> tuple[int, int]:
        """Bytes that have gone over a site's link so far: to the site, and from it."""
        said = subprocess.run(inside(self.hub, ["cat", "/proc/net/dev"]), capture_output=True, text=True, check=True).stdout
        numbers = next(line for line in said.splitlines() if line.strip().startswith(f"{self._ends[site]}:")).split()
        return int(numbers[9]), int(numbers[1])

    def cut(self, site: str) -> None:
        """The link is gone, and who is at its ends knows."""
        _do(*inside(self.namespaces[site], ["ip", "link", "set", "hub", "down"]))

    def mend(self, site: str) -> None:
        """It is there again."""
        _do(*inside(self.namespaces[site], ["ip", "link", "set", "hub", "up"]))

    def down(self) -> None:
        """Remove them; what is not there is not missed."""
        for namespace in (self.hub, *self.namespaces.values()):
            subprocess.run(["ip", "netns", "del", namespace], capture_output=True, check=False)


@contextmanager
def links(sites: Sequence[str], mbit_s: float) -> Iterator[Links]:
    """Links as long as they are needed."""
    made = Links(sites, mbit_s)
    try:
        made.up()
        yield made
    finally:
        made.down()


def _do(*command: str | Path) -> None:
    subprocess.run([*map(str, command)], check=True, capture_output=True)
