from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Settlement(_message.Message):
    __slots__ = ("request_id", "kind", "user", "team", "tier", "key_id", "model", "input_tokens", "output_tokens", "cached_tokens", "counted", "status", "key_limits", "key_family", "late", "asks", "complete", "answer_bytes")
    class Kind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        KIND_UNSPECIFIED: _ClassVar[Settlement.Kind]
        RENEW: _ClassVar[Settlement.Kind]
        DONE: _ClassVar[Settlement.Kind]
    KIND_UNSPECIFIED: Settlement.Kind
    RENEW: Settlement.Kind
    DONE: Settlement.Kind
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    USER_FIELD_NUMBER: _ClassVar[int]
    TEAM_FIELD_NUMBER: _ClassVar[int]
    TIER_FIELD_NUMBER: _ClassVar[int]
    KEY_ID_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    INPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    CACHED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    COUNTED_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    KEY_LIMITS_FIELD_NUMBER: _ClassVar[int]
    KEY_FAMILY_FIELD_NUMBER: _ClassVar[int]
    LATE_FIELD_NUMBER: _ClassVar[int]
    ASKS_FIELD_NUMBER: _ClassVar[int]
    COMPLETE_FIELD_NUMBER: _ClassVar[int]
    ANSWER_BYTES_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    kind: Settlement.Kind
    user: str
    team: str
    tier: str
    key_id: str
    model: str
    input_tokens: int
    output_tokens: int
    cached_tokens: int
    counted: bool
    status: int
    key_limits: str
    key_family: str
    late: bool
    asks: str
    complete: bool
    answer_bytes: int
    def __init__(self, request_id: _Optional[str] = ..., kind: _Optional[_Union[Settlement.Kind, str]] = ..., user: _Optional[str] = ..., team: _Optional[str] = ..., tier: _Optional[str] = ..., key_id: _Optional[str] = ..., model: _Optional[str] = ..., input_tokens: _Optional[int] = ..., output_tokens: _Optional[int] = ..., cached_tokens: _Optional[int] = ..., counted: _Optional[bool] = ..., status: _Optional[int] = ..., key_limits: _Optional[str] = ..., key_family: _Optional[str] = ..., late: _Optional[bool] = ..., asks: _Optional[str] = ..., complete: _Optional[bool] = ..., answer_bytes: _Optional[int] = ...) -> None: ...

class SettleRequest(_message.Message):
    __slots__ = ("settlements",)
    SETTLEMENTS_FIELD_NUMBER: _ClassVar[int]
    settlements: _containers.RepeatedCompositeFieldContainer[Settlement]
    def __init__(self, settlements: _Optional[_Iterable[_Union[Settlement, _Mapping]]] = ...) -> None: ...

class SettleResponse(_message.Message):
    __slots__ = ("unsettled",)
    UNSETTLED_FIELD_NUMBER: _ClassVar[int]
    unsettled: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, unsettled: _Optional[_Iterable[str]] = ...) -> None: ...
