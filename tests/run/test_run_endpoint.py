"""The file server of a run as a process of its own: kept alive, with its port, and small whatever it serves."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from patience import PATIENCE_S
from proxy import refusing_proxy
from run.real import assert_replays, assert_whole, events, start, wait_for, windfall, write_config
from windfall import clock
from windfall.config.federation import FederationTable
from windfall.errors import StoreError
from windfall.run.endpoint import EndpointProcess, endpoint_port, needs_endpoint
from windfall.store.blobs import FileBlob
from windfall.store.ledger import Ledger
from windfall.store.rundir import RunDir
from windfall.view.state import summarise
from windfall.wire.bulk import Shelf, received, whole
from windfall.wire.bulk_client import BulkClient
from windfall.wire.probe import answers
from wire.bulk_bench import digest, some_bytes, until

TOKEN = "5" * 64


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    made = RunDir(tmp_path / "run")
    made.make()
    ledger = Ledger.create(made.ledger, run_id="r", fingerprint="f", budget_blocks=8, tokens_per_block=64)
    ledger.asked(0.0, 0.0, "a", 3, "ensure_up", "window")
    ledger.keep_token("a", 3, hashlib.sha256(TOKEN.encode()).hexdigest())
    ledger.close()
    return made


@pytest.fixture
def process(run: RunDir) -> Iterator[EndpointProcess]:
    made = EndpointProcess(run, "r")
    made.start()
    until(lambda: answers("127.0.0.1", made.port, 1.0))
    yield made
    made.stop()


def test_only_a_run_whose_messages_may_be_large_has_a_file_server_and_then_for_good(run: RunDir) -> None:
    class Stub:
        federation = FederationTable(inline_limit_mb=1.0)
        site: tuple[()] = ()

    (run.checkpoints / "v000000.safetensors").write_bytes(bytes(60_000))
    assert not needs_endpoint(Stub, run)  # type: ignore[arg-type]
    assert endpoint_port(run) is None
    (run.checkpoints / "v000000.safetensors").write_bytes(bytes(70_000))
    assert needs_endpoint(Stub, run)  # type: ignore[arg-type]
    port = EndpointProcess(run, "r").port
    assert endpoint_port(run) == port == EndpointProcess(run, "r").port
    (run.checkpoints / "v000000.safetensors").unlink()
    assert needs_endpoint(Stub, run)  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_server_that_is_killed_in_mid_transfer_is_started_again_and_both_ways_go_on(
    run: RunDir, process: EndpointProcess, tmp_path: Path
) -> None:
    data, mine = some_bytes(30_000_000), some_bytes(30_000_000, 1)
    shelf = Shelf(run.bulk)
    shelf.offered("a").mkdir(parents=True)
    (shelf.offered("a") / digest(data)).write_bytes(data)
    (tmp_path / "mine").write_bytes(mine)
    client = BulkClient(f"http://127.0.0.1:{process.port}", TOKEN, bandwidth_mbit_s=100, wait_s=0.01)
    down: list[tuple[int, str]] = []
    up: list[tuple[int, str]] = []
    killed = threading.Event()

    def tell(told: list[tuple[int, str]], done: int, trouble: str) -> None:
        told.append((done, trouble))
        if done > 6_000_000:  # neither is through before the server is killed
            killed.wait(PATIENCE_S)

    threads = [
        threading.Thread(target=client.fetch, args=(digest(data), len(data), tmp_path / "site", lambda *x: tell(down, *x))),
        threading.Thread(target=client.give, args=(FileBlob.of(tmp_path / "mine"), lambda *x: tell(up, *x))),
    ]
    for t in threads:
        t.start()
    sent = shelf.sent("a")
    until(lambda: down and up and down[-1][0] > 4_000_000 and received(sent, digest(mine), len(mine)) > 4_000_000)
    assert process._child is not None
    process._child.send_signal(signal.SIGKILL)
    process._child.wait()
    killed.set()
    until(lambda: any(trouble for _, trouble in down) and any(trouble for _, trouble in up))
    assert process.keep() == "the endpoint ended with status -9; started again"
    for t in threads:
        t.join(PATIENCE_S)
    assert (tmp_path / "site" / digest(data)).read_bytes() == data
    assert (shelf.sent("a") / digest(mine)).read_bytes() == mine
    for told in (down, up):  # after the last death neither began at the beginning
        assert told[max(i for i, (_, trouble) in enumerate(told) if trouble) + 1][0] > 1_000_000
    client.close()


_SITE = """
import resource, sys
from pathlib import Path
from windfall.store.blobs import FileBlob
from windfall.wire.bulk_client import BulkClient
port, token, sha, size, folder = sys.argv[1:]
client = BulkClient(f"http://127.0.0.1:{port}", token)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
found = client.fetch(sha, int(size), Path(folder))
client.give(FileBlob(found.path, found.size, found.sha256))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def memory_kb(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


@pytest.mark.slow
def test_neither_end_grows_with_the_file(run: RunDir, process: EndpointProcess, tmp_path: Path) -> None:
    size = 300_000_000
    shelf = Shelf(run.bulk)
    shelf.offered("a").mkdir(parents=True)
    large = tmp_path / "large"
    with open(large, "wb") as f:
        for n in range(size // 1_000_000):
            f.write(some_bytes(1_000_000, n % 7))
    blob = FileBlob.of(large)
    blob.keep(shelf.offered("a") / blob.sha256)
    assert process._child is not None
    before = memory_kb(process._child.pid)
    begun = clock.monotonic()
    command = [sys.executable, "-c", _SITE, str(process.port), TOKEN, blob.sha256, str(size), str(tmp_path / "site")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, "PYTHONWARNINGS": ""})
    took = clock.monotonic() - begun
    grown = memory_kb(process._child.pid) - before
    print(f"there and back {2 * size / 1e6 / took:.0f} MB/s; site +{int(done.stdout) / 1e3:.0f} MB, server +{grown / 1e3:.0f} MB")
    assert whole(shelf.sent("a"), blob.sha256, size)
    assert int(done.stdout) < 40_000
    assert grown < 40_000


@pytest.mark.slow
def test_a_disk_that_takes_no_more_is_told_and_when_there_is_room_the_upload_goes_on(run: RunDir, process: EndpointProcess) -> None:
    """The system's own limit of a file's size: writes fail as on a full disk."""
    assert process._child is not None
    pid = process._child.pid
    _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (1_234_567, hard))
    data = some_bytes(3_000_000)
    (run.root / "mine").write_bytes(data)
    client = BulkClient(f"http://127.0.0.1:{process.port}", TOKEN, wait_s=0.01)
    told: list[tuple[int, str]] = []
    thread = threading.Thread(target=client.give, args=(FileBlob.of(run.root / "mine"), lambda *x: told.append(x)))
    thread.start()
    until(lambda: any("1,234,567 of 3,000,000 bytes are kept, make room there" in trouble for _, trouble in told))
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (hard, hard))
    thread.join(PATIENCE_S)
    assert (Shelf(run.bulk).sent("a") / digest(data)).read_bytes() == data
    client.close()


