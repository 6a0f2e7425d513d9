"""Whether a SuperLink can be reached."""

from __future__ import annotations

import http.client


def answers(host: str, port: int, timeout_s: float) -> bool:
    """Whether a SuperLink is there and awake: a frozen one still accepts connections, and says nothing."""
    connection = http.client.HTTPConnection(host, port, timeout=timeout_s)
    try:
        connection.request("GET", "/")
        connection.getresponse()
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
    return True
