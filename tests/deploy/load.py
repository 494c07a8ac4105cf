"""Callers who go on calling while something is restarted, and what they were told."""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx2 as httpx

CHAT = "/v1/chat/completions"
MODEL = "meta-llama/Llama-3.1-8B-Instruct"
CUT = "cut"
"""What a caller notes whose connection was refused or reset."""


def body(words: int, *, stream: bool) -> dict[str, Any]:
    return {"model": MODEL, "stream": stream, "messages": [{"role": "user", "content": "word " * words}]}


@dataclass
class Outcome:
    """Status and error code (or `cut`) -> how often; the ids of the requests that were answered 200."""

    seen: "Counter[str]" = field(default_factory=Counter)
    answered: list[str] = field(default_factory=list)

    def note(self, client: httpx.Client, stream: bool) -> None:
        try:
            answer = client.post(CHAT, json=body(5, stream=stream))
        except httpx.TransportError:
            self.seen[CUT] += 1
            return
        if answer.status_code == 200:
            self.answered.append(answer.headers["x-request-id"])
            whole = "[DONE]" in answer.text if stream else "usage" in answer.json()
            self.seen["200" if whole else CUT] += 1
        else:
            self.seen[f"{answer.status_code} {answer.json()['error']['code']}"] += 1


@contextmanager
def load(client: httpx.Client, callers: int = 4) -> Iterator[Outcome]:
    """Callers call, half of them for streams, from two seconds before the block on until two seconds after it."""
    outcome, over = Outcome(), threading.Event()

    def call(stream: bool) -> None:
        while not over.is_set():
            outcome.note(client, stream)
            time.sleep(0.05)

    threads = [threading.Thread(target=call, args=(index % 2 == 0,)) for index in range(callers)]
    for thread in threads:
        thread.start()
    try:
        time.sleep(2)
        yield outcome
        time.sleep(2)
    finally:
        over.set()
        for thread in threads:
            thread.join()


@contextmanager
def long_stream(client: httpx.Client, words: int = 1000) -> Iterator["threading.Thread"]:
    """A stream that runs while the block does; it must then come to its end: the block waits for that."""
    lines: list[str] = []
    failure: list[Exception] = []

    def read() -> None:
        try:
            with client.stream("POST", CHAT, json=body(words, stream=True), timeout=120) as answer:
                lines.extend(line for line in answer.iter_lines() if line)
        except httpx.TransportError as error:
            failure.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    time.sleep(1)
    assert reader.is_alive(), "the stream should run longer than a second"
    yield reader
    reader.join(120)
    assert not failure, failure
    assert lines[-1] == "data: [DONE]"
