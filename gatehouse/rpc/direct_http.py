"""HTTP without a proxy: what a gateway asks of itself, with keys, is no proxy's affair, whatever HTTP_PROXY says."""

import ssl
import urllib.request
from http.client import HTTPResponse
from typing import cast


def opened(request: urllib.request.Request | str, timeout_s: float, context: ssl.SSLContext | None) -> HTTPResponse:
    """As `urllib.request.urlopen`, and raises what that does."""
    handlers: list[urllib.request.BaseHandler] = [urllib.request.ProxyHandler({})]
    if context is not None:
        handlers.append(urllib.request.HTTPSHandler(context=context))
    return cast(HTTPResponse, urllib.request.build_opener(*handlers).open(request, timeout=timeout_s))
