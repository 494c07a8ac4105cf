"""HTTP without a proxy: requests to the gateway itself carry keys, so HTTP_PROXY is ignored."""

import ssl
import urllib.request
from http.client import HTTPResponse
from typing import cast


def opened(request: urllib.request.Request | str, timeout_s: float, context: ssl.SSLContext | None) -> HTTPResponse:
    """Like `urllib.request.urlopen`, with the same exceptions."""
    handlers: list[urllib.request.BaseHandler] = [urllib.request.ProxyHandler({})]
    if context is not None:
        handlers.append(urllib.request.HTTPSHandler(context=context))
    return cast(HTTPResponse, urllib.request.build_opener(*handlers).open(request, timeout=timeout_s))
