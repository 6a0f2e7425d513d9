"""Decides whether a request goes through a proxy: never on this machine, else by HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY.

`settle` changes the environment so that no library uses a proxy for this machine, and none fails over a proxy that it cannot use.
Such proxies are taken out of the environment; `way` gives a message for the requests that would have needed them.
"""

from __future__ import annotations

import contextlib
import importlib.util
import ipaddress
import json
import os
import re
import socket
from collections.abc import Iterable, Mapping, MutableMapping
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

#: Addresses that every library takes for this machine. Some understand 127.0.0.0/8 too, and the others ignore it.
_LOCAL = ("localhost", ".localhost", "127.0.0.1", "::1", "0.0.0.0", "127.0.0.0/8")
#: Variables by the scheme of the addresses that they are for. The lower-case spelling wins, as it does in curl and urllib.
_NAMES = {scheme: (f"{scheme}_proxy", f"{scheme.upper()}_PROXY") for scheme in ("http", "https", "all")}
_NO = ("no_proxy", "NO_PROXY")
#: What `settle` took out: the old NO_PROXY, and for each variable why it cannot be used. Values are not kept: they may hold
#: passwords.
_KEPT = "WINDFALL_PROXY_SETTINGS"
_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True)
class ProxyRoute:
    """How to reach an address: through ``proxy``, which ``variable`` names (None: directly). ``fault``: why that is impossible."""

    proxy: str | None = None
    variable: str = ""
    fault: str = ""

    def __str__(self) -> str:
        if self.fault:
            return f"not at all: {self.fault}"
        return f"through the proxy {shown(self.proxy)} ({self.variable})" if self.proxy else "straight"


def shown(proxy: str) -> str:
    """A proxy's address without user and password."""
    with contextlib.suppress(ValueError):
        parts = urlsplit(proxy)
        if parts.hostname:
            host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
            return f"{parts.scheme}://{host}" + (f":{parts.port}" if parts.port else "")
    return "(malformed)"


def settled(environ: Mapping[str, str]) -> dict[str, str]:
    """``environ`` as `settle` leaves it."""
    copy = dict(environ)
    settle(copy)
    return copy


def settle(environ: MutableMapping[str, str]) -> None:
    """Change ``environ`` so that nothing on this machine is reached through a proxy. Calling it again changes nothing."""
    no, aside = _kept(environ)
    for name in (n for names in _NAMES.values() for n in names):
        if why := _fault(name, environ.get(name, "").strip()):
            aside[name] = why
            del environ[name]
    lists = [t for t in (environ.get(n, "") for n in _NO) if t]
    if not lists and not aside and not any(environ.get(n) for names in _NAMES.values() for n in names):
        return
    given = [e for text in lists for e in _entries(text)]
    no = list(dict.fromkeys([*no, *(e for e in given if e not in _LOCAL)]))
    understood = ",".join(dict.fromkeys([*(e for e in given if _understood(e)), *_LOCAL, *_own_name()]))
    environ.update({**dict.fromkeys(_NO, understood), _KEPT: json.dumps({"no": no, "aside": aside})})


def way(url: str, environ: Mapping[str, str] | None = None) -> ProxyRoute:
    """How to reach ``url``."""
    env = os.environ if environ is None else environ
    try:
        parts = urlsplit(url)
        host = (parts.hostname or "").rstrip(".")
        port = parts.port or _PORTS.get(parts.scheme, 0)
    except ValueError:
        return ProxyRoute()  # malformed: the request itself says what is wrong with it
    no, aside = _kept(env)
    if not host or parts.scheme not in _PORTS or _is_here(host) or _excepted(parts, host, port, [*no, *_no_proxy(env)]):
        return ProxyRoute()
    for scheme in (parts.scheme, "all"):
        for name in _NAMES[scheme]:
            value = env.get(name, "").strip()
            if why := aside.get(name) or _fault(name, value):
                return ProxyRoute(variable=name, fault=why)
            if value:
                return ProxyRoute(value if "://" in value else f"http://{value}", name)
    return ProxyRoute()


