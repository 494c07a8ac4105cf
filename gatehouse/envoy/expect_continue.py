"""Requests with `Expect: 100-continue`: their client waits for a word before it sends the body (RFC 9110 §10.1.1).

Envoy says that word itself, as soon as it has the headers, and no filter can delay it; or it leaves it to the server
behind (`proxy_100_continue`), which here hears of a request only once its body is read. So such a request, once
ext_authz knows its caller, takes a second way through this same Envoy: to a listener inside the process that says
`100 Continue` at once, and from there on treats the request like any other.

That listener has no address: nobody outside of the process can connect to it. It believes what the public listener
tells it: the client's address and scheme, the request's id, and the credential, which is checked again there. The
request's one record is written there, too.
"""

from gatehouse.contract import names
from gatehouse.envoy.endpoints import assignment, options
from gatehouse.envoy.message import Message, disabled, extension, header, typed

LISTENER = "gatehouse-expecting"
"""The listener, and the cluster that leads to it."""

_PASSED_ON = "x-gatehouse-passed-on"
"""Set on a request as it leaves the public listener. Clients can't send it."""

_CREDENTIALS = {"authorization": "x-gatehouse-authorization", "x-api-key": "x-gatehouse-x-api-key"}
"""ext_authz takes a credential out of the request: it is kept under another name, for the second check."""

_ASIDE = "gatehouse-client-ip"
"""Where the client's address is while headers of the gateway are removed."""

RECORDED_HERE: Message = {
    "header_filter": {"header": {"name": _PASSED_ON, "present_match": True, "invert_match": True}}
}
"""For an access log: not those that were passed on; the other listener records them."""

PROCESS: Message = {
    "bootstrap_extensions": [
        extension(
            "envoy.bootstrap.internal_listener", "envoy.extensions.bootstrap.internal_listener.v3.InternalListener"
        )
    ]
}
"""What an Envoy needs for listeners of its own."""


def listener(manager: Message) -> Message:
    """The listener inside the process, whose connections are handed to `manager`."""
    return {
        "name": LISTENER,
        "internal_listener": {},
        "ignore_global_conn_limit": True,  # the client's connection counts already
        "filter_chains": [{"filters": [manager]}],
    }


def believed() -> Message:
    """What the manager of that listener takes over from the public one, instead of finding it out."""
    told = extension(
        "envoy.http.original_ip_detection.custom_header",
        "envoy.extensions.http.original_ip_detection.custom_header.v3.CustomHeaderConfig",
        header_name=names.CLIENT_IP_HEADER,
        allow_extension_to_set_address_as_trusted=True,
    )
    return {
        "use_remote_address": False,
        "xff_num_trusted_hops": 0,
        "original_ip_detection_extensions": [told],
        "preserve_external_request_id": True,
    }


def restoring(removals: list[Message]) -> list[Message]:
    """Mutations of a request as it arrives there: credentials get their own names back, `Expect` of whatever kind goes
    no further, and of what `removals` take away only the client's address stays."""
    return [
        *({"append": header(name, f"%REQ({kept})%")} for name, kept in _CREDENTIALS.items()),
        {"append": header(_ASIDE, f"%REQ({names.CLIENT_IP_HEADER})%")},
        *removals,
        {"append": header(names.CLIENT_IP_HEADER, f"%REQ({_ASIDE})%")},
        {"remove": _ASIDE},
        {"remove": "expect"},
    ]


def cluster() -> Message:
    """The way to that listener. Clients are bounded at the front."""
    most = 1_000_000
    address = {"envoy_internal_address": {"server_listener_name": LISTENER}}
    return {
        "name": LISTENER,
        "type": "STATIC",
        "load_assignment": assignment(LISTENER, [{"endpoint": {"address": address}}]),
        "circuit_breakers": {
            "thresholds": [{f"max_{what}": most for what in ("connections", "pending_requests", "requests", "retries")}]
        },
        "common_lb_config": {"healthy_panic_threshold": {"value": 0}},
        **options(explicit_http_config={"http_protocol_options": {}}),
    }


def route(without: tuple[str, ...]) -> Message:
    """Where a request with `Expect` goes first. What the filters in `without` do is done behind it, where time-outs
    apply as well."""
    kept = [{"append": header(kept, f"%REQ({name})%")} for name, kept in _CREDENTIALS.items()]
    return {
        "name": "expecting",
        "match": {"prefix": "/", "headers": [{"name": "expect", "present_match": True}]},
        "route": {"cluster": LISTENER, "timeout": "0s", "idle_timeout": "0s"},
        "request_headers_to_add": [
            header(_PASSED_ON, "1"),
            header(names.CLIENT_IP_HEADER, "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%"),
        ],
        "typed_per_filter_config": {
            **{name: disabled() for name in without},
            names.CLIENT_IP: typed(
                "envoy.extensions.filters.http.header_mutation.v3.HeaderMutationPerRoute",
                mutations={"request_mutations": kept},
            ),
        },
    }
