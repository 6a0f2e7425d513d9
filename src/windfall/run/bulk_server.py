"""The process that serves a run's large files: kept alive by `windfall run`, so that a coordinator's death cuts no transfer."""

from __future__ import annotations

import sys

from windfall.config.schema import Config
from windfall.run.kept import KeptProcess
from windfall.store.files import read_json
from windfall.store.rundir import RunDir

#: A message is at most so many times as large as the model: what a site hands in at once has a delta, an inner state, and what it
#: could not hand in before.
_MOST_OF_A_MODEL = 16


class BulkProcess(KeptProcess):
    """`windfall.run.bulk_process`."""

    called = "the file server"
    folder_name, log_name = "bulk", "bulk.log"

    def command(self) -> list[str]:
        return [sys.executable, "-m", "windfall.run.bulk_process", str(self._run.root.resolve()), str(self.port)]


def bulk_port(run: RunDir) -> int | None:
    """The port at which large files are served; None in a run whose messages are all small."""
    port = (read_json(run.bulk / BulkProcess.port_name) or {}).get("port")
    return port if isinstance(port, int) else None


def needs_bulk(config: Config, run: RunDir) -> bool:
    """Whether a message of the run may be larger than what goes inline. Once it has been so it stays so: sites were told."""
    if bulk_port(run) is not None:
        return True
    model = max((p.stat().st_size for p in run.checkpoints.glob("v*.safetensors")), default=0)
    return _MOST_OF_A_MODEL * model > config.federation.inline_limit_bytes
