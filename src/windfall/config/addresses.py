"""Addresses of the web, as keys of several tables have them."""

from __future__ import annotations

from urllib.parse import SplitResult, parse_qsl, urlsplit

from windfall.config.drivers import is_loopback


def web_address(address: str) -> SplitResult | None:
    """An address in its parts; None if it is none that begins with http:// or https:// and has a host."""
    try:
        parts = urlsplit(address)
        return parts if parts.hostname and parts.scheme in ("http", "https") else None
    except ValueError:
        return None


def in_the_clear(parts: SplitResult) -> bool:
    """Whether what is sent there leaves this machine unencrypted."""
    return parts.scheme == "http" and not is_loopback(parts.hostname or "")


def may_hold_a_secret(parts: SplitResult) -> bool:
    """Whether it has a user, a password or a query."""
    return bool(parts.username or parts.password or parse_qsl(parts.query))
