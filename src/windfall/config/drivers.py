"""What turns a site on and off: a table for each kind of driver, and the network between a run and sites elsewhere."""

from __future__ import annotations

import ipaddress
from typing import Literal

from pydantic import Field, model_validator

from windfall.config.base import Positive, Table

DriverName = Literal["local", "resident", "kubernetes"]
#: Drivers whose sites are on other machines, which reach the run over the network.
ELSEWHERE = ("resident", "kubernetes")
#: Drivers that cannot do without a table of their own.
NEEDS_TABLE = ("kubernetes",)


class ResidentTable(Table):
    """`[site.resident]`: a machine that is always there and has joined with `windfall site join`."""

    away_after_s: Positive = Field(30.0, description="wall time without a word of its agent after which the machine counts as away")
    on_command: list[str] = Field(
        default_factory=list, description="run here, as a list of words, to wake the machine if it sleeps"
    )
    sleeps: bool = Field(False, description="it joined with --off-command, which puts it to sleep: then being off takes no power")


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
        if self.address == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.address).is_loopback
        except ValueError:
            return False
