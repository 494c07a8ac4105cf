"""What every kind of request must offer. A request is a pydantic model of its JSON body; unknown fields are ignored."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

from pydantic import BaseModel

from demo_model_server import tokens
from demo_model_server.echo import MAX_ANSWER, Answer
from demo_model_server.errors import bad_parameter
from demo_model_server.wire import Json


@dataclass(frozen=True, slots=True)
class Call:
    """What an answer carries besides its content. The id has no prefix yet; `created` is in Unix seconds."""

    id: str
    created: int
    model: str


class ApiRequest(BaseModel, ABC):
    """Any request. Without `model` the server's first model answers."""

    model: str | None = None


class PlainRequest(ApiRequest):
    """A request with one whole answer."""

    @abstractmethod
    def respond(self, call: Call) -> Json:
        """The body of the answer. Raises ApiError when the request makes no sense."""


class TextRequest(ApiRequest):
    """A request for text, given whole or as a stream of events."""

    stream: bool | None = False

    @abstractmethod
    def answer(self) -> Answer:
        """The text and its cost. Raises ApiError when the request makes no sense."""

    @abstractmethod
    def whole(self, call: Call, answer: Answer) -> Json:
        """The body of the answer when it is not streamed."""

    @abstractmethod
    def events(self, call: Call, answer: Answer) -> Iterator[bytes]:
        """The stream, one server-sent event at a time, the final `[DONE]` included where the API has one."""


def checked_limit(name: str, value: int | None) -> int | None:
    """A limit on the tokens of an answer. Raises ApiError unless it is from 1 to `MAX_ANSWER`, or absent."""
    if value is not None and not 1 <= value <= MAX_ANSWER:
        raise bad_parameter(name, f"{name} must be from 1 to {MAX_ANSWER}, got {value}.")
    return value


def plain_text(name: str, prompt: str | list[int]) -> str:
    """The text of a prompt given as text or as token ids. Raises ApiError at an id that no token has."""
    if isinstance(prompt, str):
        return prompt
    try:
        return tokens.join(prompt)
    except ValueError as error:
        raise bad_parameter(name, f"{error}.") from error


class Part(BaseModel):
    """A part of a message; images, audio and tool calls count as no text."""

    text: str | None = None


class Message(BaseModel):
    """A message of any chat API. Its content is a text or a list of parts."""

    role: str = "user"
    content: str | list[Part] | None = None

    @property
    def text(self) -> str:
        return content_text(self.content)


def content_text(content: str | list[Part] | None) -> str:
    """The text in a message's content."""
    if isinstance(content, str):
        return content
    return "".join(part.text or "" for part in content or [])


def transcript(messages: list[Message]) -> str:
    """All that a model reads of a conversation, one `role: text` line a message."""
    return "\n".join(f"{message.role}: {message.text}" for message in messages)
