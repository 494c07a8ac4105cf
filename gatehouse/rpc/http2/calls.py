"""gRPC over the streams of a connection (gRPC over HTTP/2, PROTOCOL-HTTP2.md): messages, methods, status."""

import asyncio
import logging
import traceback
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from inspect import CORO_CREATED, getcoroutinestate
from typing import Any, NoReturn

from gatehouse.contract.failures import GatehouseError
from gatehouse.rpc.http2 import messages
from gatehouse.rpc.http2.connection import WINDOW, Connection, Stream
from gatehouse.rpc.http2.headers import ANSWER, NOT_GRPC, Headers, trailers
from gatehouse.rpc.service import MAX_MESSAGE_BYTES, ClientStream, Code, Decode, Method, Unary

log = logging.getLogger(__name__)

MAX_HELD_BYTES = 16 * 1024 * 1024
"""Bytes of unfinished messages on one connection."""

_OK = trailers(Code.OK)


class Aborted(GatehouseError):  # noqa: N818 - it is an answer
    """A method ends its call with a status."""

    def __init__(self, code: Code, details: str) -> None:
        super().__init__(details)
        self.code = code
        self.details = details


class CallContext:
    """`rpc.Context` of a call over a unix socket."""

    __slots__ = ("_headers",)

    def __init__(self, headers: Headers) -> None:
        self._headers = headers

    def invocation_metadata(self) -> Headers:
        return self._headers

    def auth_context(self) -> Mapping[str, list[bytes]]:
        return {}

    async def abort(self, code: Code, details: str) -> NoReturn:
        raise Aborted(code, details)


class _Call:
    """One call: its method and its state."""

    __slots__ = ("answer", "begun", "headers", "inbox", "method", "owed", "task")

    def __init__(self, method: Method, headers: Headers) -> None:
        self.method = method
        self.headers = headers
        self.begun = bytearray()  # an incomplete message
        self.owed = 0  # bytes received and not yet returned to the peer's window
        self.inbox = _Inbox() if isinstance(method, ClientStream) else None
        self.answer: Coroutine[Any, Any, Any] | None = None
        self.task: asyncio.Task[None] | None = None


