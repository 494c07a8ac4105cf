"""The real Envoy runs whatever a valid configuration becomes, and envoy-data-plane's types know what it says."""

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, given, settings

from gatehouse.config import Config
from gatehouse.config.run_dir import RunDir
from gatehouse.envoy import merged
from gatehouse.gateway.envoy_binary import EnvoyRejectsError, validate
from testkit.envoy_configs import CONFIGS, valid_configs

RUN_DIR = RunDir(Path("/run/gatehouse"))
C04 = settings(deadline=None, suppress_health_check=list(HealthCheck), print_blob=True)


def accepted(config: Config) -> None:
    with TemporaryDirectory() as directory:
        validate(merged(config, RUN_DIR, "/dev/null"), Path(directory))


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_envoy_accepts_every_shape_of_configuration(config: Config) -> None:
    accepted(config)


@settings(C04, max_examples=12)
@given(valid_configs)
def test_c04_envoy_accepts_any_valid_configuration(config: Config) -> None:
    accepted(config)


@pytest.mark.slow
@settings(C04, max_examples=500)
@given(valid_configs)
def test_c04_envoy_accepts_500_valid_configurations(config: Config) -> None:
    accepted(config)


@pytest.mark.parametrize("name", ["N", "y", "no", "on", "null", "1e3", "~", "0x10"])
def test_a_model_may_have_a_name_that_looks_like_something_else(name: str) -> None:
    accepted(Config.model_validate({"vllm": {"base_url": "http://gpu", "default_model": name}}))


def test_what_envoy_refuses_is_told_in_its_own_words(tmp_path: Path) -> None:
    document = merged(CONFIGS["short"], RUN_DIR, "/dev/null")
    document["static_resources"]["clusters"][0]["lb_policy"] = "NO_SUCH"
    with pytest.raises(EnvoyRejectsError, match="NO_SUCH") as refused:
        validate(document, tmp_path)
    assert not str(refused.value).startswith("[")
    assert list(tmp_path.iterdir()) == []
