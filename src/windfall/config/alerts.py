"""`[alerts]`: what a person is told of while a run goes on, and where."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from windfall.config.addresses import in_the_clear, may_hold_a_secret, web_address
from windfall.config.base import NonNegative, Positive, Table

Reference = Annotated[str, Field(pattern=r"^(env|file):.+$")]
#: Of these an address is a secret as a whole: who knows it may write.
_SECRET_HOSTS = ("hooks.slack.com", "hooks.slack-gov.com", "discord.com", "discordapp.com")


class AlertsTable(Table):
    """`[alerts]`: what is told of, each at most once until it is over. A threshold of 0 leaves its alert out."""

    webhook: str | None = Field(
        None, min_length=1, description="where alerts are sent: env:NAME or file:PATH with the address, or the address (no secret)"
    )
    format: Literal["json", "slack"] = Field("json", description="what is sent: an object with all of it, or a text for Slack")
    headers: dict[str, Reference] = Field(
        default_factory=dict, description="header names, and env:NAME or file:PATH with each value: a token, say"
    )
    timeout_s: Positive = Field(10.0, description="how long one answer of the webhook may take (wall time)")
    settle_s: NonNegative = Field(600.0, description="run time without it after which an alert is over, and may be told again")
    repeat_h: NonNegative = Field(24.0, description="an alert that is still there is sent again after this (wall time)")
    stale_signal: bool = Field(True, description="a site's first signal is stale, so that the site is off for it")
    starts_per_h: int = Field(4, ge=0, description="flapping: a site has started so often within an hour")
    missed_window_s: NonNegative = Field(1800.0, description="a window has been open for so long and its site has not trained")
    spin_up_factor: NonNegative = Field(2.0, description="a start takes longer than this times the site's spin_up_s")
    drain_s: NonNegative = Field(120.0, description="a drain takes longer than this (wall time)")
    loss_rise: NonNegative = Field(0.2, description="after a site has joined, the training loss is higher by this share")
    deadline_share: float = Field(
        0.9, ge=0, le=1, description="budgeted: so much of the time left is needed even with every site on: the deadline is at risk"
    )
    certificate_days: NonNegative = Field(14.0, description="a certificate of network.certificates ends within so many days")

    @model_validator(mode="after")
    def _address(self) -> AlertsTable:
        where = self.webhook
        if where is None or where.startswith(("env:", "file:")):
            return self
        parts = web_address(where)
        if parts is None:
            raise ValueError("webhook is no address; write https://HOST/PATH, or env:NAME or file:PATH where it stands")
        if in_the_clear(parts):
            raise ValueError("webhook would send alerts in the clear; begin it with https://")
        if may_hold_a_secret(parts) or parts.hostname in _SECRET_HOSTS:
            raise ValueError("webhook may hold a secret; put the address elsewhere, and write env:NAME or file:PATH")
        return self

    @property
    def variables(self) -> frozenset[str]:
        """The environment's variables that it names."""
        named = [self.webhook or "", *self.headers.values()]
        return frozenset(n.removeprefix("env:") for n in named if n.startswith("env:"))
