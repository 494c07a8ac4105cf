"""Our subset says what the Envoy binary says: same names, numbers, types, labels, oneofs, enums and RPCs."""

from collections.abc import Iterator
from types import ModuleType

import pytest
from google.protobuf.descriptor_pb2 import DescriptorProto, EnumDescriptorProto, FieldDescriptorProto
from google.protobuf.descriptor_pb2 import FileDescriptorProto as File

from gatehouse.pb import (
    accesslog_pb2,
    als_pb2,
    base_pb2,
    external_auth_pb2,
    health_pb2,
    http_status_pb2,
    ratelimit_pb2,
    ratelimit_unit_pb2,
    rls_pb2,
    status_pb2,
)
from tests.contract.envoy_descriptors import enums, envoy_file, messages

ENVOY_FILES = [
    "envoy/config/core/v3/address.proto",
    "envoy/config/core/v3/base.proto",
    "envoy/data/accesslog/v3/accesslog.proto",
    "envoy/extensions/common/ratelimit/v3/ratelimit.proto",
    "envoy/service/accesslog/v3/als.proto",
    "envoy/service/auth/v3/attribute_context.proto",
    "envoy/service/auth/v3/external_auth.proto",
    "envoy/service/ratelimit/v3/rls.proto",
    "envoy/type/v3/http_status.proto",
    "envoy/type/v3/ratelimit_unit.proto",
    "google/rpc/status.proto",
    "src/proto/grpc/health/v1/health.proto",
]

OUR_MODULES = [
    accesslog_pb2,
    als_pb2,
    base_pb2,
    external_auth_pb2,
    health_pb2,
    http_status_pb2,
    ratelimit_pb2,
    ratelimit_unit_pb2,
    rls_pb2,
    status_pb2,
]

Field = tuple[str, int, int, int, str, str]


def our_files() -> Iterator[File]:
    """Our files, with the packages that we renamed put back to the official ones."""
    for module in OUR_MODULES:
        file = File.FromString(module.DESCRIPTOR.serialized_pb)
        file.package = official(file.package)
        yield file


def official(name: str) -> str:
    return name.replace("gatehouse.rpc", "google.rpc").replace("gatehouse.health", "grpc.health")


OURS = list(our_files())
OUR_MESSAGES = {name: message for file in OURS for name, message in messages(file)}
OUR_ENUMS = {name: enum for file in OURS for name, enum in enums(file)}


@pytest.fixture(scope="module")
def envoy_messages() -> dict[str, DescriptorProto]:
    return {name: message for file in ENVOY_FILES for name, message in messages(envoy_file(file))}


@pytest.fixture(scope="module")
def envoy_enums() -> dict[str, EnumDescriptorProto]:
    return {name: enum for file in ENVOY_FILES for name, enum in enums(envoy_file(file))}


def fields(message: DescriptorProto) -> set[Field]:
    return {shape(field, message) for field in message.field}


def shape(field: FieldDescriptorProto, message: DescriptorProto) -> Field:
    oneof = message.oneof_decl[field.oneof_index].name if field.HasField("oneof_index") else ""
    kind, type_name = field.type, official(field.type_name)
    if type_name == ".envoy.type.v3.StatusCode":  # the one field that we write as the number it travels as
        kind, type_name = FieldDescriptorProto.TYPE_INT32, ""
    return field.name, field.number, field.label, kind, type_name, oneof


@pytest.mark.parametrize("name", OUR_MESSAGES)
def test_every_field_is_what_the_envoy_binary_says(name: str, envoy_messages: dict[str, DescriptorProto]) -> None:
    assert fields(OUR_MESSAGES[name]) <= fields(envoy_messages[name])


@pytest.mark.parametrize("name", OUR_ENUMS)
def test_every_enum_is_complete(name: str, envoy_enums: dict[str, EnumDescriptorProto]) -> None:
    ours, theirs = ({(v.name, v.number) for v in enum.value} for enum in (OUR_ENUMS[name], envoy_enums[name]))
    assert ours == theirs


def test_every_response_flag_is_known(envoy_messages: dict[str, DescriptorProto]) -> None:
    flags = "envoy.data.accesslog.v3.ResponseFlags"
    assert fields(OUR_MESSAGES[flags]) == fields(envoy_messages[flags])


@pytest.mark.parametrize(
    ("module", "envoy_name"),
    [
        (external_auth_pb2, "envoy/service/auth/v3/external_auth.proto"),
        (rls_pb2, "envoy/service/ratelimit/v3/rls.proto"),
        (als_pb2, "envoy/service/accesslog/v3/als.proto"),
    ],
)
def test_every_rpc_is_the_one_that_envoy_calls(module: ModuleType, envoy_name: str) -> None:
    ours = File.FromString(module.DESCRIPTOR.serialized_pb)
    assert ours.service
    assert rpcs(ours) == rpcs(envoy_file(envoy_name))


def rpcs(file: File) -> set[tuple[str, str, str, bool, str, bool]]:
    return {
        (f"{file.package}.{service.name}", m.name, m.input_type, m.client_streaming, m.output_type, m.server_streaming)
        for service in file.service
        for m in service.method
    }


def test_prompts_have_no_field_to_arrive_in() -> None:
    request = OUR_MESSAGES["envoy.service.auth.v3.AttributeContext.HttpRequest"]
    assert not {"body", "raw_body"} & {field.name for field in request.field}