@pytest.mark.slow
def test_a_token_is_good_for_as_long_as_its_generation_is_the_newest(run: RunDir, process: EndpointProcess, tmp_path: Path) -> None:
    from windfall.errors import TransferError

    client = BulkClient(f"http://127.0.0.1:{process.port}", TOKEN, wait_s=0.01)
    (tmp_path / "mine").write_bytes(b"mine")
    client.give(FileBlob.of(tmp_path / "mine"))
    ledger = Ledger.open(run.ledger)  # another coordinator, and the next life of the site
    (tmp_path / "more").write_bytes(b"more")
    client.give(FileBlob.of(tmp_path / "more"))
    ledger.asked(1.0, 1.0, "a", 4, "ensure_up", "window")
    ledger.close()
    (tmp_path / "too late").write_bytes(b"too late")
    with pytest.raises(TransferError, match="generation 3 of site a, which is over"):
        client.give(FileBlob.of(tmp_path / "too late"))
    client.close()


@pytest.mark.slow
def test_a_run_whose_messages_are_all_large_finishes_and_its_tokens_are_in_none_of_its_files(tmp_path: Path) -> None:
    run = tmp_path / "run"
    config = write_config(tmp_path, {"a": [(0, 25)], "b": [(15, 600)]})
    config.write_text(config.read_text().replace("[federation]", "[federation]\ninline_limit_mb = 0.01"))
    with refusing_proxy() as proxy:
        done = windfall("run", config, "--run-dir", run, "--quiet", environment=proxy.environment())
    assert done.returncode == 0, done.stderr + (run / "logs" / "coordinator.log").read_text()
    assert proxy.asked == []
    assert_whole(run)
    assert_replays(run)
    assert list(events(run, "refused")) == []
    assert {e["site"] for e in events(run, "link_measured")} == {"a", "b"}
    for site in ("a", "b"):  # files went both ways, and are gone
        assert (run / "bulk" / "from" / site).is_dir()
        assert list((run / "sites" / site / "bulk").iterdir()) == []
    assert [p for p in (run / "bulk").rglob("*") if p.is_file() and p.name not in ("port.json", "serves.json")] == []
    ledger = Ledger.open(run / "ledger.db", read_only=True)
    hashes = {t.sha256 for t in ledger.tokens()}
    ledger.close()
    assert len(hashes) == 2
    for path in run.rglob("*"):
        if path.is_file():
            for found in re.findall(rb"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])", path.read_bytes()):
                assert hashlib.sha256(found).hexdigest() not in hashes, path


@pytest.mark.slow
def test_a_coordinator_that_is_killed_while_files_are_on_their_way_cuts_none_and_the_run_finishes(tmp_path: Path) -> None:
    run = tmp_path / "run"
    config = write_config(tmp_path, {"a": [(0, 600)]})
    text = config.read_text().replace("[federation]", "[federation]\ninline_limit_mb = 0.01")
    config.write_text(text.replace('region = "a"', 'region = "a"\nbandwidth_mbit_s = 0.4'))
    child = start("run", config, "--run-dir", run, "--quiet")

    seen: list[dict[str, Any]] = []

    def under_way() -> bool:
        with contextlib.suppress(StoreError):  # it is being made
            seen[:] = [x for x in summarise(RunDir(run))["transfers"] if 0 < x["done"] < x["of"]]
        return bool(seen)

    wait_for("a file on its way", under_way)
    assert (seen[0]["site"], seen[0]["direction"], seen[0]["name"]) == ("a", "down", "weights")
    os.kill(json.loads((run / "logs" / "coordinator.json").read_text())["pid"], signal.SIGKILL)
    assert child.wait(timeout=PATIENCE_S) == 0
    assert_whole(run)
    assert [e["kind"] for e in events(run, "resumed")] == ["resumed"]
    assert "the endpoint ended" not in (run / "logs" / "coordinator.log").read_text()
