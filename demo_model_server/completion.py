"""`/v1/completions`, and what it shares with `/v1/chat/completions`: limits, usage and the order of a stream's events.

https://platform.openai.com/docs/api-reference/completions, with vLLM's `ignore_eos` and `continuous_usage_stats`.
"""

from abc import abstractmethod
from collections.abc import Iterator
from typing import Literal

from pydantic import BaseModel

from demo_model_server.api import Call, TextRequest, checked_limit, plain_text
from demo_model_server.echo import Answer, echo
from demo_model_server.errors import bad_parameter
from demo_model_server.wire import DONE, Json, event

DEFAULT_LIMIT = 16  # tokens of a completion that states no limit, as OpenAI defines it

FINGERPRINT: Json = {"system_fingerprint": "demo"}  # vLLM puts it on the last chunk that has data


class StreamOptions(BaseModel):
    """`continuous_usage_stats` puts the usage so far on every chunk, and has no effect without `include_usage`."""

    include_usage: bool = False
    continuous_usage_stats: bool = False


def usage(answer: Answer) -> Json:
    """The usage of a whole answer, as vLLM gives it with `--enable-prompt-tokens-details`."""
    return usage_so_far(answer, answer.completion_tokens) | {
        "prompt_tokens_details": {"cached_tokens": answer.cached_tokens}
    }


def usage_so_far(answer: Answer, made: int) -> Json:
    """The usage after `made` tokens. It says nothing of cached tokens: as in vLLM, only the final count does."""
    total = answer.prompt_tokens + made
    return {"prompt_tokens": answer.prompt_tokens, "total_tokens": total, "completion_tokens": made}


class SampledRequest(TextRequest):
    """The fields and the stream that both completion APIs share."""

    max_tokens: int | None = None
    n: Literal[1] | None = 1
    ignore_eos: bool = False
    stream_options: StreamOptions | None = None

    @abstractmethod
    def chunk(self, call: Call, choices: list[Json]) -> Json:
        """A chunk of the stream, without usage."""

    @abstractmethod
    def choice(self, piece: str, finish: str | None) -> Json:
        """One token of the answer; `finish` says why it is the last, if it is."""

    def opening(self) -> list[tuple[Json, Json]]:
        """The chunk that comes before the first token, if the API has one: its choice, and what follows its usage."""
        return []

    def check_stream_options(self) -> None:
        """Raise ApiError when options for streams came with a request for a whole answer, as vLLM does."""
        if self.stream_options and not self.stream:
            raise bad_parameter("stream_options", "Stream options can only be defined when `stream=True`.")

    def events(self, call: Call, answer: Answer) -> Iterator[bytes]:
        options = self.stream_options or StreamOptions()
        continuous = options.include_usage and options.continuous_usage_stats
        for made, choice, tail in self._steps(answer, {} if options.include_usage else FINGERPRINT):
            so_far: Json = {"usage": usage_so_far(answer, made)} if continuous else {}
            yield event(self.chunk(call, [choice]) | so_far | tail)
        if options.include_usage:
            yield event(self.chunk(call, []) | {"usage": usage(answer)} | FINGERPRINT)
        yield DONE

    def _steps(self, answer: Answer, last_tail: Json) -> Iterator[tuple[int, Json, Json]]:
        """Each chunk with a choice: the tokens made by then, the choice, and what follows the usage."""
        for choice, tail in self.opening():
            yield 0, choice, tail
        *early, last = answer.pieces
        for made, piece in enumerate(early, start=1):
            yield made, self.choice(piece, None), {}
        yield answer.completion_tokens, self.choice(last, answer.finish), last_tail


class CompletionRequest(SampledRequest):
    """A request for the continuation of one prompt, given as text or as token ids."""

    prompt: str | list[int]

    def answer(self) -> Answer:
        self.check_stream_options()
        text = plain_text("prompt", self.prompt)
        limit = checked_limit("max_tokens", self.max_tokens)
        return echo(text, text, DEFAULT_LIMIT if limit is None else limit, endless=self.ignore_eos)

    def whole(self, call: Call, answer: Answer) -> Json:
        choice = self.choice(answer.text, answer.finish)
        return self.chunk(call, [choice]) | {"usage": usage(answer)}

    def chunk(self, call: Call, choices: list[Json]) -> Json:
        head: Json = {"id": f"cmpl-{call.id}", "object": "text_completion", "created": call.created}
        return head | {"model": call.model, "choices": choices}

    def choice(self, piece: str, finish: str | None) -> Json:
        made: Json = {"index": 0, "text": piece, "logprobs": None, "finish_reason": finish}
        return made | {"stop_reason": None, "token_ids": None}
