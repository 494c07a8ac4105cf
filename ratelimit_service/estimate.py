"""What a request may come to cost, guessed before it runs.

Admission reserves the guess and the settlement puts the true count in its place, so a poor guess only means that a
little too much or too little is held back while the request runs.
"""

from typing import NamedTuple

from ratelimit_service.caller import Caller

BYTES_PER_TOKEN = 4
"""English text in common tokenizers; JSON around it makes this guess high rather than low."""

OUTPUT_TOKENS = 512
"""For a request that sets no `max_tokens`."""


class Tokens(NamedTuple):
    """Token counts of one request: guessed, or true."""

    input: int
    output: int
    cached: int = 0

    @property
    def total(self) -> int:
        return self.input + self.output


def estimate(caller: Caller) -> Tokens:
    """The guess: the prompt by its size, the completion by what the request allows at most."""
    output = OUTPUT_TOKENS if caller.max_tokens is None else caller.max_tokens
    return Tokens(-(-(caller.body_bytes or 0) // BYTES_PER_TOKEN), output)
