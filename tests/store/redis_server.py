"""A real `redis-server` that a test starts, kills, pauses and starts again empty."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path

import redis

from needs import missing
from patience import wait_for
from windfall.wire.probe import free_port


def need_redis() -> None:
    """Skip without `redis-server`; where everything is required, fail."""
    if shutil.which("redis-server") is None:
        missing("redis-server (Debian: apt-get install redis-server)")


class RedisServer:
    """Keeps nothing on disk: started again, it is empty."""

    def __init__(self, folder: Path, password: str = "", tls: tuple[Path, Path, Path] | None = None) -> None:
        need_redis()
        self._folder, self._password, self._tls = folder, password, tls
        self.port = free_port()
        self._child: subprocess.Popen[bytes] | None = None
        self.url = f"redis://127.0.0.1:{self.port}/0"
        if tls:
            self.url = f"rediss://localhost:{self.port}/0?ssl_ca_certs={tls[0]}"
        self.start()

    def client(self) -> redis.Redis:
        return redis.Redis.from_url(self.url, password=self._password or None, decode_responses=True, protocol=2)

    @property
    def pid(self) -> int:
        assert self._child is not None
        return self._child.pid

    def start(self) -> None:
        command = ["redis-server", "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", str(self._folder)]
        if self._tls:
            ca, cert, key = map(str, self._tls)
            command += ["--port", "0", "--tls-port", str(self.port), "--tls-cert-file", cert, "--tls-key-file", key]
            command += ["--tls-ca-cert-file", ca, "--tls-auth-clients", "no"]
        else:
            command += ["--port", str(self.port)]
        if self._password:
            command += ["--requirepass", self._password]
        self._child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_for("redis-server to answer", self._answers)

    def _answers(self) -> bool:
        with self.client() as client:
            try:
                return bool(client.ping())
            except (redis.ConnectionError, redis.TimeoutError):
                return False

    def kill(self) -> None:
        assert self._child is not None
        self._child.kill()
        self._child.wait()

    def stop(self) -> None:
        os.kill(self.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        os.kill(self.pid, signal.SIGCONT)
