"""A resident machine's own agent: it asks the run's endpoint what to do, starts and ends the site, and says what it sees.

It only ever connects outwards. A site that it started outlives it: the next one finds it again.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import httpx

from windfall import clock
from windfall.errors import ConfigError, TransferError
from windfall.inputs import read_text, why
from windfall.processes import SiteProcess, group_members, signal_group, spawn, start_time
from windfall.site.fetching import Endpoint, why_not
from windfall.store.files import read_json, write_json, write_secret
from windfall.wire.certificates import trusting

WINDFALL = (sys.executable, "-m", "windfall")
#: In the machine's folder: what it joined with, and the site that it has started.
JOINED, _KEY, _CA, _STARTED, _TOKEN = "joined.json", "site.key", "ca.pem", "started.json", "start-token"
#: How long the endpoint may keep a question waiting, and how often it is told how things stand.
_WAIT_S, _SAY_S, _POLL_S = 20, 5.0, 0.2
#: What a site has to end that was started at an address at which the run is no more.
_MOVED_GRACE_S = 10.0
#: What a command that puts the machine to sleep may take.
_OFF_S = 60.0


class Machine:
    """One machine and its site."""

    def __init__(self, folder: Path, say: Callable[[str], None], *, program: Sequence[str] = WINDFALL) -> None:
        """``program``: the command that is Windfall. Raises ConfigError if the machine has not joined."""
        joined = read_json(folder / JOINED)
        if not isinstance(joined, dict) or not isinstance(joined.get("endpoint"), str) or not isinstance(joined.get("site"), str):
            raise ConfigError(f"{folder}: no machine has joined a run from here; run `windfall site join`")
        self._folder, self._say, self._program = folder, say, program
        self._url, self.site = joined["endpoint"], joined["site"]
        self._off_command = [str(word) for word in joined.get("off_command", [])]
        self._ca = folder / _CA if (folder / _CA).exists() else None
        try:
            self._key = (folder / _KEY).read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError) as e:
            raise ConfigError(f"{folder / _KEY}: the machine's key cannot be read ({e}); join again") from None
        self._endpoint = Endpoint(self._url, self._key, verify=trusting(self._ca))
        self._joined_at = _changed(folder)
        self._started = self._found()
        self._grace_at: float | None = None
        #: Set by the thread that asks: what is to be done, and a generation's token.
        self._wanted: dict[str, Any] | None = None
        self._over = threading.Event()
        self._refused = ""
        #: Which generation has failed here, and why; 0 if none has since one was ended.
        self._failed: tuple[int, str] = 0, ""
        #: Why it was told to end, where that was not the run's word: it counts as having failed.
        self._why_ended = ""
        self._asleep = False
        self._told: tuple[Any, ...] = ()
        self._told_at = float("-inf")

    def _found(self) -> SiteProcess | None:
        kept = read_json(self._folder / _STARTED)
        if not isinstance(kept, dict) or not all(isinstance(kept.get(k), int) for k in ("pid", "generation", "born")):
            return None
        return SiteProcess(kept["pid"], kept["generation"], kept["born"])

    def close(self) -> None:
        """Let go of connections, where it does not serve."""
        self._endpoint.close()

    def serve(self, asked: Callable[[], bool]) -> int:
        """Until told to end, which leaves a site running; 1 if the run knows this machine no longer."""
        listener = threading.Thread(target=self._listen, name="assignments", daemon=True)
        listener.start()
        while not asked() and not self._refused:
            self._act()
            self._tell()
            clock.pause(_POLL_S)
        self._over.set()
        if self._refused:
            self._end(0.0)
            while self._started is not None:
                self._act()
                clock.pause(_POLL_S)
            raise TransferError(self._refused)
        return 0

    def _follow(self) -> None:
        """Take up the run's new address, if this machine has been told one. What runs here was told the old one."""
        if (now := _changed(self._folder)) == self._joined_at:
            return
        self._joined_at = now
        url = str((read_json(self._folder / JOINED) or {}).get("endpoint", self._url))
        if url == self._url:
            return
        self._say(f"the run is at {url} from now on")
        self._url, self._endpoint = url, Endpoint(url, self._key, verify=trusting(self._ca))
        self._told = ()
        if self._started is not None:
            self._why_ended = f"it is started again, since the run is at {url} now"
            self._end(_MOVED_GRACE_S)

    # -- the thread that asks --------------------------------------------------------------------------------

    def _listen(self) -> None:
        endpoint = self._endpoint
        known, wait_s, said = -1, 0.5, ""
        while not self._over.is_set():
            if endpoint is not self._endpoint:
                endpoint.close()
                endpoint, wait_s, said = self._endpoint, 0.5, ""
            try:
                told = endpoint.ask(
                    "GET",
                    "/assignment",
                    wait_s=_WAIT_S,
                    params={"generation": max(0, known), "wait_s": _WAIT_S if known >= 0 else 0},
                )
                known = int(told["generation"])
                self._wanted = told
                if said:
                    self._say(f"{endpoint.url} answers again")
                wait_s, said = 0.5, ""
                continue
            except TransferError as e:
                self._refused = str(e)
                return
            except (httpx.HTTPError, KeyError, TypeError, ValueError) as e:
                why = why_not(e) if isinstance(e, httpx.HTTPError) else "the answer is none of an endpoint of Windfall"
                if why != said:
                    said = why
                    self._say(f"{endpoint.url} does not answer ({why}); trying again")
            self._over.wait(wait_s)
            wait_s = min(15.0, 2 * wait_s)
        endpoint.close()
        if self._over.is_set():  # else the other thread still says how things stand
            self._endpoint.close()

    # -- what is done ----------------------------------------------------------------------------------------

    def _act(self) -> None:
        self._follow()
        wanted, now = self._wanted, self._started
        if now is not None and not now.lives():
            self._ended(now)
            return
        if wanted is None:
            return
        generation = int(wanted["generation"])
        if now is not None and (generation != now.generation or self._why_ended):
            self._end(float(wanted.get("grace_s", _MOVED_GRACE_S)))
        elif now is None and generation and generation != self._failed[0]:  # that an earlier one is to end may not have been heard
            self._failed = 0, ""
            self._begin(generation, str(wanted.get("token", "")))
        elif now is None and not generation:
            self._failed = 0, ""
            self._sleep()

    def _begin(self, generation: int, token: str) -> None:
        self._asleep = False
        if not token:
            self._failed = generation, f"generation {generation} has no token any more; it is started again as another one"
            return
        site = self._folder / "site"
        token_file = self._folder / _TOKEN
        write_secret(token_file, token)
        ca = ["--ca-file", str(self._ca)] if self._ca else []
        command = [
            *self._program, "site", "start", "--endpoint", self._url, "--token-file", str(token_file), *ca, "--folder", str(site),
        ]  # fmt: skip
        try:
            child = spawn(command, log=site / "logs" / "agent.log", env=dict(os.environ))
        except OSError as e:
            self._failed = generation, f"it cannot be started: {e.strerror}"
            return
        self._started = SiteProcess(child.pid, generation, start_time(child.pid), child)
        self._grace_at = None
        write_json(self._folder / _STARTED, {"generation": generation, "pid": child.pid, "born": self._started.born})
        self._say(f"generation {generation} starts (process {child.pid})")

    def _end(self, grace_s: float) -> None:
        now = self._started
        if now is None:
            return
        if self._grace_at is None:
            self._grace_at = clock.monotonic() + grace_s
            self._say(f"generation {now.generation} is told to end")
            with contextlib.suppress(ProcessLookupError):
                os.kill(now.pid, signal.SIGTERM)
        elif clock.monotonic() > self._grace_at:
            signal_group(now.pid, signal.SIGKILL)

    def _ended(self, now: SiteProcess) -> None:
        if group_members(now.pid):
            signal_group(now.pid, signal.SIGKILL)  # nothing is there any more that could end them in order
            return
        status = now.child.returncode if now.child is not None else None
        if self._why_ended:
            self._failed, self._why_ended = (now.generation, self._why_ended), ""
        elif self._grace_at is None:
            self._failed = (
                now.generation,
                f"it ended by itself{'' if status is None else f' with status {status}'}; see {self._folder / 'site' / 'logs'}",
            )
        self._say(f"generation {now.generation} has ended")
        self._started = None
        self._grace_at = None
        (self._folder / _STARTED).unlink(missing_ok=True)
        (self._folder / _TOKEN).unlink(missing_ok=True)

    def _sleep(self) -> None:
        """Put the machine to sleep, if there is a command for that. The last word is that it sleeps."""
        if not self._off_command or self._asleep or self._told[:2] != (0, "absent"):
            return
        self._asleep = True
        self._tell()
        try:
            done = subprocess.run(self._off_command, timeout=_OFF_S, check=False, stdin=subprocess.DEVNULL)
            if done.returncode:
                self._say(f"{self._off_command[0]} (off_command) ended with status {done.returncode}; the machine stays on")
        except (OSError, subprocess.TimeoutExpired) as e:
            self._say(f"{self._off_command[0]} (off_command) cannot be run ({e}); the machine stays on")

    # -- what is said ----------------------------------------------------------------------------------------

    def _stands(self) -> tuple[int, str, str]:
        now = self._started
        if now is not None:
            return now.generation, ("stopping" if self._grace_at is not None else "up"), ""
        if self._failed[0]:
            return self._failed[0], "failed", self._failed[1]
        return 0, "absent", ""

    def _tell(self) -> None:
        stands = (*self._stands(), self._asleep)
        if stands == self._told and clock.monotonic() - self._told_at < _SAY_S:
            return
        generation, state, words, asleep = stands
        about = {"generation": generation, "state": state, "words": words, "asleep": asleep}
        self._told_at = clock.monotonic()
        try:
            self._endpoint.ask("PUT", "/presence", json=about)
            self._told = stands
        except (httpx.HTTPError, TransferError):
            self._told = ()  # the thread that asks says why


