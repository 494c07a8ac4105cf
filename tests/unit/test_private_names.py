"""Names of redis-py and prometheus_client that they don't document: what a new version breaks is named here first."""

import asyncio
import re
from pathlib import Path

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest, values
from prometheus_client.mmap_dict import MmapedDict
from redis.asyncio.connection import UnixDomainSocketConnection

import gatehouse
from gatehouse.metrics import label_names, observe_many, series_of
from testkit.redis_server import redis_server

PACKAGES = ("gatehouse", "authz_service", "ratelimit_service", "accesslog_service", "portal_service")
ADAPTERS = {
    "gatehouse/metrics.py",
    "gatehouse/files/sample_file.py",
    "ratelimit_service/store/redis/line.py",
}
PRIVATE = re.compile(
    r"\w\._(?:writer|labelnames|labelvalues|upper_bounds|buckets|sum|name)\b|mmap_dict|\bMultiProcessValue\b"
)


def test_only_the_adapters_use_them() -> None:
    own = re.compile(r"self\._\w+")  # our own fields may be called the same
    root = Path(gatehouse.__file__).parents[1]
    files = [file for name in PACKAGES for file in (root / name).rglob("*.py")]
    assert {str(file.relative_to(root)) for file in files if PRIVATE.search(own.sub("", file.read_text()))} == ADAPTERS


def test_a_histogram_has_its_sum_buckets_and_bounds() -> None:
    registry = CollectorRegistry()
    histogram = Histogram("seconds", "For a test.", ["model"], registry=registry, buckets=(1, 2))
    observe_many(histogram.labels("m"), [0.5, 1.5, 1.5, 9])
    text = generate_latest(registry).decode()
    assert 'seconds_bucket{le="1.0",model="m"} 1.0' in text
    assert 'seconds_bucket{le="2.0",model="m"} 3.0' in text
    assert 'seconds_bucket{le="+Inf",model="m"} 4.0' in text
    assert 'seconds_sum{model="m"} 12.5' in text
    assert series_of(histogram.labels("m")) == ("seconds", {"model": "m"}, [1.0, 2.0, float("inf")])


def test_a_metric_knows_its_label_names() -> None:
    assert tuple(label_names(Counter("c", "For a test.", ["a", "b"], registry=None))) == ("a", "b")


def test_samples_of_processes_are_kept_in_mapped_files() -> None:
    assert callable(values.MultiProcessValue)
    assert hasattr(values, "ValueClass")
    assert {"read_value", "write_value", "read_all_values", "close"} <= set(dir(MmapedDict)), prometheus_client.__file__


async def _writer_of_a_connection(path: Path) -> asyncio.StreamWriter | None:
    connection = UnixDomainSocketConnection(path=str(path))
    await connection.connect()
    try:
        return connection._writer
    finally:
        await connection.disconnect()


def test_a_connection_of_redis_py_has_a_writer_with_a_transport() -> None:
    with redis_server() as server:
        writer = asyncio.run(_writer_of_a_connection(server.folder / "redis.sock"))
    assert writer is not None
    assert callable(writer.transport.set_protocol)
