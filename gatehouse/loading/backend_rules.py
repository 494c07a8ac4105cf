"""Checks of a model's settings against its backends: errors and advice."""

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from gatehouse.config.model import Config, Model, base_path
from gatehouse.loading.key_table import Finding


def faults(config: Config, name: str, model: Model) -> Iterator[Finding]:
    """The errors of `model`, called `name`."""
    at = ("models", name, "backends")
    if len({base_path(backend.url) for backend in model.backends}) > 1:
        paths = ", ".join(sorted({base_path(backend.url) or "/" for backend in model.backends}))
        hint = "make them two models, or serve them at the same path"
        yield at, f"backends of one model must have the same path, and these have {paths}", hint
    urls = [backend.url.removesuffix("/v1") for backend in model.backends]
    for index, backend in enumerate(model.backends):
        if urls[index] in urls[:index]:
            yield (*at, index, "url"), "this backend is listed twice", "give one of them a weight of 2"
        if backend.ca_file is not None:
            yield from _authority(backend.url, backend.ca_file, (*at, index, "ca_file"))
    if model.concurrent_requests_per_backend == 1 and len({tier.weight for tier in config.rate_limits.values()}) > 1:
        where = ("models", name, "concurrent_requests_per_backend")
        yield where, "a single slot can't be shared between tiers of different weight", "raise it to 2 or more"


def _authority(url: str, ca_file: str, at: tuple[str | int, ...]) -> Iterator[Finding]:
    if urlsplit(url).scheme != "https":
        yield at, "has no effect without https", "write https:// in url, or remove it"
        return
    try:
        pem = Path(ca_file).read_bytes()
    except OSError as error:
        yield at, f"can't be read: {error.strerror}", "create it, readable by the user the gateway runs as"
        return
    if b"-----BEGIN CERTIFICATE-----" not in pem:
        yield at, f"{ca_file} contains no certificate", "it must be PEM"


def advice(config: Config) -> Iterator[Finding]:
    """Fields without effect."""
    for name, model in config.models.items():
        at = ("models", name)
        if "session_header" in model.model_fields_set and model.balance != "session_affinity":
            yield (*at, "session_header"), "has no effect without balance: session_affinity", None
        if "queued_requests" in model.model_fields_set and model.concurrent_requests_per_backend is None:
            yield (*at, "queued_requests"), "has no effect without concurrent_requests_per_backend", None
