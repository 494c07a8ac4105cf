"""Are the ports free, or already this gateway's?"""

import ssl
from http.client import HTTPException

from gatehouse.config.model import Config
from gatehouse.doctor.finding import Finding, error, ok
from gatehouse.gateway.addresses import local_url, why_not_listening
from gatehouse.rpc.direct_http import opened

ABOUT = "ports"
_PATIENCE_S = 2.0


def ports(config: Config) -> list[Finding]:
    server = config.server
    found = [_port(server.host, server.port, "port", f"{local_url(config)}/health")]
    if server.metrics_port:
        page = f"http://{server.metrics_host}:{server.metrics_port}/metrics"
        found.append(_port(server.metrics_host, server.metrics_port, "metrics_port", page))
    return found


def _port(host: str, port: int, field: str, page: str) -> Finding:
    reason = why_not_listening(host, port)
    if reason is None:
        return ok(ABOUT, f"{host}:{port} is free")
    if _ours(page):
        return ok(ABOUT, f"{host}:{port}: a gateway answers")
    return error(ABOUT, f"can't listen on {host}:{port}: {reason}", f"set server.{field}, or stop what listens there")


def _ours(page: str) -> bool:
    """Whether a gateway answers at `page`: its health, as JSON, or its metrics."""
    try:
        with opened(page, _PATIENCE_S, _anybody()) as answer:
            text = answer.read(1_000_000)
    except (OSError, HTTPException, ValueError) as refused:
        text = refused.read(10_000) if hasattr(refused, "read") else b""  # unhealthy is 503, and still ours
    return b'"vllm_status"' in text or b"api_auth_decisions_total" in text or b"api_requests_total" in text


def _anybody() -> ssl.SSLContext:
    """Sends no credential: anything may be listening there."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context