class Calls:
    """Answers the streams of one `connection` with `methods`, which are by path: `/package.Service/Method`.

    `write` gets every byte for the peer.
    """

    def __init__(self, methods: Mapping[str, Method], write: Callable[[bytes], object]) -> None:
        self._methods = methods
        self._held = 0
        self.connection = Connection(write, self)

    def opened(self, stream: Stream, headers: Headers) -> None:
        found = dict(headers)
        method = self._methods.get(found.get(":path", ""))
        if not found.get("content-type", "").startswith("application/grpc"):
            self.connection.refuse(stream, NOT_GRPC)
        elif method is None:
            self._refuse(stream, Code.UNIMPLEMENTED, "no such method")
        else:
            stream.call = call = _Call(method, headers)
            if call.inbox is not None:
                requests = self._messages(stream, call, call.inbox, method.decode)
                self._start(stream, call, method.call(requests, CallContext(headers)))

    def received(self, stream: Stream, data: bytes, ended: bool) -> None:
        call: _Call | None = stream.call
        if call is None:
            return
        if not (ended and call.inbox is None and not call.begun):
            call.begun += data
            call.owed += len(data)
            self._held += len(data)
        if call.inbox is not None:
            self._messages_came(stream, call, call.inbox, ended)
        elif ended:
            self._request_came(stream, call, bytes(call.begun) if call.begun else data)
        elif self._readable(stream, call.begun):
            self._make_room(stream, call)

    def reset(self, stream: Stream) -> None:
        call: _Call | None = stream.call
        if call is not None:
            self._drop(stream, call)
            if call.inbox is not None:
                call.inbox.end()  # the messages before are complete, and are read
            else:
                self._cancel(call)

    def _request_came(self, stream: Stream, call: _Call, request: bytes) -> None:
        """The complete request of a unary call: one message."""
        if not self._readable(stream, request):
            return
        if not messages.is_one(request):
            self._refuse(stream, Code.INTERNAL, "a request is one whole message")
            return
        method: Unary = call.method  # type: ignore[assignment] # it has no inbox
        try:
            answer = method.call(method.decode(request[messages.PREFIX :]), CallContext(call.headers))
            if isinstance(answer, Coroutine):
                self._start(stream, call, answer)
            else:
                self._answer(stream, call, answer)
        except Exception as error:
            self._failed(stream, error)

    def _messages_came(self, stream: Stream, call: _Call, inbox: "_Inbox", ended: bool) -> None:
        while len(call.begun) >= messages.PREFIX and self._readable(stream, call.begun):
            stop = messages.PREFIX + messages.size(call.begun)
            if len(call.begun) < stop:
                break
            inbox.put(bytes(call.begun[messages.PREFIX : stop]))
            del call.begun[:stop]
            self._held -= stop
        if stream.call is None:
            return
        self._make_room(stream, call)
        if ended and call.begun:
            self._refuse(stream, Code.INTERNAL, "the stream ends in the middle of a message")
        elif ended:
            inbox.end()

    def _readable(self, stream: Stream, begun: bytes | bytearray) -> bool:
        """Whether to accept the message that begins like this; if not, the call is rejected."""
        if messages.is_compressed(begun):
            self._refuse(stream, Code.UNIMPLEMENTED, "compressed messages are not read")
        elif messages.size(begun) > MAX_MESSAGE_BYTES or self._held > MAX_HELD_BYTES:
            self._refuse(stream, Code.RESOURCE_EXHAUSTED, "the message is too large")
        else:
            return True
        return False

    def _make_room(self, stream: Stream, call: _Call) -> None:
        """Let the peer send as many bytes again, unless too many are waiting to be read."""
        waiting = call.inbox.waiting if call.inbox is not None else 0
        if stream.call is call and call.owed >= WINDOW // 2 and waiting < WINDOW:
            self.connection.taken(stream, call.owed)
            call.owed = 0

    async def _messages(self, stream: Stream, call: _Call, inbox: "_Inbox", decode: Decode) -> AsyncIterator[Any]:
        while (message := await inbox.next()) is not None:
            self._make_room(stream, call)
            yield decode(message)

    def _start(self, stream: Stream, call: _Call, answer: Coroutine[Any, Any, Any]) -> None:
        call.answer = answer
        call.task = asyncio.get_running_loop().create_task(self._finish(stream, call, answer))

    @staticmethod
    def _cancel(call: _Call) -> None:
        if call.task is not None and call.answer is not None:
            call.task.cancel()
            if getcoroutinestate(call.answer) == CORO_CREATED:
                call.answer.close()  # it has not even begun, and Python complains of what never does

    async def _finish(self, stream: Stream, call: _Call, answer: Coroutine[Any, Any, Any]) -> None:
        try:
            self._answer(stream, call, await answer)
        except Exception as error:
            call.task = None  # this is it, and it ends by itself
            self._failed(stream, error)

    def _answer(self, stream: Stream, call: _Call, answer: Any) -> None:
        message = messages.framed(call.method.encode(answer))
        self._drop(stream, call)
        self.connection.answer(stream, ANSWER, message, _OK)

    def _failed(self, stream: Stream, error: Exception) -> None:
        """Tell the peer that a method failed, but not why: the error text may contain a key."""
        if isinstance(error, Aborted):
            self._refuse(stream, error.code, error.details)
            return
        frame = traceback.extract_tb(error.__traceback__)[-1]
        log.error("a call failed: %s in %s, line %s", type(error).__name__, frame.name, frame.lineno)
        self._refuse(stream, Code.UNKNOWN, "the call failed")

    def _refuse(self, stream: Stream, code: Code, details: str) -> None:
        call: _Call | None = stream.call
        if call is not None:
            self._drop(stream, call)
            self._cancel(call)
        self.connection.refuse(stream, ANSWER + trailers(code, details))

    def _drop(self, stream: Stream, call: _Call) -> None:
        """The call is over."""
        stream.call = None
        self._held -= len(call.begun)
        call.begun.clear()


class _Inbox:
    """The messages of a client's stream that nobody has read yet. `waiting` counts their bytes."""

    def __init__(self) -> None:
        self.waiting = 0
        self._messages: deque[bytes] = deque()
        self._arrived = asyncio.Event()
        self._ended = False

    def put(self, message: bytes) -> None:
        self._messages.append(message)
        self.waiting += len(message)
        self._arrived.set()

    def end(self) -> None:
        self._ended = True
        self._arrived.set()

    async def next(self) -> bytes | None:
        """The oldest message; None after the last."""
        while not self._messages:
            if self._ended:
                return None
            self._arrived.clear()
            await self._arrived.wait()
        message = self._messages.popleft()
        self.waiting -= len(message)
        return message
