"""TLS on the public port, with certificates from files that may be replaced while streams run (SDS).

One port accepts both: connections that begin with a TLS handshake are served, plaintext gets an error that asks for
HTTPS.
"""

from pathlib import Path

from gatehouse.config.model import Tls
from gatehouse.contract import names
from gatehouse.envoy.message import Message, extension, typed

CERTIFICATE, CLIENT_CA = "tls-certificate.yaml", "tls-client-ca.yaml"
"""The files of the two secrets, beside Envoy's other files."""

_CLIENTS = "clients"

_HANDSHAKE: Message = {"transport_socket_connect_timeout": "10s"}
"""The time-out of a TLS handshake. Without one, an unfinished handshake holds its connection for minutes."""

Source = dict[str, str]
"""A PEM text as Envoy takes it: `{"filename": …}` or `{"inline_string": …}`."""


def chains(tls: Tls | None, manager: Message, secrets: Message) -> Message:
    """The filter chains of a listener; `manager` handles each connection.

    `secrets` are parts of a TLS context: from `watched_secrets` or `static_secrets`.
    """
    if tls is None:
        return {"filter_chains": [{"filters": [manager], **_HANDSHAKE}]}
    inspector = extension(
        "envoy.filters.listener.tls_inspector", "envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector"
    )
    return {
        "stat_prefix": "gatehouse",
        "listener_filters": [inspector],
        "filter_chains": [
            {
                "filter_chain_match": {"transport_protocol": "tls"},
                "filters": [manager],
                "transport_socket": _socket(tls, secrets),
                **_HANDSHAKE,
            },
            {"filters": [_trusting_no_proxy(manager)], **_HANDSHAKE},
        ],
    }


def watched_secrets(tls: Tls | None, directory: str) -> Message:
    """Parts of a TLS context: the secrets are in files in `directory`, which Envoy watches."""
    if tls is None:
        return {}
    context: Message = {"tls_certificate_sds_secret_configs": [_sds(names.CERTIFICATE, CERTIFICATE, directory)]}
    if tls.client_ca_file:
        context["validation_context_sds_secret_config"] = _sds(_CLIENTS, CLIENT_CA, directory)
    return context


def static_secrets(chain: Source, key: Source, client_ca: Source | None) -> Message:
    """Parts of a TLS context: the secrets, as they are."""
    context: Message = {"tls_certificates": [{"certificate_chain": chain, "private_key": key}]}
    if client_ca:
        context["validation_context"] = {"trusted_ca": client_ca}
    return context


def secret_files(chain: Source, key: Source, client_ca: Source | None, watch: str | None = None) -> dict[str, Message]:
    """File name -> secret. With `watch`, Envoy itself reloads the content when something moves in that directory."""
    watched_directory = {"watched_directory": {"path": watch}} if watch else {}
    pair = {"certificate_chain": chain, "private_key": key, **watched_directory}
    files = {CERTIFICATE: _secret(names.CERTIFICATE, tls_certificate=pair)}
    if client_ca:
        files[CLIENT_CA] = _secret(_CLIENTS, validation_context={"trusted_ca": client_ca, **watched_directory})
    return files


def file_sources(tls: Tls) -> tuple[Source, Source, Source | None]:
    """The PEM texts, as file names."""
    client_ca = {"filename": tls.client_ca_file} if tls.client_ca_file else None
    return {"filename": tls.cert_file}, {"filename": tls.key_file}, client_ca


def files_by_name(tls: Tls | None) -> dict[str, Message]:
    """As `secret_files`, for a standalone Envoy, which reads the files of the configuration itself."""
    return secret_files(*file_sources(tls), watch=str(Path(tls.cert_file).parent)) if tls else {}


def trial(tls: Tls, secrets: Message) -> Message:
    """A complete configuration with nothing but TLS with `secrets`, for Envoy to validate."""
    echo = extension("envoy.filters.network.echo", "envoy.extensions.filters.network.echo.v3.Echo")
    address = {"socket_address": {"address": "127.0.0.1", "port_value": 0}}
    chain = {"filters": [echo], "transport_socket": _socket(tls, secrets)}
    return {"static_resources": {"listeners": [{"name": "trial", "address": address, "filter_chains": [chain]}]}}


def _socket(tls: Tls, secrets: Message) -> Message:
    common = {
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_2"},
        "alpn_protocols": ["h2", "http/1.1"],
        **secrets,
    }
    return extension(
        "envoy.transport_sockets.tls",
        "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
        common_tls_context=common,
        require_client_certificate=tls.client_ca_file is not None,
    )


def _trusting_no_proxy(manager: Message) -> Message:
    """For plaintext: no proxy's word for HTTPS is trusted, or clients could bypass client certificates."""
    return {**manager, "typed_config": {**manager["typed_config"], "xff_num_trusted_hops": 0}}


def _sds(name: str, file: str, directory: str) -> Message:
    source = {"path": f"{directory}/{file}", "watched_directory": {"path": directory}}
    return {"name": name, "sds_config": {"path_config_source": source, "resource_api_version": "V3"}}


def _secret(name: str, **content: object) -> Message:
    return {"resources": [typed("envoy.extensions.transport_sockets.tls.v3.Secret", name=name, **content)]}
