"""Requests with `Expect: 100-continue`: their client waits for a `100 Continue` before the body (RFC 9110 §10.1.1).

Envoy sends that itself, as soon as it has the headers, and no filter can delay it; or it leaves it to the upstream
server (`proxy_100_continue`), which here gets a request only once its body is read. So such a request, after ext_authz
has identified its caller, passes through this same Envoy a second time: to a listener inside the process that sends
`100 Continue` at once, and from there on treats the request like any other.

That listener has no address: nothing outside of the process can connect to it. It trusts the public listener for the
client's address and scheme, the request's id, and the credential, which is checked again there. The request's only
record is written there, too.
"""

from gatehouse.contract import names
from gatehouse.envoy.endpoints import assignment, options
from gatehouse.envoy.message import Message, disabled, extension, header, typed

LISTENER = "gatehouse-expecting"
"""The listener, and the cluster that leads to it."""

_PASSED_ON = "x-gatehouse-passed-on"
"""Set on a request as it leaves the public listener. Clients can't send it."""

_CREDENTIALS = {"authorization": "x-gatehouse-authorization", "x-api-key": "x-gatehouse-x-api-key"}
"""Header -> header for its copy: ext_authz removes credentials from a request, and the second check needs them."""

_CLIENT_IP_COPY = "gatehouse-client-ip"
"""A copy of the client's address, for while headers of the gateway are removed."""

RECORDED_HERE: Message = {
    "header_filter": {"header": {"name": _PASSED_ON, "present_match": True, "invert_match": True}}
}
"""Filter of an access log: skips requests that were passed on, which the other listener records."""

PROCESS: Message = {
    "bootstrap_extensions": [
        extension(
            "envoy.bootstrap.internal_listener", "envoy.extensions.bootstrap.internal_listener.v3.InternalListener"
        )
    ]
}
"""Bootstrap fields for internal listeners."""


def listener(manager: Message) -> Message:
    """The listener inside the process; `manager` handles its connections."""
    return {
        "name": LISTENER,
        "internal_listener": {},
        "ignore_global_conn_limit": True,  # the client's connection is already counted
        "filter_chains": [{"filters": [manager]}],
    }


def trusted_identity() -> Message:
    """What the manager of that listener takes over from the public one, instead of determining it."""
    detection = extension(
        "envoy.http.original_ip_detection.custom_header",
        "envoy.extensions.http.original_ip_detection.custom_header.v3.CustomHeaderConfig",
        header_name=names.CLIENT_IP_HEADER,
        allow_extension_to_set_address_as_trusted=True,
    )
    return {
        "use_remote_address": False,
        "xff_num_trusted_hops": 0,
        "original_ip_detection_extensions": [detection],
        "preserve_external_request_id": True,
    }


def restoring_mutations(removals: list[Message]) -> list[Message]:
    """Mutations of a request as it arrives there: credentials get their own names back, `Expect` of any kind is
    removed, and of the headers that `removals` remove only the client's address is kept."""
    return [
        *({"append": header(name, f"%REQ({copy})%")} for name, copy in _CREDENTIALS.items()),
        {"append": header(_CLIENT_IP_COPY, f"%REQ({names.CLIENT_IP_HEADER})%")},
        *removals,
        {"append": header(names.CLIENT_IP_HEADER, f"%REQ({_CLIENT_IP_COPY})%")},
        {"remove": _CLIENT_IP_COPY},
        {"remove": "expect"},
    ]


def cluster() -> Message:
    """The cluster of that listener. Clients are limited at the public one."""
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
    """The first route of a request with `Expect`. The filters in `without` run only at the second listener, where
    time-outs apply as well."""
    copies = [{"append": header(copy, f"%REQ({name})%")} for name, copy in _CREDENTIALS.items()]
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
                mutations={"request_mutations": copies},
            ),
        },
    }
