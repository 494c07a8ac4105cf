"""TLS on the listener: one port for both, and nothing that plaintext says is believed."""

from pathlib import Path
from typing import Any

import pytest

from gatehouse.config import Config
from gatehouse.config.run_dir import RunDir
from gatehouse.envoy import merged, render
from gatehouse.envoy.tls import CERTIFICATE, CLIENT_CA
from gatehouse.gateway.envoy_binary import EnvoyRejectsError, validate
from testkit.authority import Authority
from testkit.envoy_configs import SHORT
from testkit.envoy_routing import routes_of_pages

Node = dict[str, Any]
RUN_DIR = RunDir(Path("/run/gatehouse"))
FILES = {"cert_file": "/secrets/tls.crt", "key_file": "/secrets/tls.key"}


def with_tls(hops: int = 0, **files: str) -> Config:
    return Config.model_validate({**SHORT, "server": {"tls": {**FILES, **files}, "trusted_proxy_hops": hops}})


def listener(config: Config) -> Node:
    found, _ = render(config, RUN_DIR, "/dev/null").bootstrap["static_resources"]["listeners"]
    return dict(found)


def context(config: Config) -> Node:
    over_tls, _ = listener(config)["filter_chains"]
    return dict(over_tls["transport_socket"]["typed_config"])


def test_without_tls_there_is_one_plain_chain() -> None:
    (chain,) = listener(Config.model_validate(SHORT))["filter_chains"]
    assert chain.keys() == {"filters", "transport_socket_connect_timeout"}


def test_half_a_handshake_has_ten_seconds() -> None:
    assert [chain["transport_socket_connect_timeout"] for chain in listener(with_tls())["filter_chains"]] == ["10s"] * 2


def test_plaintext_is_believed_nothing() -> None:
    """Else a client could say that it was HTTPS once, and go round client certificates."""
    over_tls, plain = listener(with_tls(hops=3))["filter_chains"]
    hops = [chain["filters"][0]["typed_config"]["xff_num_trusted_hops"] for chain in (over_tls, plain)]
    assert hops == [3, 0]
    assert "transport_socket" not in plain


def test_plaintext_is_sent_to_https_right_after_health() -> None:
    found = [
        route["name"] for route in routes_of_pages(with_tls()) if "route" in route or route["name"] == "https_required"
    ]
    assert found[:2] == ["/health", "https_required"]


def test_both_versions_of_http_are_offered_over_tls_1_2_and_newer() -> None:
    common = context(with_tls())["common_tls_context"]
    assert common["alpn_protocols"] == ["h2", "http/1.1"]
    assert common["tls_params"] == {"tls_minimum_protocol_version": "TLSv1_2"}


def test_clients_need_a_certificate_exactly_when_there_is_a_ca() -> None:
    assert context(with_tls())["require_client_certificate"] is False
    mutual = context(with_tls(client_ca_file="/secrets/ca.crt"))
    assert mutual["require_client_certificate"] is True
    assert "validation_context_sds_secret_config" in mutual["common_tls_context"]


def test_what_is_rendered_names_files_and_watches_where_links_are_swapped() -> None:
    files = render(with_tls(client_ca_file="/secrets/ca.crt"), RUN_DIR, "/dev/null").files()
    (pair,) = files[CERTIFICATE]["resources"]
    assert pair["tls_certificate"] == {
        "certificate_chain": {"filename": "/secrets/tls.crt"},
        "private_key": {"filename": "/secrets/tls.key"},
        "watched_directory": {"path": "/secrets"},
    }
    assert CLIENT_CA in files


@pytest.fixture
def issued(tmp_path: Path) -> dict[str, Any]:
    authority = Authority(tmp_path / "ca")
    key, certificate = authority.issue("server", "localhost")
    return {"key_file": str(key), "cert_file": str(certificate), "client_ca_file": str(authority.certificate)}


def test_envoy_accepts_it(issued: dict[str, Any], tmp_path: Path) -> None:
    validate(merged(with_tls(**issued), RUN_DIR, "/dev/null"), tmp_path)


def test_envoy_refuses_a_pair_that_does_not_fit(issued: dict[str, Any], tmp_path: Path) -> None:
    other, _ = Authority(tmp_path / "other").issue("server", "localhost")
    with pytest.raises(EnvoyRejectsError):
        validate(merged(with_tls(**{**issued, "key_file": str(other)}), RUN_DIR, "/dev/null"), tmp_path)
