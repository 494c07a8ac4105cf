"""The server certificate: read from its files, and checked before Envoy gets it."""

import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import TypeVar

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from gatehouse.config.model import Tls
from gatehouse.config.problem import ConfigError, Problem

_T = TypeVar("_T")

CLOCK_SKEW = timedelta(minutes=5)
"""Allowance for an issuer's clock that is ahead of ours."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """A matching certificate and key in PEM, and the certificate's validity period."""

    chain: str
    key: str = field(repr=False)
    client_ca: str | None
    subject: str
    starts: datetime
    ends: datetime


class MismatchError(ConfigError):
    """Certificate and key don't match: perhaps only one of the two files has been replaced so far."""


def read(tls: Tls) -> Certificate:
    """The pair in the files of `tls`. Raises `ConfigError` (or its subclass `MismatchError`) with file and reason."""
    certificates = _parsed(tls.cert_file, "cert_file", _certificates)
    leaf = certificates[0]
    key = _parsed(tls.key_file, "key_file", _private_key)
    if key[1] != _public(leaf.public_key()):
        message = f"does not match the certificate in {tls.cert_file}"
        raise MismatchError([_problem(tls.key_file, "key_file", message, "replace both files")])
    client_ca = _parsed(tls.client_ca_file, "client_ca_file", _certificates) if tls.client_ca_file else None
    return Certificate(
        chain=_pem(certificates),
        key=key[0],
        client_ca=_pem(client_ca) if client_ca else None,
        subject=leaf.subject.rfc4514_string(),
        starts=leaf.not_valid_before_utc,
        ends=leaf.not_valid_after_utc,
    )


def untimely(certificate: Certificate, tls: Tls, now: datetime) -> Problem | None:
    """Why `certificate` is not valid now, if it isn't."""
    if certificate.ends <= now:
        message = f"the certificate expired at {certificate.ends:%Y-%m-%d %H:%M} UTC"
    elif certificate.starts > now + CLOCK_SKEW:
        message = f"the certificate is not valid before {certificate.starts:%Y-%m-%d %H:%M} UTC"
    else:
        return None
    return _problem(tls.cert_file, "cert_file", message, "clients will reject it: replace it")


def pinned(tls: Tls) -> ssl.SSLContext:
    """For clients on this machine: trusts exactly the certificate of `tls`, whatever host name it is for.

    Raises `OSError` if it can't be read.
    """
    context = ssl.create_default_context(cafile=tls.cert_file)
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.check_hostname = False
    return context


def _parsed(path: str, name: str, parse: Callable[[bytes], _T]) -> _T:
    try:
        return parse(Path(path).read_bytes())
    except OSError as error:
        hint = "create it, readable by the user the gateway runs as"
        raise ConfigError([_problem(path, name, f"can't be read: {error.strerror}", hint)]) from None
    except TypeError:  # the key is encrypted
        raise ConfigError(
            [_problem(path, name, "the key is encrypted", "keep it without a password, mode 0600")]
        ) from None
    except ValueError:
        what = "private key" if name == "key_file" else "certificate"
        raise ConfigError(
            [_problem(path, name, f"holds no {what} in PEM", f"it begins -----BEGIN {what.upper()}-----")]
        ) from None


def _certificates(text: bytes) -> list[x509.Certificate]:
    """The first is the server's own; the others are its chain."""
    return x509.load_pem_x509_certificates(text)


def _private_key(text: bytes) -> tuple[str, bytes]:
    """The key's PEM text, and its public key."""
    return text.decode("ascii"), _public(load_pem_private_key(text, password=None).public_key())  # type: ignore[arg-type]


def _public(key: CertificatePublicKeyTypes) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _pem(certificates: list[x509.Certificate]) -> str:
    return "".join(each.public_bytes(Encoding.PEM).decode() for each in certificates)


def _problem(path: str, field_name: str, message: str, hint: str) -> Problem:
    return Problem(path, None, f"server.tls.{field_name}", message, hint)
