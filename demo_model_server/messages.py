"""`/v1/messages`, Anthropic's API: https://docs.anthropic.com/en/api/messages."""

from collections.abc import Iterator
from typing import Annotated

from pydantic import Field

from demo_model_server.api import Call, Message, Part, TextRequest, checked_limit, transcript
from demo_model_server.echo import Answer, echo
from demo_model_server.wire import Json, typed_event

STOP_REASONS = {"stop": "end_turn", "length": "max_tokens"}


class MessagesRequest(TextRequest):
    """A request for the next message of a conversation; the last message is echoed."""

    messages: Annotated[list[Message], Field(min_length=1)]
    max_tokens: int
    system: str | list[Part] | None = None

    def answer(self) -> Answer:
        system = [Message(role="system", content=self.system)] if self.system else []
        limit = checked_limit("max_tokens", self.max_tokens)
        return echo(transcript(system + self.messages), self.messages[-1].text, limit)

    def whole(self, call: Call, answer: Answer) -> Json:
        ended: Json = {"stop_reason": STOP_REASONS[answer.finish], "usage": _usage(answer)}
        return _message(call) | {"content": [{"type": "text", "text": answer.text}]} | ended

    def events(self, call: Call, answer: Answer) -> Iterator[bytes]:
        return map(typed_event, self._steps(call, answer))

    def _steps(self, call: Call, answer: Answer) -> Iterator[Json]:
        yield {"type": "message_start", "message": _message(call) | {"usage": _usage_at_start(answer)}}
        yield {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
        for piece in answer.pieces:
            yield {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": piece}}
        yield {"type": "content_block_stop", "index": 0}
        ended: Json = {"stop_reason": STOP_REASONS[answer.finish], "stop_sequence": None}
        yield {"type": "message_delta", "delta": ended, "usage": _usage(answer)}
        yield {"type": "message_stop"}


def _message(call: Call) -> Json:
    """A message before any content."""
    head: Json = {"id": f"msg_{call.id}", "type": "message", "role": "assistant", "content": []}
    return head | {"model": call.model, "stop_reason": None, "stop_sequence": None}


def _usage(answer: Answer) -> Json:
    """In this API the tokens read from a cache are not part of `input_tokens`."""
    computed, cached = answer.prompt_tokens - answer.cached_tokens, answer.cached_tokens
    return {"input_tokens": computed, "output_tokens": answer.completion_tokens, "cache_read_input_tokens": cached}


def _usage_at_start(answer: Answer) -> Json:
    """Before the first token vLLM knows of no cached ones, and counts the whole prompt."""
    return {"input_tokens": answer.prompt_tokens, "output_tokens": 0}
