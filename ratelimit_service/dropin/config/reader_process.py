"""Reads the configuration in a separate process: parsing may take seconds and must not delay answers.

A thread would hold the interpreter lock while it parses. The process returns the rules in slices, and the event loop
runs between them.
"""

import asyncio
import gc
import io
import os
import pickle
import sys
from collections.abc import AsyncIterator, Iterable, Iterator
from itertools import islice
from typing import BinaryIO

from ratelimit_service.dropin.config.files import Source
from ratelimit_service.dropin.config.parse import ConfigError, rows
from ratelimit_service.dropin.config.rules import Row, Rules, Tree

SLICE = 100
"""Rules loaded in one turn of the event loop: about half a millisecond."""

TIMEOUT_S = 120.0

_NICE = 5
"""On a busy machine answers come first: the reader gets a third of their CPU share."""


async def read(source: Source, *, merge_domains: bool) -> Rules:
    """The rules in the files. Raises `ConfigError` for what is wrong in them, and `OSError` when they can't be read."""
    answer = await _ask(source, merge_domains)
    tree = Tree()
    collects = gc.isenabled()
    gc.disable()  # the garbage collector would scan all the new rules repeatedly and find nothing
    try:
        async for row in _turns(_slices(answer)):
            tree.add(row)
    finally:
        if collects:
            gc.enable()
    gc.freeze()  # the rules stay: the garbage collector need not scan them again
    return tree.rules


async def _ask(source: Source, merge_domains: bool) -> bytes:
    command = [sys.executable, "-m", __name__]
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe)
    try:
        async with asyncio.timeout(TIMEOUT_S):
            answer, _ = await process.communicate(pickle.dumps((source, merge_domains)))
    except TimeoutError:
        raise OSError(f"{source.directory}: not read within {TIMEOUT_S:.0f} s") from None
    finally:
        if process.returncode is None:
            process.kill()
    if process.returncode:
        raise OSError(f"{source.directory}: the reader process ended with status {process.returncode}")
    return answer


async def _turns(slices: Iterable[list[Row]]) -> AsyncIterator[Row]:
    for one in slices:
        await asyncio.sleep(0)
        for row in one:
            yield row


def _slices(answer: bytes) -> Iterator[list[Row]]:
    """Raise the error that the reader process reports."""
    load = pickle.Unpickler(io.BytesIO(answer)).load
    while (said := load()) is not None:
        if isinstance(said, Exception):
            raise said
        yield said


def write(source: Source, merge_domains: bool, to: BinaryIO) -> None:
    """The reader process. One pickler writes everything, so that equal limits stay one object on both sides."""
    dump = pickle.Pickler(to, pickle.HIGHEST_PROTOCOL).dump
    try:
        found = rows(source.read(), merge_domains=merge_domains)
        while one := list(islice(found, SLICE)):
            dump(one)
    except (ConfigError, OSError) as error:
        dump(error)
    dump(None)


if __name__ == "__main__":
    os.nice(_NICE)
    gc.disable()
    asked, merging = pickle.load(sys.stdin.buffer)
    write(asked, merging, sys.stdout.buffer)
