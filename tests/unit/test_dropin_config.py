"""Configuration files of envoyproxy/ratelimit: what is taken, and what is refused in which words."""

from pathlib import Path

import pytest

from ratelimit_service.dropin.config.check import check
from ratelimit_service.dropin.config.parse import ConfigError, load
from ratelimit_service.dropin.config.rules import RateLimit, Rules, dump
from ratelimit_service.store.limits import Algorithm

FILE = "config.yaml"


def rules(*texts: str, merge: bool = False) -> Rules:
    return load([(FILE, text) for text in texts], merge_domains=merge)


def limit(fields: str, descriptor: str = "") -> str:
    """A file with one descriptor."""
    return f"domain: d\ndescriptors: [{{key: k, rate_limit: {{{fields}}}{descriptor}}}]"


def only(text: str) -> RateLimit:
    """The limit of the key `k`."""
    rule = rules(text)["d"].find("k", "")
    assert rule is not None
    assert rule.rate_limit is not None
    return rule.rate_limit


BASIC = limit("unit: minute, requests_per_unit: 5")

REFUSED = {
    "no domain": ("descriptors: []", "config file cannot have empty domain"),
    "an empty file": ("", "config file cannot have empty domain"),
    "an empty domain": ("domain: ''", "config file cannot have empty domain"),
    "no key": ("domain: d\ndescriptors: [{value: v}]", "descriptor has empty key"),
    "a null key": ("domain: d\ndescriptors: [{key: null}]", "descriptor has empty key"),
    "a key twice": ("domain: d\ndescriptors: [{key: k}, {key: k}]", "duplicate descriptor composite key 'd.k'"),
    "a composite twice": (
        "domain: d\ndescriptors: [{key: a, descriptors: [{key: k, value: v}, {key: k_v}]}]",
        "duplicate descriptor composite key 'd.a.k_v'",
    ),
    "an unknown unit": (limit("unit: fortnight, requests_per_unit: 5"), "invalid rate limit unit 'fortnight'"),
    "a limit that is Null": ("domain: d\ndescriptors: [{key: k, rate_limit: Null}]", "invalid rate limit unit ''"),
    "no unit": (limit("requests_per_unit: 5"), "invalid rate limit unit ''"),
    "the unit unknown": (limit("unit: unknown, requests_per_unit: 5"), "invalid rate limit unit 'unknown'"),
    "a unit of an unlimited one": (
        limit("unlimited: true, unit: day"),
        "should not specify rate limit unit when unlimited",
    ),
    "a replaced name that is empty": (
        limit("unit: day, requests_per_unit: 1, replaces: [{name: ''}]"),
        "should not have an empty replaces entry",
    ),
    "replacing oneself": (
        limit("unit: day, requests_per_unit: 1, name: n, replaces: [{name: n}]"),
        "replaces should not contain name of same descriptor",
    ),
    "sharing without a wildcard": (
        limit("unit: day, requests_per_unit: 1", ", value: v, share_threshold: true"),
        "share_threshold can only be used with wildcard values (containing '*')",
    ),
    "an unknown key": ("domain: d\ndescriptors: [{key: k, ratelimit: {}}]", "config error, unknown key 'ratelimit'"),
    "a key that is a number": ("domain: d\n4: x", "config error, key is not of type string: 4"),
    "a list of texts": (
        "domain: d\ndescriptors: [a]",
        "config error, yaml file contains list of type other than map: a",
    ),
    "a fraction": (limit("unit: day, requests_per_unit: 1.5"), "error checking config"),
    "a text for a number": (
        limit("unit: day, requests_per_unit: many"),
        "error loading config file: yaml: unmarshal errors:\n  line 2: cannot unmarshal !!str `many` into uint32",
    ),
    "a negative number": (
        limit("unit: day, requests_per_unit: -1"),
        "error loading config file: yaml: unmarshal errors:\n  line 2: cannot unmarshal !!int `-1` into uint32",
    ),
    "a number above 32 bits": (limit("unit: day, requests_per_unit: 4294967296"), "into uint32"),
    "a text for a flag": (limit("unlimited: 'true'"), "cannot unmarshal !!str `true` into bool"),
    "a map for a list": ("domain: d\ndescriptors: {key: k}", "cannot unmarshal !!map into list"),
    "a text for a map": (
        "domain: d\ndescriptors: [{key: k, rate_limit: much}]",
        "cannot unmarshal !!str `much` into map",
    ),
    "a map for a text": ("domain: {key: k}", "cannot unmarshal !!map into string"),
    "a list for a file": ("- domain: d", "error loading config file: yaml: unmarshal errors:"),
    "control characters": ("domain: \x00", "error loading config file: "),
    "broken YAML": ("domain: [", "error loading config file: "),
    "an anchor in itself": ("domain: d\ndescriptors: &a [{key: k, descriptors: *a}]", "error loading config file: "),
    "metadata that is no JSON": (
        "domain: d\ndescriptors: [{key: k, rate_limit: {unlimited: true}, metadata: {a: !!binary aGk=}}]",
        "metadata has values that JSON does not know",
    ),
    "an unknown algorithm": (
        limit("unit: day, requests_per_unit: 1, algorithm: magic"),
        "invalid algorithm 'magic': use one of sliding_window, fixed_window, token_bucket",
    ),
    "a burst without a bucket": (limit("unit: day, requests_per_unit: 1, burst: 2"), "only a token_bucket has a burst"),
    "a bucket that never fills": (
        limit("unit: day, requests_per_unit: 0, algorithm: token_bucket"),
        "a token_bucket of 0 never fills",
    ),
}


