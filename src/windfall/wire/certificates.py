"""Certificates of a run: a CA of its own, and the endpoint's certificate, which sites check against it."""

from __future__ import annotations

import datetime
import ipaddress
import os
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from windfall.errors import ConfigError, StoreError
from windfall.inputs import require_file
from windfall.store.files import write_atomic, write_secret

if TYPE_CHECKING:  # it takes a while to import
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec

#: Certificates are valid since the day before, for machines whose clocks are behind.
_BACKDATED = datetime.timedelta(days=1)
#: One that ends sooner than this (days) is told.
SOON_DAYS = 30.0
_YEARS = 10


@dataclass(frozen=True)
class Certificates:
    """The files in a folder of `windfall certs init`."""

    folder: Path

    @property
    def ca(self) -> Path:
        """The CA's certificate: what sites are given."""
        return self.folder / "ca.pem"

    @property
    def ca_key(self) -> Path:
        """The CA's key. It is needed for new certificates alone, and may be kept elsewhere."""
        return self.folder / "ca.key"

    @property
    def endpoint(self) -> Path:
        """The endpoint's certificate."""
        return self.folder / "endpoint.pem"

    @property
    def endpoint_key(self) -> Path:
        """The endpoint's key."""
        return self.folder / "endpoint.key"

    @staticmethod
    def open(folder: str | Path) -> Certificates:
        """Raises ConfigError where one is missing or cannot be used."""
        found = Certificates(Path(folder))
        for path in (found.ca, found.endpoint, found.endpoint_key):
            if not path.is_file():
                raise ConfigError(f"{path}: missing; make certificates with `windfall certs init {folder} --address NAME`")
            if not os.access(path, os.R_OK):
                raise ConfigError(f"{path}: cannot be read; check its owner and permissions")
        found.names()
        return found

    def names(self) -> list[str]:
        """Names and addresses that the endpoint's certificate is for. Raises ConfigError if it is none."""
        from cryptography import x509

        certificate = _read(self.endpoint)
        try:
            names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        except x509.ExtensionNotFound:
            return []
        return [*names.get_values_for_type(x509.DNSName), *map(str, names.get_values_for_type(x509.IPAddress))]

    def days_left(self, now: float) -> float:
        """Until the first of both certificates ends, at Unix time ``now``."""
        ends = min(_read(path).not_valid_after_utc for path in (self.ca, self.endpoint))
        return (ends.timestamp() - now) / 86400


def make(folder: Path, addresses: Sequence[str], now: float, *, days: int) -> Certificates:
    """Make the endpoint's key and certificate for these names and addresses, and a CA if there is none yet.

    Raises:
        ConfigError: it has a CA without its key.
        StoreError: the folder cannot be written.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    made = Certificates(folder)
    begins = datetime.datetime.fromtimestamp(now, datetime.UTC) - _BACKDATED
    try:
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
        if not made.ca.exists():
            ca_key = ec.generate_private_key(ec.SECP384R1())
            name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Windfall CA")])
            ca = (
                x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(ca_key.public_key())
                .serial_number(x509.random_serial_number()).not_valid_before(begins)
                .not_valid_after(begins + datetime.timedelta(days=365 * _YEARS))
                .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
                .add_extension(x509.KeyUsage(False, False, False, False, False, True, True, False, False), critical=True)
                .add_extension(x509.SubjectKeyIdentifier.from_public_key(ca_key.public_key()), critical=False)
                .sign(ca_key, hashes.SHA384())
            )  # fmt: skip
            write_secret(made.ca_key, _pem(ca_key))
            write_atomic(made.ca, [_pem_of(ca)])
        else:
            ca, ca_key = _read(made.ca), _read_key(made.ca_key)
        key = ec.generate_private_key(ec.SECP256R1())
        names: list[x509.GeneralName] = []
        for address in dict.fromkeys([*addresses, "localhost", "127.0.0.1"]):
            try:
                names.append(x509.IPAddress(ipaddress.ip_address(address)))
            except ValueError:
                names.append(x509.DNSName(address))
        certificate = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Windfall endpoint")])).issuer_name(ca.subject)
            .public_key(key.public_key()).serial_number(x509.random_serial_number()).not_valid_before(begins)
            .not_valid_after(begins + _BACKDATED + datetime.timedelta(days=days))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
            .sign(ca_key, hashes.SHA384())
        )  # fmt: skip
        write_secret(made.endpoint_key, _pem(key))
        write_atomic(made.endpoint, [_pem_of(certificate)])
    except OSError as e:
        raise StoreError(
            f"{e.filename or folder}: cannot be written: {e.strerror}; name another place or give write access"
        ) from None
    return made


def _pem(key: ec.EllipticCurvePrivateKey) -> str:
    from cryptography.hazmat.primitives import serialization

    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()).decode()


def _pem_of(certificate: x509.Certificate) -> bytes:
    from cryptography.hazmat.primitives import serialization

    return certificate.public_bytes(serialization.Encoding.PEM)


def _read(path: Path) -> x509.Certificate:
    from cryptography import x509

    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError) as e:
        raise ConfigError(f"{path}: holds no certificate ({e})") from None


def _read_key(path: Path) -> ec.EllipticCurvePrivateKey:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except FileNotFoundError:
        raise ConfigError(f"{path}: missing; the CA's key is needed for a new certificate of the endpoint") from None
    except (OSError, ValueError, TypeError) as e:
        raise ConfigError(f"{path}: holds no key ({e})") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ConfigError(f"{path}: is no key of `windfall certs init`")
    return key


def trusting(ca_file: Path | str | None) -> bool | ssl.SSLContext:
    """How certificates are checked: against this CA alone, or the machine's own. Raises ConfigError."""
    if not ca_file:
        return True
    try:
        require_file(ca_file)
        context = ssl.create_default_context(cafile=str(ca_file))
    except FileNotFoundError:
        raise ConfigError(f"{ca_file}: missing; it is the run's CA certificate") from None
    except (OSError, ssl.SSLError) as e:
        raise ConfigError(f"{ca_file}: holds no certificate ({e})") from None
    return context
