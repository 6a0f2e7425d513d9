"""`windfall init`: a commented configuration."""

from __future__ import annotations

from pathlib import Path

from windfall.config.template import TEMPLATE
from windfall.errors import ConfigError, StoreError
from windfall.store.files import write_atomic


def init(file: Path, force: bool) -> None:
    """Write the template to ``file``."""
    if file.is_dir():
        raise ConfigError(f"{file}: is a folder; name a file in it, as in {file / 'windfall.toml'}")
    if file.exists() and not force:
        raise ConfigError(f"{file}: exists already; --force overwrites it")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(file, [TEMPLATE.encode()])
    except OSError as e:
        raise StoreError(f"{file}: cannot be written: {e.strerror}; name another place or give write access") from None
    print(f"wrote {file}; next: windfall check {file}, then windfall run {file}")
