"""Whose address counts: that of the connection, or the one that trusted proxies vouch for. Through real Envoy."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest

from testkit.fakes.fake_vllm import FakeVllm
from testkit.running_gateway import RunningGateway, running_gateway

OFFICE, SIX, LOOPBACK, BY_USER, BY_TEAM, BY_TIER = (
    f"sk-address-{kind}" for kind in ("office-01", "six-0001", "loopback", "by-user-1", "by-team-1", "by-tier-1")
)
NETS = {"allowed_ips": ["10.1.0.0/16"]}
CONFIG: dict[str, Any] = {
    "api_keys": {
        OFFICE: {"user_id": "ann", "tier": "free", **NETS},
        SIX: {"user_id": "ann", "tier": "free", "allowed_ips": ["2001:db8::/32"]},
        LOOPBACK: {"user_id": "ann", "tier": "free", "allowed_ips": ["127.0.0.0/8", "::1"]},
        BY_USER: {"user_id": "uma", "tier": "free"},
        BY_TEAM: {"user_id": "tom", "tier": "free", "team": "search"},
        BY_TIER: {"user_id": "tim", "tier": "inside", "allowed_ips": ["10.1.2.0/24", "192.0.2.0/24"]},
    },
    "users": {"uma": NETS},
    "teams": {"search": NETS},
    "rate_limits": {"free": {}, "inside": NETS},
}


def start(backend: FakeVllm, directory: Path, hops: int, host: str = "127.0.0.1") -> Any:
    server = {"trusted_proxy_hops": hops, "host": host}
    return running_gateway(directory, {**CONFIG, "vllm": {"base_url": f"{backend.url}/v1"}, "server": server})


@pytest.fixture(scope="module")
def direct(backend: FakeVllm, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    with start(backend, tmp_path_factory.mktemp("direct"), 0) as running:
        yield running


@pytest.fixture(scope="module")
def behind_a_proxy(backend: FakeVllm, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    with start(backend, tmp_path_factory.mktemp("proxied"), 1) as running:
        yield running


def code(gateway: RunningGateway, key: str, **headers: str) -> str | int:
    """200, or the code of the error."""
    said = {name.replace("_", "-"): value for name, value in headers.items()}
    answer = httpx.get(f"{gateway.url}/v1/usage", headers={"x-api-key": key, **said})
    return answer.status_code if answer.status_code == 200 else str(answer.json()["error"]["code"])


FORGED = [
    {},
    {"x_forwarded_for": "10.1.2.3"},
    {"x_forwarded_for": "10.1.2.3, 10.1.2.3"},
    {"x_real_ip": "10.1.2.3", "forwarded": "for=10.1.2.3"},
    {"x_envoy_external_address": "10.1.2.3"},
    {"x_gatehouse_client_ip": "10.1.2.3"},
]


@pytest.mark.parametrize("forged", FORGED, ids=str)
def test_f32_no_header_changes_the_address_where_no_proxy_is_trusted(
    direct: RunningGateway, forged: dict[str, str]
) -> None:
    assert code(direct, OFFICE, **forged) == "ip_not_authorized"
    assert code(direct, LOOPBACK, **forged) == 200
    assert direct.records(1)[-1]["client_ip"] == "127.0.0.1"


@pytest.mark.parametrize("key", [OFFICE, BY_USER, BY_TEAM, BY_TIER])
def test_behind_a_trusted_proxy_the_address_it_saw_counts(behind_a_proxy: RunningGateway, key: str) -> None:
    assert code(behind_a_proxy, key, x_forwarded_for="10.1.2.3") == 200
    assert code(behind_a_proxy, key, x_forwarded_for="192.0.2.1") == "ip_not_authorized"
    assert code(behind_a_proxy, key) == "ip_not_authorized", "the proxy's own address"


def test_of_several_hops_only_the_trusted_one_is_believed(behind_a_proxy: RunningGateway) -> None:
    """The client wrote the first, the proxy the last."""
    assert code(behind_a_proxy, OFFICE, x_forwarded_for="10.1.2.3, 192.0.2.1") == "ip_not_authorized"
    assert code(behind_a_proxy, OFFICE, x_forwarded_for="192.0.2.1, 10.1.2.3") == 200
    assert code(behind_a_proxy, LOOPBACK, x_forwarded_for="127.0.0.1, 192.0.2.1") == "ip_not_authorized"


def test_ipv6_and_mapped_addresses_are_understood(behind_a_proxy: RunningGateway) -> None:
    assert code(behind_a_proxy, SIX, x_forwarded_for="2001:db8::7") == 200
    assert code(behind_a_proxy, SIX, x_forwarded_for="2001:db9::7") == "ip_not_authorized"
    assert code(behind_a_proxy, OFFICE, x_forwarded_for="::ffff:10.1.2.3") == 200
    assert code(behind_a_proxy, OFFICE, x_forwarded_for="::ffff:10.2.2.3") == "ip_not_authorized"


@pytest.mark.parametrize("garbage", ["not-an-address", "10.1.2.3:4711", "[2001:db8::7]:443", "", "10.1.2.3/8"])
def test_what_is_no_address_vouches_for_nobody(behind_a_proxy: RunningGateway, garbage: str) -> None:
    for key in (OFFICE, SIX):
        assert code(behind_a_proxy, key, x_forwarded_for=garbage) == "ip_not_authorized"


def test_a_listener_on_all_addresses_knows_ipv4_clients_among_ipv6_ones(backend: FakeVllm, tmp_path: Path) -> None:
    """Their addresses are `::ffff:127.0.0.1` there."""
    with start(backend, tmp_path, 0, host="::") as running:
        port = running.url.rsplit(":", 1)[1]
        for host in ("127.0.0.1", "[::1]"):
            running.url = f"http://{host}:{port}"
            assert code(running, LOOPBACK) == 200
            assert code(running, OFFICE) == "ip_not_authorized"
