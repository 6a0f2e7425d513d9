"""What a kubelet starts containers with: real processes of this machine, or hollow ones that only count time."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True)
class Launch:
    """What to start. ``purpose``: `main`, `hook` or `probe`."""

    pod: str
    container: str
    image: str
    argv: list[str]
    env: dict[str, str]
    cwd: Path
    log: Path
    purpose: str = "main"


class StartFailed(Exception):
    """A container that could not be started, in the container runtime's words."""


class Running(Protocol):
    def poll(self, now: float) -> int | None:
        """The exit code, or None while it runs."""
        ...

    def signal(self, number: int, now: float) -> None: ...

    def end_now(self, now: float) -> None:
        """End it by force, and wait until it is gone."""
        ...


class Runtime(Protocol):
    def start(self, launch: Launch, now: float) -> Running: ...


class _Process:
    def __init__(self, child: subprocess.Popen[bytes]) -> None:
        self._child = child

    def poll(self, now: float) -> int | None:
        code = self._child.poll()
        if code is None:
            return None
        # The others of a container end with its first process.
        self._to_all(signal.SIGKILL)
        return 128 - code if code < 0 else code

    def signal(self, number: int, now: float) -> None:
        if number == signal.SIGKILL:
            self._to_all(number)
        elif self._child.poll() is None:
            # As a container runtime does: the first process only.
            os.kill(self._child.pid, number)

    def end_now(self, now: float) -> None:
        self._to_all(signal.SIGKILL)
        self._child.wait()

    def _to_all(self, number: int) -> None:
        try:
            os.killpg(self._child.pid, number)
        except (ProcessLookupError, PermissionError):
            return


class Processes:
    """Containers as process groups. ``images``: what an image's own command is."""

    def __init__(self, images: dict[str, list[str]] | None = None) -> None:
        self.images = images or {}

    def start(self, launch: Launch, now: float) -> Running:
        argv = launch.argv or self.images.get(launch.image, [])
        if not argv:
            raise StartFailed("failed to create containerd container: no command specified")
        launch.log.parent.mkdir(parents=True, exist_ok=True)
        try:
            with launch.log.open("ab") as log:
                child = subprocess.Popen(
                    argv, cwd=launch.cwd, env=launch.env, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
                )
        except OSError as e:
            raise StartFailed(
                "failed to create containerd task: failed to create shim task: OCI runtime create failed: runc create failed: "
                "unable to start container process: error during container init: "
                f'exec: "{argv[0]}": {(e.strerror or str(e)).lower()}'
            ) from None
        return _Process(child)


@dataclass
class Hollow:
    """One container that is none: it runs until it is told to end, or until ``ends_at``, and takes ``term_s`` over it."""

    launch: Launch
    term_s: float = 0.0
    ends_at: float | None = None
    code: int = 0

    def poll(self, now: float) -> int | None:
        return self.code if self.ends_at is not None and now >= self.ends_at else None

    def signal(self, number: int, now: float) -> None:
        if number == signal.SIGKILL:
            self.end(now, 137)
        elif self.ends_at is None or self.ends_at > now + self.term_s:
            self.end(now + self.term_s, 0)

    def end_now(self, now: float) -> None:
        self.end(now, 137)

    def end(self, at: float, code: int) -> None:
        self.ends_at, self.code = at, code


@dataclass
class HollowRuntime:
    """Containers for the manual clock. ``shape`` is called with each new one, to say when and how it ends by itself."""

    term_s: float = 0.0
    shape: Callable[[Hollow, float], None] | None = None
    #: Every container that was ever started, by (pod, container).
    started: dict[tuple[str, str], list[Hollow]] = field(default_factory=dict)

    def start(self, launch: Launch, now: float) -> Running:
        hollow = Hollow(launch, self.term_s)
        if launch.purpose != "main":
            hollow.end(now, 0)
            return hollow
        self.started.setdefault((launch.pod, launch.container), []).append(hollow)
        if self.shape is not None:
            self.shape(hollow, now)
        return hollow

    def last(self, pod: str, container: str = "main") -> Hollow:
        return self.started[pod, container][-1]
