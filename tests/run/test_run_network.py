"""What `check` and `run` say of the network before anything starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from windfall import clock
from windfall.config.load import load
from windfall.errors import ConfigError
from windfall.run.network import CertificateWatch, network_faults, require_network
from windfall.wire.certificates import make

SITE = """
[[site]]
name = "lab"
region = "x"
driver = "{driver}"
spin_up_s = 60
train_power_w = 700
idle_power_w = 90
tokens_per_s = 100
{more}
[site.signal]
kind = "trace"
path = "t.csv"
column = "g"
"""


def config(folder: Path, network: str, *, driver: str = "resident", more: str = "") -> Any:
    file = folder / "c.toml"
    (folder / "t.csv").write_text("time_utc,g\n2026-01-01T00:00Z,5\n")
    file.write_text(f"[run]\nbudget_tokens = 100000\n\n[network]\n{network}\n{SITE.format(driver=driver, more=more)}")
    return load(file)


def faults(folder: Path, network: str, **more: str) -> tuple[list[tuple[str, str]], list[str]]:
    warnings: list[str] = []
    return list(network_faults(config(folder, network, **more), warnings.append)), warnings


def certs(folder: Path, address: str, days: int = 365, age_s: float = 0) -> Path:
    make(folder / "certs", [address], clock.wall() - age_s, days=days)
    return folder / "certs"


def test_an_address_on_a_network_without_tls_is_refused_unless_somebody_knows(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"network.*is no loopback address.*windfall certs init.*I know"):
        config(tmp_path, 'address = "10.0.0.7"')
    assert faults(tmp_path, 'address = "10.0.0.7"\ninsecure = "I know"') == ([], [])
    with pytest.raises(ConfigError, match="insecure"):
        config(tmp_path, 'address = "10.0.0.7"\ninsecure = "yes"')


def test_certificates_for_another_name_missing_or_ended_are_faults_and_ending_ones_a_warning(tmp_path: Path) -> None:
    folder = certs(tmp_path, "10.0.0.7")
    here = f'certificates = "{folder}"\naddress = '
    assert faults(tmp_path, here + '"10.0.0.7"') == ([], [])
    ((key, said),) = faults(tmp_path, here + '"10.0.0.8"')[0]
    assert key == "certificates"
    assert said.startswith(
        "the endpoint's certificate is for localhost, 10.0.0.7, 127.0.0.1, and not for 10.0.0.8; make a new one: "
    )
    certs(tmp_path, "10.0.0.7", days=10)
    assert "a certificate ends in 10 days" in faults(tmp_path, here + '"10.0.0.7"')[1][0]
    certs(tmp_path, "10.0.0.7", days=1, age_s=5 * 86400)
    with pytest.raises(ConfigError, match=r"network\.certificates: a certificate has ended 4 days ago"):
        require_network(config(tmp_path, here + '"10.0.0.7"'), print)
    (folder / "endpoint.key").unlink()
    assert "endpoint.key: missing" in faults(tmp_path, here + '"10.0.0.7"')[0][0][1]


def test_a_loopback_address_is_told_where_sites_are_elsewhere_and_nothing_where_all_are_here(tmp_path: Path) -> None:
    assert "only if they are this machine" in faults(tmp_path, "")[1][0]
    assert faults(tmp_path, 'certificates = "/none"', driver="local") == ([], [])


def test_a_site_elsewhere_cannot_watch_a_file_that_is_here(tmp_path: Path) -> None:
    ((_, said),) = faults(tmp_path, "", more="own_signal = true")[0]
    assert "cannot watch a trace by itself" in said


def test_a_table_of_another_driver_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match='it has a table resident, and driver = "local"'):
        config(tmp_path, "", driver="local", more="[site.resident]\n")
    with pytest.raises(ConfigError, match="data is for sites elsewhere"):
        config(tmp_path, "", driver="local", more='data = "d"')


def test_a_run_that_lasts_is_told_ever_more_urgently_that_its_certificates_end(tmp_path: Path) -> None:
    folder = certs(tmp_path, "10.0.0.7", days=60)
    watch = CertificateWatch(config(tmp_path, f'certificates = "{folder}"\naddress = "10.0.0.7"'))
    begun = clock.wall()
    told = {day: said for day in range(70) for hour in range(0, 24, 6) if (said := watch.look(begun + 86400 * day + 3600 * hour))}
    assert list(told) == [30, 53, 59, 60]
    assert "a certificate ends in 30 days; make a new one (windfall certs init" in told[30]
    assert "ends in 7 days" in told[53]
    assert "ends in 24 h" in told[59]
    assert "has ended" in told[60]
    assert CertificateWatch(config(tmp_path, 'address = "127.0.0.1"')).look(begun + 1e9) == ""
    other = CertificateWatch(config(tmp_path, f'certificates = "{folder}"\naddress = "10.0.0.7"'))
    (folder / "endpoint.pem").unlink()
    assert "endpoint.pem: missing" in other.look(begun)
