"""Which Windfall this is: its version, and where it is run from a checkout or was installed from one, the commit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata
from pathlib import Path

_PATIENCE_S = 5.0
#: The package's own, which is there before any module of it: an import of it from here would be a circle.
_VERSION: str = sys.modules["windfall"].__version__


@dataclass(frozen=True, slots=True)
class Revision:
    """``commit`` is None where nothing says it; ``changed``: whether the package's files differ from that commit."""

    version: str
    commit: str | None = None
    changed: bool = False

    def __str__(self) -> str:
        """``0.1.0 (commit 1a2b3c4d5e6f, changed)``."""
        if self.commit is None:
            return self.version
        return f"{self.version} (commit {self.commit[:12]}{', with changes' if self.changed else ''})"


@lru_cache(maxsize=1)
def revision() -> Revision:
    """This Windfall's; asked once a process."""
    return _of_checkout(Path(__file__).parent) or _of_install()


def _of_checkout(folder: Path) -> Revision | None:
    """The commit of the repository that tracks the package, which is not any repository that it lies in."""
    # Git is told where programs and its user's settings are, and nothing else: a run's environment may hold credentials.
    env = {k: os.environ[k] for k in ("PATH", "HOME", "XDG_CONFIG_HOME") if k in os.environ}

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "--no-optional-locks", "-C", str(folder), *arguments],
                capture_output=True, text=True, env=env, timeout=_PATIENCE_S, check=False,
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    if git("ls-files", "--error-unmatch", "__init__.py") is None:
        return None
    commit = git("rev-parse", "HEAD")
    return None if not commit else Revision(_VERSION, commit, bool(git("status", "--porcelain", "--", ".")))


def _of_install() -> Revision:
    try:
        said = json.loads(metadata.distribution("windfall").read_text("direct_url.json") or "{}")
    except (metadata.PackageNotFoundError, ValueError):
        said = {}
    commit = said.get("vcs_info", {}).get("commit_id")
    return Revision(_VERSION, commit if isinstance(commit, str) else None)
