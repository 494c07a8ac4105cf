"""An OpenTelemetry receiver: OTLP over gRPC as the protocol's own messages define it, on a free port, in memory."""

import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2 as metrics_pb2
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as traces_pb2

from testkit.waiting import until

TRACES = "opentelemetry.proto.collector.trace.v1.TraceService"
METRICS = "opentelemetry.proto.collector.metrics.v1.MetricsService"
CLIENT, SERVER = 3, 2
"""Kinds of spans (opentelemetry/proto/trace/v1/trace.proto, Span.SpanKind)."""


@dataclass(frozen=True)
class Span:
    trace_id: str
    span_id: str
    parent_id: str
    name: str
    kind: int
    attributes: Mapping[str, Any]
    resource: Mapping[str, Any]


@dataclass(frozen=True)
class Point:
    """A point of a histogram as one worker sent it last."""

    metric: str
    unit: str
    attributes: Mapping[str, Any]
    resource: Mapping[str, Any]
    count: int
    sum: float
    buckets: tuple[int, ...]
    bounds: tuple[float, ...]


@dataclass
class OtlpReceiver:
    port: int
    spans: list[Span] = field(default_factory=list)
    exports: int = 0
    raw: bytes = b""
    _points: dict[str, list[Point]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def points(self) -> list[Point]:
        """What every worker sent last: its counts are those since it started."""
        with self._lock:
            return [point for points in self._points.values() for point in points]

    def trace(self, trace_id: str, spans: int, timeout_s: float = 10) -> list[Span]:
        """The spans of a trace, once it has that many."""

        def names() -> list[str]:
            return [span.name for span in _of(self.spans, trace_id)]

        until(lambda: len(names()) >= spans, timeout_s, f"{spans} spans")
        assert len(names()) == spans, names()
        return _of(self.spans, trace_id)

    def take_traces(self, request: Any, _context: Any) -> Any:
        for group in request.resource_spans:
            resource = _attributes(group.resource.attributes)
            self.spans += [_span(span, resource) for scope in group.scope_spans for span in scope.spans]
        self.raw += request.SerializeToString()
        return traces_pb2.ExportTraceServiceResponse()

    def take_metrics(self, request: Any, _context: Any) -> Any:
        for group in request.resource_metrics:
            resource = _attributes(group.resource.attributes)
            points = [
                _point(metric, point, resource)
                for scope in group.scope_metrics
                for metric in scope.metrics
                for point in metric.histogram.data_points
            ]
            with self._lock:
                self._points[str(resource["service.instance.id"])] = points
        self.exports += 1
        self.raw += request.SerializeToString()
        return metrics_pb2.ExportMetricsServiceResponse()


@contextmanager
def otlp_receiver(port: int = 0) -> Iterator[OtlpReceiver]:
    server = grpc.server(ThreadPoolExecutor(4))
    receiver = OtlpReceiver(server.add_insecure_port(f"127.0.0.1:{port}"))
    for service, take, request, answer in (
        (TRACES, receiver.take_traces, traces_pb2.ExportTraceServiceRequest, traces_pb2.ExportTraceServiceResponse),
        (
            METRICS,
            receiver.take_metrics,
            metrics_pb2.ExportMetricsServiceRequest,
            metrics_pb2.ExportMetricsServiceResponse,
        ),
    ):
        handler = grpc.unary_unary_rpc_method_handler(take, request.FromString, answer.SerializeToString)
        server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(service, {"Export": handler})])
    server.start()
    try:
        yield receiver
    finally:
        server.stop(0).wait()


def _of(spans: list[Span], trace_id: str) -> list[Span]:
    return [span for span in spans if span.trace_id == trace_id]


def _span(span: Any, resource: Mapping[str, Any]) -> Span:
    ids = span.trace_id.hex(), span.span_id.hex(), span.parent_span_id.hex()
    return Span(*ids, span.name, span.kind, _attributes(span.attributes), resource)


def _point(metric: Any, point: Any, resource: Mapping[str, Any]) -> Point:
    return Point(
        metric=metric.name,
        unit=metric.unit,
        attributes=_attributes(point.attributes),
        resource=resource,
        count=point.count,
        sum=point.sum,
        buckets=tuple(point.bucket_counts),
        bounds=tuple(point.explicit_bounds),
    )


def _attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, str(pair.value.WhichOneof("value"))) for pair in pairs}
