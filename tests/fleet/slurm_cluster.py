"""A real Slurm of one node, on this machine, that a test starts and changes."""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from needs import missing
from patience import wait_for
from windfall.wire.probe import free_port

_CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ctld}
SlurmdPort={slurmd}
AuthType=auth/none
CredType=cred/none
SlurmUser={user}
SlurmdUser={user}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/pgid
TaskPlugin=task/none
MpiDefault=none
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1,sched_min_interval=0
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
PreemptType=preempt/none
ReturnToService=0
KillWait=1
MessageTimeout=2
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=60 State=UP
PartitionName=closed Nodes=ALL MaxTime=60 State=DOWN
"""


def need_slurm() -> None:
    """Skip without Slurm; where everything is required, fail."""
    if any(shutil.which(program) is None for program in ("slurmctld", "slurmd", "sbatch")):
        missing("Slurm (Debian: apt-get install slurm-wlm)")
    if os.geteuid() != 0:
        pytest.skip("a slurmd of one's own runs as root alone")


class SlurmCluster:
    """A controller and a node with as many processors as this machine; `SLURM_CONF` says where."""

    def __init__(self, folder: Path) -> None:
        need_slurm()
        for name in ("state", "spool"):
            (folder / name).mkdir()
        self.cpus = os.cpu_count() or 1
        self.node = socket.gethostname().split(".")[0]
        self.conf = folder / "slurm.conf"
        self.conf.write_text(
            _CONF.format(
                host=self.node, user=getpass.getuser(), folder=folder, cpus=self.cpus, ctld=free_port(), slurmd=free_port()
            )
        )
        self._log = folder / "daemons.log"
        self._children = [self._start("slurmctld", "-D", "-c")]
        wait_for("the controller", lambda: "is UP" in self.run("scontrol", "ping"))
        self._children.append(self._start("slurmd", "-D", "-c"))
        self.wait_idle()

    def _start(self, *command: str) -> subprocess.Popen[bytes]:
        with open(self._log, "ab") as log:
            return subprocess.Popen(command, env={**os.environ, "SLURM_CONF": str(self.conf)}, stdout=log, stderr=log)

    def run(self, *command: str) -> str:
        """What one of Slurm's programs prints."""
        env = {**os.environ, "SLURM_CONF": str(self.conf)}
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
        return done.stdout + done.stderr

    def wait_idle(self) -> None:
        wait_for("the node to be idle", lambda: self.run("sinfo", "-h", "-p", "main", "-o", "%t").strip() == "idle")

    def states(self, name: str) -> list[str]:
        """States of the jobs of one name, the oldest first."""
        rows = self.run("squeue", "-h", "--states=all", f"--name={name}", "-o", "%A %T").splitlines()
        return [state for _, state in sorted((int(n), state) for n, state in (row.split() for row in rows))]

    def stop_controller(self) -> None:
        """Nobody is answered any more, until `go_on`."""
        os.kill(self._children[0].pid, signal.SIGSTOP)

    def go_on(self) -> None:
        os.kill(self._children[0].pid, signal.SIGCONT)

    def close(self) -> None:
        self.go_on()
        self.run("scancel", "--user", getpass.getuser())
        wait_for("the jobs to end", lambda: not self.run("squeue", "-h"))
        for child in reversed(self._children):
            child.terminate()
            child.wait()
