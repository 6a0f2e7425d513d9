"""`windfall track`: a run's figures to experiment trackers."""

from __future__ import annotations

import signal
import threading
import tomllib
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from windfall.cli.output import print_json, say
from windfall.config.trackers import TrackerTable
from windfall.errors import ConfigError
from windfall.run.tracking import unnamed
from windfall.store.rundir import RunDir
from windfall.view.state import run_state


def track(
    root: Path, kind: str | None, folder: str | None, project: str | None, url: str | None, follow: bool, as_json: bool
) -> int:
    """Send what a run has to tell, and go on while it goes on; ``follow``: until told to end, whatever becomes of the run. The
    exit code."""
    run = RunDir(root).open_existing()
    config = _config(run)
    tables = _tables(config, kind, folder, project, url)
    if not follow and (lacks := unnamed(tables)):
        raise ConfigError(lacks[0])
    from windfall.ui.trackers.follow import Follower, follow_all

    run_id = run_state(run).run_id
    ended = threading.Event()
    told: list[int] = []

    def end(number: int, _: object) -> None:
        told.append(number)
        ended.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)
    followers = [Follower(run, run_id, t, config, say) for t in tables]
    if not follow:  # what cannot work is told at once, with an exit code
        for f in followers:
            f.look()
    follow_all(followers, ended, to_the_end=follow)
    sent = {t.kind: f.sent for t, f in zip(tables, followers, strict=True)}
    if as_json:
        print_json({"run": run_id, "sent": sent})
    else:
        say("; ".join(f"{n:,} points to {kind}" for kind, n in sent.items()))
    return 130 if signal.SIGINT in told else 0


def _config(run: RunDir) -> dict[str, Any]:
    try:
        return tomllib.loads(run.config.read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        raise ConfigError(f"{run.config}: cannot be read ({e})") from None


def _tables(
    config: dict[str, Any], kind: str | None, folder: str | None, project: str | None, url: str | None
) -> list[TrackerTable]:
    """The tracker that the command line names, else those of the run's configuration."""
    if kind is None:
        strange = next((f"--{n}" for n, v in (("folder", folder), ("project", project), ("url", url)) if v is not None), None)
        if strange:
            raise ConfigError(f"{strange} is for a tracker that --to names")
        tables = [TrackerTable.model_validate(t) for t in config.get("tracker", [])]
        if not tables:
            raise ConfigError("the run's configuration has no [[tracker]]; name one with --to tensorboard, wandb or mlflow")
        return tables
    given = {k: v for k, v in {"kind": kind, "folder": folder, "project": project, "url": url}.items() if v is not None}
    try:
        return [TrackerTable.model_validate(given)]
    except ValidationError as e:
        raise ConfigError(f"--to {kind}: {e.errors()[0]['msg'].removeprefix('Value error, ')}") from None
