"""Our messages and envoy-data-plane's read each other's bytes, field for field.

envoy-data-plane is generated from the whole Envoy API by another compiler and runs on another codec. Both sides also
speak ProtoJSON, which is how one side's message is put into the other's types without going through bytes.
"""

import subprocess
import sys
from collections.abc import Iterable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import betterproto2
import envoy_data_plane.envoy.service.accesslog.v3 as als
import envoy_data_plane.envoy.service.auth.v3 as auth
import envoy_data_plane.envoy.service.ratelimit.v3  # noqa: F401  importing it registers its messages
import pytest
from envoy_data_plane.message_pool import default_message_pool
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.internal import api_implementation
from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct

from gatehouse.pb import (
    accesslog_pb2,
    als_pb2,
    base_pb2,
    external_auth_pb2,
    http_status_pb2,
    ratelimit_pb2,
    rls_pb2,
    status_pb2,
)

ROOT = Path(__file__).resolve().parents[2]

ROOTS = [
    external_auth_pb2.CheckRequest,
    external_auth_pb2.CheckResponse,
    rls_pb2.RateLimitRequest,
    rls_pb2.RateLimitResponse,
    als_pb2.StreamAccessLogsMessage,
    als_pb2.StreamAccessLogsResponse,
]
"""What crosses the wire whole. Every other message of ours is inside one of them."""

FILES = [accesslog_pb2, als_pb2, base_pb2, external_auth_pb2, http_status_pb2, ratelimit_pb2, rls_pb2, status_pb2]

NEWER = {
    "envoy.extensions.common.ratelimit.v3.RateLimitDescriptor.RateLimitOverride.unit_multiplier",
    "envoy.service.ratelimit.v3.RateLimitResponse.RateLimit.unit_multiplier",
}
"""Fields of Envoy 1.40 that envoy-data-plane 2.2 lacks; test_wire_numbers.py holds them against Envoy's binary."""

CHOICES = range(3)
"""Enough rounds for every member of the widest oneof."""


def theirs(ours: type[Message]) -> type[betterproto2.Message]:
    """The class that envoy-data-plane has for the same message."""
    return default_message_pool.url_to_type[f"type.googleapis.com/{ours.DESCRIPTOR.full_name}"]


def filled(kind: type[Message], choice: int) -> Message:
    """A message with a different, non-default value in every field; of a oneof, in member number `choice`."""
    message = kind()
    fill(message, choice, count(1))
    return message


def fill(message: Message, choice: int, numbers: Iterator[int]) -> None:
    if isinstance(message, Struct):
        number = next(numbers)
        message.update({"number": number + 0.5, "text": f"é{number}", "yes": True, "list": [number, {"deep": None}]})
        return
    for field in present(message.DESCRIPTOR, choice):
        if is_map(field):
            fill_map(getattr(message, field.name), field.message_type, choice, numbers)
        elif field.is_repeated and field.message_type:
            for _ in range(2):
                fill(getattr(message, field.name).add(), choice, numbers)
        elif field.is_repeated:
            getattr(message, field.name).extend(scalar(field, next(numbers)) for _ in range(2))
        elif field.message_type:
            getattr(message, field.name).SetInParent()
            fill(getattr(message, field.name), choice, numbers)
        else:
            setattr(message, field.name, scalar(field, next(numbers)))


def is_map(field: FieldDescriptor) -> bool:
    return bool(field.message_type and field.message_type.GetOptions().map_entry)


def fill_map(entries: Any, entry: Any, choice: int, numbers: Iterator[int]) -> None:
    value = entry.fields_by_name["value"]
    for number in (next(numbers), next(numbers)):
        if value.message_type:
            fill(entries[f"key-{number}"], choice, numbers)
        else:
            entries[f"key-{number}"] = scalar(value, number)


def present(descriptor: Any, choice: int) -> Iterator[FieldDescriptor]:
    for field in descriptor.fields:
        members = field.containing_oneof.fields if field.containing_oneof else [field]
        if field.name == members[choice % len(members)].name and field.full_name not in NEWER:
            yield field


