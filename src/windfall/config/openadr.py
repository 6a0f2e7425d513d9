"""`[openadr]`: the server of a grid operator or utility (VTN) whose events hold sites or limit their power."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from windfall.config.addresses import in_the_clear, may_hold_a_secret, web_address
from windfall.config.alerts import Reference
from windfall.config.base import Positive, Table, Wrong

#: What payload types do where `map` does not name them.
MAPPED: dict[str, Literal["hold", "limit", "ignore"]] = {
    "SIMPLE": "hold", "IMPORT_CAPACITY_LIMIT": "limit", "DISPATCH_SETPOINT": "limit",
}  # fmt: skip


class OpenAdrTable(Table):
    """`[openadr]`: the OpenADR 3 server (VTN) whose programme this run takes part in. Its events only ever hold or limit."""

    url: str = Field(min_length=1, description="the VTN's address, to which /programs, /events and /reports are added")
    programme: str = Field(min_length=1, max_length=128, description="the programme's id or name")
    ven_name: str = Field(min_length=1, max_length=128, description="the name under which the run takes part")
    token: Reference | None = Field(None, description="env:NAME or file:PATH with a bearer token, where there is no token_url")
    token_url: str | None = Field(None, min_length=1, description="where client_id and client_secret get a token (OAuth 2)")
    client_id: Reference | None = Field(None, description="env:NAME or file:PATH with the client's id")
    client_secret: Reference | None = Field(None, description="env:NAME or file:PATH with the client's secret")
    scope: str = Field("", description="what the token is asked for, where the VTN wants it said")
    poll_s: Positive = Field(60.0, description="how often events are asked for (wall time)")
    timeout_s: Positive = Field(10.0, description="how long one answer may take (wall time)")
    hold_level: Positive = Field(1.0, description="from this value of a payload on sites are held")
    map: dict[str, Literal["hold", "limit", "ignore"]] = Field(
        default_factory=dict,
        description="what other payload types do, or what SIMPLE (hold), IMPORT_CAPACITY_LIMIT and DISPATCH_SETPOINT (limit) do",
    )
    groups: dict[str, list[str]] = Field(
        default_factory=dict, description="sites that a target's name means, besides names of sites and regions"
    )
    targets: list[str] = Field(
        default_factory=list,
        description="targets that are named in questions: a VTN of 3.1 gives what is targeted only to who names its target",
    )
    reports: bool = Field(True, description="whether what was delivered is reported after each interval")

    @model_validator(mode="after")
    def _addresses(self) -> OpenAdrTable:
        for key, address in (("url", self.url), ("token_url", self.token_url)):
            if address is None:
                continue
            parts = web_address(address)
            if parts is None:
                raise Wrong(((key,), "is no address; write https://HOST/PATH"))
            if in_the_clear(parts):
                raise Wrong(((key,), "would send credentials in the clear; begin it with https://"))
            if may_hold_a_secret(parts):
                raise Wrong(((key,), "may hold a secret; leave user, password and query out of it"))
        return self

    @model_validator(mode="after")
    def _credentials(self) -> OpenAdrTable:
        client = [self.token_url, self.client_id, self.client_secret]
        if self.token is not None and any(client):
            raise Wrong((("token",), "stands beside token_url, client_id or client_secret; give one or the other"))
        if self.token is None and not all(client):
            raise ValueError("give token, or all of token_url, client_id and client_secret")
        return self

    def does(self, payload_type: str) -> str:
        """`hold`, `limit` or `ignore`."""
        return self.map.get(payload_type) or MAPPED.get(payload_type, "ignore")

    @property
    def references(self) -> dict[str, str]:
        """By key, the secrets that it names; of a table that is wrong, those that are right."""
        named = {key: getattr(self, key, None) for key in ("token", "client_id", "client_secret")}
        return {f"openadr.{key}": where for key, where in named.items() if where is not None}
