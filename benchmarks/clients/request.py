"""The request sent to every contender."""

import json

from benchmarks.upstream import MODEL

PATH = "/v1/chat/completions"
HEADERS = {"content-type": "application/json"}


def body(size: int = 0, **fields: object) -> bytes:
    """A chat completion whose body has some `size` bytes, at least as many as it takes."""
    text = "x" * max(0, size - 150)
    messages = [{"role": "system", "content": "Answer in a few words."}, {"role": "user", "content": f"Hello {text}"}]
    return json.dumps({"model": MODEL, "messages": messages, "max_tokens": 16, **fields}).encode()


BODY = body(1024)
