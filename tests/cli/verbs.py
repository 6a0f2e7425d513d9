"""Verbs, each in a process of its own and all of them forked from one: ``python -m cli.verbs``, which reads a list of
[arguments, where standard output goes] as JSON and prints a list of [exit code, output, standard error].
"""

from __future__ import annotations

import importlib
import json
import math
import os
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path

from patience import PATIENCE_S

#: Imported once, before the forks.
MODULES = ("cli.main", "cli.backtest", "cli.signals", "ui.page.report", "ui.page.figures", "ui.terminal.live", "run.versions",
           "run.preflight", "train.trainer", "train.generate")  # fmt: skip


def asked(cases: list[tuple[list[str], str]], folder: Path | None = None) -> list[tuple[int, str, str]]:
    """What verbs do, one after another, in a folder. Where output goes: `keep`, `full` (/dev/full), `gone` (a pipe without a
    reader), `closed`, `ascii` (kept, by a terminal that knows no more)."""
    done = subprocess.run(
        [sys.executable, "-m", "cli.verbs"], input=json.dumps(cases), capture_output=True, text=True, check=True,
        timeout=4 * PATIENCE_S, cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    return [(code, out, err) for code, out, err in json.loads(done.stdout)]


def one(arguments: list[str], where: str) -> tuple[int, str, str]:
    """One verb in a child."""
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder) / "out", Path(folder) / "err"
        pid = os.fork()
        if not pid:
            become(arguments, where, out, err)
        _, status = os.waitpid(pid, 0)
        text = out.read_text(encoding="utf-8", errors="replace") if out.exists() else ""
        return os.waitstatus_to_exitcode(status), text, err.read_text(encoding="utf-8", errors="replace")


def become(arguments: list[str], where: str, out: Path, err: Path) -> None:
    """In the child: run the verb and end as its process would."""
    if where == "gone":
        reader, target = os.pipe()
        os.close(reader)
    else:
        target = os.open("/dev/full" if where == "full" else out, os.O_WRONLY | os.O_CREAT, 0o600)
    os.dup2(target, 1)
    os.dup2(os.open(err, os.O_WRONLY | os.O_CREAT, 0o600), 2)
    encoding = "ascii" if where == "ascii" else "utf-8"
    sys.stdout = open(1, "w", encoding=encoding, closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding=encoding, errors="backslashreplace", buffering=1, closefd=False)  # noqa: SIM115
    if where == "closed":
        os.close(1)
        sys.stdout = None  # type: ignore[assignment]  # as Python has it then
    sys.argv = ["windfall", *arguments]
    from windfall.cli.main import main

    code: object = 1
    try:
        main()
    except SystemExit as e:
        code = e.code
    except Exception:  # noqa: BLE001 - as Python does where nobody catches it
        traceback.print_exc()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except Exception as e:  # noqa: BLE001 - as above
        os.write(2, f"Exception ignored: {e!r}\n".encode())
        code = 120
    os._exit(int(code or 0))  # type: ignore[call-overload]


if __name__ == "__main__":
    for name in ("torch", *(f"windfall.{n}" for n in MODULES)):
        importlib.import_module(name)
    # What is on standard error must not depend on how fast the machine is.
    importlib.import_module("windfall.ui.terminal.progress").__dict__["_PATIENCE_S"] = math.inf
    importlib.import_module("windfall.cli.output").__dict__["_QUIET_S"] = math.inf
    print(json.dumps([one(a, w) for a, w in json.loads(sys.stdin.read())]))
