"""One container in a pod on a node: image, start, probes, restarts with back-off, and its end."""

from __future__ import annotations

import http.client
import signal
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from kubernetes.double import words
from kubernetes.double.mounts import ConfigMissing, View
from kubernetes.double.runtime import Launch, Running, Runtime, StartFailed
from kubernetes.double.schema import Json

FIRST_BACKOFF_S, LAST_BACKOFF_S, FORGIVEN_S = 10.0, 300.0, 600.0
#: (reason, message, is it a warning)
Tell = Callable[[str, str, bool], None]


@dataclass
class _Probe:
    spec: Json
    passed: bool = False
    good: int = 0
    bad: int = 0
    next_at: float | None = None
    running: Running | None = None
    since: float = 0.0


@dataclass
class Images:
    """What a node knows of images: which cannot be pulled, and why, and how long pulling takes."""

    missing: dict[str, str] = field(default_factory=dict)
    pull_s: float = 0.0
    here: set[str] = field(default_factory=set)


class Container:
    def __init__(self, pod: Json, spec: Json, runtime: Runtime, images: Images, tell: Tell, folder: Path, *, init: bool) -> None:
        self.spec = spec
        self.init = init
        self.restarts = 0
        self.state: Json = {
            "waiting": {"reason": "PodInitializing" if not init and pod["spec"].get("initContainers") else "ContainerCreating"}
        }
        self.last: Json = {}
        self.running: Running | None = None
        self._pod, self._runtime, self._images, self._tell, self._folder = pod, runtime, images, tell, folder
        self._pull_ends: float | None = None
        self._pull_again = 0.0
        self._pull_pause = FIRST_BACKOFF_S
        self._start_again = 0.0
        self._pause = self._told_pause = 0.0
        self._ran = False
        self._started_at = 0.0
        self._hook: Running | None = None
        self._hook_done = True
        self._told_to_end = False
        self._view: View | None = None
        self._probes: dict[str, _Probe] = {}
        self.exit_code: int | None = None

    @property
    def ended(self) -> bool:
        return "terminated" in self.state

    @property
    def is_up(self) -> bool:
        return self.running is not None

    @property
    def started(self) -> bool:
        return self.is_up and ("startupProbe" not in self._probes or self._probes["startupProbe"].passed)

    @property
    def ready(self) -> bool:
        return self.started and ("readinessProbe" not in self._probes or self._probes["readinessProbe"].passed)

    @property
    def log(self) -> Path:
        return self._folder / f"{self.spec['name']}-{self.restarts}.log"

    @property
    def earlier_log(self) -> Path:
        return self._folder / f"{self.spec['name']}-{self.restarts - 1}.log"

    def wait(self, reason: str, message: str = "") -> None:
        self.state = {"waiting": {"reason": reason, **({"message": message} if message else {})}}

    def _image(self, now: float) -> bool:
        """Whether the image is here. Otherwise it is being pulled, or cannot be."""
        image = self.spec["image"]
        if image in self._images.here and image not in self._images.missing:
            return True
        if now < self._pull_again:
            return False
        if self._pull_ends is None:
            self._tell("Pulling", f'Pulling image "{image}"', False)
            self._pull_ends = now + self._images.pull_s
        if now < self._pull_ends:
            return False
        self._pull_ends = None
        why = self._images.missing.get(image)
        if why is None:
            self._images.here.add(image)
            self._tell("Pulled", f'Successfully pulled image "{image}" in {self._images.pull_s:g}s', False)
            return True
        text = f'failed to pull and unpack image "{image}": {why}'
        self.wait("ErrImagePull", text)
        self._tell("Failed", f'Failed to pull image "{image}": {text}', True)
        self._tell("Failed", "Error: ErrImagePull", True)
        self._pull_again = now + self._pull_pause
        self._pull_pause = min(2 * self._pull_pause, LAST_BACKOFF_S)
        return False

    def step(self, now: float, see: Callable[[Json], View], policy: str) -> None:
        """Start what is not there, look what ended, ask the probes."""
        if self.running is not None:
            code = self.running.poll(now)
            if code is None:
                self._ask(now)
                return
            self._end(code, now)
        if self.ended:
            if not self._again(policy):
                return
            if now < self._start_again:
                self._crash_loop()
                return
        elif "waiting" in self.state and now < self._start_again:
            return
        before = self.state.get("waiting", {}).get("reason")
        if not self._image(now):
            if (
                before == "ErrImagePull"
                and self.state.get("waiting", {}).get("reason") == "ErrImagePull"
                and now < self._pull_again
            ):
                image = self.spec["image"]
                why = self.state["waiting"]["message"]
                self.wait("ImagePullBackOff", f'Back-off pulling image "{image}": ErrImagePull: {why}')
                self._tell("BackOff", f'Back-off pulling image "{image}"', False)
                self._tell("Failed", "Error: ImagePullBackOff", True)
            return
        self._start(now, see)

    def _again(self, policy: str) -> bool:
        if self.init:
            return self.exit_code != 0 and policy != "Never"
        return policy == "Always" or (policy == "OnFailure" and self.exit_code != 0)

    def _crash_loop(self) -> None:
        meta = self._pod["metadata"]
        place = f"{meta['name']}_{meta['namespace']}({meta['uid']})"
        self.last = self.state
        self.wait(
            "CrashLoopBackOff", f"back-off {_go(self._told_pause)} restarting failed container={self.spec['name']} pod={place}"
        )
        self._tell("BackOff", f"Back-off restarting failed container {self.spec['name']} in pod {place}", True)

    def _start(self, now: float, see: Callable[[Json], View]) -> None:
        name = self.spec["name"]
        try:
            view = see(self.spec)
        except ConfigMissing as e:
            if self.state.get("waiting", {}).get("message") != str(e):
                self.wait("CreateContainerConfigError", str(e))
                self._tell("Failed", f"Error: {e}", True)
            return
        if self._ran:
            self.restarts += 1
        if self.ended:
            self.last = self.state
        self._view, self._ran, self._started_at = view, True, now
        meta = self._pod["metadata"]
        launch = Launch(meta["name"], name, self.spec["image"], view.command(), view.env, view.working_directory(), self.log)
        self._tell("Created", f"Container created: {name}", False)
        try:
            self.running = self._runtime.start(launch, now)
        except StartFailed as e:
            self._tell("Failed", f"Error: {e}", True)
            self._end(128, now, "StartError", str(e))
            return
        self._told_to_end, self._hook, self._hook_done = False, None, True
        self._probes = {p: _Probe(self.spec[p]) for p in ("startupProbe", "readinessProbe", "livenessProbe") if self.spec.get(p)}
        self.state = {"running": {"startedAt": words.stamp(now)}}
        self._tell("Started", f"Container started: {name}", False)

    def _end(self, code: int, now: float, reason: str = "", message: str = "") -> None:
        self.running = None
        self.exit_code = code
        if now - self._started_at >= FORGIVEN_S:
            self._pause = 0.0
        # The first restart is at once; then come 10 s, 20 s, and so on.
        self._start_again = now + self._pause
        self._told_pause = self._pause
        self._pause = min(2 * self._pause, LAST_BACKOFF_S) if self._pause else FIRST_BACKOFF_S
        ended = {
            "exitCode": code,
            "reason": reason or ("Completed" if code == 0 else "Error"),
            "startedAt": words.stamp(self._started_at),
            "finishedAt": words.stamp(now),
        }
        self.state = {"terminated": {**ended, "message": message} if message else ended}
        for probe in self._probes.values():
            if probe.running is not None:
                probe.running.end_now(now)
        self._probes = {}

    def begin_end(self, now: float) -> None:
        """The first thing that a pod's deletion does: run the hook."""
        if self.running is None:
            return
        self._tell("Killing", f"Stopping container {self.spec['name']}", False)
        hook = (self.spec.get("lifecycle") or {}).get("preStop") or {}
        if "exec" in hook and self._view is not None:
            self._hook_done = False
            try:
                self._hook = self._run(hook["exec"]["command"], "hook", now)
            except StartFailed as e:
                self._tell("FailedPreStopHook", f"PreStopHook failed: {e}", True)
                self._hook_done = True

    def go_on_ending(self, now: float, ends_at: float) -> None:
        """SIGTERM when the hook is done or time is up, SIGKILL at the end of the grace."""
        if self.running is None:
            return
        code = self.running.poll(now)
        if code is not None:
            if self._hook is not None:
                self._hook.end_now(now)
            self._end(code, now)
            return
        if self._hook is not None and self._hook.poll(now) is not None:
            self._hook, self._hook_done = None, True
        if now >= ends_at:
            if self._hook is not None:
                self._hook.end_now(now)
                self._hook = None
            self.running.signal(signal.SIGKILL, now)
        elif self._hook_done and not self._told_to_end:
            self._told_to_end = True
            self.running.signal(signal.SIGTERM, now)

    def kill(self, now: float) -> None:
        """End everything of it by force, and wait until it is gone."""
        for running in (self.running, self._hook, *(p.running for p in self._probes.values())):
            if running is not None:
                running.end_now(now)

    def _run(self, argv: list[str], purpose: str, now: float) -> Running:
        assert self._view is not None
        launch = Launch(
            self._pod["metadata"]["name"],
            self.spec["name"],
            self.spec["image"],
            self._view.command(argv),
            self._view.env,
            self._view.working_directory(),
            self.log.with_suffix(f".{purpose}.log"),
            purpose,
        )
        return self._runtime.start(launch, now)

    def _ask(self, now: float) -> None:
        waits = "startupProbe" in self._probes and not self._probes["startupProbe"].passed
        for name, probe in self._probes.items():
            if (name != "startupProbe") == waits:
                continue
            answer = self._answer(probe, now)
            if answer is None:
                continue
            probe.good, probe.bad = (probe.good + 1, 0) if answer else (0, probe.bad + 1)
            if probe.good >= probe.spec["successThreshold"]:
                probe.passed = True
            if not answer:
                self._tell("Unhealthy", f"{name[:-5].capitalize()} probe failed", True)
            if probe.bad >= probe.spec["failureThreshold"]:
                probe.passed = False
                if name != "readinessProbe" and self.running is not None:
                    self._tell("Killing", f"Container {self.spec['name']} failed {name[:-5]} probe, will be restarted", False)
                    self.running.signal(signal.SIGKILL, now)

    def _answer(self, probe: _Probe, now: float) -> bool | None:
        """True or False when a probe has come to an end; None before, and between two."""
        spec = probe.spec
        if probe.running is not None:
            code = probe.running.poll(now)
            if code is None and now - probe.since < spec["timeoutSeconds"]:
                return None
            if code is None:
                probe.running.end_now(now)
            probe.running = None
            return code == 0
        if probe.next_at is None:
            probe.next_at = now + spec.get("initialDelaySeconds", 0)
        if now < probe.next_at:
            return None
        probe.next_at = now + spec["periodSeconds"]
        if "exec" in spec:
            try:
                probe.running, probe.since = self._run(spec["exec"]["command"], "probe", now), now
            except StartFailed:
                return False
            return self._answer(probe, now)
        return _reaches(spec)


def _reaches(spec: Json) -> bool:
    about = spec.get("httpGet") or spec.get("tcpSocket") or {}
    host, port = about.get("host") or "127.0.0.1", about.get("port", 0)
    try:
        if "tcpSocket" in spec:
            socket.create_connection((host, int(port)), timeout=spec["timeoutSeconds"]).close()
            return True
        connection = http.client.HTTPConnection(host, int(port), timeout=spec["timeoutSeconds"])
        connection.request("GET", about.get("path", "/"))
        return 200 <= connection.getresponse().status < 400
    except (OSError, ValueError, http.client.HTTPException):
        return False


def _go(seconds: float) -> str:
    """A duration as Go prints it: 10s, 1m20s, 5m0s."""
    s = int(seconds)
    return f"{s // 60}m{s % 60}s" if s >= 60 else f"{s}s"
