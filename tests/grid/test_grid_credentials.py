"""Credentials: from the environment or a file that only its owner reads; never shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from windfall.config.load import stored
from windfall.errors import Unauthorized
from windfall.grid.credentials import NEEDED, Credentials, variables

NAMES = NEEDED["watttime"]


def test_the_environment_comes_before_the_file(tmp_path: Path) -> None:
    file = tmp_path / "secrets"
    file.write_text('# mine\nexport WATTTIME_USERNAME=from-file\nWATTTIME_PASSWORD = "a=b c"\n\n')
    file.chmod(0o600)
    assert Credentials(str(file), {"WATTTIME_USERNAME": "env"}).need(NAMES, "w") == ["env", "a=b c"]
    assert Credentials(str(file), {}).need(NAMES, "w") == ["from-file", "a=b c"]


def test_a_file_that_others_can_read_is_refused_with_the_command_to_run(tmp_path: Path) -> None:
    file = tmp_path / "secrets"
    file.write_text("WATTTIME_PASSWORD=hidden\n")
    file.chmod(0o644)
    with pytest.raises(Unauthorized, match=f"chmod 600 {file}") as e:
        Credentials(str(file), {}).need(NAMES, "w")
    assert "hidden" not in str(e.value)


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(Unauthorized, match="WATTTIME_PASSWORD not set; set it in the environment"):
        Credentials(None, {"WATTTIME_USERNAME": "x"}).need(NAMES, "w")
    with pytest.raises(Unauthorized, match="no such credentials_file"):
        Credentials(str(tmp_path / "none"), {}).need(NAMES, "w")
    with pytest.raises(Unauthorized, match="cannot be read"):
        Credentials(str(tmp_path), {}).need(NAMES, "w") if tmp_path.chmod(0o700) is None else None
    assert Credentials(None, {"WATTTIME_USERNAME": "x"}).missing(NAMES) == ["WATTTIME_PASSWORD"]


def test_they_have_no_repr_that_shows_them() -> None:
    assert "hidden" not in repr(Credentials(None, {"WATTTIME_PASSWORD": "hidden"}))


def test_another_name_of_the_same_is_read_and_the_environment_still_comes_first(tmp_path: Path) -> None:
    file = tmp_path / "secrets"
    file.write_text("WATTTIME_USERNAME=from-file\nWATTTIME_PASSWORD=x\n")
    file.chmod(0o600)
    both = Credentials(str(file), {"WATTTIME_USER": "env"})
    assert both.need(NAMES, "w") == ["env", "x"]
    assert both.named("WATTTIME_USERNAME") == "WATTTIME_USER"
    assert Credentials(None, {"WATTTIME_USER": "b", "WATTTIME_USERNAME": "a"}).named("WATTTIME_USERNAME") == "WATTTIME_USERNAME"
    with pytest.raises(Unauthorized, match=r"WATTTIME_USERNAME and WATTTIME_PASSWORD not set.*WATTTIME_USER is read too"):
        Credentials(None, {}).need(NAMES, "w")


def test_every_variable_that_a_configuration_reads_credentials_from_is_known() -> None:
    site = (
        '[[site]]\nname = "NAME"\nregion = "r"\nspin_up_s = 1\ntrain_power_w = 2\nidle_power_w = 1\ntokens_per_s = 1\nMORE\n'
        "[site.signal]\nSIGNAL\n"
    )
    kubernetes = '[site.exalsius.kubernetes]\nimage = "i"\ngpus = 1'
    exalsius = f'driver = "exalsius"\n[site.exalsius]\ncluster = "c"\nnodes = ["n"]\ntoken_from = "env:MINE"\n{kubernetes}'
    http = 'kind = "http"\nurl = "http://x.test"\nvalue_path = "v"\nperiod_s = 300\nheaders_from_env = { X-Key = "KEY" }'
    sites = [("a", "", 'kind = "watttime"'), ("b", exalsius, http)]
    text = '[run]\nname = "x"\nbudget_tokens = 1000\nclock = "real"\n'
    for name, more, signal in sites:
        text += site.replace("NAME", name).replace("MORE", more).replace("SIGNAL", signal)
    assert variables(stored(text)) == {"WATTTIME_USERNAME", "WATTTIME_USER", "WATTTIME_PASSWORD", "KEY", "MINE"}
