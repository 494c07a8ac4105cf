"""envoy-data-plane's typed messages read what is rendered, and say the same again after a trip through bytes.

`envoy --mode validate` tells whether Envoy would run a configuration; this tells that each value arrives where it was
put. Messages inside an `Any` are compared one by one, by their type.
"""

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import betterproto2
import pytest
from envoy_data_plane.message_pool import default_message_pool

from gatehouse.config import Config
from gatehouse.config.run_dir import RunDir
from gatehouse.envoy import render
from testkit.envoy_configs import CONFIGS

At = tuple[str | int, ...]
URL = "type.googleapis.com/"
BOOTSTRAP = "envoy.config.bootstrap.v3.Bootstrap"

MISSING_MESSAGES = {
    "envoy.extensions.filters.http.body_size_limit.v3.BodySizeLimit": "newer than the package's copy of the API",
    "xds.type.matcher.v3.CelMatcher": "the package generates no message of cncf/xds that holds CEL",
    "xds.type.matcher.v3.HttpAttributesCelMatchInput": "the same",
}
MISSING_FIELDS = {
    "consecutive_5xx": "the package spells it consecutive_5_xx where it reads JSON, and then finds no such field",
    "enforcing_consecutive_5xx": "likewise",
    "value_type": "of custom tags: newer than the package's copy of the API",
}
DEFAULTS = (False, 0, "", "ROUND_ROBIN", "ALLOW", "AUTO", "PROTOBUF_VALUE")
"""What proto3 does not send, the first names of enums included."""


def messages(document: Any, kind: str) -> Iterator[tuple[str, Any]]:
    """Every message in a rendered document with its type: itself, and what stands in its `Any`s."""
    inside: list[tuple[str, Any]] = []
    yield kind, without_any(document, inside)
    for name, fields in inside:
        yield from messages(fields, name)


def without_any(node: Any, inside: list[tuple[str, Any]]) -> Any:
    if isinstance(node, list):
        return [without_any(each, inside) for each in node]
    if not isinstance(node, dict):
        return node
    kept = {}
    for name, value in node.items():
        if isinstance(value, dict) and "@type" in value:
            inside.append(unpacked(value))
        elif name not in MISSING_FIELDS:
            kept[name] = without_any(value, inside)
            if value and kept[name] == {}:
                del kept[name]  # a map of nothing but `Any`s
    return kept


def unpacked(any_: dict[str, Any]) -> tuple[str, Any]:
    return any_["@type"].removeprefix(URL), {name: each for name, each in any_.items() if name != "@type"}


def theirs(kind: str) -> type[betterproto2.Message] | None:
    """The package's class for a message type, or None."""
    try:
        import_module(f"envoy_data_plane.{kind.rpartition('.')[0]}")
    except ModuleNotFoundError:
        return None
    return default_message_pool.url_to_type.get(URL + kind)


def leaves(node: Any, at: At = ()) -> Iterator[tuple[At, str]]:
    """Every message and every value but defaults, by path; names, numbers and durations in one spelling."""
    if isinstance(node, dict):
        yield at, "present"
        for name, value in node.items():
            yield from leaves(value, (*at, camel(name)))
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from leaves(value, (*at, index))
    elif node not in DEFAULTS:
        yield at, spelled(node)


def camel(name: str) -> str:
    first, *others = name.split("_")
    return first + "".join(map(str.capitalize, others))


def spelled(value: object) -> str:
    number = str(value).removesuffix("s")
    try:
        return f"{float(number):.17g}"
    except ValueError:
        return str(value)


def rendered(config: Config) -> Iterator[tuple[str, Any]]:
    files = render(config, RunDir(Path("/run/gatehouse")), "/dev/null")
    yield from messages(files.bootstrap, BOOTSTRAP)
    secrets = [each for file in files.secrets.values() for each in file["resources"]]
    for resource in (*files.routes["resources"], *files.clusters["resources"], *secrets):
        kind, fields = unpacked(resource)
        yield from messages(fields, kind)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_typed_messages_say_the_same_after_a_trip_through_bytes(config: Config) -> None:
    for kind, ours in rendered(config):
        if kind not in MISSING_MESSAGES:
            message = theirs(kind)
            assert message is not None, f"{kind} is unknown to the package"
            read = message.parse(bytes(message.from_dict(ours)))
            assert dict(leaves(read.to_dict())) == dict(leaves(ours)), kind


def test_what_is_left_out_of_the_comparison_is_still_missing() -> None:
    """When the package catches up, the exception goes."""
    assert [kind for kind in MISSING_MESSAGES if theirs(kind)] == []
    outlier_detection = theirs("envoy.config.cluster.v3.OutlierDetection")
    assert outlier_detection is not None
    for field in MISSING_FIELDS:
        with pytest.raises(KeyError):
            outlier_detection.from_dict({field: 1})


def test_the_comparison_covers_every_type_that_is_rendered() -> None:
    kinds = {kind for config in CONFIGS.values() for kind, _ in rendered(config)}
    assert MISSING_MESSAGES.keys() <= kinds
    assert len(kinds) > 20


@pytest.mark.parametrize("wrong", [{"lb_policy": "NO_SUCH"}, {"no_such_field": 1}])
def test_a_wrong_name_would_be_noticed(wrong: dict[str, Any]) -> None:
    cluster = theirs("envoy.config.cluster.v3.Cluster")
    assert cluster is not None
    with pytest.raises((KeyError, ValueError)):
        cluster.from_dict(wrong)