def join(
    endpoint: str, token_file: Path, ca_file: Path | None, folder: Path, *, off_command: list[str], asked: Callable[[], bool],
    say: Callable[[str], None],
) -> str:  # fmt: skip
    """Trade a join token for this machine's key, and note it in ``folder``; the site's name.

    Raises:
        ConfigError: something that it was given cannot be used, or it was told to end.
        TransferError: the endpoint refuses it.
    """
    try:
        token = read_text(token_file).strip()
    except (OSError, UnicodeDecodeError) as e:
        raise ConfigError(f"{token_file}: the join token cannot be read: {why(e)}") from None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
    except OSError as e:
        raise ConfigError(f"{folder}: cannot be made this machine's folder ({e.strerror})") from None
    with contextlib.closing(Endpoint(endpoint, verify=trusting(ca_file))) as client:
        told = client.until("POST", "/join", asked, say, json={"token": token})
    if told is None:
        raise ConfigError("told to end before it had joined")
    site, key = told.get("site"), told.get("key")
    if not isinstance(site, str) or not isinstance(key, str):
        raise TransferError(f"{endpoint} gives an answer that is none of an endpoint of Windfall")
    write_secret(folder / _KEY, key)
    if ca_file is not None:
        (folder / _CA).write_bytes(ca_file.read_bytes())
    write_json(folder / JOINED, {"endpoint": endpoint, "site": site, "off_command": off_command})
    return site


