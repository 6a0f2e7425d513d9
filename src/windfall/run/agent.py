"""The agent: what runs at a site. It owns a standard SuperNode and the long-lived trainer, and ends both when it ends.

Sees nothing but its own folder: ``site.json`` says what to do.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from windfall import clock
from windfall.errors import ConfigError
from windfall.federation.transport import FileMailbox
from windfall.fleet.processes import spawn

_POLL_S = 0.1
_TERM_S = 3.0


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


def main(argv: list[str] | None = None) -> int:
    """Run the site in the folder named by the first argument until it is told to stop or a part of it ends."""
    folder = Path((argv or sys.argv[1:])[0]).resolve()
    try:
        site = load_site(folder)
    except ConfigError as e:
        print(e, file=sys.stderr)
        return e.exit_code
    asked: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda n, _: asked.append(n))
    logs = folder / "logs"
    env = {**os.environ, **site.get("environment", {}), "FLWR_HOME": str(folder / "flower")}
    config = f"site-dir={shlex.quote(json.dumps(str(folder)))} site={shlex.quote(json.dumps(site['site']))}"
    (folder / "flower").mkdir(exist_ok=True)
    # Before anything starts: messages of an earlier life have no sender any more, and the first message of this one
    # may come before the trainer has loaded.
    FileMailbox(folder).clear()
    children = {
        "trainer": spawn(
            [sys.executable, "-m", "windfall.run.trainer_process", str(folder)],
            log=logs / "trainer.log", env=env, own_session=False, with_parent=True,
        ),
        "SuperNode": spawn(
            [str(Path(sys.executable).parent / "flower-supernode"), "--insecure", "--superlink", site["superlink"],
             "--port", str(site["supernode_port"]), "--node-config", config.replace("'", "")],
            log=logs / "supernode.log", env=env, own_session=False, with_parent=True,
        ),
    }  # fmt: skip
    code = 0
    while not asked:
        ended = {name: c.returncode for name, c in children.items() if c.poll() is not None}
        if ended:
            name, status = next(iter(ended.items()))
            print(f"{site['site']}: its {name} ended with status {status}; see {logs}", file=sys.stderr)
            code = 0 if status == 0 and name == "trainer" else 1
            break
        clock.pause(_POLL_S)
    _end(list(children.values()))
    return code


def _end(children: list[subprocess.Popen[bytes]]) -> None:
    for c in children:
        if c.poll() is None:
            c.terminate()
    deadline = clock.monotonic() + _TERM_S
    for c in children:
        try:
            c.wait(timeout=max(0.05, deadline - clock.monotonic()))
        except subprocess.TimeoutExpired:
            c.kill()
            c.wait()


if __name__ == "__main__":
    sys.exit(main())
