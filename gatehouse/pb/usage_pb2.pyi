from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class UsageRequest(_message.Message):
    __slots__ = ("user", "team", "tier", "key_id", "model", "key_limits", "key_family", "asks")
    USER_FIELD_NUMBER: _ClassVar[int]
    TEAM_FIELD_NUMBER: _ClassVar[int]
    TIER_FIELD_NUMBER: _ClassVar[int]
    KEY_ID_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    KEY_LIMITS_FIELD_NUMBER: _ClassVar[int]
    KEY_FAMILY_FIELD_NUMBER: _ClassVar[int]
    ASKS_FIELD_NUMBER: _ClassVar[int]
    user: str
    team: str
    tier: str
    key_id: str
    model: str
    key_limits: str
    key_family: str
    asks: str
    def __init__(self, user: _Optional[str] = ..., team: _Optional[str] = ..., tier: _Optional[str] = ..., key_id: _Optional[str] = ..., model: _Optional[str] = ..., key_limits: _Optional[str] = ..., key_family: _Optional[str] = ..., asks: _Optional[str] = ...) -> None: ...

class UsageResponse(_message.Message):
    __slots__ = ("windows", "running", "refusal", "refusal_code", "degraded", "guessed_input", "guessed_output")
    class Window(_message.Message):
        __slots__ = ("name", "scope", "measure", "limit", "remaining", "reset_after_ms", "shadow")
        NAME_FIELD_NUMBER: _ClassVar[int]
        SCOPE_FIELD_NUMBER: _ClassVar[int]
        MEASURE_FIELD_NUMBER: _ClassVar[int]
        LIMIT_FIELD_NUMBER: _ClassVar[int]
        REMAINING_FIELD_NUMBER: _ClassVar[int]
        RESET_AFTER_MS_FIELD_NUMBER: _ClassVar[int]
        SHADOW_FIELD_NUMBER: _ClassVar[int]
        name: str
        scope: str
        measure: str
        limit: int
        remaining: int
        reset_after_ms: int
        shadow: bool
        def __init__(self, name: _Optional[str] = ..., scope: _Optional[str] = ..., measure: _Optional[str] = ..., limit: _Optional[int] = ..., remaining: _Optional[int] = ..., reset_after_ms: _Optional[int] = ..., shadow: _Optional[bool] = ...) -> None: ...
    class Running(_message.Message):
        __slots__ = ("name", "scope", "limit", "in_use", "shadow")
        NAME_FIELD_NUMBER: _ClassVar[int]
        SCOPE_FIELD_NUMBER: _ClassVar[int]
        LIMIT_FIELD_NUMBER: _ClassVar[int]
        IN_USE_FIELD_NUMBER: _ClassVar[int]
        SHADOW_FIELD_NUMBER: _ClassVar[int]
        name: str
        scope: str
        limit: int
        in_use: int
        shadow: bool
        def __init__(self, name: _Optional[str] = ..., scope: _Optional[str] = ..., limit: _Optional[int] = ..., in_use: _Optional[int] = ..., shadow: _Optional[bool] = ...) -> None: ...
    WINDOWS_FIELD_NUMBER: _ClassVar[int]
    RUNNING_FIELD_NUMBER: _ClassVar[int]
    REFUSAL_FIELD_NUMBER: _ClassVar[int]
    REFUSAL_CODE_FIELD_NUMBER: _ClassVar[int]
    DEGRADED_FIELD_NUMBER: _ClassVar[int]
    GUESSED_INPUT_FIELD_NUMBER: _ClassVar[int]
    GUESSED_OUTPUT_FIELD_NUMBER: _ClassVar[int]
    windows: _containers.RepeatedCompositeFieldContainer[UsageResponse.Window]
    running: _containers.RepeatedCompositeFieldContainer[UsageResponse.Running]
    refusal: str
    refusal_code: str
    degraded: bool
    guessed_input: int
    guessed_output: int
    def __init__(self, windows: _Optional[_Iterable[_Union[UsageResponse.Window, _Mapping]]] = ..., running: _Optional[_Iterable[_Union[UsageResponse.Running, _Mapping]]] = ..., refusal: _Optional[str] = ..., refusal_code: _Optional[str] = ..., degraded: _Optional[bool] = ..., guessed_input: _Optional[int] = ..., guessed_output: _Optional[int] = ...) -> None: ...
