"""`[[tracker]]`: experiment trackers that a run's figures are sent to."""

from __future__ import annotations

from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from windfall.config.base import Positive, Table

Tracker = Literal["tensorboard", "wandb", "mlflow"]
#: Which keys belong to which tracker.
_KEYS: dict[str, set[str]] = {
    "tensorboard": {"folder"},
    "wandb": {"project", "entity", "url", "folder"},
    "mlflow": {"project", "url"},
}
#: Variables with a tracker's credentials: only what sends figures gets them.
SECRETS: dict[str, tuple[str, ...]] = {
    "tensorboard": (),
    "wandb": ("WANDB_API_KEY",),
    "mlflow": ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN"),
}


class TrackerTable(Table):
    """`[[tracker]]`: an experiment tracker that the run's figures are sent to, over tokens."""

    kind: Tracker = Field(
        description="tensorboard, wandb or mlflow, each with the extra of that name; credentials: the environment"
    )
    folder: str | None = Field(
        None, min_length=1, description="tensorboard: its files; wandb: its own (default: trackers/KIND in the run directory)"
    )
    project: str = Field("windfall", min_length=1, description="wandb: project; mlflow: experiment")
    entity: str | None = Field(None, min_length=1, description="wandb: user or team (default: the account's own)")
    url: str | None = Field(
        None,
        min_length=1,
        description="mlflow: tracking server or file:// folder; wandb: a server of your own (default: the client's)",
    )
    every_s: Positive = Field(15.0, description="wall time between two looks at the run")

    @model_validator(mode="after")
    def _keys(self) -> TrackerTable:
        mine = _KEYS[self.kind]
        others = sorted(set().union(*_KEYS.values()) - mine)
        # A run directory's configuration has every key, those with their default too.
        strange = [k for k in others if getattr(self, k) != type(self).model_fields[k].default]
        if strange:
            of = next(kind for kind, keys in _KEYS.items() if strange[0] in keys)
            raise ValueError(f'{strange[0]} belongs to kind = "{of}"; remove it')
        found = urlsplit(self.url or "")
        if found.username or found.password:
            names = " and ".join(SECRETS[self.kind][:2])
            raise ValueError(f"url may hold no user or password; put them into the environment as {names}")
        return self
