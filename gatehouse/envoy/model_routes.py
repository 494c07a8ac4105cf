"""A route to the replicas of a model: time-outs, choice of a replica, retries and headers."""

from gatehouse.config.model import Config, Model, base_path, served
from gatehouse.contract import names
from gatehouse.envoy import retries, saturation
from gatehouse.envoy.endpoints import address
from gatehouse.envoy.message import Message, header, seconds

_NOT_FOR_MODEL_SERVERS = [
    "accept-encoding",
    "x-envoy-external-address",
    "x-envoy-internal",
    names.HTTP_VERSION_HEADER,
    saturation.URGENCY_HEADER,
    "x-data-parallel-rank",
    "cookie",
    "proxy-authorization",
    "api-key",
]
"""A compressed answer could not be metered; Envoy's view of the client is internal; clients must not choose their
urgency, nor one of vLLM's data-parallel ranks; and clients' other credentials stay here."""

_NOT_FROM_MODEL_SERVERS = [
    f"x-ratelimit-{what}-{of}"
    for of in ("requests", "tokens", "minute", "hour")
    for what in ("limit", "remaining", "reset")
]
"""A server's own limits are hidden: clients would see two values of one header."""


def to_backends(config: Config, model: str, match: Message) -> list[Message]:
    """Routes for requests that match `match`: one, or one for each class of tiers."""
    route = _route(config, model, match)
    return [_of_class(route, each) for each in saturation.classes(config)] or [route]


def _route(config: Config, name: str, match: Message) -> Message:
    model = served(config)[name]
    return {
        "name": f"model:{name}",
        "match": match,
        "route": {
            "cluster": names.model_cluster(name),
            "timeout": "0s",
            "idle_timeout": seconds(config.server.stream_idle_timeout_s),
            "retry_policy": retries.OF_ONE_SERVER if config.vllm else retries.policy(model),
            **_to_replica(config, model),
        },
        "request_headers_to_add": [
            header("x-gatehouse-model", f"%DYNAMIC_METADATA({names.LLM}:model)%"),
            # The length of a body that was changed; for any other the value is empty, and the header stays.
            header("content-length", f"%DYNAMIC_METADATA({names.LLM}:bytes)%"),
        ],
        "request_headers_to_remove": _NOT_FOR_MODEL_SERVERS,
        "response_headers_to_remove": _NOT_FROM_MODEL_SERVERS,
    }


def _to_replica(config: Config, model: Model) -> Message:
    """In the short form the server gets the host name that the client used."""
    return {**_path_rewrite(model), **_hash_policy(model), **({} if config.vllm else _host_rewrite(model))}


def _path_rewrite(model: Model) -> Message:
    """How the path is rewritten: backends may serve the API below a path of their own."""
    path = base_path(model.backends[0].url)
    if not path:
        return {}
    return {"regex_rewrite": {"pattern": {"regex": "^(/.*)$"}, "substitution": path + r"\1"}}


def _hash_policy(model: Model) -> Message:
    """What requests must share to go to the same replica, for its prefix cache."""
    if model.balance != "session_affinity":
        return {}
    session = {"header": {"header_name": model.session_header}, "terminal": True}
    return {"hash_policy": [session, {"header": {"header_name": "x-gatehouse-user"}}]}


def _host_rewrite(model: Model) -> Message:
    """Sends the backend's host name: several servers may share an address."""
    return {"auto_host_rewrite": True} if any(address(backend) is None for backend in model.backends) else {}


def _of_class(route: Message, tiers: saturation.Class) -> Message:
    match, headers = route["match"], route["request_headers_to_add"]
    removed = [name for name in route["request_headers_to_remove"] if name != saturation.URGENCY_HEADER]
    return {
        **route,
        "match": {**match, "dynamic_metadata": [*match.get("dynamic_metadata", ()), *tiers.tier_match()]},
        "route": {**route["route"], **tiers.priority()},
        "request_headers_to_add": [*headers, *tiers.urgency()],
        "request_headers_to_remove": removed,
    }