def scalar(field: FieldDescriptor, number: int) -> Any:
    if field.enum_type:
        return field.enum_type.values[1 + number % (len(field.enum_type.values) - 1)].number
    match field.type:
        case FieldDescriptor.TYPE_STRING:
            return f"text-{number}-é"
        case FieldDescriptor.TYPE_BYTES:
            return bytes([number % 256, 0xFF, 0])
        case FieldDescriptor.TYPE_BOOL:
            return True
        case FieldDescriptor.TYPE_UINT64:
            return 2**63 + number
        case FieldDescriptor.TYPE_UINT32:
            return 2**31 + number
        case _ if field.name == "nanos":
            return number * 1000  # their datetimes hold microseconds
        case _ if field.name == "code":
            return 418  # a status their enum has no name for: it stays a number in JSON, as it is in ours
        case _:
            return number


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("kind", ROOTS, ids=lambda kind: kind.DESCRIPTOR.name)
class TestEveryField:
    def test_that_we_write_is_read_by_envoys_types(self, kind: type[Message], choice: int) -> None:
        message = filled(kind, choice)
        read = theirs(kind).parse(message.SerializeToString())
        assert ParseDict(read.to_dict(), kind()) == message

    def test_that_envoys_types_write_is_read_by_us(self, kind: type[Message], choice: int) -> None:
        message = filled(kind, choice)
        written = theirs(kind).from_dict(MessageToDict(message))
        assert kind.FromString(bytes(written)) == message


def test_no_field_of_ours_is_left_out_of_the_comparison() -> None:
    compared = {name for kind in ROOTS for choice in CHOICES for name in set_fields(filled(kind, choice))}
    declared = {name for file in FILES for name in declared_fields(file.DESCRIPTOR.message_types_by_name.values())}
    assert declared - NEWER == {name for name in compared if not name.startswith("google.protobuf.")}


def set_fields(message: Message) -> Iterator[str]:
    for field, value in message.ListFields():
        yield field.full_name
        for child in submessages(field, value):
            yield from set_fields(child)


def submessages(field: FieldDescriptor, value: Any) -> Iterable[Message]:
    if not is_map(field):
        return [] if not field.message_type else value if field.is_repeated else [value]
    return [child for child in value.values() if isinstance(child, Message)]


def declared_fields(messages: Iterable[Any]) -> Iterator[str]:
    for message in messages:
        if not message.GetOptions().map_entry:
            yield from (field.full_name for field in message.fields)
            yield from declared_fields(message.nested_types)


def test_fields_we_leave_out_are_skipped() -> None:
    whole = auth.CheckRequest.from_dict(
        {
            "attributes": {
                "source": {"service": "left-out", "address": {"pipe": {"path": "/run/a.sock"}}},
                "destination": {"principal": "left-out"},
                "request": {"http": {"method": "POST", "body": "left-out", "query": "left-out"}},
                "tlsSession": {"sni": "left-out"},
            }
        }
    )
    expected = external_auth_pb2.CheckRequest()
    expected.attributes.source.address.pipe.path = "/run/a.sock"
    expected.attributes.request.http.method = "POST"
    read = external_auth_pb2.CheckRequest.FromString(bytes(whole))
    assert MessageToDict(read) == MessageToDict(expected)


def test_tcp_entries_are_told_from_http_entries() -> None:
    sent = als.StreamAccessLogsMessage.from_dict(
        {"tcpLogs": {"logEntry": [{"connectionProperties": {"sentBytes": 1}}]}}
    )
    read = als_pb2.StreamAccessLogsMessage.FromString(bytes(sent))
    assert read.WhichOneof("log_entries") == "tcp_logs"


def test_official_status_and_health_protos_load_in_the_same_process() -> None:
    program = """
from google.protobuf import any_pb2, descriptor_pool
from gatehouse.pb import external_auth_pb2, health_pb2
from tests.contract.envoy_descriptors import envoy_file
for name in ("google/rpc/status.proto", "src/proto/grpc/health/v1/health.proto"):
    descriptor_pool.Default().AddSerializedFile(envoy_file(name).SerializeToString())
for name in ("google.rpc.Status", "grpc.health.v1.HealthCheckRequest"):
    assert descriptor_pool.Default().FindMessageTypeByName(name)
"""
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)


def test_messages_run_on_upb() -> None:
    assert api_implementation.Type() == "upb"
