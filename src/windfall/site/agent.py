"""The agent: what runs at a site. It owns a standard SuperNode and the long-lived trainer, and ends both when it ends.

A SuperNode that ends is started again beside the trainer, which goes on. A trainer without a sign of life is ended. The agent sees
nothing but its own folder: ``site.json`` says what to do.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from windfall import clock
from windfall.errors import ConfigError
from windfall.processes import Process
from windfall.site.metering import Metering
from windfall.site.node_log import NodeLog
from windfall.site.nursery import begin
from windfall.site.power_cap import PowerCap
from windfall.site.spawning import BROKEN_STATUS, CLOCK_OFFSET, SPAWN
from windfall.site.watchdog import Watchdog
from windfall.store.files import write_atomic, write_json
from windfall.wire.bulk import TOKEN_NAME
from windfall.wire.certificates import trusting
from windfall.wire.probe import answers
from windfall.wire.transport import FileMailbox

if TYPE_CHECKING:
    from windfall.site.tunnel import Tunnel

#: Of ``site.json``: the bus goes over the run's endpoint.
ENDPOINT = "endpoint"
_POLL_S = 0.1
#: The driver's grace where the site was not told of it, and the part of it that the trainer has.
_TERM_S, _TERM_SHARE = 10.0, 0.8
#: How often the agent looks whether the SuperLink can be reached, and for how long it tries.
_PROBE_S, _PROBE_TIMEOUT_S = 5.0, 1.0
#: A SuperNode that ends again is started again after twice as long each time, up to this.
_RESTART_MAX_S = 15.0
_RESTART_FORGET_S = 60.0
#: After so many in a row that have not lived that long, the next one starts a process for each message.
_SHORT_LIVES = 4
#: In the site's folder: changes each time the SuperLink was reached.
LINK_NAME = "link.json"


def load_site(folder: Path) -> dict[str, Any]:
    """The site's description.

    Raises:
        ConfigError: missing or malformed.
    """
    path = folder / "site.json"
    try:
        site = json.loads(path.read_bytes())
        return {**site, "site": str(site["site"]), "generation": int(site["generation"])}
    except FileNotFoundError:
        raise ConfigError(f"{path}: missing; a driver writes it before it starts the site") from None
    except (ValueError, KeyError, TypeError) as e:
        raise ConfigError(f"{path}: malformed ({type(e).__name__}: {e})") from None


class Agent:
    """One life of a site's processes."""

    def __init__(self, folder: Path, site: dict[str, Any]) -> None:
        self._folder = folder
        self._site = site
        self._logs = folder / "logs"
        self._env = {**os.environ, **site.get("environment", {}), "FLWR_HOME": str(folder / "flower")}
        if offset_s := site.get("clock_offset_s"):
            self._env[CLOCK_OFFSET] = str(offset_s)
        (folder / "flower").mkdir(exist_ok=True)
        # Before anything starts: messages of an earlier life have no sender any more, and the first message of this one
        # may come before the trainer has loaded.
        FileMailbox(folder).clear()
        (folder / LINK_NAME).unlink(missing_ok=True)
        self.node: Process | None = None
        self._node_at = 0.0
        self._node_wait_s = 0.25
        self._node_started = 0.0
        self._short_lives = 0
        self._spawning = site.get("messages") == "spawn"
        self._probed = float("-inf")
        self._reached = 0
        self._watchdog = Watchdog(folder, site)
        #: Of a site on another machine: the way to the SuperLink.
        self._tunnel = self._open_tunnel()
        self._node_log = NodeLog(folder, self._logs / "supernode.log")
        self._killed = False
        self._metering = Metering(folder, site["meter"]) if site.get("meter") else None
        if self._metering is not None:
            self._metering.start()
        self._give_power_back()  # what an earlier life that died held its GPUs to
        # Both at once, and the one that takes longer first.
        self.trainer = begin(self.trainer_command(), log=self._logs / "trainer.log", env=self._env)
        self._start_node()

    def _open_tunnel(self) -> Tunnel | None:
        """Raises WindfallError if there is no way."""
        if not self._site.get("endpoint"):
            return None
        from windfall.site.tunnel import Tunnel  # httpx takes a moment to import

        # The trainer reads it too, and removes it.
        token = (self._folder / TOKEN_NAME).read_text(encoding="ascii").strip()
        tunnel = Tunnel(str(self._site["endpoint"]), token, verify=trusting(self._site.get("ca_file")))
        self._site["superlink"] = f"127.0.0.1:{tunnel.port}"
        return tunnel

    def _start_node(self) -> None:
        self._node_started = clock.monotonic()
        self.node = begin(self.node_command(), log=self._logs / "supernode.log", env=self._env)

    def keep(self) -> None:
        """Start the SuperNode, or start it again; look whether the SuperLink answers; end a trainer that hangs."""
        if not self._killed and (why := self._watchdog.look()):
            self._killed = True  # it may take its time to die
            print(f"{self._site['site']}: {why}; ending it", file=sys.stderr, flush=True)
            self.trainer.kill()
        now = clock.monotonic()
        if self.node is not None and (status := self.node.poll()) is not None:
            self._node_ended(status, now)
        if self.node is None and now >= self._node_at:
            self._start_node()
        self._node_log.look()
        if now - self._probed >= _PROBE_S:
            self._probed = now
            self._probe()

    def _node_ended(self, status: int, now: float) -> None:
        print(f"{self._site['site']}: its SuperNode ended with status {status}; starting it again", flush=True)
        if now - self._node_started > _RESTART_FORGET_S:
            self._node_wait_s, self._short_lives = 0.25, 0
        self._short_lives += 1
        if not self._spawning and (status == BROKEN_STATUS or self._short_lives >= _SHORT_LIVES):
            self._spawning = True
            print(f"{self._site['site']}: from now on its SuperNode starts a process for each message", flush=True)
        self._node_at, self._node_wait_s = now + self._node_wait_s, min(_RESTART_MAX_S, 2 * self._node_wait_s)
        self.node = None

    def trainer_command(self) -> list[str]:
        """What runs the trainer."""
        return [sys.executable, "-m", "windfall.site.trainer_process", str(self._folder)]

    def node_command(self) -> list[str]:
        """What runs the SuperNode. Its configuration is a file: on a command line Flower reads no apostrophe."""
        config = self._folder / "flower" / "node.toml"
        about = {"site-dir": str(self._folder), "site": self._site["site"]}
        # A string of JSON is one of TOML too, as long as nothing in it is written as two halves of a character.
        text = "".join(f"{key} = {json.dumps(value, ensure_ascii=False)}\n" for key, value in about.items())
        write_atomic(config, [text.replace("\x7f", "\\u007f").encode()], durable=False)
        return [
            sys.executable, "-m", "windfall.site.supernode", *([SPAWN] if self._spawning else []), "flower-supernode",
            "--insecure", "--superlink", self._site["superlink"], "--port", str(self._site["supernode_port"]),
            "--node-config", str(config),
        ]  # fmt: skip

    def _probe(self) -> None:
        host, _, port = str(self._site["superlink"]).rpartition(":")
        if answers(host, int(port), _PROBE_TIMEOUT_S):
            self._reached += 1
            with contextlib.suppress(OSError):  # a full disk is told where work is lost by it
                write_json(self._folder / LINK_NAME, {"reached": self._reached})

    def end(self) -> None:
        """Ask both to end, the trainer first of all so that it can keep its work; then make sure."""
        if self._metering is not None:
            self._metering.stop()  # first, so that the trainer can still pass the last reading on
        children = [c for c in (self.trainer, self.node) if c is not None]
        for c in children:
            if c.poll() is None:
                c.terminate()
        # The driver kills the whole site after its grace: the trainer has most of it to save what it has.
        deadline = clock.monotonic() + _TERM_SHARE * float(self._site.get("stop_grace_s", _TERM_S))
        for c in children:
            try:
                c.wait(timeout=max(0.05, deadline - clock.monotonic()))
            except subprocess.TimeoutExpired:
                c.kill()
                c.wait()
        self._give_power_back()
        if self._tunnel is not None:
            self._tunnel.close()

    def _give_power_back(self) -> None:
        if why := PowerCap(self._folder).restore():
            print(f"{self._site['site']}: {why}", file=sys.stderr, flush=True)


