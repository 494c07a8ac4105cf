"""A certificate authority for tests."""

import ipaddress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

LOOPBACK = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))


class Authority:
    """Issues certificates into `folder`; `certificate` is its own."""

    def __init__(self, folder: Path, name: str = "CA") -> None:
        folder.mkdir(exist_ok=True)
        self._folder = folder
        self._name, self._key = _named(name), ec.generate_private_key(ec.SECP256R1())
        ca = x509.BasicConstraints(ca=True, path_length=None)
        made = _draft(self._name, self._key, timedelta(days=2)).issuer_name(self._name).add_extension(ca, critical=True)
        _, self.certificate = self._written(name, self._key, made.sign(self._key, hashes.SHA256()))

    def issue(self, file: str, name: str, lasts: timedelta = timedelta(days=2)) -> tuple[Path, Path]:
        """Key and certificate for `name`, and for 127.0.0.1; with a negative time it has expired."""
        key = ec.generate_private_key(ec.SECP256R1())
        names = x509.SubjectAlternativeName([x509.DNSName(name), LOOPBACK])
        draft = _draft(_named(name), key, lasts).issuer_name(self._name).add_extension(names, critical=False)
        return self._written(file, key, draft.sign(self._key, hashes.SHA256()))

    def _written(self, file: str, key: ec.EllipticCurvePrivateKey, made: x509.Certificate) -> tuple[Path, Path]:
        where = self._folder / f"{file}.key", self._folder / f"{file}.crt"
        where[0].write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        where[1].write_bytes(made.public_bytes(Encoding.PEM))
        return where


def serial(pem: str | bytes) -> int:
    """Which certificate it is."""
    return x509.load_pem_x509_certificate(pem.encode() if isinstance(pem, str) else pem).serial_number


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _draft(subject: x509.Name, key: ec.EllipticCurvePrivateKey, lasts: timedelta) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    draft = x509.CertificateBuilder().subject_name(subject).public_key(key.public_key())
    draft = draft.serial_number(x509.random_serial_number())
    return draft.not_valid_before(now - timedelta(days=30)).not_valid_after(now + lasts)
