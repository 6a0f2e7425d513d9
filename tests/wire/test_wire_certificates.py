"""Certificates: made, used by a real server, and refused where they are not the run's."""

from __future__ import annotations

import ssl
from pathlib import Path

import httpx
import pytest

from patience import PATIENCE_S
from windfall import clock
from windfall.errors import ConfigError
from windfall.wire.bulk_server import application
from windfall.wire.certificates import Certificates, make, trusting
from wire.served import Served


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make(tmp_path_factory.mktemp("certs"), ["coordinator.example", "10.0.0.7"], clock.wall(), days=30)


def test_who_trusts_the_ca_reaches_the_endpoint_and_who_trusts_another_does_not(made: Certificates, tmp_path: Path) -> None:
    served = Served(application([]), ssl_certfile=str(made.endpoint), ssl_keyfile=str(made.endpoint_key))
    try:
        assert httpx.get(served.url, verify=_context(made.ca), trust_env=False, timeout=PATIENCE_S).text == "windfall endpoint\n"
        other = make(tmp_path, ["x"], clock.wall(), days=1)
        for wrong in (_context(other.ca), True):
            with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
                httpx.get(served.url, verify=wrong, trust_env=False, timeout=PATIENCE_S)
    finally:
        served.stop()


def _context(ca: Path) -> ssl.SSLContext:
    found = trusting(ca)
    assert isinstance(found, ssl.SSLContext)
    return found


def test_they_are_for_the_names_that_were_given_and_this_machine(made: Certificates) -> None:
    assert made.names() == ["coordinator.example", "localhost", "10.0.0.7", "127.0.0.1"]
    assert 29.9 < made.days_left(clock.wall()) <= 30


def test_they_are_good_since_the_day_before_for_clocks_that_are_behind(made: Certificates) -> None:
    from cryptography import x509

    for path in (made.ca, made.endpoint):
        begins = x509.load_pem_x509_certificate(path.read_bytes()).not_valid_before_utc.timestamp()
        assert clock.wall() - begins > 86_000


def test_keys_are_for_their_owner_alone(made: Certificates) -> None:
    assert {p.stat().st_mode & 0o777 for p in (made.ca_key, made.endpoint_key)} == {0o600}
    assert made.folder.stat().st_mode & 0o777 == 0o700


def test_a_second_time_the_ca_stays_and_the_endpoint_gets_a_new_certificate(tmp_path: Path) -> None:
    first = make(tmp_path, ["a"], clock.wall(), days=1)
    ca, endpoint = first.ca.read_bytes(), first.endpoint.read_bytes()
    second = make(tmp_path, ["a", "b"], clock.wall(), days=1)
    assert second.ca.read_bytes() == ca
    assert second.endpoint.read_bytes() != endpoint
    second.ca_key.unlink()
    with pytest.raises(ConfigError, match=r"ca\.key: missing; the CA's key is needed"):
        make(tmp_path, ["a"], clock.wall(), days=1)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("endpoint.pem", None, "missing; make certificates"),
        ("endpoint.pem", b"x", "holds no certificate"),
        ("ca.pem", None, "missing"),
    ],
)
def test_what_is_missing_or_no_certificate_is_named(tmp_path: Path, name: str, content: bytes | None, said: str) -> None:
    made = make(tmp_path, ["a"], clock.wall(), days=1)
    (tmp_path / name).unlink()
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=said):
        Certificates.open(made.folder)


def test_a_ca_file_that_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"ca\.pem: missing"):
        trusting(tmp_path / "ca.pem")
    (tmp_path / "ca.pem").write_text("x")
    with pytest.raises(ConfigError, match="holds no certificate"):
        trusting(tmp_path / "ca.pem")
    assert trusting(None) is True
