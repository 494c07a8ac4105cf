"""Credentials for model servers, which Envoy reads itself: rendered files have only their places.

Envoy's admin interface shows them as `[redacted]`, and no command line holds them.
"""

from collections.abc import Callable
from hashlib import sha256

from gatehouse.config.model import Config, Model
from gatehouse.envoy.message import Message, extension, typed

_INJECTOR = "envoy.extensions.filters.http.credential_injector.v3.CredentialInjector"
_GENERIC = "envoy.extensions.http.injected_credentials.generic.v3.Generic"
_CODEC = "envoy.extensions.filters.http.upstream_codec.v3.UpstreamCodec"


Source = Callable[[str], Message]
"""File name -> the configuration source that Envoy reads it by."""


def injection(name: str, model: Model, source: Source | None) -> Message:
    """The filters of a cluster whose servers need a credential. The client's own never gets this far."""
    if model.upstream_api_key is None:
        return {}
    secret = {"name": _secret(name), **({"sds_config": source(file_of(name))} if source else {})}
    bearer = extension(
        "envoy.http.injected_credentials.generic", _GENERIC, credential=secret, header_value_prefix="Bearer "
    )
    injector = extension("envoy.filters.http.credential_injector", _INJECTOR, overwrite=True, credential=bearer)
    return {"http_filters": [injector, {"name": "envoy.filters.http.upstream_codec", "typed_config": typed(_CODEC)}]}


def secrets(config: Config) -> dict[str, Message]:
    """File name -> the secret that SDS serves from it: the place of the credential. Envoy takes one per file."""
    return {
        file_of(name): {"name": _secret(name), "generic_secret": {"secret": _source(reference)}}
        for name, reference in _references(config).items()
    }


def placeholders(config: Config) -> list[Message]:
    """Secrets to validate a configuration with, on a machine without the real ones."""
    nothing = {"secret": {"inline_string": "-"}}
    return [{"name": _secret(name), "generic_secret": nothing} for name in _references(config)]


def file_of(model: str) -> str:
    """The file name for a model, whose name may be any text."""
    return f"secret-{sha256(model.encode()).hexdigest()[:12]}.yaml"


def _references(config: Config) -> dict[str, str]:
    return {name: model.upstream_api_key for name, model in config.models.items() if model.upstream_api_key}


def _secret(model: str) -> str:
    return f"upstream_api_key:{model}"


def _source(reference: str) -> Message:
    kind, _, place = reference.partition(":")
    return {"environment_variable": place} if kind == "env" else {"filename": place}
