"""What is wrong with a file: one line each, with the place, the site by its name, and what to do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from windfall.config.lines import Path
from windfall.errors import ConfigError


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a file. ``site``: the name of the site that it is about, where it is about one."""

    line: int
    key: str
    message: str
    site: str | None = None

    def text(self, file: str) -> str:
        """``file:line: site[1].signal.path (site texas): message``."""
        whose = f" (site {self.site})" if self.site else ""
        return _one_line(f"{file}:{self.line}: {self.key}{whose}: {self.message}")

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        return {"line": self.line, "key": self.key, "site": self.site, "message": self.message}


class ConfigProblems(ConfigError):
    """All problems of one file."""

    def __init__(self, file: str, problems: list[Problem]) -> None:
        self.file = file
        self.problems = problems
        super().__init__("\n".join(p.text(file) for p in problems))


def _one_line(text: str) -> str:
    """Values of a file may hold line ends; a problem is one line all the same."""
    return text.replace("\r", "\\r").replace("\n", "\\n")


def dotted(path: Path) -> str:
    """A key as people write it: site[0].signal.path."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text or "(file)"
