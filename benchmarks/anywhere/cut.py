"""A link that is cut while a large file travels: nothing of what has arrived is sent again."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.anywhere.platforms import ROOT
from benchmarks.federation.links import Links, inside, links

from windfall import clock
from windfall.store.files import write_json
from windfall.store.ledger import Ledger
from windfall.store.rundir import RunDir
from windfall.wire.bulk import received
from windfall.wire.certificates import make

_MBIT_S, _SIZE, _TOKEN, _PORT, _PATIENCE_S = 50.0, 40_000_000, "a-token", 9443, 600.0
#: What a site does: gives or fetches a file, and says when it is done. Arguments: give|fetch, URL, CA, SHA-256, folder.
_SITE = """
import sys
from pathlib import Path
from windfall.store.blobs import FileBlob
from windfall.wire.bulk_client import BulkClient
from windfall.wire.certificates import trusting
what, url, ca, name, size, folder, token = sys.argv[1:]
client = BulkClient(url, token, verify=trusting(ca))
if what == "give":
    client.give(FileBlob(Path(folder) / "given", int(size), name))
else:
    client.fetch(name, int(size), Path(folder))
client.close()
"""


def cuts(folder: Path, heals_s: tuple[float, ...] = (1.0, 60.0)) -> Iterator[dict[str, Any]]:
    """For each direction and time without a link: what was sent, over what is in the file."""
    with links(["site"], _MBIT_S) as over:
        for what in ("give", "fetch"):
            whole = _once(folder / f"{what}-whole", over, what, None)
            for heal_s in heals_s:
                found = _once(folder / f"{what}-{heal_s:g}", over, what, heal_s)
                again = found["sent_bytes"] - whole["sent_bytes"]
                yield {
                    "figure": "cut in mid-bulk", "direction": "up" if what == "give" else "down", "healed_after_s": heal_s,
                    "file_bytes": _SIZE, "there_at_the_cut_bytes": found["there"], "sent_again_bytes": again,
                    "seconds_after_healing": round(found["after_s"], 1), "seconds_without_a_cut": round(whole["seconds"], 1),
                    # What was in flight when the link went has to be sent again, and no more.
                    "met": found["whole"] and again < 0.1 * _SIZE,
                }  # fmt: skip


def _once(folder: Path, over: Links, what: str, heal_s: float | None) -> dict[str, Any]:
    """One transfer over the link, cut when half of it is there if ``heal_s`` says for how long."""
    run, there = RunDir(folder / "run"), folder / "there"
    there.mkdir(parents=True)
    run.make()
    certificates = make(folder / "certs", ["10.217.0.1"], clock.wall(), days=2)
    data = os.urandom(_SIZE)
    name = hashlib.sha256(data).hexdigest()
    ledger = Ledger.create(run.ledger, run_id="cut", fingerprint="", budget_blocks=1, tokens_per_block=1)
    ledger.keep_token("site", 1, hashlib.sha256(_TOKEN.encode()).hexdigest())
    ledger.asked(0.0, 0.0, "site", 1, "ensure_up", "measured")  # it is the site's current life
    ledger.close()
    run.bulk.mkdir(exist_ok=True)
    serves = {
        "host": "0.0.0.0", "superlink_port": 0, "residents": [], "certificate": str(certificates.endpoint),
        "key": str(certificates.endpoint_key),
    }  # fmt: skip
    write_json(run.served, serves)
    (there / "given" if what == "give" else folder / "offered").write_bytes(data)
    if what == "fetch":
        write_json(run.shared, {name: str(folder / "offered")})
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), *sys.path])}
    server = [sys.executable, "-m", "windfall.run.endpoint_process", str(run.root), str(_PORT)]
    site = [
        sys.executable, "-c", _SITE, what, f"https://10.217.0.1:{_PORT}", str(certificates.ca), name, str(_SIZE), str(there), _TOKEN
    ]  # fmt: skip
    into = run.bulk / "uploads" / "site" if what == "give" else there
    with ExitStack() as stack:
        endpoint = stack.enter_context(subprocess.Popen(inside(over.hub, server), env=env, stderr=subprocess.DEVNULL))
        stack.callback(endpoint.kill)
        before = sum(over.counted("site"))
        begun = clock.monotonic()
        child = stack.enter_context(subprocess.Popen(inside(over.namespaces["site"], site), env=env))
        stack.callback(child.kill)
        at, mended = 0, begun
        if heal_s is not None:
            while (at := received(_folder_of(into, run, name), name, _SIZE)) < _SIZE / 2:
                assert clock.monotonic() - begun < _PATIENCE_S, "half of the file never came"
                clock.pause(0.02)
            over.cut("site")
            clock.pause(heal_s)
            over.mend("site")
            mended = clock.monotonic()
        assert child.wait(_PATIENCE_S) == 0
        ended = clock.monotonic()
        sent = sum(over.counted("site")) - before
        there_now = received(_folder_of(into, run, name), name, _SIZE)
        return {"there": at, "sent_bytes": sent, "after_s": ended - mended, "seconds": ended - begun, "whole": there_now == _SIZE}


def _folder_of(into: Path, run: RunDir, name: str) -> Path:
    """Where a file arrives: wherever a part or the whole of it is."""
    for path in (*into.rglob(f"*{name}*"), *run.bulk.rglob(f"*{name}*")):
        return path.parent
    return into


def main() -> None:
    """For itself."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        for line in cuts(Path(folder)):
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
