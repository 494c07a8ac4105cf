"""TLS for the gRPC port: certificates reloaded when their files change, and the caller's name."""

from pathlib import Path

import grpc

from gatehouse.rpc.service import Context
from ratelimit_service.dropin.environment import SettingsError
from ratelimit_service.dropin.settings import Grpc


def credentials(settings: Grpc) -> grpc.ServerCredentials | None:
    """None: no TLS is wanted. Raises `SettingsError` when a file can't be read."""
    certificate, key, authority = settings.server_tls_cert, settings.server_tls_key, settings.client_tls_cacert
    if not settings.server_use_tls or certificate is None or key is None:
        return None
    return _Certificates(certificate, key, authority).credentials()


class _Certificates:
    def __init__(self, certificate: Path, key: Path, authority: Path | None) -> None:
        self._files = (certificate, key) if authority is None else (certificate, key, authority)
        self._last: list[bytes] = []

    def credentials(self) -> grpc.ServerCredentials:
        try:
            first = self._fetch()
        except OSError as error:
            raise SettingsError(f"GRPC_SERVER_TLS_…: {error}") from None
        assert first is not None
        required = len(self._files) == 3
        return grpc.dynamic_ssl_server_credentials(first, self._changed, required)  # type: ignore[arg-type] # None is fine

    def _changed(self) -> "grpc.ServerCertificateConfiguration | None":
        """gRPC calls this for each new connection; None keeps the current certificate."""
        try:
            return self._fetch()
        except OSError:
            return None

    def _fetch(self) -> "grpc.ServerCertificateConfiguration | None":
        contents = [file.read_bytes() for file in self._files]
        if contents == self._last:
            return None
        self._last = contents
        certificate, key, *authority = contents
        return grpc.ssl_server_certificate_configuration([(key, certificate)], *authority)


def is_named(context: Context, name: str) -> bool:
    """Whether the caller's certificate has the subject alternative name `name`."""
    names = context.auth_context().get("x509_subject_alternative_name", [])
    return name.encode() in names
