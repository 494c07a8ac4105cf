"""Are certificate and key a pair, and for how long?"""

from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from gatehouse.doctor.files import secret_file
from gatehouse.doctor.finding import Finding, error, ok, warning

ABOUT = "certificates"
SOON_DAYS = 21
"""Let's Encrypt renews 30 days before the end: what has fewer left was not renewed."""


def certificates(cert_file: str, key_file: str, client_ca_file: str | None, now: datetime) -> list[Finding]:
    """PEM files; `cert_file` begins with the server's own certificate. `now` has a time zone."""
    found = _pair(cert_file, key_file, now) + secret_file(ABOUT, key_file)
    return found + (_authorities(client_ca_file, now) if client_ca_file else [])


def _pair(cert_file: str, key_file: str, now: datetime) -> list[Finding]:
    try:
        [certificate, *_] = x509.load_pem_x509_certificates(Path(cert_file).read_bytes())
    except (OSError, ValueError) as wrong:
        return [
            error(
                ABOUT, f"{cert_file} holds no certificate: {_reason(wrong)}", "let server.tls.cert_file name one (PEM)"
            )
        ]
    try:
        key = load_pem_private_key(Path(key_file).read_bytes(), None)
    except (OSError, ValueError, TypeError) as wrong:
        fix = "let server.tls.key_file name an unencrypted private key (PEM)"
        return [error(ABOUT, f"{key_file} holds no key that can be read: {_reason(wrong)}", fix)]
    if _bytes(key.public_key()) != _bytes(certificate.public_key()):
        fix = "let server.tls name a certificate and its own key"
        return [error(ABOUT, f"the key in {key_file} is not that of the certificate in {cert_file}", fix)]
    return [lifetime(cert_file, certificate, now)]


def _authorities(file: str, now: datetime) -> list[Finding]:
    try:
        return [lifetime(file, each, now) for each in x509.load_pem_x509_certificates(Path(file).read_bytes())]
    except (OSError, ValueError) as wrong:
        fix = "let server.tls.client_ca_file name the certificates that vouch for clients (PEM)"
        return [error(ABOUT, f"{file} holds no certificate: {_reason(wrong)}", fix)]


def lifetime(file: str, certificate: x509.Certificate, now: datetime) -> Finding:
    ends, begins = certificate.not_valid_after_utc, certificate.not_valid_before_utc
    days = (ends - now).days
    if ends <= now:
        return error(ABOUT, f"{file} expired on {ends:%Y-%m-%d}", "renew it: it is loaded when the file changes")
    if begins > now:
        return error(ABOUT, f"{file} is not valid before {begins:%Y-%m-%d %H:%M} UTC", "check the machine's clock")
    if days < SOON_DAYS:
        return warning(ABOUT, f"{file} expires in {days} days", "renew it: it is loaded when the file changes")
    return ok(ABOUT, f"{file} is good for {days} days")


def _bytes(key: PublicKeyTypes) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _reason(wrong: Exception) -> str:
    return wrong.strerror or "can't be read" if isinstance(wrong, OSError) else str(wrong).splitlines()[0]


def today() -> datetime:
    return datetime.now(UTC)
