"""`gatehouse.yaml` + environment -> `Config`, or every problem with its file, line and path."""

import hashlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import Any

from pydantic import ValidationError

from gatehouse.config import environment as env
from gatehouse.config.model import Config
from gatehouse.config.places import Path
from gatehouse.config.problem import VARIABLE, ConfigError, Problem
from gatehouse.config.source import API_KEYS, Source, dotted, parse
from gatehouse.config.wording import explained
from gatehouse.loading import fixed, rules
from gatehouse.loading.gc_paused import uncollected
from gatehouse.loading.key_table import Finding, KeyRetention, KeyTable


@dataclass(frozen=True, slots=True)
class Loaded:
    """A valid configuration, with advice on it and the first key a person could try (None if all are hashed).

    `digest`: SHA-256 of the text it was read from. `settings`: that text's data without the keys, which are in `keys`;
    None: the keys are in the settings, because environment variables change some.
    """

    config: Config
    warnings: tuple[Problem, ...]
    plain_key: str | None = field(repr=False)
    digest: bytes
    settings: Mapping[str, Any] = field(repr=False)
    keys: KeyTable | None = field(repr=False)


def load(
    file: FilePath,
    environment: Mapping[str, str] | None = None,
    keys: KeyTable | None = None,
    in_force: Config | None = None,
) -> Config:
    """Read and check `file`, without its key files. Raises `ConfigError` with all its problems.

    The keys go to `keys`, which decides what of them stays in the configuration; without it, all of them do. Fields
    that a running gateway can't change must be as in `in_force`, the active configuration, if there is one.
    """
    return _Reader(file, environment, keys or KeyTable(KeyRetention.EVERYTHING)).config(in_force)


def load_with_advice(
    file: FilePath,
    environment: Mapping[str, str] | None = None,
    keys: KeyTable | None = None,
    in_force: Config | None = None,
) -> Loaded:
    """As `load`, with the warnings."""
    keys = keys or KeyTable(KeyRetention.EVERYTHING)
    with uncollected():
        reader = _Reader(file, environment, keys)
        config = reader.config(in_force)
    warnings = reader.problems(rules.advice(config, keys))
    apart = None if reader.keys_overridden else keys
    return Loaded(config, tuple(warnings), next(iter(keys.plain), None), reader.digest, reader.settings, apart)


def digest_of(text: bytes) -> bytes:
    """Identifies a text."""
    return hashlib.sha256(text).digest()


def text_of(file: FilePath) -> bytes:
    """The content of `file`, checked to be UTF-8. Raises `ConfigError` if it can't be read or isn't."""
    try:
        text = file.read_bytes()
        text.decode("utf-8")
    except UnicodeDecodeError:
        raise ConfigError([Problem(str(file), None, "", "not UTF-8 text")]) from None
    except OSError as error:
        raise ConfigError([Problem(str(file), None, "", f"can't be read: {error.strerror}", passing=True)]) from None
    return text


class _Reader:
    def __init__(self, file: FilePath, environment: Mapping[str, str] | None, keys: KeyTable) -> None:
        self._overrides = env.overrides(os.environ if environment is None else environment)
        self.keys_overridden = any(path[:1] == API_KEYS for path in self._overrides)
        self._keys = keys
        text = text_of(file)
        self.digest = digest_of(text)
        self._source = self._parsed(text, str(file))

    @property
    def settings(self) -> Mapping[str, Any]:
        """The file's data; without its keys, unless environment variables change some."""
        settings: dict[str, Any] = self._source.data
        return settings if self.keys_overridden else {**settings, "api_keys": {}}

    def config(self, in_force: Config | None) -> Config:
        data = env.apply(self._source.data, self._overrides)
        if isinstance(section := data.get("api_keys"), dict):  # not seen by the taker, such as an alias
            take = self._keys.taker()
            for written, fields in section.items():
                take(written, fields)
            data["api_keys"] = {}
        found = list(self._keys.faults)
        try:
            config = Config.model_validate(data)
        except ValidationError as error:
            found += map(_finding, error.errors(include_input=False, include_url=False))
            raise ConfigError(self._in_order(found)) from None
        if found or (found := [*rules.faults(config, self._keys), *fixed.faults(in_force, config)]):
            raise ConfigError(self._in_order(found))
        return config.model_copy(update={"api_keys": self._keys.entries})

    def problems(self, found: Iterable[Finding]) -> list[Problem]:
        """Findings as problems, with their lines."""
        findings = list(found)
        if not findings:
            return []
        places = self._source.places(path for path, _, _ in findings)
        return [self._problem(*finding, places.of(finding[0])) for finding in findings]

    def _parsed(self, text: bytes, origin: str) -> Source:
        takers = {} if self.keys_overridden else {API_KEYS: self._keys.taker()}
        source = parse(text, origin, takers)
        if source.data is None:
            source.data = {}
        if not isinstance(source.data, dict):
            raise ConfigError([Problem(origin, 1, "", "must contain settings such as 'server:' and 'vllm:'")])
        return source

    def _problem(self, path: Path, message: str, hint: str | None, line: int | None) -> Problem:
        for prefix in (path[:end] for end in range(len(path), 0, -1)):
            if prefix in self._overrides:
                return Problem(f"{VARIABLE}{self._overrides[prefix][0]}", None, dotted(path), message, hint)
        return Problem(self._source.origin, line, dotted(path), message, hint)

    def _in_order(self, found: Iterable[Finding]) -> list[Problem]:
        return sorted(self.problems(found), key=lambda problem: problem.line or 0)


def _finding(error: Any) -> Finding:
    path = tuple(part for part in error["loc"] if part != "[key]")
    return path, *explained(error, path)
