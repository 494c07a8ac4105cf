"""`/v1/chat/completions`: https://platform.openai.com/docs/api-reference/chat."""

from typing import Annotated

from pydantic import Field

from demo_model_server.api import Call, Message, checked_limit, transcript
from demo_model_server.completion import SampledRequest, usage
from demo_model_server.echo import Answer, echo
from demo_model_server.wire import Json


class ChatRequest(SampledRequest):
    """A request for the next message of a conversation; the last message is echoed."""

    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: int | None = None

    def answer(self) -> Answer:
        self.check_stream_options()
        older = checked_limit("max_tokens", self.max_tokens)
        limit = checked_limit("max_completion_tokens", self.max_completion_tokens)
        said = self.messages[-1].text
        return echo(transcript(self.messages), said, older if limit is None else limit, endless=self.ignore_eos)

    def whole(self, call: Call, answer: Answer) -> Json:
        message: Json = {"role": "assistant", "content": answer.text, "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": answer.finish, "stop_reason": None}
        return self._head(call, "chat.completion", [choice]) | {"usage": usage(answer)}

    def chunk(self, call: Call, choices: list[Json]) -> Json:
        return self._head(call, "chat.completion.chunk", choices)

    def choice(self, piece: str, finish: str | None) -> Json:
        made: Json = {"index": 0, "delta": {"content": piece}, "logprobs": None, "finish_reason": finish}
        return made | ({"stop_reason": None} if finish else {}) | {"token_ids": None}

    def opening(self) -> list[tuple[Json, Json]]:
        delta: Json = {"role": "assistant", "content": ""}
        choice: Json = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}
        return [(choice, {"prompt_token_ids": None, "prompt_text": None})]

    def _head(self, call: Call, kind: str, choices: list[Json]) -> Json:
        head: Json = {"id": f"chatcmpl-{call.id}", "object": kind, "created": call.created}
        return head | {"model": call.model, "choices": choices}
