"""Ports of this machine, and whether a SuperLink can be reached."""

from __future__ import annotations

import contextlib
import http.client
import secrets
import socket
import ssl
from pathlib import Path

#: From which port on Linux gives ports to whoever asks for any, and to each outgoing connection; and where it does without a word.
_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
_EPHEMERAL = 32768
#: Below lie ports of well-known services.
_LEAST = 10_000
_TRIES = 100


def answers(host: str, port: int, timeout_s: float, tls: ssl.SSLContext | None = None) -> bool:
    """Whether a SuperLink is there and awake: a frozen one still accepts connections, and says nothing. ``tls``: it speaks TLS."""
    if tls is None:
        connection = http.client.HTTPConnection(host, port, timeout=timeout_s)
    else:
        connection = http.client.HTTPSConnection(host, port, timeout=timeout_s, context=tls)
    try:
        connection.request("GET", "/")
        connection.getresponse()
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
    return True


def free_port() -> int:
    """A port that nobody listens on now, and that the system gives to nobody meanwhile who asks for any."""
    first = _EPHEMERAL
    with contextlib.suppress(OSError, ValueError):
        first = int(_RANGE.read_text(encoding="ascii").split()[0])
    for _ in range(_TRIES if first > _LEAST else 0):
        if port_is_free(port := _LEAST + secrets.randbelow(first - _LEAST)):
            return port
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def port_is_free(port: int) -> bool:
    """Whether nobody listens on ``port`` of this machine."""
    with socket.socket() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            s.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