@pytest.mark.parametrize(("text", "reason"), REFUSED.values(), ids=REFUSED)
def test_file_is_refused_with_its_name_and_the_reason(text: str, reason: str) -> None:
    with pytest.raises(ConfigError) as caught:
        rules(text)
    assert str(caught.value).startswith(f"{FILE}: ")
    assert reason in str(caught.value)


def test_key_is_checked_wherever_it_stands_but_accepted_anywhere() -> None:
    assert "d" in rules("domain: d\nunit: parsec\ndescriptors: [{key: k, domain: x}]")


def test_metadata_is_free() -> None:
    text = limit("unit: day, requests_per_unit: 1", ", metadata: {any: {key: 1.5}, list: [1, a], when: 2024-01-01}")
    assert only(text).metadata == {"any": {"key": 1.5}, "list": [1, "a"], "when": "2024-01-01"}


@pytest.mark.parametrize(
    ("unit", "seconds"),
    [
        ("second", 1),
        ("MINUTE", 60),
        ("Hour", 3600),
        ("day", 86_400),
        ("week", 604_800),
        ("month", 2_592_000),
        ("year", 31_536_000),
    ],
)
def test_unit_in_any_case_is_a_period(unit: str, seconds: int) -> None:
    found = only(limit(f"unit: {unit}, requests_per_unit: 5"))
    assert found.limit is not None
    assert (found.limit.amount, found.limit.period_s, found.limit.algorithm) == (5, seconds, Algorithm.FIXED_WINDOW)
    assert found.unit == unit.upper()


def test_every_field_of_a_limit_arrives() -> None:
    fields = "unit: day, requests_per_unit: 0, name: n, replaces: [{name: a}, {name: b}]"
    found = only(limit(fields, ", shadow_mode: true, quota_mode: yes"))
    assert (found.name, found.replaces, found.shadow, found.quota) == ("n", ("a", "b"), True, True)


def test_unlimited_has_no_limit() -> None:
    assert only(limit("unlimited: true")).limit is None


def test_limit_may_name_an_algorithm_and_a_burst() -> None:
    found = only(limit("unit: day, requests_per_unit: 5, algorithm: token_bucket, burst: 9")).limit
    assert found is not None
    assert (found.algorithm, found.capacity) == (Algorithm.TOKEN_BUCKET, 9)


@pytest.mark.parametrize("value", ["404", "0x10", "1_000", "true", "2024-01-01", "1.5.2"])
def test_plain_value_is_taken_as_written(value: str) -> None:
    found = rules(f"domain: d\ndescriptors: [{{key: k, value: {value}, rate_limit: {{unlimited: true}}}}]")
    assert found["d"].find("k", value) is not None


TABS = {
    "before a comment": "domain: d\t# here\ndescriptors: []",
    "at the end of a line": "domain: d\t\ndescriptors:\t\n",
    "after a colon": "domain:\td\ndescriptors:\t[]",
    "in JSON": '{\n\t"domain": "d",\n\t"descriptors":\t[\n\t\t{"key":\t"k"}\n\t]\n}',
}


@pytest.mark.parametrize("text", TABS.values(), ids=TABS)
def test_tabs_may_stand_where_they_mean_nothing(text: str) -> None:
    assert list(rules(text)) == ["d"]


def test_tab_does_not_indent() -> None:
    with pytest.raises(ConfigError, match="cannot start any token"):
        rules("domain: d\ndescriptors:\n\t- key: k")


@pytest.mark.parametrize(("word", "flag"), [("y", True), ("Y", True), ("on", True), ("n", False), ("NO", False)])
def test_short_words_are_flags(word: str, flag: bool) -> None:
    assert only(limit("unit: day, requests_per_unit: 1", f", shadow_mode: {word}")).shadow is flag


@pytest.mark.parametrize(
    ("text", "number"),
    [("0o10", 8), ("010", 8), ("0x1F", 31), ("0b11", 3), ("1_000", 1000), ("+5", 5), ("4294967295", 2**32 - 1)],
)
def test_numbers_are_read_as_go_does(text: str, number: int) -> None:
    found = only(limit(f"unit: day, requests_per_unit: {text}")).limit
    assert found is not None
    assert found.amount == number


def test_tag_makes_text_of_a_number() -> None:
    for tag in ("!", "!!str", "!mine"):
        with pytest.raises(ConfigError, match="cannot unmarshal !!str `5` into uint32"):
            rules(f"domain: d\ndescriptors: [{{key: k, rate_limit: {{unit: day, requests_per_unit: {tag} 5}}}}]")


@pytest.mark.parametrize("text", ["08", "1e3", "9223372036854775808", ".5"])
def test_number_that_go_takes_for_a_fraction_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="error checking config"):
        rules(limit(f"unit: day, requests_per_unit: {text}"))


