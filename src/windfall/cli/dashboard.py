"""`windfall dashboard`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from windfall.cli.output import print_json, say
from windfall.errors import ConfigError
from windfall.inputs import read_text
from windfall.ui.web.serve import Served, serve

TOKEN = "WINDFALL_DASHBOARD_TOKEN"


def dashboard(
    roots: Sequence[Path], host: str, port: int, token_file: Path | None, certificates: str | None, insecure: str,
    names: Sequence[str], as_json: bool,
) -> None:  # fmt: skip
    """Serve a page about the runs in ``roots`` until Ctrl-C."""
    token = _token(token_file)

    def began(at: Served) -> None:
        if as_json:
            print_json({"url": at.url, "login": None if token else at.login, "tls": at.tls}, line=True)
            return
        print(f"The dashboard is at {at.url}")
        if token:
            print(f"Sign in with the token in {token_file or TOKEN} to act, or to look from another machine: {at.url}login")
        else:
            print(f"To hold, release or drain sites, sign in: {at.login}")
        say("Ctrl-C ends the dashboard; runs go on without it")

    serve(
        list(roots) or [Path("runs") if Path("runs").is_dir() else Path()], host=host, port=port, token=token,
        certificates=certificates, insecure=insecure, names=names, began=began,
    )  # fmt: skip


def _token(path: Path | None) -> str | None:
    """The token from a file or the environment; None where the dashboard is to make one."""
    if path is None:
        return os.environ.get(TOKEN) or None
    try:
        found = read_text(path).strip()
    except OSError as e:
        raise ConfigError(f"--token-file {path}: cannot be read: {e.strerror}") from None
    except UnicodeError:
        raise ConfigError(f"--token-file {path}: holds no text; write a token of 16 characters or more into it") from None
    if not found:
        raise ConfigError(f"--token-file {path}: is empty; write a token of 16 characters or more into it")
    return found
