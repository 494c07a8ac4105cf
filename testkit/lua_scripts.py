"""The scripts that Envoy runs, in a LuaJIT of the test's own: the same modules, with chunks that a test makes up."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from lupa import luajit21

from gatehouse.envoy.scripts import modules

_HARNESS = """
local function chunk_of(text)
  local chunk = { text = text, changed = false }
  function chunk:length() return #self.text end
  function chunk:getBytes(at, size) return string.sub(self.text, at + 1, at + size) end
  function chunk:setBytes(text) self.text, self.changed = text, true end
  return chunk
end

local function chunks_of(pieces)
  local chunks, at = {}, 0
  for index = 1, #pieces do chunks[index] = chunk_of(pieces[index]) end
  return chunks, function()
    at = at + 1
    return chunks[at]
  end
end

local function passed(chunks)
  local out = {}
  for index = 1, #chunks do out[index] = chunks[index].text end
  return table.concat(out)
end

local harness = {}

function harness.read(pieces, path, default_model, asks, most_values)
  local chunks, iterator = chunks_of(pieces)
  local b = body.new(iterator)
  local s = json.text(body.more, b, most_values)
  local settings = { default_model = default_model, asks = function() return asks end }
  local ok, asked = pcall(request.read, b, s, path, settings)
  if not ok then
    if type(asked) ~= "table" then error(asked) end
    return { refused = asked.code, text = asked.text, param = asked.param }
  end
  local changed = 0
  for index = 1, #chunks do changed = changed + (chunks[index].changed and 1 or 0) end
  asked.asks = request.asks(asked, s)
  asked.bytes = s.base + s.i + b.added
  asked.body, asked.changed = passed(chunks), changed
  return asked
end

function harness.stream(pieces, hide, per_choice)
  local told, out, clock = {}, {}, 0
  local e = events.new(hide, per_choice, function(_, key, value) told[key] = value end, function() return clock end)
  for index = 1, #pieces do
    clock = index
    out[index] = events.feed(e, pieces[index])
  end
  out[#pieces + 1] = events.finish(e)
  return out, told
end

harness.counts = usage.counts
return harness
"""


def _runtime() -> Any:
    lua = luajit21.LuaRuntime(encoding=None)
    return lua, lua.execute((modules("json", "body", "request", "usage", "events") + _HARNESS).encode())


_LUA, _HARNESSED = _runtime()

BOTH = ("include_usage", "continuous_usage_stats")


@dataclass(frozen=True)
class Asked:
    """The reader's result for a valid request, and the body it passes on. `changed` counts rewritten chunks."""

    model: str
    stream: bool
    asks: str
    hide: str | None
    per_choice: bool
    body: bytes
    changed: int


@dataclass(frozen=True)
class Refused:
    """Why a request can't be read."""

    code: str
    text: str
    param: str | None


@dataclass(frozen=True)
class Streamed:
    """The client's output after each piece, and what the script learned of the stream."""

    seen: list[bytes]
    told: dict[str, Any] = field(default_factory=dict)

    @property
    def all(self) -> bytes:
        return b"".join(self.seen)


def cut(text: bytes, size: int) -> list[bytes]:
    """`text` in pieces of `size` bytes."""
    return [text[at : at + size] for at in range(0, len(text), size)] or [b""]


def read_request(
    body: bytes | Sequence[bytes],
    path: str = "/v1/chat/completions",
    *,
    default_model: str | None = None,
    asks: Sequence[str] = BOTH,
    most_values: int = 500_000,
) -> Asked | Refused:
    """Read a body, in one chunk or in those given."""
    pieces = [body] if isinstance(body, bytes) else list(body)
    default = default_model.encode() if default_model is not None else None
    found = _HARNESSED[b"read"](
        _LUA.table_from(pieces), path.encode(), default, _LUA.table_from([ask.encode() for ask in asks]), most_values
    )
    said = {key.decode(): value for key, value in found.items()}
    if "refused" in said:
        param = said.get("param")
        return Refused(said["refused"].decode(), said["text"].decode(), param.decode() if param else None)
    assert said["bytes"] == len(said["body"])
    hide = said.get("hide")
    return Asked(
        said["model"].decode(),
        bool(said["stream"]),
        said["asks"].decode(),
        hide.decode() if hide else None,
        bool(said.get("per_choice")),
        said["body"],
        int(said["changed"]),
    )


def stream_answer(pieces: Sequence[bytes], hide: str | None = None, *, per_choice: bool = False) -> Streamed:
    """Pass a stream of events."""
    out, told = _HARNESSED[b"stream"](_LUA.table_from(list(pieces)), hide.encode() if hide else None, per_choice)
    return Streamed(list(_in_order(out)), {key.decode(): _python(value) for key, value in told.items()})


def counts(usage: bytes) -> dict[str, int]:
    """What a usage object counts."""
    return {key.decode(): int(value) for key, value in _HARNESSED[b"counts"](usage).items()}


def _in_order(table: Any) -> Iterator[bytes]:
    return (table[index] for index in range(1, len(table) + 1))


def _python(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else int(value) if isinstance(value, float) else value