def move(endpoint: str, folder: Path, *, asked: Callable[[], bool], say: Callable[[str], None]) -> str:
    """Note that the run which this machine has joined is at another address now; the site's name. An agent that runs takes it up.

    Raises:
        ConfigError: no machine has joined from here, the address is none, or it was told to end before anybody answered there.
        TransferError: another run is there, or the key was revoked.
    """
    machine = Machine(folder, say)
    machine.close()
    with contextlib.closing(Endpoint(endpoint, machine._key, verify=trusting(machine._ca))) as client:
        told = client.until("GET", "/assignment", asked, say, params={"generation": 0, "wait_s": 0})
    if told is None:
        raise ConfigError("told to end before the run had answered; nothing was changed")
    write_json(folder / JOINED, {**(read_json(folder / JOINED) or {}), "endpoint": client.url})
    return str(machine.site)


def _changed(folder: Path) -> tuple[int, int]:
    """What tells one state of the file of having joined from another."""
    try:
        stat = (folder / JOINED).stat()
    except FileNotFoundError:
        return 0, 0
    return stat.st_mtime_ns, stat.st_ino


def unit(folder: Path) -> str:
    """A systemd unit that keeps the agent running."""
    return f"""[Unit]
Description=Windfall: this machine as a site
Wants=network-online.target
After=network-online.target

[Service]
ExecStart={sys.executable} -m windfall site resident --folder {folder}
Restart=always
RestartSec=5
# The site that the agent has started outlives it.
KillMode=process
TimeoutStopSec=15

[Install]
WantedBy=multi-user.target
"""


def serve(folder: Path) -> int:
    """The verb: until told to end by SIGTERM or SIGINT."""
    numbers: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda n, _: numbers.append(n))
    clock.leave_out_stops()
    machine = Machine(folder.resolve(), lambda text: print(text, file=sys.stderr, flush=True))
    print(
        f"{machine.site}: this machine asks {machine._url} what to do (Ctrl-C ends the agent; a site that runs goes on)",
        file=sys.stderr,
        flush=True,
    )
    return machine.serve(lambda: bool(numbers)) or (130 if signal.SIGINT in numbers else 0)
