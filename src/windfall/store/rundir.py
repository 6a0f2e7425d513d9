"""The run directory, which holds everything that a run is. Views read it; one coordinator at a time writes it."""

from __future__ import annotations

import fcntl
import os
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from windfall.errors import NoRun, StoreError

SUPERVISOR_LOCK = "supervisor.lock"


@dataclass(frozen=True)
class RunDir:
    """The paths of a run directory's files and folders."""

    root: Path

    @property
    def config(self) -> Path:
        """The resolved configuration, without secrets."""
        return self.root / "config.toml"

    @property
    def ledger(self) -> Path:
        """Durable record of versions, leases, commits, journal."""
        return self.root / "ledger.db"

    @property
    def telemetry(self) -> Path:
        """Events, decisions, readings, metrics, energy."""
        return self.root / "telemetry.db"

    @property
    def checkpoints(self) -> Path:
        """Weights of versions, outer and inner optimizer states."""
        return self.root / "checkpoints"

    @property
    def spool(self) -> Path:
        """Contributions received and not yet committed."""
        return self.root / "checkpoints" / "received"

    @property
    def beat(self) -> Path:
        """Signs of life of the coordinator, for its supervisor."""
        return self.root / "logs" / "coordinator.json"

    @property
    def operator(self) -> Path:
        """What an operator has asked for and the coordinator has not taken note of yet."""
        return self.root / "operator"

    @property
    def sites(self) -> Path:
        """One folder per local site."""
        return self.root / "sites"

    @property
    def bulk(self) -> Path:
        """Files that are too large for messages, on their way from and to sites."""
        return self.root / "bulk"

    @property
    def served(self) -> Path:
        """What the endpoint serves, and as whom."""
        return self.bulk / "serves.json"

    @property
    def shared(self) -> Path:
        """Files that the endpoint offers to every site: by the SHA-256 of their bytes."""
        return self.bulk / "shared.json"

    @property
    def registrations(self) -> Path:
        """Which site registered which node through the endpoint."""
        return self.bulk / "nodes.jsonl"

    @property
    def logs(self) -> Path:
        """Logs of coordinator and SuperLink."""
        return self.root / "logs"

    @property
    def report(self) -> Path:
        """index.html, figures, summary.json."""
        return self.root / "report"

    @property
    def data(self) -> Path:
        """The prepared corpus, where the run prepared it itself."""
        return self.root / "data"

    def exists(self) -> bool:
        """Whether there is a run here."""
        return self.ledger.is_file()

    def make(self) -> None:
        """Create the folders.

        Raises:
            StoreError: the place cannot be written, or holds something that is not a run.
        """
        try:
            if self.root.exists() and not self.root.is_dir():
                raise NoRun(f"{self.root}: is no folder; name one for the run")
            strangers = [p.name for p in self.root.iterdir()] if self.root.is_dir() and not self.exists() else []
            ours = {p.name for p in (self.config, self.telemetry, self.checkpoints, self.sites, self.logs, self.report, self.data)}
            # A start that was killed may have left a ledger that is not in its place yet.
            odd = sorted(n for n in strangers if n not in ours | {"lock", SUPERVISOR_LOCK} and not n.startswith("ledger.new"))
            if odd:
                raise StoreError(f"{self.root}: not empty and not a run directory (it has {odd[0]}); name a new folder")
            for folder in (self.root, self.checkpoints, self.spool, self.sites, self.logs, self.report):
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as e:
            raise StoreError(f"{self.root}: the run directory cannot be made: {e.strerror}") from None

    def _runs_inside(self) -> str:
        """Of a folder that is no run and holds some: what to name in its place."""
        if self.exists():
            return ""
        try:
            found = sorted(str(p.parent) for p in self.root.glob("*/ledger.db"))
        except OSError:
            return ""
        return ", ".join(found[:5]) + (f" or one of {len(found) - 5} more" if len(found) > 5 else "")

    def open_existing(self) -> RunDir:
        """Self, if there is a run here.

        Raises:
            NoRun: there is none.
            StoreError: it is not whole.
        """
        if not self.exists() and (self.root / SUPERVISOR_LOCK).is_file():
            raise StoreError(f"{self.root}: its run is being prepared, or was ended while it was; look again in a moment")
        if self.root.exists() and not self.root.is_dir():
            raise NoRun(f"{self.root}: a run is a folder, and this is none; name the run directory (windfall run prints it)")
        if inside := self._runs_inside():
            raise NoRun(f"{self.root}: a folder of runs, and one is wanted: name {inside}")
        if not self.exists():
            raise NoRun(f"{self.root}: no run here (no ledger.db); `windfall run FILE --run-dir {self.root}` starts one")
        if not self.config.is_file():
            raise StoreError(f"{self.config}: the run's own configuration is gone; copy the file that it was started with there")
        return self


class RunLock:
    """A lock that the one coordinator of a run directory holds. The system releases it when the process ends.

    With the name ``SUPERVISOR_LOCK`` it is that of the one `windfall run` which starts the coordinators.
    """

    def __init__(self, run: RunDir, name: str = "lock") -> None:
        self._path = run.root / name
        self._file: IO[str] | None = None

    def acquire(self) -> None:
        """Take the lock.

        Raises:
            StoreError: another coordinator has it.
        """
        try:
            self._file = open(self._path, "a+", encoding="utf-8")  # noqa: SIM115 - held for the life of the lock
        except OSError as e:
            raise StoreError(f"{self._path}: cannot be opened: {e.strerror}") from None
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.seek(0)
            holder = self._file.read().strip() or "unknown"
            self._file.close()
            raise StoreError(
                f"{self._path.parent}: another coordinator (process {holder}) is running this run; stop it first, or look "
                f"with `windfall status {self._path.parent}`"
            ) from None
        try:
            self._file.truncate(0)
            self._file.write(str(os.getpid()))
            self._file.flush()
        except OSError as e:
            self._file.close()
            raise StoreError(f"{self._path}: cannot be written: {e.strerror}; make room, then run again") from None

    def release(self) -> None:
        """Give the lock back."""
        if self._file is not None:
            self._file.close()
            self._file = None
