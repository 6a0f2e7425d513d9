"""What turns a site on and off: a table for each kind of driver, and the network between a run and sites elsewhere."""

from __future__ import annotations

import ipaddress
from typing import Literal

from pydantic import Field, model_validator

from windfall.config.base import Positive, Table

DriverName = Literal["local", "resident", "slurm", "kubernetes", "exalsius", "command"]
#: Drivers whose sites are on other machines, which reach the run over the network.
ELSEWHERE = ("resident", "slurm", "kubernetes", "exalsius", "command")
#: Drivers that cannot do without a table of their own.
NEEDS_TABLE = ("slurm", "kubernetes", "exalsius", "command")
#: Options of sbatch by which the driver knows its jobs and keeps to one at a time.
_SLURM_OWN = (
    "--job-name", "-J", "--comment", "--signal", "--requeue", "--no-requeue", "--dependency", "-d", "--array", "-a", "--parsable",
    "--wait", "-W", "--wrap", "--output", "-o", "--error", "-e", "--chdir", "-D", "--export", "--test-only", "--hold", "-H",
)  # fmt: skip


class ResidentTable(Table):
    """`[site.resident]`: a machine that is always there and has joined with `windfall site join`."""

    away_after_s: Positive = Field(30.0, description="wall time without a word of its agent after which the machine counts as away")
    on_command: list[str] = Field(
        default_factory=list, description="run here, as a list of words, to wake the machine if it sleeps"
    )
    sleeps: bool = Field(False, description="it joined with --off-command, which puts it to sleep: then being off takes no power")


class SlurmTable(Table):
    """`[site.slurm]`: a Slurm partition; a start is a job. Windfall runs where sbatch, squeue and scancel do."""

    folder: str = Field(
        min_length=1,
        description="on a file system that this machine and the nodes share; what runs keep there is in folders below it",
    )
    partition: str | None = Field(None, min_length=1, description="default: the cluster's own")
    account: str | None = Field(None, min_length=1, description="who pays (default: the user's own)")
    qos: str | None = Field(None, min_length=1, description="quality of service")
    gpus: int | None = Field(None, ge=1, description="GPUs (or ask for them by gres)")
    gres: str | None = Field(None, min_length=1, description='generic resources, as "gpu:a100:4"')
    cpus: int | None = Field(None, ge=1, description="processors")
    memory: str | None = Field(None, pattern=r"^\d+[KMGT]?$", description='of the node, as "64G"')
    time_limit_min: int | None = Field(None, ge=1, description="of each job (default: the partition's)")
    term_before_s: int = Field(
        300, ge=1, le=65535, description="so long before its time limit a job hands in what it has and ends; the next one goes on"
    )
    setup: str = Field("", description='shell lines before the site starts, as "source /opt/windfall/bin/activate"')
    windfall: str = Field("windfall", min_length=1, description="the program on the nodes")
    extra: list[str] = Field(default_factory=list, description='further options of sbatch, as "--constraint=a100"')
    timeout_s: Positive = Field(60.0, description="how long each of Slurm's programs may take (wall time)")

    @model_validator(mode="after")
    def _paths(self) -> SlurmTable:
        if not self.folder.startswith("/"):
            raise ValueError(f"folder = {self.folder} has to be a whole path, the same here and on the nodes; begin it with /")
        return self

    @model_validator(mode="after")
    def _once(self) -> SlurmTable:
        if self.gpus is not None and self.gres is not None:
            raise ValueError("gpus and gres both ask for GPUs; leave one of them out")
        return self

    @model_validator(mode="after")
    def _limit(self) -> SlurmTable:
        if self.time_limit_min is not None and self.term_before_s >= 60 * self.time_limit_min:
            raise ValueError(
                f"term_before_s = {self.term_before_s} is as long as the whole job (time_limit_min = {self.time_limit_min}); "
                "make one of them shorter or longer"
            )
        return self

    @model_validator(mode="after")
    def _extra(self) -> SlurmTable:
        for option in self.extra:
            if not option.startswith("-"):
                raise ValueError(f"extra has {option!r}, which is no option; write it as one word, as --constraint=a100")
            long = option.partition("=")[0] if option.startswith("--") else option[:2]
            if long in _SLURM_OWN:
                raise ValueError(f"extra has {long}, which the driver sets itself; leave it out")
        return self


class CommandTable(Table):
    """`[site.command]`: the user's own commands turn the site on and off. See docs/drivers.md."""

    up: list[str] = Field(min_length=1, description="asks for a start, and returns; words, no shell")
    down: list[str] = Field(min_length=1, description="asks for everything of the site to be stopped")
    observe: list[str] = Field(min_length=1, description="prints what there is, as one line of JSON")
    timeout_s: Positive = Field(120.0, description="how long each may take (wall time); then it and what it has started are ended")
    environment: list[str] | None = Field(
        None, description="variables of this process that they get besides PATH, HOME, USER and LANG (default: all)"
    )


class NetworkTable(Table):
    """`[network]`: how sites on other machines reach this one. Not needed where all sites are local."""

    address: str = Field("127.0.0.1", min_length=1, description="this machine's name or address, as the sites' machines reach it")
    port: int = Field(0, ge=0, le=65535, description="of the endpoint (files, bus, starts); 0 picks a free one and keeps it")
    certificates: str | None = Field(
        None, min_length=1, description="folder of `windfall certs init`: TLS, and a key for each site"
    )
    insecure: Literal["", "I know"] = Field("", description='"I know": without TLS although the address is no loopback one')

    @model_validator(mode="after")
    def _secure(self) -> NetworkTable:
        if not self.loopback and self.certificates is None and not self.insecure:
            raise ValueError(
                f"network.address = {self.address} is no loopback address, and there are no certificates: anybody on the way could "
                'read and change what the sites train; make some with `windfall certs init`, or set network.insecure = "I know"'
            )
        return self

    @property
    def loopback(self) -> bool:
        """Whether only this machine can be meant."""
        return is_loopback(self.address)


def is_loopback(host: str) -> bool:
    """Whether only this machine can be meant by a name or address."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
