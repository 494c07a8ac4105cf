"""A gateway as a team writes it in an afternoon: keys, four windows in Redis, tokens charged, a log line a request.

It is meant to be a good one: one round trip to Redis before and one after each request, a pool of connections to the
model server, nothing buffered that need not be, no framework feature in the way. It runs in an environment of its own,
and imports nothing of Gatehouse.
"""

import hashlib
import json
import os
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import redis.asyncio as redis
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

FOLDER = Path(os.environ["FOLDER"])
KEYS: dict[str, dict[str, str]] = json.loads((FOLDER / "keys.json").read_text())
MUCH = 4_000_000_000
WINDOWS = (("requests", 60), ("requests", 3600), ("tokens", 60), ("tokens", 86_400))
USAGE = re.compile(rb'"usage":\s*(\{[^{}]*\})')

state: dict[str, Any] = {}


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=1000)
    state["model_server"] = httpx.AsyncClient(base_url=os.environ["UPSTREAM"], timeout=600, limits=limits)
    state["store"] = redis.Redis(unix_socket_path=str(FOLDER / "redis.sock"))
    state["log"] = (FOLDER / f"requests-{os.getpid()}.log").open("a")
    yield
    await state["model_server"].aclose()


app = FastAPI(lifespan=lifespan, openapi_url=None)


def refusal(status: int, message: str, code: str) -> JSONResponse:
    return JSONResponse({"error": {"message": message, "type": "invalid_request_error", "code": code}}, status)


def windows(user: str) -> list[tuple[str, int]]:
    now = int(time.time())
    return [(f"{user}:{measure}:{period}:{now // period}", period) for measure, period in WINDOWS]


async def charge(user: str, requests: int, tokens: int) -> list[int]:
    """Count in all windows at once; what each holds now."""
    async with state["store"].pipeline(transaction=False) as pipe:
        for (name, period), (measure, _) in zip(windows(user), WINDOWS, strict=True):
            pipe.incrby(name, requests if measure == "requests" else tokens)
            pipe.expire(name, period)
        return (await pipe.execute())[::2]


def record(caller: dict[str, str], asked: dict[str, Any], status: int, usage: dict[str, Any], began: float) -> None:
    line = {
        "time": time.time(),
        **caller,
        "model": asked.get("model"),
        "status": status,
        "prompt_tokens": usage.get("prompt_tokens"),
        "completion_tokens": usage.get("completion_tokens"),
        "duration_ms": (time.perf_counter() - began) * 1000,
    }
    state["log"].write(json.dumps(line) + "\n")


async def settle(caller: dict[str, str], asked: dict[str, Any], estimate: int, usage: dict[str, Any]) -> None:
    await charge(caller["user"], 0, usage.get("total_tokens", estimate) - estimate)


@app.post("/v1/chat/completions")
async def complete(request: Request) -> Response:
    began = time.perf_counter()
    key = request.headers.get("authorization", "").removeprefix("Bearer ")
    caller = KEYS.get(hashlib.sha256(key.encode()).hexdigest())
    if caller is None:
        return refusal(401, "Invalid API key.", "invalid_api_key")
    body = await request.body()
    try:
        asked = json.loads(body)
    except ValueError:
        return refusal(400, "The body is not JSON.", "invalid_json")
    estimate = len(body) // 4 + (asked.get("max_tokens") or 256)
    used = await charge(caller["user"], 1, estimate)
    left = {f"x-ratelimit-remaining-{m}-{p}": str(MUCH - n) for (m, p), n in zip(WINDOWS, used, strict=True)}
    if max(used) > MUCH:
        return refusal(429, "Rate limit exceeded.", "rate_limit_exceeded")
    streams = asked.get("stream") is True
    if streams and not asked.get("stream_options"):
        asked["stream_options"] = {"include_usage": True}
        body = json.dumps(asked).encode()
    headers = {"content-type": "application/json", "x-user": caller["user"]}
    sent = state["model_server"].build_request("POST", "/v1/chat/completions", content=body, headers=headers)
    answer = await state["model_server"].send(sent, stream=streams)
    kind = answer.headers.get("content-type")
    if streams:
        passing = pass_on(answer, caller, asked, estimate, began)
        return StreamingResponse(passing, answer.status_code, left, media_type=kind)
    usage = json.loads(answer.content).get("usage") or {}
    await settle(caller, asked, estimate, usage)
    record(caller, asked, answer.status_code, usage, began)
    return Response(answer.content, answer.status_code, left, media_type=kind)


async def pass_on(
    answer: httpx.Response, caller: dict[str, str], asked: dict[str, Any], estimate: int, began: float
) -> AsyncIterator[bytes]:
    """The stream as it comes; its last usage is what it cost."""
    usage: dict[str, Any] = {}
    try:
        async for chunk in answer.aiter_raw():
            found = USAGE.findall(chunk)
            if found:
                usage = json.loads(found[-1])
            yield chunk
    finally:
        await answer.aclose()
        await settle(caller, asked, estimate, usage)
        record(caller, asked, answer.status_code, usage, began)
