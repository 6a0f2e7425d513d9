"""A site of each driver, and where its platform stands: when it was asked, when it began with the site, when nothing was left.

Slurm is a real one on this machine; the Kubernetes cluster and exalsius' control plane are the doubles of the tests.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from exalsius.double import Exalsius
from fleet.slurm_cluster import SlurmCluster
from kubernetes.clients import kubeconfig
from kubernetes.double.cluster import Cluster
from kubernetes.double.runtime import Processes
from windfall import clock

ROOT = Path(__file__).resolve().parents[2]
#: What doubles take for what real platforms take minutes for (s).
PULL_S, JOIN_S, LEAVE_S, BOOT_S = 5.0, 15.0, 8.0, 3.0
#: In place of `windfall` on a platform: writes down when it begins, is told to end, and ends.
_PROGRAM = """#!/bin/bash
said() {{ printf '%s %s\\n' "$1" "$EPOCHREALTIME" >> {notes}; }}
export PYTHONPATH={pythonpath}
[[ $1 == site ]] && said exec
{python} -m windfall "$@" &
child=$!
trap 'said term; kill -TERM $child' TERM INT
wait $child; status=$?
while kill -0 $child 2>/dev/null; do wait $child; status=$?; done
said exit
exit $status
"""
#: In place of one of Slurm's programs: writes down when it was run.
_SLURM = """#!/bin/bash
printf '%s %s\\n' {what} "$EPOCHREALTIME" >> {notes}
exec {program} "$@"
"""
_COMMANDS = """#!/bin/bash
cd {folder}
said() {{ printf '%s %s\\n' "$1" "$EPOCHREALTIME" >> {notes}; }}
pid=$(cat pid 2>/dev/null)
lives() {{ [ -n "$pid" ] && [ -n "$(tr -d '\\0' < "/proc/$pid/cmdline" 2>/dev/null)" ]; }}
case $1 in
up)
  said asked
  (sleep {boot_s}; exec {program} site start --endpoint "$WINDFALL_ENDPOINT" --token-file "$WINDFALL_TOKEN_FILE" \\
    --ca-file "$WINDFALL_CA_FILE" --folder {folder}/site) >> log 2>&1 &
  echo $! > pid ;;
down) said asked-down; touch stopping; kill -TERM "$pid" 2> /dev/null || true ;;
observe)
  if lives && [ -e stopping ]; then echo '{{"state": "stopping"}}'
  elif lives; then echo '{{"state": "up"}}'
  elif [ -n "$pid" ] && [ ! -e stopping ]; then echo '{{"state": "failed", "words": "its process ended"}}'
  else rm -f pid stopping; echo '{{"state": "absent"}}'
  fi ;;
