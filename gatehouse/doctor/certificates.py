"""Are certificate and key a pair, and for how long?"""

from datetime import datetime
from pathlib import Path

from cryptography import x509

from gatehouse.config.model import Tls
from gatehouse.config.problem import ConfigError
from gatehouse.doctor.files import secret_file
from gatehouse.doctor.finding import Finding, error, ok, warning
from gatehouse.gateway.certificate import read

ABOUT = "certificates"
SOON_DAYS = 21
"""Let's Encrypt renews 30 days before expiry: a certificate with fewer days left was not renewed."""


def certificates(tls: Tls, now: datetime) -> list[Finding]:
    """The certificate that `read` returns, and how long it is valid. `now` has a time zone."""
    unguarded = secret_file(ABOUT, tls.key_file)
    try:
        read(tls)
    except ConfigError as wrong:
        return [error(ABOUT, f"{each.origin} {each.message}", each.hint or "") for each in wrong.problems] + unguarded
    shown, *_ = _in(tls.cert_file)
    authorities = _in(tls.client_ca_file) if tls.client_ca_file else []
    trusted = [lifetime(str(tls.client_ca_file), each, now) for each in authorities]
    return [lifetime(tls.cert_file, shown, now), *unguarded, *trusted]


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


def _in(file: str) -> list[x509.Certificate]:
    return x509.load_pem_x509_certificates(Path(file).read_bytes())
