"""Looks for secrets where none may be: in files, on command lines, in environments, in what was sent (invariant 9)."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

#: Files that hold a secret on purpose, readable by their user alone: what a machine proves itself with, and tokens on their way.
HOLDERS = ("*.token", "site.key", "start-token", "bulk-token", "token")
_LOOK_S = 0.25


class Scan:
    """What has been seen of a folder's processes, and the secrets that were in files meant for them, while it looked."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.secrets: set[bytes] = set()
        #: Command lines and environments of processes, each once.
        self._seen: set[tuple[bytes, bytes]] = set()
        #: What went over the network and could be read here.
        self.sent: list[bytes] = []

    def look(self) -> None:
        """Once."""
        for path in self._files():
            if any(path.match(h) for h in HOLDERS) and (text := _read(path).strip()):
                # What is mounted into a pod is on no disk, and in no other pod.
                assert "pods" in path.parts or not _mode(path) & 0o077, f"{path}: others can read it"
                self.secrets.add(text)
        for entry in filter(str.isdigit, os.listdir("/proc")):
            line, environ = _read(Path("/proc", entry, "cmdline")), _read(Path("/proc", entry, "environ"))
            if int(entry) != os.getpid() and str(self._folder).encode() in line + environ:
                self._seen.add((line, environ))

    def forget(self, *parts: str) -> None:
        """Processes that may have what they ask with in their environment: those with one of ``parts`` in their command line."""
        self._seen = {(line, b"" if any(p.encode() in line for p in parts) else environ) for line, environ in self._seen}

    def require_clean(self, *planted: bytes, holders: tuple[Path, ...] = ()) -> None:
        """No secret is anywhere but in files that are there to hold one."""
        secrets = {s for s in (*self.secrets, *planted) if s}
        assert secrets, "nothing was planted, and nothing was seen"
        for secret in secrets:
            assert not [line for line, environ in self._seen if secret in line], "on a command line"
            assert not [line for line, environ in self._seen if secret in environ], "in an environment"
            assert not [sent for sent in self.sent if secret in sent], "in what was sent"
            for path in self._files():
                if path.is_file() and path not in holders and not any(path.match(h) for h in HOLDERS):
                    assert secret not in _read(path), path

    def _files(self) -> Iterator[Path]:
        """Of the folder, while others change it: `Path.rglob` fails where a folder has gone."""
        return (Path(folder, name) for folder, _, names in os.walk(self._folder) for name in names)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # it has gone
        return b""


def _mode(path: Path) -> int:
    try:
        return path.stat().st_mode
    except OSError:  # likewise
        return 0


@contextmanager
def scanning(folder: Path) -> Iterator[Scan]:
    """Look again and again; what was seen is searched afterwards."""
    scan, over = Scan(folder.resolve()), threading.Event()
    wrong: list[BaseException] = []

    def look() -> None:
        while not over.wait(_LOOK_S):
            try:
                scan.look()
            except (AssertionError, OSError) as e:
                wrong.append(e)
                return

    thread = threading.Thread(target=look, name="scan", daemon=True)
    thread.start()
    try:
        yield scan
    finally:
        over.set()
        thread.join()
    if wrong:
        raise wrong[0]