esac
"""


@dataclass
class Platform:
    """One driver's site. Its folder, and what is in ``notes`` by name: the first time since `forget` (Unix time)."""

    name: str
    driver: str
    folder: Path
    table: str = ""
    #: Where the site's own folder is, below ``folder`` or anywhere.
    places: tuple[Path, ...] = ()
    seen: dict[str, float] = field(default_factory=dict)
    _from: int = 0

    @property
    def notes(self) -> Path:
        return self.folder / "notes"

    def forget(self) -> None:
        """What happens from now on counts."""
        self.seen.clear()
        self._from = len(self._lines())

    def _lines(self) -> list[str]:
        return self.notes.read_text().splitlines() if self.notes.exists() else []

    def when(self) -> dict[str, float]:
        """What has happened so far, and when first."""
        found = dict(self.seen)
        for line in self._lines()[self._from :]:
            what, at = line.split()
            found.setdefault(what, float(at))
        return found

    def note(self, what: str, so: bool) -> None:
        """It is so, seen now."""
        if so:
            self.seen.setdefault(what, clock.wall())

    def look(self) -> None:
        """See what can only be seen by looking."""

    def platform_up_s(self, when: dict[str, float]) -> float:
        """Of a start, what was the platform's own time."""
        return when["exec"] - when["asked"] if "exec" in when and "asked" in when else 0.0

    def platform_down_s(self, when: dict[str, float]) -> float:
        """Of a release, what was the platform's own time."""
        if not {"asked-down", "term", "exit"} <= when.keys():
            return 0.0
        return max(0.0, when["term"] - when["asked-down"]) + max(0.0, when.get("gone", when["exit"]) - when["exit"])

    def leader(self) -> int:
        """Process id of the site's agent, which `windfall site start` has become."""
        for entry in filter(str.isdigit, os.listdir("/proc")):
            try:
                words = Path(f"/proc/{entry}/cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            mine = any(str(place).encode() in word for place in self.places for word in words)
            if mine and (b"start" in words or b"windfall.site.agent" in words) and b"bash" not in words[0]:
                return int(entry)
        return 0

    def close(self) -> None:
        """Nothing of it is left."""


def program(folder: Path) -> Path:
    """Windfall as a platform has it."""
    path = folder / "bin" / "windfall"
    path.parent.mkdir(parents=True, exist_ok=True)
    words = {"notes": folder / "notes", "pythonpath": os.environ.get("PYTHONPATH", ""), "python": sys.executable}
    return _script(path, _PROGRAM.format(**{k: shlex.quote(str(v)) for k, v in words.items()}))


def _script(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o755)
    return path


class Slurm(Platform):
    """A real controller and node on this machine; its programs are found through folders of ours, for this process's children."""

    def __init__(self, folder: Path) -> None:
        (folder / "cluster").mkdir(parents=True)
        table = f'folder = "{folder / "shared"}"\nwindfall = "{program(folder)}"\ntime_limit_min = 60'
        super().__init__("slurm", "slurm", folder, table, (folder / "shared",))
        self._cluster = SlurmCluster(folder / "cluster")
        os.environ["SLURM_CONF"] = str(self._cluster.conf)
        for name, what in (("sbatch", "asked"), ("scancel", "asked-down")):
            real = subprocess.run(["which", name], capture_output=True, text=True, check=True).stdout.strip()
            _script(folder / "bin" / name, _SLURM.format(what=what, notes=folder / "notes", program=real))
        os.environ["PATH"] = f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"

    def look(self) -> None:
        when = self.when()
        if "exit" in when and "gone" not in when:
            self.note("gone", not self._cluster.run("squeue", "-h"))

    def close(self) -> None:
        self._cluster.close()


class Command(Platform):
    """A script of one's own, on a machine that takes a while to come up."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        words = {"folder": folder, "notes": folder / "notes", "program": program(folder), "boot_s": BOOT_S}
        script = _script(folder / "site.sh", _COMMANDS.format(**words))
        table = "\n".join(f'{verb} = ["{script}", "{verb}"]' for verb in ("up", "down", "observe"))
        super().__init__("command", "command", folder, table, (folder / "site",))


class Kubernetes(Platform):
    """A doubled cluster."""

    driver_table = "kubernetes"

    def __init__(self, folder: Path, name: str = "kubernetes") -> None:
        folder.mkdir(parents=True)
        path = f"{program(folder).parent}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        environment = {"PATH": path, **{k: os.environ[k] for k in ("PYTHONPATH", "LANG") if k in os.environ}}
        self.cluster = Cluster(folder / "cluster", start=clock.wall(), runtime=Processes(), environment=environment)
        self.cluster.start()
        self.cluster.live(0.2)
        (folder / "kubeconfig").write_text(yaml.safe_dump(kubeconfig(self.cluster.server.url)))
        table = f'image = "windfall:1"\ngpus = 1\nkubeconfig = "{folder / "kubeconfig"}"'
        super().__init__(name, name, folder, table, (folder / "cluster",))

    def nodes(self) -> None:
        """Those that are there from the beginning."""
        self.cluster.node("node", gpus=1).images.pull_s = PULL_S

    def look(self) -> None:
        wanted = any((o["spec"].get("replicas") or 0) > 0 for o in self.cluster.all("StatefulSet"))
        self.note("asked", wanted)
        self.note("asked-down", "asked" in self.seen and not wanted)
        self.note("gone", "asked-down" in self.seen and not self.cluster.all("Pod"))

    def close(self) -> None:
        self.cluster.close()


class OnExalsius(Kubernetes):
    """A doubled control plane, and the doubled cluster that its node joins."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, "exalsius")
        self.plane = Exalsius(self.cluster, server=self.cluster.server.url, join_s=JOIN_S, leave_s=LEAVE_S)
        self.plane.node("gpu-a")
        (folder / "token").write_text("good")
        self.table = (
            f'host = "{self.plane.host}"\ncluster = "lab"\nnodes = ["gpu-a"]\ntoken_from = "file:{folder / "token"}"\n'
            '[site.exalsius.kubernetes]\nimage = "windfall:1"\ngpus = 1'
        )
        self._asked = 0

    def nodes(self) -> None:
        return None

    def forget(self) -> None:
        super().forget()
        self._asked = len(self.plane.asked)

    def look(self) -> None:
        with self.plane._lock:
            self.plane._go_on()  # its time goes by whether or not it is asked
        since = self.plane.asked[self._asked :]
        self.note("asked", any(line.startswith("POST") for line in since))
        super().look()
        self.note("left-asked", any(line.startswith("DELETE") for line in since))
        self.note("left", "left-asked" in self.seen and self.plane.pool["id-gpu-a"].status == "AVAILABLE")

    def platform_down_s(self, when: dict[str, float]) -> float:
        return super().platform_down_s(when) + max(0.0, when.get("left", 0.0) - when.get("left-asked", 0.0))

    def close(self) -> None:
        self.plane.__exit__(None, None, None)
        super().close()


class Resident(Platform):
    """A machine whose agent is there: the platform is ours, so none of the time is anybody else's."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        super().__init__("resident", "resident", folder, "", (folder / "machine",))


class Local(Platform):
    """Processes of the run's own machine."""

    def __init__(self, run: Path) -> None:
        super().__init__("local", "local", run, "", (run / "sites" / "local",))


@contextmanager
def platforms(folder: Path, run: Path, only: list[str]) -> Iterator[dict[str, Platform]]:
    """A platform of each driver."""
    makers: dict[str, Any] = {
        "local": lambda: Local(run), "resident": lambda: Resident(folder / "resident"), "slurm": lambda: Slurm(folder / "slurm"),
        "kubernetes": lambda: Kubernetes(folder / "kubernetes"), "exalsius": lambda: OnExalsius(folder / "exalsius"),
        "command": lambda: Command(folder / "command"),
    }  # fmt: skip
    with ExitStack() as stack:
        found = {}
        for name, make in makers.items():
            if name == "local" or not only or name in only:
                found[name] = make()
                stack.callback(found[name].close)
                if isinstance(found[name], Kubernetes):
                    found[name].nodes()
        yield found
