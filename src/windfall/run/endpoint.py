"""The run's endpoint: large files, and for sites on other machines everything else that they need, on one port.

It is a process of its own, kept alive by `windfall run`, so that a coordinator's death cuts no transfer.
"""

from __future__ import annotations

import ssl
import sys

from windfall.config.drivers import ELSEWHERE, NetworkTable
from windfall.config.schema import Config
from windfall.run.kept import KeptProcess
from windfall.store.files import read_json, write_json
from windfall.store.rundir import RunDir
from windfall.wire.certificates import Certificates

#: A message is at most so many times as large as the model: what a site hands in at once has a delta, an inner state, and what it
#: could not hand in before.
_MOST_OF_A_MODEL = 16


class EndpointProcess(KeptProcess):
    """`windfall.run.endpoint_process`."""

    called = "the endpoint"
    folder_name, log_name = "bulk", "endpoint.log"
    port_key = "network.port"

    def __init__(self, run: RunDir, run_id: str, config: Config | None = None, superlink_port: int = 0) -> None:
        """``config`` and the SuperLink's port: where sites are on other machines.

        Raises:
            ConfigError: the configured port is taken, or the certificates cannot be used.
        """
        network = config.network if config is not None else NetworkTable()  # type: ignore[call-arg]
        self._certificates = Certificates.open(network.certificates) if network.certificates else None
        super().__init__(run, run_id, network.port)
        away = [s for s in config.site if s.driver in ELSEWHERE] if config is not None else []
        serves = {
            # Other machines can be in no run whose sites are all here.
            "host": "127.0.0.1" if network.loopback or not away else "0.0.0.0",
            "superlink_port": superlink_port if away else 0,
            "residents": [s.name for s in away if s.driver == "resident"],
            "certificate": str(self._certificates.endpoint) if self._certificates else "",
            "key": str(self._certificates.endpoint_key) if self._certificates else "",
        }
        write_json(run.served, serves)

    def command(self) -> list[str]:
        return [sys.executable, "-m", "windfall.run.endpoint_process", str(self._run.root.resolve()), str(self.port)]

    def tls(self) -> ssl.SSLContext | None:
        if self._certificates is None:
            return None
        context = ssl.create_default_context()
        # It is asked on this machine, whose name need not be in its certificate, and nothing is said but that it is there.
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return context


def endpoint_port(run: RunDir) -> int | None:
    """The endpoint's port; None in a run that has none: all of its sites are here, and its messages are all small."""
    port = (read_json(run.bulk / EndpointProcess.port_name) or {}).get("port")
    return port if isinstance(port, int) else None


def endpoint_url(config: Config, run: RunDir, site: str) -> str | None:
    """The endpoint as a site reaches it; None in a run that has none."""
    port = endpoint_port(run)
    if port is None:
        return None
    scheme = "https" if config.network.certificates else "http"
    host = config.network.address if config.site_named(site).driver in ELSEWHERE else "127.0.0.1"
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"


def needs_endpoint(config: Config, run: RunDir) -> bool:
    """Whether sites are on other machines, or a message may be larger than what goes inline. Once a run has one it keeps it: sites
    were told."""
    if endpoint_port(run) is not None or any(s.driver in ELSEWHERE for s in config.site):
        return True
    model = max((p.stat().st_size for p in run.checkpoints.glob("v*.safetensors")), default=0)
    return _MOST_OF_A_MODEL * model > config.federation.inline_limit_bytes
