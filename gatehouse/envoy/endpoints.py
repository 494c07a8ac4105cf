"""The parts of which clusters are made, whoever they lead to."""

from urllib.parse import urlsplit

from gatehouse.config.model import Backend
from gatehouse.envoy.message import Message, typed

_HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
SYSTEM_AUTHORITIES = "/etc/ssl/certs/ca-certificates.crt"


def options(**fields: object) -> Message:
    """How HTTP is spoken with a cluster."""
    return {"typed_extension_protocol_options": {_HTTP_OPTIONS: typed(_HTTP_OPTIONS, **fields)}}


def assignment(cluster: str, endpoints: list[Message]) -> Message:
    """The endpoints of a cluster that has one level of them."""
    return {"cluster_name": cluster, "endpoints": [{"lb_endpoints": endpoints}]}


def endpoint(backend: Backend) -> Message:
    """`backend`, called by its own name, whatever address that has."""
    url = urlsplit(backend.url)
    port = url.port or (443 if url.scheme == "https" else 80)
    place = {
        "address": {"socket_address": {"address": url.hostname, "port_value": port}},
        "hostname": url.hostname,
        "health_check_config": {"hostname": url.hostname},
    }
    return {"endpoint": place, "load_balancing_weight": backend.weight}


def encrypted(backend: Backend) -> bool:
    return urlsplit(backend.url).scheme == "https"


def tls(ca_file: str | None) -> Message:
    """TLS to whoever proves, by a certificate of an authority in `ca_file`, to be the host that was called."""
    trusted = {"trusted_ca": {"filename": ca_file or SYSTEM_AUTHORITIES}}
    context = typed(
        "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
        auto_host_sni=True,
        auto_sni_san_validation=True,
        common_tls_context={"validation_context": trusted},
    )
    return {"name": "envoy.transport_sockets.tls", "typed_config": context}
