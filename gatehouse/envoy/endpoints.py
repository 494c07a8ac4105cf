"""Parts shared by all clusters."""

from ipaddress import ip_address
from urllib.parse import urlsplit

from gatehouse.config.model import Backend
from gatehouse.envoy.message import Message, typed

_HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
SYSTEM_AUTHORITIES = "/etc/ssl/certs/ca-certificates.crt"


def options(**fields: object) -> Message:
    """HTTP options of a cluster."""
    return {"typed_extension_protocol_options": {_HTTP_OPTIONS: typed(_HTTP_OPTIONS, **fields)}}


def assignment(cluster: str, endpoints: list[Message]) -> Message:
    """The endpoints of a cluster with one priority level."""
    return {"cluster_name": cluster, "endpoints": [{"lb_endpoints": endpoints}]}


def endpoint(backend: Backend) -> Message:
    """`backend`, with its own host name, whatever address that has."""
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


def address(backend: Backend) -> str | None:
    """The IP address in the URL; None if it has a host name."""
    host = urlsplit(backend.url).hostname or ""
    try:
        return str(ip_address(host))
    except ValueError:
        return None


def tls(backend: Backend) -> Message:
    """TLS that verifies the host by a certificate of a trusted authority."""
    trusted: Message = {"trusted_ca": {"filename": backend.ca_file or SYSTEM_AUTHORITIES}}
    ip = address(backend)
    if ip is None:
        return _tls(trusted, auto_host_sni=True, auto_sni_san_validation=True)
    name = {
        "san_type": "IP_ADDRESS",
        "matcher": {"exact": ip},
    }  # an address is no TLS server name (RFC 6066 §3)
    return _tls({**trusted, "match_typed_subject_alt_names": [name]})


def _tls(validation: Message, **fields: bool) -> Message:
    kind = "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext"
    context = typed(kind, common_tls_context={"validation_context": validation}, **fields)
    return {"name": "envoy.transport_sockets.tls", "typed_config": context}
