"""What every table of a configuration shares."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from windfall.units import parse_utc

Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,39}$")]


class Wrong(ValueError):
    """What a rule of a table finds wrong: for each key to correct, its path below the table and a message."""

    def __init__(self, *places: tuple[tuple[str | int, ...], str]) -> None:
        self.places = places
        super().__init__("; ".join(text for _, text in places))


def _instant(text: str) -> str:
    parse_utc(text)
    return text


Instant = Annotated[str, AfterValidator(_instant)]


class Table(BaseModel):
    """Base of every table: unknown keys are errors, values do not change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