def _kept(environ: Mapping[str, str]) -> tuple[list[str], dict[str, str]]:
    with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
        found = json.loads(environ[_KEPT])
        return [str(n) for n in found["no"]], {str(k): str(v) for k, v in found["aside"].items()}
    return [], {}


def _fault(name: str, value: str) -> str:
    """Why a proxy cannot be used, without its value; empty if it can, or if there is none."""
    if not value:
        return ""
    fix = "correct or unset it"
    try:
        parts = urlsplit(value if "://" in value else f"http://{value}")
        host, _ = parts.hostname, parts.port
    except ValueError:
        return f"{name} is no address of a proxy (write http://HOST:PORT); {fix}"
    if not host or not re.fullmatch(r"[\w.:%-]+", host) or re.search(r"\s", value):
        return f"{name} is no address of a proxy (write http://HOST:PORT); {fix}"
    if parts.scheme in ("socks5", "socks5h"):
        if importlib.util.find_spec("socksio") is None:
            return f"{name} names a SOCKS proxy, which needs the package socksio (pip install 'httpx[socks]'); install it, or {fix}"
    elif parts.scheme not in ("http", "https"):
        return f"{name} begins with {parts.scheme}://; a proxy is http://, https:// or (with the package socksio) socks5://; {fix}"
    return ""


def _entries(text: str) -> Iterable[str]:
    """NO_PROXY's entries. ``[::1]``, as some write it, is an address that libraries stumble over."""
    for entry in text.split(","):
        found = entry.strip().lower()
        found = found[1:-1] if found.startswith("[") and found.endswith("]") else found
        if found:
            yield found


def _no_proxy(environ: Mapping[str, str]) -> list[str]:
    return [e for name in _NO for e in _entries(environ.get(name, ""))]


def _understood(entry: str) -> bool:
    """Whether HTTP libraries understand this entry. They take ``*.name`` and IPv6 ranges for malformed addresses."""
    if entry == "*" or "://" in entry:
        return entry == "*"
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(entry) is not None
    with contextlib.suppress(ValueError):
        return ipaddress.ip_network(entry, strict=False).version == 4
    return re.fullmatch(r"[\w.-]+(:\d+)?", entry) is not None


def _own_name() -> tuple[str, ...]:
    """This machine's name, if it can be put into NO_PROXY: some libraries also match names that end with it."""
    name = socket.gethostname().lower()
    return (name,) if re.fullmatch(r"[\w.-]{3,}", name) else ()


def _is_here(host: str) -> bool:
    """Whether ``host`` is this machine: a loopback address, its name, or an address of one of its interfaces."""
    if host == "localhost" or host.endswith(".localhost") or host in (socket.gethostname().lower(),):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    if address.is_loopback or address.is_unspecified:
        return True
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:  # only an address of this machine can be bound to
        with socket.socket(family, socket.SOCK_DGRAM) as s:
            s.bind((host, 0))
    except OSError:
        return False
    return True


def _excepted(parts: SplitResult, host: str, port: int, entries: Iterable[str]) -> bool:
    """Whether NO_PROXY names the address: ``*``, a name (and what ends with it), an address or a range, with or without a port."""
    for entry in entries:
        if entry == "*":
            return True
        scheme, found, rest = entry.rpartition("://")
        if found and scheme not in (parts.scheme, "all"):
            continue
        with contextlib.suppress(ValueError):
            if ipaddress.ip_address(host) in ipaddress.ip_network(rest, strict=False):
                return True
            continue
        name, colon, number = rest.rpartition(":")
        if colon and number.isdecimal():
            if int(number) != port:
                continue
            rest = name.strip("[]")
        rest = rest.removeprefix("*").removeprefix(".")
        if rest and (host == rest or host.endswith(f".{rest}")):
            return True
    return False
