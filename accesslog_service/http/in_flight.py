"""`api_requests_in_flight{model}`: requests at the model servers, as Envoy counts them at the moment of the scrape."""

import re
from collections.abc import Iterable, Mapping

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from accesslog_service.http.envoy_stats import Stats

_NAME = re.compile(r"cluster\.model_(.*)\.upstream_rq_active")


def requests_by_model(stats: Stats, models: Iterable[str]) -> dict[str, float]:
    """Running requests by model.

    The clusters are called `model:<name>`. Envoy writes `_` for `:` in the names of statistics, so a name is given its
    colons back by way of `models`, the names that the configuration knows.
    """
    written = {name.replace(":", "_"): name for name in models}
    found = [(_NAME.fullmatch(name), value) for name, value in stats.items()]
    return {written.get(match[1], match[1]): value for match, value in found if match}


class InFlight(Collector):
    """The gauge; not there at all where there is no model."""

    def __init__(self, requests: Mapping[str, float]) -> None:
        self._requests = requests

    def collect(self) -> Iterable[GaugeMetricFamily]:
        family = GaugeMetricFamily("api_requests_in_flight", "Requests at the model servers now.", labels=["model"])
        for model, count in self._requests.items():
            family.add_metric([model], count)
        if self._requests:
            yield family
