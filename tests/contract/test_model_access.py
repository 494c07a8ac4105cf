"""Envoy itself decides about models: what the rule says, Envoy's CEL does, up to the limits that it has."""

import http.client
import json
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from gatehouse.contract import names
from gatehouse.contract.model_patterns import MAX_SIZE, regex, size
from gatehouse.envoy import model_access
from gatehouse.envoy.filters import chain
from gatehouse.envoy.message import Message, extension
from tests.contract.bare_envoy import bare_envoy

BODY = [each for each in chain(1) if each["name"] in (names.READER, names.WHOLE_BODY)]


def given(**metadata: object) -> Message:
    """A filter that says of a caller what authz_service would."""
    return extension(
        "envoy.filters.http.set_metadata",
        "envoy.extensions.filters.http.set_metadata.v3.Config",
        metadata=[{"metadata_namespace": names.AUTHZ, "value": metadata}],
    )


@contextmanager
def envoy_with(directory: Path, **metadata: object) -> Iterator[int]:
    with bare_envoy([given(**metadata), *BODY, model_access.by_requested_name()], directory) as envoy:
        yield envoy.port


def passing(port: int, models: Sequence[str]) -> list[str]:
    return [model for model in models if status(port, json.dumps({"model": model}).encode()) == 200]


def status(port: int, body: bytes) -> int:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=20)) as client:
        client.request("POST", "/", body, {"content-type": "application/json"})
        return client.getresponse().status


NAMES = ["llama-8b", "llama-70b", "mistral", "é", "a\nb", "*"]


@pytest.mark.parametrize(
    ("models", "expressions", "allowed"),
    [
        (["*"], [], NAMES),
        (["mistral", "é"], [], ["mistral", "é"]),
        ([], [regex(["llama-*"])], ["llama-8b", "llama-70b"]),
        (["é"], [regex(["llama-*"]), regex(["*-8?", "mistral"])], ["llama-8b", "é"]),
        ([], [regex(["?"])], ["é", "*"]),
        ([], [regex(["a?b"])], ["a\nb"]),
        ([], [regex(["l*"]), regex(["ll*"]), regex(["*b"]), regex(["*70*"])], ["llama-70b"]),
        ([], [], []),
    ],
)
def test_envoy_lets_pass_what_is_listed_and_what_every_expression_is_found_in(
    tmp_path: Path, models: list[str], expressions: list[str], allowed: list[str]
) -> None:
    with envoy_with(tmp_path, models=models, expressions=expressions) as port:
        assert passing(port, NAMES) == allowed
        for body in (b"{}", b"not json"):
            assert status(port, body) == 403, "a body that names no model is for nobody"


@pytest.mark.parametrize(
    "metadata",
    [
        {},
        {"models": "mistral"},
        {"models": None, "expressions": None},
        {"models": {"a": 1}, "expressions": 7},
        {"expressions": ["("]},
        {"models": [], "expressions": ["^(?s:mistral)", "("]},
        {"models": [1, None], "expressions": [None]},
    ],
)
def test_what_is_missing_or_broken_denies(tmp_path: Path, metadata: dict[str, object]) -> None:
    with envoy_with(tmp_path, **metadata) as port:
        assert passing(port, NAMES) == []


@pytest.mark.parametrize("count", [60, 500])
def test_hundreds_of_names_may_be_listed(tmp_path: Path, count: int) -> None:
    models = [f"meta-llama/Llama-3.{i}-70B-Instruct" for i in range(count)]
    asked = [models[0], models[count // 2], models[-1], "meta-llama/Llama-3", "mistral"]
    with envoy_with(tmp_path, models=models, expressions=[]) as port:
        assert passing(port, asked) == asked[:3]


def test_an_empty_name_passes_nowhere(tmp_path: Path) -> None:
    """Of such a body Envoy says nothing at all, not even that the model is missing."""
    with envoy_with(tmp_path, models=["*"], expressions=["^(?s:)"]) as port:
        assert status(port, b'{"model": ""}') == 403


LONGEST = {
    "prefixes": [f"{letter}lama-model-*" for letter in "abcdefghijklmnop"],
    "suffixes": [f"*-{letter}-chat" for letter in "abcdefghijklmnop"],
    "both ends": [f"{letter}*{letter}" for letter in "abcdefghijklmnop"],
    "question marks": [f"{letter}-??" for letter in "abcdefghijklmnop"],
    "a common beginning": [f"meta-llama/{letter}-ll*" for letter in "abcdefghijklmnopqrstuvwxyz"],
    "not ASCII": [f"é{letter}漢*" for letter in "abcdefghijklmnopqrstuvwxyz"],
}


@pytest.mark.parametrize("kind", LONGEST)
def test_whatever_size_allows_envoy_evaluates(tmp_path: Path, kind: str) -> None:
    """Beyond its own limit Envoy would deny without a word."""
    patterns = [LONGEST[kind][0]]
    for pattern in LONGEST[kind][1:]:
        if size([*patterns, pattern]) <= MAX_SIZE:
            patterns.append(pattern)
    assert len(patterns) > 3
    assert size(patterns) > MAX_SIZE - 20
    asked = [pattern.replace("*", "x").replace("?", "é") for pattern in patterns]
    with envoy_with(tmp_path, models=[], expressions=[regex(patterns)]) as port:
        assert passing(port, [*asked, "mistral"]) == asked
