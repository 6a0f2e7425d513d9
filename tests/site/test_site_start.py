"""How a site on another machine begins: what it is told, fetches, and makes of a clock that is off."""

from __future__ import annotations

from pathlib import Path

import pytest

from windfall.errors import ConfigError
from windfall.site.resident import Machine, unit
from windfall.site.start import clock_offset_s, main


@pytest.mark.parametrize(
    ("theirs", "asked_at", "answered_at", "offset_s"),
    [
        (100.0, 99.0, 101.0, 0.0),  # within the question's way nothing is known to be off
        (100.0, 3699.0, 3701.0, -3600.0),
        (100.0, -201.0, -199.0, 300.0),
        (None, 1.0, 2.0, 0.0),
        ("100", 1.0, 2.0, 0.0),
    ],
)
def test_a_clock_that_is_off_is_taken_into_account(theirs: object, asked_at: float, answered_at: float, offset_s: float) -> None:
    assert clock_offset_s({"time": theirs}, asked_at, answered_at) == offset_s


@pytest.mark.usefixtures("own_signals")
@pytest.mark.parametrize(
    ("endpoint", "token", "said"),
    [
        ("https://x:1", None, r"token: the token cannot be read"),
        ("https://x:1", " \n", r"token: holds no token"),
        ("https://x:1", "ü", r"token: the token cannot be read"),
        ("x:1", "t", r"x:1: is no address of an endpoint; it begins with https://"),
    ],
)
def test_what_it_is_given_and_cannot_use_is_named(tmp_path: Path, endpoint: str, token: str | None, said: str) -> None:
    if token is not None:
        (tmp_path / "token").write_text(token, encoding="utf-8")
    with pytest.raises(ConfigError, match=said):
        main(endpoint, tmp_path / "token", None, tmp_path / "site")


def test_a_machine_that_has_not_joined_is_told_how_to(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no machine has joined a run from here; run `windfall site join`"):
        Machine(tmp_path, print)


@pytest.mark.parametrize("joined", ["[]", "{}", '{"endpoint": 3, "site": "a"}', "{"])
def test_a_file_of_joining_that_is_none_is_as_if_nobody_had_joined(tmp_path: Path, joined: str) -> None:
    (tmp_path / "joined.json").write_text(joined)
    with pytest.raises(ConfigError, match="no machine has joined"):
        Machine(tmp_path, print)


def test_a_machine_that_has_lost_its_key_is_told_to_join_again(tmp_path: Path) -> None:
    (tmp_path / "joined.json").write_text('{"endpoint": "https://x:1", "site": "a"}')
    with pytest.raises(ConfigError, match=r"site\.key: the machine's key cannot be read .*; join again"):
        Machine(tmp_path, print)


def test_its_unit_starts_the_agent_again_and_leaves_the_site_running(tmp_path: Path) -> None:
    text = unit(tmp_path)
    assert f"windfall site resident --folder {tmp_path}\n" in text
    assert "Restart=always\n" in text
    assert "KillMode=process\n" in text
