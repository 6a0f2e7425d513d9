"""`windfall site start`: one life of a site on a machine of its own, which fetches what it has to know before its agent runs.

It is told three things: where the run's endpoint is, the token of this life, and which folder is the site's own. SIGTERM ends it at
any point; what it has trained is in its folder then, and in the next life's hands.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import httpx

from windfall import clock
from windfall.errors import ConfigError, TransferError, WindfallError
from windfall.inputs import read_text, why
from windfall.site import agent
from windfall.site.fetching import Endpoint
from windfall.site.liveness import Liveness
from windfall.store.files import write_atomic, write_json, write_secret
from windfall.wire.bulk import TOKEN_NAME
from windfall.wire.bulk_client import BulkClient
from windfall.wire.certificates import trusting
from windfall.wire.http_bus import HttpSiteBus
from windfall.wire.probe import free_port

#: In messages to the coordinator: what a site is at before its agent is.
FETCHING = "fetching its data"
#: A clock that is further off than this (s) is told of.
_CLOCK_S = 4.0
_CA_NAME = "ca.pem"


def start(
    endpoint: str, token_file: Path, ca_file: Path | None, folder: Path, *, asked: Callable[[], bool], say: Callable[[str], None]
) -> int:
    """Run the site to its end; its exit status. ``asked`` says whether it was told to end.

    Raises:
        ConfigError: something that it was given cannot be used.
        TransferError: the endpoint refuses it.
    """
    token = _secret(token_file)
    _make_folder(folder)
    client = Endpoint(endpoint, token, verify=trusting(ca_file))
    asked_at: list[float] = []
    told = client.until("GET", "/start", asked, say, before=lambda: asked_at.append(clock.wall()))
    if told is None:
        return 0
    told["clock_offset_s"] = offset_s = clock_offset_s(told, asked_at[-1], clock.wall())
    if abs(offset_s) > _CLOCK_S:
        word = "behind" if offset_s > 0 else "ahead of"
        say(
            f"this machine's clock is {abs(offset_s):.0f} s {word} the run's, which is taken into account here; set it by NTP (for "
            "example: timedatectl set-ntp true), as other programs do not know of it"
        )
    site, generation = str(told["site"]), int(told["generation"])
    if ca_file is not None:
        write_atomic(folder / _CA_NAME, [ca_file.read_bytes()])
        told["ca_file"] = str(folder / _CA_NAME)
    if not told["trainer"].get("data_dir"):
        bus = HttpSiteBus(endpoint, token, verify=trusting(ca_file))
        liveness = Liveness(bus, folder, first_s=float("inf"), least_s=float("inf"))
        liveness.start()
        try:
            with liveness.doing(FETCHING):
                told["trainer"]["data_dir"] = str(_fetched(told, endpoint, token, ca_file, folder, asked, say))
        except WindfallError as e:
            bus.emit({"kind": "fatal", "reason": str(e)})
            raise
        finally:
            liveness.stop()
            bus.close()
        if asked():
            return 0
    told.pop("time", None)
    told["supernode_port"] = free_port()
    if told.get("bulk"):
        told["bulk"]["url"] = endpoint
        told["bulk"]["ca_file"] = told.get("ca_file")
    told["endpoint"] = endpoint
    write_json(folder / "site.json", told)
    write_secret(folder / TOKEN_NAME, token)
    # Flower's console scripts, which the SuperNode starts, are beside this Python.
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    say(f"{site}, generation {generation}: starts; its folder is {folder}")
    return agent.main([str(folder)])


def clock_offset_s(told: Mapping[str, Any], asked_at: float, answered_at: float) -> float:
    """What has to be added to this machine's clock to get the run's, as far as the question's way lets it be known."""
    theirs = told.get("time")
    if not isinstance(theirs, int | float) or asked_at <= theirs <= answered_at:
        return 0.0
    return float(theirs) - (asked_at + answered_at) / 2


def _fetched(
    told: Mapping[str, Any], endpoint: str, token: str, ca_file: Path | None, folder: Path, asked: Callable[[], bool],
    say: Callable[[str], None],
) -> Path:  # fmt: skip
    """The folder of the run's prepared data, fetched as far as it is not there already. Raises TransferError."""
    data = told["data"]
    target = folder / "data" / str(data["hash"])[:16]
    files = [(str(f["name"]), str(f["sha256"]), int(f["size"])) for f in data["files"]]
    wanting = [f for f in files if not _there(target / f[0], f[2])]
    if wanting:
        say(f"fetches {sum(f[2] for f in wanting):,} bytes of prepared data")
    bulk = told.get("bulk") or {}
    client = BulkClient(endpoint, token, bandwidth_mbit_s=bulk.get("bandwidth_mbit_s"), verify=trusting(ca_file))

    def tell(done: int, trouble: str) -> None:
        if asked():
            client.close()

    target.mkdir(parents=True, exist_ok=True)
    try:
        for name, sha256, size in wanting:
            if "/" in name or name.startswith("."):
                raise TransferError(f"the run names a file of data that would lie outside its folder: {name!r}")
            found = client.fetch(sha256, size, target / ".coming", tell)
            found.path.replace(target / name)
    except TransferError:
        if not asked():
            raise
    finally:
        client.close()
    write_atomic(target / "manifest.json", [str(data["manifest"]).encode()])
    return target


def _there(path: Path, size: int) -> bool:
    try:
        return path.stat().st_size == size
    except FileNotFoundError:
        return False


def _secret(path: Path) -> str:
    try:
        found = read_text(path, "ascii").strip()
    except (OSError, UnicodeDecodeError) as e:
        raise ConfigError(f"{path}: the token cannot be read: {why(e)}") from None
    if not found:
        raise ConfigError(f"{path}: holds no token")
    return found


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
    except OSError as e:
        raise ConfigError(f"{folder}: cannot be made the site's folder ({e.strerror})") from None


def main(endpoint: str, token_file: Path, ca_file: Path | None, folder: Path) -> int:
    """The verb. Signals are taken from the beginning on."""
    numbers: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda n, _: numbers.append(n))
    try:
        return start(
            endpoint, token_file, ca_file, folder.resolve(), asked=lambda: bool(numbers),
            say=lambda text: print(text, file=sys.stderr, flush=True),
        )  # fmt: skip
    except httpx.HTTPError as e:
        raise ConfigError(f"{endpoint}: {e}") from None
