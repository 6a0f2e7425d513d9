"""`windfall export`."""

from __future__ import annotations

from pathlib import Path

from windfall.cli.output import print_json, require_writable
from windfall.errors import ConfigError, StoreError
from windfall.store.files import write_json
from windfall.view.dictionary import dictionary
from windfall.view.frames import RunFrames

FORMATS = ("csv", "parquet")


def export(run: Path, out: Path, format: str, as_json: bool) -> None:
    """Write every series of ``run`` into the folder ``out``, a file each, what their columns mean, and its summary as JSON."""
    if format not in FORMATS:
        raise ConfigError(f"--format {format}: no such format; there are {', '.join(FORMATS)}")
    require_writable(folders=[out])
    found, summary = RunFrames(run).everything()
    found["columns"] = dictionary(found)
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_json(out / "summary.json", summary)
    except OSError as e:
        raise StoreError(f"{out}: cannot be written: {e.strerror}; name another --out or give write access") from None
    for name, frame in found.items():
        path = out / f"{name}.{format}"
        frame.to_csv(path) if format == "csv" else frame.to_parquet(path)
    rows = {name: len(frame) for name, frame in found.items()}
    if as_json:
        print_json({"out": str(out), "format": format, "rows": rows})
        return
    for name, count in rows.items():
        print(f"{out / f'{name}.{format}'}: {count:,} rows")
    print(out / "summary.json")