def test_key_that_is_a_flag_is_no_text() -> None:
    with pytest.raises(ConfigError, match="key is not of type string: y"):
        rules("domain: d\ny: x")


def test_last_of_equal_keys_counts_and_maps_are_put_together() -> None:
    text = "domain: c\ndomain: d\ndescriptors: [{key: k, rate_limit: {unit: day}, rate_limit: {requests_per_unit: 3}}]"
    found = only(text).limit
    assert found is not None
    assert (found.amount, found.period_s) == (3, 86_400)


def test_every_type_that_does_not_fit_is_told() -> None:
    text = "domain: d\ndescriptors:\n- key: k\n  shadow_mode: 5\n  rate_limit: {unit: day, requests_per_unit: x}"
    with pytest.raises(ConfigError) as caught:
        rules(text)
    assert "line 4: cannot unmarshal !!int `5` into bool" in str(caught.value)
    assert "line 5: cannot unmarshal !!str `x` into uint32" in str(caught.value)


def test_aliases_that_blow_up_are_refused() -> None:
    lines = ["a0: &a0 [{key: k}]", *(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 9))]
    with pytest.raises(ConfigError, match="excessive aliasing"):
        rules("\n".join(lines))


def test_equal_limits_are_one_object() -> None:
    """Configurations have many thousands of them."""
    found = rules("domain: d\ndescriptors: [{key: a, rate_limit: &l {unit: day}}, {key: b, rate_limit: *l}]")["d"].rules
    assert found["a"].rate_limit is found["b"].rate_limit


@pytest.mark.parametrize("null", ["null", "~", ""])
def test_limit_that_is_null_is_none(null: str) -> None:
    (rule,) = rules(f"domain: d\ndescriptors: [{{key: k, rate_limit: {null}}}]")["d"].rules.values()
    assert rule.rate_limit is None


def test_only_the_first_document_counts() -> None:
    assert list(rules("domain: d\n---\ndomain: e")) == ["d"]


def test_merge_keys_and_anchors_are_followed() -> None:
    text = """
domain: d
descriptors:
  - key: a
    rate_limit: &daily {unit: day, requests_per_unit: 7}
  - key: k
    rate_limit: {<<: *daily, requests_per_unit: 8}
"""
    found = only(text).limit
    assert found is not None
    assert (found.amount, found.period_s) == (8, 86_400)


def test_domain_stands_in_one_file_only() -> None:
    with pytest.raises(ConfigError, match="duplicate domain 'd' in config file"):
        rules(BASIC, BASIC)


def test_merged_domain_has_the_descriptors_of_all_its_files() -> None:
    other = "domain: d\ndescriptors: [{key: other, rate_limit: {unlimited: true}}]"
    merged = rules(BASIC, other, merge=True)["d"]
    assert list(merged.rules) == ["k", "other"]


def test_merged_domain_still_has_each_descriptor_once() -> None:
    with pytest.raises(ConfigError, match=r"duplicate descriptor composite key 'd\.k'"):
        rules(BASIC, BASIC, merge=True)


def test_dump_names_each_limit() -> None:
    text = """
domain: mongo
descriptors:
  - key: database
    value: users
    shadow_mode: true
    rate_limit: {unit: minute, requests_per_unit: 20}
    descriptors:
      - key: x
        quota_mode: true
        rate_limit: {unit: hour, requests_per_unit: 1, algorithm: sliding_window}
  - key: free
    rate_limit: {unlimited: true}
"""
    assert list(dump(rules(text))) == [
        "mongo.database_users: unit=MINUTE requests_per_unit=20, shadow_mode: true, quota_mode: false",
        "mongo.database_users.x: unit=HOUR requests_per_unit=1 algorithm=sliding_window, "
        "shadow_mode: false, quota_mode: true",
        "mongo.free: unlimited, shadow_mode: false, quota_mode: false",
    ]


def test_check_reads_every_file_below_the_directory(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.yaml").write_text(BASIC)
    assert check(tmp_path, merge_domains=False) is None
    (tmp_path / "sub" / "b").write_text("domain: e\ndescriptors: [{value: v}]")
    assert check(tmp_path, merge_domains=False) == "sub/b: descriptor has empty key"


def test_check_merges_domains_if_told_to(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(BASIC)
    (tmp_path / "b.yaml").write_text("domain: d")
    assert check(tmp_path, merge_domains=False) == "b.yaml: duplicate domain 'd' in config file"
    assert check(tmp_path, merge_domains=True) is None


def test_check_needs_a_directory(tmp_path: Path) -> None:
    assert check(tmp_path / "none", merge_domains=False) == f"{tmp_path / 'none'} is not a directory"


def test_mounted_config_map_is_read_once(tmp_path: Path) -> None:
    (tmp_path / "..2024").mkdir()
    (tmp_path / "..2024" / "a.yaml").write_text(BASIC)
    (tmp_path / "..data").symlink_to("..2024")
    (tmp_path / "a.yaml").symlink_to("..data/a.yaml")
    assert check(tmp_path, merge_domains=False) is None
