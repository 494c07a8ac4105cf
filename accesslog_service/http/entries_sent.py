"""`api_access_log_sent_total{result}`: entries of its access log that Envoy has sent, or dropped, by its own count.

What is sent and not in `api_access_log_entries_total` is on its way or, after a moment, lost: with a receiver that was
killed, or a connection that broke. `gatehouse usage reconcile` restores it.
"""

from collections.abc import Iterable

from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from accesslog_service.http.envoy_stats import Stats


class EntriesSent(Collector):
    """The counters; not there at all where there is no Envoy."""

    def __init__(self, stats: Stats) -> None:
        self._stats = stats

    def collect(self) -> Iterable[CounterMetricFamily]:
        text = "Entries of its access log, by Envoy's own count."
        family = CounterMetricFamily("api_access_log_sent_total", text, labels=["result"])
        for result in ("written", "dropped"):
            count = self._stats.get(f"access_logs.grpc_access_log.logs_{result}")
            if count is not None:
                family.add_metric([result], count)
        if family.samples:
            yield family
