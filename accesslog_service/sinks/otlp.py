"""Sends the GenAI metrics to an OpenTelemetry receiver, by OTLP over gRPC, behind the back of who counts them.

OpenTelemetry is imported when a sender is made, so that who has no receiver does without it. Its exporter is used, and
not its histograms: those take 11 µs for a measurement, and a request is four or five.
"""

import asyncio
import logging
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from accesslog_service.sinks.gen_ai import GenAiMetrics, Operation
from accesslog_service.sinks.histogram import Histogram, Series
from gatehouse import __version__
from gatehouse.config.model import Config
from gatehouse.contract.names import SERVICE

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics.export import HistogramDataPoint, Metric, MetricsData

log = logging.getLogger(__name__)

TIMEOUT_S = 3.0
"""For one export, tries and waits between them included. Leaving may take as long."""

Export = Callable[["MetricsData"], str | None]
"""Sends, and blocks meanwhile; says what went wrong, if anything did. Never raises."""


class Sender:
    """Sends all that `metrics` has counted since the start, again and again: what one failure kept back, the next
    export has. Failures are logged once until it works again."""

    def __init__(self, metrics: GenAiMetrics, export: Export, instance: str, interval_s: float) -> None:
        from opentelemetry.sdk.resources import Resource

        attributes = {"service.name": SERVICE, "service.version": __version__, "service.instance.id": instance}
        self._resource = Resource.create(attributes)
        self._metrics = metrics
        self._export = export
        self._interval_s = interval_s
        self._started_ns = time.time_ns()
        self._failing = False

    @asynccontextmanager
    async def sending(self) -> AsyncIterator[None]:
        """Send while the block runs, and once more when it has ended, unless nobody took it the last time."""
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._send_on(stop))
            try:
                yield
            finally:
                stop.set()

    async def _send_on(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            try:
                await asyncio.wait_for(stop.wait(), self._interval_s)
            except TimeoutError:
                await self._send()
        if not self._failing:
            await self._send()

    async def _send(self) -> None:
        data = self.collected()
        if data is None:
            return
        failure = await asyncio.to_thread(self._export, data)
        if failure and not self._failing:
            log.warning("metrics can't be sent, they are kept until they can: %s", failure)
        elif self._failing and not failure:
            log.info("metrics are sent again")
        self._failing = failure is not None

    def collected(self) -> "MetricsData | None":
        """Everything counted so far; None before anything is."""
        from opentelemetry.sdk.metrics.export import MetricsData, ResourceMetrics, ScopeMetrics
        from opentelemetry.sdk.util.instrumentation import InstrumentationScope

        now_ns = time.time_ns()
        metrics = [self._metric(histogram, now_ns) for histogram in self._metrics.histograms if histogram.series]
        if not metrics:
            return None
        scope = ScopeMetrics(InstrumentationScope(SERVICE, __version__), metrics, schema_url="")
        return MetricsData([ResourceMetrics(self._resource, [scope], schema_url="")])

    def _metric(self, histogram: Histogram[Operation], now_ns: int) -> "Metric":
        from opentelemetry.sdk.metrics.export import AggregationTemporality, Metric
        from opentelemetry.sdk.metrics.export import Histogram as Points

        points = [self._point(histogram, of, series, now_ns) for of, series in histogram.series.items()]
        data = Points(points, AggregationTemporality.CUMULATIVE)
        return Metric(histogram.name, histogram.description, histogram.unit, data)

    def _point(
        self, histogram: Histogram[Operation], of: Operation, series: Series, now_ns: int
    ) -> "HistogramDataPoint":
        from opentelemetry.sdk.metrics.export import HistogramDataPoint

        return HistogramDataPoint(
            attributes=self._metrics.attributes(of),
            start_time_unix_nano=self._started_ns,
            time_unix_nano=now_ns,
            count=sum(series.buckets),
            sum=series.total,
            bucket_counts=tuple(series.buckets),
            explicit_bounds=histogram.bounds,
            min=series.lowest,
            max=series.highest,
        )


def sender(config: Config, metrics: GenAiMetrics, worker: str) -> Sender:
    """The sender of `worker`, a name such as `accesslog-0`. Needs `config.tracing.otlp_endpoint`."""
    assert config.tracing.otlp_endpoint is not None
    instance = f"{socket.gethostname()}:{config.server.port}/{worker}"
    return Sender(metrics, exporter(config.tracing.otlp_endpoint), instance, config.tracing.metrics_interval_s)


def exporter(endpoint: str) -> Export:
    """Sends to `endpoint`. The standard's variables say the rest: `OTEL_EXPORTER_OTLP_HEADERS`, `…_CERTIFICATE`."""
    from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
    from opentelemetry.sdk.metrics.export import MetricExportResult

    said = _LastWords("opentelemetry.exporter.otlp.proto.grpc.exporter")
    otlp = OTLPMetricExporter(endpoint, timeout=TIMEOUT_S)

    def export(data: "MetricsData") -> str | None:
        try:
            done = otlp.export(data) is MetricExportResult.SUCCESS
        except Exception as error:  # whatever it is, records go on
            return f"{type(error).__name__}: {error}"
        return None if done else said.text

    return export


class _LastWords(logging.Handler):
    """Keeps the last thing that a talkative logger says, instead of the log."""

    def __init__(self, logger: str) -> None:
        super().__init__()
        self.text = "the exporter does not say why"
        talkative = logging.getLogger(logger)
        talkative.addHandler(self)
        talkative.propagate = False

    def emit(self, record: logging.LogRecord) -> None:
        self.text = record.getMessage()
