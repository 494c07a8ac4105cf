"""The answer to a prompt, and its cost in tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Literal

from demo_model_server import tokens

MAX_ANSWER = 131_072  # tokens
CACHE_BLOCK = 16  # tokens in one block of a prefix cache, as in vLLM


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer as its tokens, and the tokens of the prompt it was made from."""

    pieces: Sequence[str]
    finish: Literal["stop", "length"]
    prompt_tokens: int

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    @property
    def completion_tokens(self) -> int:
        return len(self.pieces)

    @property
    def cached_tokens(self) -> int:
        """The prompt's whole cache blocks, as if it had been asked before; its last token is always computed."""
        return max(0, self.prompt_tokens - 1) // CACHE_BLOCK * CACHE_BLOCK


def echo(prompt: str, said: str, limit: int | None, *, endless: bool = False) -> Answer:
    """Echo `said`, in at most `limit` tokens; an `endless` answer repeats itself until the limit.

    `prompt` is all that the model would have read: its tokens are counted.
    """
    most = MAX_ANSWER if limit is None else limit
    whole = tokens.split(f"You said: {said}\n")
    pieces = list(islice(cycle(whole) if endless else whole, most))
    return Answer(pieces, "length" if len(pieces) == most else "stop", tokens.count(prompt))
