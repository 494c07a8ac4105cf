"""`/v1/responses`: https://platform.openai.com/docs/api-reference/responses, whole or as a stream of typed events."""

from collections.abc import Iterator

from demo_model_server.api import Call, Message, TextRequest, checked_limit, transcript
from demo_model_server.echo import Answer, echo
from demo_model_server.wire import Json, typed_event


class ResponsesRequest(TextRequest):
    """A request whose input is a text or a list of items; the last item is echoed."""

    input: str | list[Message]
    instructions: str | None = None
    max_output_tokens: int | None = None

    def answer(self) -> Answer:
        items = [Message(content=self.input)] if isinstance(self.input, str) else self.input
        system = [Message(role="system", content=self.instructions)] if self.instructions else []
        limit = checked_limit("max_output_tokens", self.max_output_tokens)
        return echo(transcript(system + items), items[-1].text if items else "", limit)

    def whole(self, call: Call, answer: Answer) -> Json:
        cut: Json | None = {"reason": "max_output_tokens"} if answer.finish == "length" else None
        ended = self._response(call, "incomplete" if cut else "completed")
        return ended | {"incomplete_details": cut, "output": [_item(call, answer.text)], "usage": _usage(answer)}

    def events(self, call: Call, answer: Answer) -> Iterator[bytes]:
        for number, step in enumerate(self._steps(call, answer)):
            yield typed_event(step | {"sequence_number": number})

    def _steps(self, call: Call, answer: Answer) -> Iterator[Json]:
        started = self._response(call, "in_progress")
        item: Json = {"output_index": 0}
        part: Json = {"item_id": _item_id(call), "output_index": 0, "content_index": 0}
        yield {"type": "response.created", "response": started}
        yield {"type": "response.in_progress", "response": started}
        yield {"type": "response.output_item.added", **item, "item": _item(call, None)}
        yield {"type": "response.content_part.added", **part, "part": _text("")}
        for piece in answer.pieces:
            yield {"type": "response.output_text.delta", **part, "delta": piece, "logprobs": []}
        yield {"type": "response.output_text.done", **part, "text": answer.text, "logprobs": []}
        yield {"type": "response.content_part.done", **part, "part": _text(answer.text)}
        yield {"type": "response.output_item.done", **item, "item": _item(call, answer.text)}
        yield {"type": "response.completed", "response": self.whole(call, answer)}

    def _response(self, call: Call, status: str) -> Json:
        """A response before any output; `whole` fills in the rest."""
        return {
            "id": f"resp_{call.id}",
            "object": "response",
            "created_at": call.created,
            "status": status,
            "incomplete_details": None,
            "instructions": self.instructions,
            "max_output_tokens": self.max_output_tokens,
            "model": call.model,
            "output": [],
            "parallel_tool_calls": True,
            "tool_choice": "none",
            "tools": [],
            "usage": None,
        }


def _item_id(call: Call) -> str:
    return f"msg_{call.id}"


def _item(call: Call, text: str | None) -> Json:
    """The one output item: a message, in progress until it has a text."""
    content = [] if text is None else [_text(text)]
    status = "in_progress" if text is None else "completed"
    return {"id": _item_id(call), "type": "message", "role": "assistant", "status": status, "content": content}


def _text(text: str) -> Json:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": None}


def _usage(answer: Answer) -> Json:
    return {
        "input_tokens": answer.prompt_tokens,
        "input_tokens_details": {"cached_tokens": answer.cached_tokens},
        "output_tokens": answer.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": answer.prompt_tokens + answer.completion_tokens,
    }
