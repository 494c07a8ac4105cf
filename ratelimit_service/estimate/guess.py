"""Estimates the tokens of a request before it runs.

Admission reserves the guess and the settlement replaces it by the true count, so a poor guess only means that a little
too much or too little is reserved while the request runs.
"""

from typing import NamedTuple

from gatehouse.contract.asks import Asks

BYTES_PER_TOKEN = 4
"""English text in common tokenizers; JSON around it makes this guess high rather than low."""

TOKENS_PER_IMAGE = 1024
"""An image of usual size in common models; its size in bytes says nothing about that."""


class Tokens(NamedTuple):
    """Token counts of one request: guessed, or true."""

    input: int
    output: int
    cached: int = 0


def estimate(asks: Asks, usual: int) -> Tokens:
    """The guess: the prompt by its size and images; for each choice the request's maximum, or else `usual`."""
    each = usual if asks.max_tokens is None else asks.max_tokens
    return Tokens(_tokens(asks.prompt_bytes) + asks.images * TOKENS_PER_IMAGE, each * asks.choices)


def at_most(asks: Asks) -> Tokens | None:
    """The most output that the request allows; None when it sets no maximum."""
    return None if asks.max_tokens is None else Tokens(0, asks.max_tokens * asks.choices)


def uncounted(asks: Asks, guess: Tokens, answer_bytes: int) -> Tokens:
    """The charge for a complete answer of `answer_bytes` without a token count: the guess, or more if the answer is
    longer. A request that generates nothing is charged for its input."""
    generated = asks.max_tokens != 0
    return guess._replace(output=max(guess.output, _tokens(answer_bytes))) if generated else guess


def _tokens(size: int) -> int:
    return -(-size // BYTES_PER_TOKEN)
