"""When a request is sent again: only while nothing of an answer has come, and to another replica if there is one.

Envoy's router sends nothing again once headers of an answer have been passed on. Up to then a repetition is safe:
inference keeps no state. What it can cost is GPU time, so there are two at most, and never more at a time than requests
(`gatehouse.envoy.saturation`).
"""

from gatehouse.config.model import Backend, Model
from gatehouse.envoy.message import Message, extension

_TIMES = 2
_TURNED_AWAY = [502, 503]
"""A proxy before a dead server says 502, a server that can't take a request 503."""

OTHER_HOST = extension(
    "envoy.retry_host_predicates.previous_hosts",
    "envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate",
)
"""A host that was not tried yet."""
_DRAWS = 50
"""Balancers that draw hosts by lot may draw the dead one again and again: it has the fewest requests."""

OF_ONE_SERVER: Message = {"retry_on": "connect-failure,refused-stream,reset-before-request", "num_retries": _TIMES}
"""The short form's: one server, which is not asked again for what it may have begun."""


def policy(model: Model) -> Message:
    """The retry policy of a route to `model`."""
    several = len(model.backends) > 1
    return {
        "retry_on": "connect-failure,refused-stream,reset" + (",retriable-status-codes" if several else ""),
        **({"retriable_status_codes": _TURNED_AWAY} if several else {}),
        "num_retries": _TIMES,
        "retry_host_predicate": [OTHER_HOST],
        "host_selection_retry_max_attempts": _DRAWS,
        **_next_level(model.backends),
    }


def _next_level(backends: tuple[Backend, ...]) -> Message:
    """The last try is for the next level of failover; with one replica on the first level, so is the one before."""
    if len({backend.priority for backend in backends}) == 1:
        return {}
    first = min(backend.priority for backend in backends)
    alone = sum(backend.priority == first for backend in backends) == 1
    return {"retry_priority": other_priority(after=1 if alone else _TIMES)}


def other_priority(after: int) -> Message:
    """Another level of failover, once so many tries have gone to one."""
    return extension(
        "envoy.retry_priorities.previous_priorities",
        "envoy.extensions.retry.priority.previous_priorities.v3.PreviousPrioritiesConfig",
        update_frequency=after,
    )
