"""`[site.exalsius]`: nodes that exalsius adds to a cluster while the site is wanted, and what runs on them."""

from __future__ import annotations

from pydantic import Field, field_validator, model_validator

from windfall.config.addresses import in_the_clear, web_address
from windfall.config.base import Positive, Table
from windfall.config.kubernetes import KubernetesTable


class ExalsiusTable(Table):
    """`[site.exalsius]`: a site on nodes of an exalsius pool. Needs `pip install windfall[exalsius]`."""

    cluster: str = Field(min_length=1, description="id or name of a deployed cluster, whose control plane stays on")
    nodes: list[str] = Field(
        min_length=1,
        description="ids or host names of nodes of the pool, this site's alone: in the cluster only while it is on",
    )
    token_from: str = Field(
        "env:EXALSIUS_TOKEN", pattern="^(env|file):.+$", description="where the access token is, as env:NAME or file:PATH"
    )
    renew_command: list[str] = Field(
        default_factory=list, description="words, no shell: run when the token is refused; it writes a new one to token_from's file"
    )
    host: str = Field("https://api.exalsius.ai/v1", description="of the API, with its version")
    timeout_s: Positive = Field(30.0, description="how long one answer of the API may take (wall time)")
    kubernetes: KubernetesTable = Field(
        description="the site's pod, as in [site.kubernetes]; its kubeconfig is by default what exalsius gives for the cluster"
    )

    @field_validator("host")
    @classmethod
    def _host(cls, value: str) -> str:
        parts = web_address(value)
        if parts is None:
            raise ValueError(f"{value} is no address; write it as https://api.exalsius.ai/v1")
        if in_the_clear(parts):
            raise ValueError(f"{value} would send the token in the clear; begin it with https://")
        return value.rstrip("/")

    @field_validator("nodes")
    @classmethod
    def _once(cls, value: list[str]) -> list[str]:
        double = sorted({n for n in value if value.count(n) > 1 or not n.strip()})
        if double:
            raise ValueError(f"it has {double[0]!r} twice, or empty; name each node once")
        return value

    @model_validator(mode="after")
    def _alone(self) -> ExalsiusTable:
        if self.kubernetes.queue is not None:
            raise ValueError("kubernetes.queue is for clusters that are shared, and these nodes are the site's alone; leave it out")
        return self

    @model_validator(mode="after")
    def _renews(self) -> ExalsiusTable:
        if self.renew_command and not self.token_from.startswith("file:"):
            raise ValueError(
                "renew_command cannot change this process's environment; let it write a file and name that in token_from"
            )
        return self
