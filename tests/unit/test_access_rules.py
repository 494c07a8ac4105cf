"""Mistakes in lists of models and addresses are named with their line; lists without effect are pointed out."""

from pathlib import Path

import pytest

from gatehouse.config import ConfigError
from gatehouse.loading.load import load_with_advice

SHORT = "vllm: {base_url: 'http://h/v1'}\n"
LONG = "models:\n  llama-70b: {backends: [{url: 'http://h/v1'}], aliases: [gpt-4o]}\n"
KEY = "api_keys:\n  sk-secret-0001: {user_id: alice, "


def found(tmp_path: Path, text: str) -> list[str]:
    """Every fault, or else every warning."""
    file = tmp_path / "gatehouse.yaml"
    file.write_text(text)
    try:
        problems = load_with_advice(file, {}).warnings
    except ConfigError as error:
        problems = error.problems
    return [str(problem).replace(f"{tmp_path}/gatehouse.yaml", "") for problem in problems]


FAULTS = [
    (SHORT + KEY + "models: []}\n", ":3: api_keys.<key>.models: an empty list would allow nothing (remove it to allow"),
    (SHORT + KEY + "allowed_ips: []}\n", ":3: api_keys.<key>.allowed_ips: an empty list would allow nothing"),
    (SHORT + "users: {alice: {models: []}}\n", ":2: users.alice.models: an empty list"),
    (SHORT + "teams: {search: {allowed_ips: []}}\n", ":2: teams.search.allowed_ips: an empty list"),
    (SHORT + "rate_limits: {free: {allowed_models: []}}\n", ":2: rate_limits.free.allowed_models: an empty list"),
    (SHORT + "users: {alice: {model: [a]}}\n", ":2: users.alice.model: unknown field (did you mean 'models'?)"),
    (SHORT + "users: {alice: {disabld: true}}\n", "(did you mean 'disabled'?)"),
    (SHORT + "users: {alice: {disabled: 1}}\n", ":2: users.alice.disabled: "),
    (SHORT + "teams: {search: {disabled: true}}\n", ":2: teams.search.disabled: unknown field"),
    (SHORT + "rate_limits: {free: {allowed_ips: [10.0.0.1/8]}}\n", "'10.0.0.1/8' is not an address or a network"),
    (
        SHORT + "teams: {search: {allowed_ips: [office]}}\n",
        ":2: teams.search.allowed_ips[0]: 'office' is not an address",
    ),
    ("models:\n  '*': {backends: [{url: 'http://h/v1'}]}\n", ":2: models.*: a model can't be called '*'"),
    ("vllm: {base_url: 'http://h/v1', default_model: '**'}\n", ":1: vllm.default_model: a model can't be called '**'"),
    (
        SHORT + f"teams:\n  search: {{models: [{', '.join(f'{c}-quite-a-long-name-*' for c in 'abcdefg')}]}}\n",
        ":3: teams.search.models: these patterns are too many or too long for Envoy to evaluate (name models in full",
    ),
]


@pytest.mark.parametrize(("text", "fault"), FAULTS, ids=[fault for _, fault in FAULTS])
def test_a_mistake_is_named_with_its_place(tmp_path: Path, text: str, fault: str) -> None:
    faults = found(tmp_path, text)
    assert any(fault in each for each in faults), faults
    assert "sk-secret" not in str(faults)


ADVICE = [
    (LONG + KEY + "models: [lama-70b]}\n", "models[0]: no model matches 'lama-70b' (did you mean 'llama-70b'?)"),
    (LONG + "users: {alice: {models: [gpt-4, gpt-4o]}}\n", "users.alice.models[0]: no model matches 'gpt-4'"),
    (
        LONG + "rate_limits: {free: {allowed_models: ['qwen*']}}\n",
        "rate_limits.free.allowed_models[0]: no model matches",
    ),
    (
        SHORT + "users: {alice: {}}\n",
        ":2: users.alice: has no effect: nothing is set (set limits, models or allowed_ips)",
    ),
    (SHORT + "teams: {search: {}}\n", ":2: teams.search: has no effect"),
]


@pytest.mark.parametrize(("text", "advice"), ADVICE, ids=[advice for _, advice in ADVICE])
def test_what_has_no_effect_is_pointed_out(tmp_path: Path, text: str, advice: str) -> None:
    warnings = found(tmp_path, text)
    assert any(advice in each for each in warnings), warnings


def test_lists_that_mean_something_are_taken_without_a_word(tmp_path: Path) -> None:
    lists = "models: ['llama-*', gpt-4o], allowed_ips: [10.0.0.0/8, '2001:db8::/32']"
    text = LONG + f"users: {{alice: {{{lists}}}, bob: {{disabled: true}}}}\nteams: {{search: {{{lists}}}}}\n"
    text += "rate_limits: {standard: {allowed_models: ['*']}}\n" + KEY + f"{lists}}}\n"
    assert [each for each in found(tmp_path, text) if "plain text" not in each] == []


def test_a_pattern_that_many_keys_have_is_pointed_out_once(tmp_path: Path) -> None:
    keys = "".join(f"  sk-secret-{i:04}: {{user_id: alice, models: [nope]}}\n" for i in range(50))
    assert sum("no model matches" in each for each in found(tmp_path, LONG + "api_keys:\n" + keys)) == 1


def test_any_number_of_full_names_and_of_patterns_that_allow_everything_is_fine(tmp_path: Path) -> None:
    names = ", ".join(f"meta-llama/Llama-3.{i}-70B" for i in range(300))
    assert [
        each
        for each in found(tmp_path, SHORT + f"users: {{alice: {{models: [{names}, 'llama-*']}}}}\n")
        if "alice" in each
    ] == []
    long = ", ".join(f"'{c}-quite-a-long-name-*'" for c in "abcdefghij")
    assert not any(
        "too many" in each for each in found(tmp_path, SHORT + f"users: {{alice: {{models: [{long}, '*']}}}}\n")
    )
