"""The reader of requests beside vLLM's own types: what vLLM takes a body for, the reader says too, or refuses it."""

import base64
import json
import subprocess
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from testkit.lua_scripts import Asked, cut, read_request
from testkit.request_bodies import DIALECTS, bodies
from tests.vllm.conftest import ENVIRONMENT, STAMP

pytestmark = pytest.mark.vllm

BODIES = 20_000
MOST = 999_999_999_999

AS_VLLM = """
import base64, json, sys
from vllm.entrypoints.anthropic.protocol import AnthropicMessagesRequest
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.openai.completion.protocol import CompletionRequest
from vllm.entrypoints.openai.responses.protocol import ResponsesRequest

KINDS = {
    "/v1/chat/completions": (ChatCompletionRequest, {"messages": [{"role": "user", "content": "x"}]}),
    "/v1/completions": (CompletionRequest, {"prompt": "x"}),
    "/v1/responses": (ResponsesRequest, {"input": "x"}),
    "/v1/messages": (AnthropicMessagesRequest, {"messages": [{"role": "user", "content": "x"}], "max_tokens": 9}),
}

def read(path, body):
    kind, needed = KINDS[path]
    try:
        said = json.loads(body)
        request = kind.model_validate({**needed, **said})
    except BaseException:
        return None
    def of(name):
        return getattr(request, name, None) if name in kind.model_fields else None
    most = of("max_completion_tokens")
    for name in ("max_tokens", "max_output_tokens"):
        if most is None and (name in said or path == "/v1/completions"):
            most = of(name)
    prompt, n = of("prompt"), of("n")
    several = isinstance(prompt, list) and prompt and not isinstance(prompt[0], int)
    choices = (1 if n is None else n) * (len(prompt) if several else 1)
    return [request.model, bool(of("stream")), most, choices]

for line in sys.stdin:
    path, body = line.split()
    print(json.dumps(read(path, base64.b64decode(body))), flush=True)
"""


@pytest.fixture(scope="module")
def as_vllm() -> Any:
    if not STAMP.is_file():
        pytest.skip(f"real vLLM is not installed: `python scripts/vllm_env.py` makes {ENVIRONMENT.name}")
    python = str(ENVIRONMENT / "bin" / "python")
    with subprocess.Popen(
        [python, "-c", AS_VLLM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:

        def ask(path: str, body: bytes) -> Any:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(f"{path} {base64.b64encode(body).decode()}\n")
            process.stdin.flush()
            return json.loads(process.stdout.readline())

        yield ask
        process.kill()


def test_there_is_no_body_on_which_vllm_and_the_reader_differ(as_vllm: Any) -> None:
    compared = 0

    @settings(
        max_examples=BODIES,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],
        database=None,
    )
    @given(bodies(), st.sampled_from(list(DIALECTS)), st.sampled_from([1, 3, 10_000]))
    def compare(body: bytes, path: str, size: int) -> None:
        nonlocal compared
        ours = read_request(cut(body, size), path, default_model="default")
        theirs = as_vllm(path, body) if isinstance(ours, Asked) else None
        if not isinstance(ours, Asked) or theirs is None:
            return
        compared += 1
        model, stream, most, choices = theirs
        said, number, _, _ = ours.asks.split("/")
        assert ours.model == ("default" if model is None else model)
        assert ours.stream == stream
        assert said == ("-" if most is None or most < 0 else str(min(most, MOST)))
        assert int(number) == min(max(choices, 1), MOST)

    compare()
    print(f"{compared} bodies that both read, of {BODIES}")
    assert compared > BODIES / 20
