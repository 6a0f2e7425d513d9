"""A run whose sites are a Slurm partition, a machine that the user's own commands start, and this machine."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fleet.slurm_cluster import SlurmCluster
from run.real import Living, assert_whole, events, status, windfall, write_config
from run.secrets_scan import scanning

pytestmark = pytest.mark.slow

_COMMANDS = """#!/bin/bash
cd "$(dirname "$0")"
pid=$(cat pid 2>/dev/null)
lives() { [ -n "$pid" ] && [ -n "$(tr -d '\\0' < "/proc/$pid/cmdline" 2>/dev/null)" ]; }
case $1 in
up)
  PROGRAM site start --endpoint "$WINDFALL_ENDPOINT" --token-file "$WINDFALL_TOKEN_FILE" --ca-file "$WINDFALL_CA_FILE" \\
    --folder "$PWD/site" >> log 2>&1 &
  echo $! > pid ;;
down) touch stopping; kill -TERM "$pid" 2> /dev/null || true ;;
observe)
  if lives && [ -e stopping ]; then echo '{"state": "stopping"}'
  elif lives; then echo '{"state": "up"}'
  elif [ -n "$pid" ] && [ ! -e stopping ]; then echo '{"state": "failed", "words": "its process ended"}'
  else rm -f pid stopping; echo '{"state": "absent"}'
  fi ;;
esac
"""


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SlurmCluster]:
    (tmp_path / "cluster").mkdir()
    cluster = SlurmCluster(tmp_path / "cluster")
    monkeypatch.setenv("SLURM_CONF", str(cluster.conf))
    yield cluster
    cluster.close()


def program(folder: Path) -> Path:
    """Windfall as the nodes have it, who know nothing of this process's environment."""
    path = folder / "windfall"
    path.write_text(
        f"#!/bin/bash\nexport PYTHONPATH={shlex.quote(os.environ.get('PYTHONPATH', ''))}\n"
        f'exec {shlex.quote(sys.executable)} -m windfall "$@"\n'
    )
    path.chmod(0o755)
    return path


def config(folder: Path, certificates: Path) -> Path:
    """`near` is always open; the others have two windows each, so that each has two lives."""
    twice = [(20.0, 60.0), (80.0, 500.0)]
    path = write_config(folder, {"near": [(0, 500)], "far": twice, "other": twice}, budget=128 * 700)
    windfall_there = program(folder)
    commands = folder / "machine" / "site.sh"
    commands.parent.mkdir()
    commands.write_text(_COMMANDS.replace("PROGRAM", shlex.quote(str(windfall_there))))
    commands.chmod(0o755)
    words = "\n".join(f'{verb} = ["{commands}", "{verb}"]' for verb in ("up", "down", "observe"))
    text = path.read_text(encoding="utf-8")
    for name, driver, table in (
        ("far", "slurm", f'folder = "{folder / "shared"}"\nwindfall = "{windfall_there}"\ntime_limit_min = 60'),
        ("other", "command", words),
    ):
        before, found, after = text.partition(f'name = "{name}"\n')
        after = after.replace("[site.signal]", f"[site.{driver}]\n{table}\n[site.signal]", 1)
        text = f'{before}{found}driver = "{driver}"\n{after}'
    path.write_text(f'{text}\n[network]\ncertificates = "{certificates}"\n', encoding="utf-8")
    return path


def test_a_partition_and_a_machine_of_ones_own_commands_train_with_this_machine_and_are_released(
    tmp_path: Path, cluster: SlurmCluster
) -> None:
    certificates, run = tmp_path / "certs", tmp_path / "run"
    assert windfall("certs", "init", certificates, "--address", "127.0.0.1").returncode == 0
    with scanning(tmp_path) as scan, Living(config(tmp_path, certificates), run) as living:
        code = living.end()
    logs = [*(tmp_path / "shared").glob("*/far/logs/*"), tmp_path / "machine" / "log"]
    assert code == 0, living.said + "".join(log.read_text(errors="replace") for log in logs if log.exists())
    found = status(run)
    for site in ("far", "other"):
        assert found["sites"][site]["tokens"] > 0
        told = [e["detail"] for e in events(run, "state") if e["site"] == site]
        states = [e["now"] for e in told]
        assert {e["generation"] for e in told if e["now"] == "training"} == {1, 2}
        assert states[-1] == "off"
        assert "failed" not in states, told
    name = next((tmp_path / "shared").iterdir()).name
    assert cluster.states(f"windfall-{name}-far") == ["COMPLETED", "COMPLETED"]
    assert events(run, "error", "stranger", "refused", "driver_trouble") == []
    assert not list((tmp_path / "shared").glob("*/far/token")), "a token is there for one job"
    assert_whole(run)
    assert len(scan.secrets) >= 4, "each life's token was seen"
    scan.require_clean()
