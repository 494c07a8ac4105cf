"""`/tokenize` and `/detokenize`: the tokenizer over HTTP, in vLLM's shapes."""

from pydantic import Field

from demo_model_server import tokens
from demo_model_server.api import Call, Message, PlainRequest, plain_text, transcript
from demo_model_server.echo import MAX_ANSWER
from demo_model_server.wire import Json


class TokenizeRequest(PlainRequest):
    """The tokens of a prompt, or of a conversation as the chat API reads it."""

    prompt: str | None = None
    messages: list[Message] = Field(default_factory=list)
    return_token_strs: bool | None = False

    def respond(self, call: Call) -> Json:
        pieces = list(tokens.split(transcript(self.messages) if self.prompt is None else self.prompt))
        numbers = [tokens.token_id(piece) for piece in pieces]
        texts = pieces if self.return_token_strs else None
        return {"count": len(numbers), "max_model_len": MAX_ANSWER, "tokens": numbers, "token_strs": texts}


class DetokenizeRequest(PlainRequest):
    """The text of token ids that `/tokenize` gave."""

    tokens: list[int]

    def respond(self, call: Call) -> Json:
        return {"prompt": plain_text("tokens", self.tokens)}
