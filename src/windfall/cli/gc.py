"""`windfall gc`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from windfall.cli.output import print_json, say
from windfall.errors import RunError
from windfall.run.gc import Collected, collect
from windfall.store.rundir import RunDir

_SHOWN = 20


def gc(root: Path, dry_run: bool, as_json: bool) -> int:
    """Collect what the run in ``root`` left behind; the exit code."""
    found = collect(RunDir(root), dry_run=dry_run)
    if as_json:
        print_json(
            {
                "processes": [{"pid": p.pid, "site": p.site, "generation": p.generation} for p in found.processes],
                **{k: v for k, v in asdict(found).items() if k in ("elsewhere", "files", "keys", "notes", "stuck")},
                "dry_run": dry_run,
                "alive": bool(found.alive),
            }
        )
    if found.alive:
        raise RunError(
            f"{root}: the run is alive, {found.alive}: nothing was touched. Ctrl-C ends it, `windfall drain {root} SITE` one site"
        )
    if not as_json:
        _tell(found, dry_run)
    return 1 if found.stuck else 0


def _tell(found: Collected, dry_run: bool) -> None:
    for site in sorted({p.site for p in found.processes}):
        pids = [str(p.pid) for p in found.processes if p.site == site]
        print(f"{'would end' if dry_run else 'ended'} {site or 'coordinator or SuperLink'}: process {', '.join(pids)}")
    for left in found.elsewhere:
        print(f"{'would end' if dry_run else 'ended'} {left}")
    if found.files:
        print(f"{'would remove' if dry_run else 'removed'} {_count(len(found.files), 'file')}:")
        for name in found.files[:_SHOWN]:
            print(f"  {name}")
        if len(found.files) > _SHOWN:
            print(f"  and {len(found.files) - _SHOWN} more")
    if found.keys:
        print(f"{'would delete' if dry_run else 'deleted'} {_count(found.keys, 'key')} in Redis")
    for line in (*found.notes, *found.stuck):
        say(line)
    if not (found.processes or found.elsewhere or found.files or found.keys or found.stuck):
        print("nothing is left over")


def _count(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"