def notice_s(site: Mapping[str, Any]) -> float:
    """How long a site elsewhere has from being told to end to its end, in which it may hand in what it has; 0: it ends at once."""
    return max(0.0, float(site.get("notice_s") or 0.0) - float(site.get("stop_grace_s") or _TERM_S))


def main(argv: list[str] | None = None, *, make: Callable[[Path, dict[str, Any]], Agent] = Agent) -> int:
    """Run the site in the folder named by the first argument until it is told to stop or its trainer ends."""
    folder = Path((argv or sys.argv[1:])[0]).resolve()
    try:
        site = load_site(folder)
    except ConfigError as e:
        print(e, file=sys.stderr)
        return e.exit_code
    asked: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda n, _: asked.append(n))
    agent = make(folder, site)
    clock.leave_out_stops()  # not before: it takes a thread
    code, told, until = 0, False, math.inf
    while len(asked) < 2 and clock.monotonic() < until:
        if asked and not told:
            # Its platform may give it time to hand in what it has, for which it needs its SuperNode.
            told, until = True, clock.monotonic() + notice_s(site)
            if until > clock.monotonic():
                agent.trainer.terminate()
                continue
            break
        status = agent.trainer.poll()
        if status is not None:
            print(f"{site['site']}: its trainer ended with status {status}; see {folder / 'logs'}", file=sys.stderr)
            code = 0 if status == 0 else 1
            break
        agent.keep()
        clock.pause(_POLL_S)
    agent.end()
    return code


if __name__ == "__main__":
    sys.exit(main())
