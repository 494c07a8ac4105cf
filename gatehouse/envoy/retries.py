"""When a request is retried: only before any of the answer has arrived, and with another replica if there is one.

Envoy's router retries nothing once headers of an answer have been passed on. Up to then a retry is safe: inference
keeps no state. It may cost GPU time, so there are two at most, and never more at a time than requests
(`gatehouse.envoy.saturation`).
"""

from gatehouse.config.model import Backend, Model
from gatehouse.envoy.message import Message, extension

_RETRIES = 2
_RETRIED_STATUSES = [502, 503]
"""A proxy before a dead server answers 502, a server that can't take a request 503."""

OTHER_HOST = extension(
    "envoy.retry_host_predicates.previous_hosts",
    "envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate",
)
"""Retry with a host that was not tried yet."""
_SELECTION_ATTEMPTS = 50
"""Least-request balancers may pick the dead host again and again: it has the fewest requests."""

OF_ONE_SERVER: Message = {"retry_on": "connect-failure,refused-stream,reset-before-request", "num_retries": _RETRIES}
"""For the short form: one server, which gets no request again that it may have started to process."""


def policy(model: Model) -> Message:
    """The retry policy of a route to `model`."""
    several = len(model.backends) > 1
    return {
        "retry_on": "connect-failure,refused-stream,reset" + (",retriable-status-codes" if several else ""),
        **({"retriable_status_codes": _RETRIED_STATUSES} if several else {}),
        "num_retries": _RETRIES,
        "retry_host_predicate": [OTHER_HOST],
        "host_selection_retry_max_attempts": _SELECTION_ATTEMPTS,
        **_next_level(model.backends),
    }


def _next_level(backends: tuple[Backend, ...]) -> Message:
    """The last retry goes to the next level of failover; with a single replica on the first level, both do."""
    if len({backend.priority for backend in backends}) == 1:
        return {}
    first = min(backend.priority for backend in backends)
    alone = sum(backend.priority == first for backend in backends) == 1
    return {"retry_priority": other_priority(after=1 if alone else _RETRIES)}


def other_priority(after: int) -> Message:
    """Another level of failover, after this many tries on one."""
    return extension(
        "envoy.retry_priorities.previous_priorities",
        "envoy.extensions.retry.priority.previous_priorities.v3.PreviousPrioritiesConfig",
        update_frequency=after,
    )
