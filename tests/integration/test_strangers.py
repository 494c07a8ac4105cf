"""A scan by strangers: counted in the metrics, and not written line by line for as long as it lasts."""

from contextlib import suppress
from pathlib import Path

from accesslog_service.strangers import AT_ONCE
from gatehouse.config.run_dir import ACCESSLOG_RECEIVERS
from testkit.fakes.fake_vllm import FakeVllm
from testkit.raw_http import connected
from testkit.running_gateway import RunningGateway, running_gateway
from testkit.waiting import until
from tests.integration.conftest import MODEL, PREMIUM, short_form

SCAN = 6000
ONE = b"GET /wp-login.php HTTP/1.1\r\nHost: x\r\n\r\n"


def scanned(gateway: RunningGateway) -> None:
    """So many requests on one connection, the answers to which are counted."""
    with connected(gateway.url, 30) as connection, suppress(TimeoutError):
        answered = 0
        for _ in range(SCAN // 50):
            connection.sendall(ONE * 50)
            answered += 50
            seen = b""
            while seen.count(b"HTTP/1.1 404") < 50 or not seen.rstrip().endswith(b"}"):
                seen += connection.recv(65536)


def lines(gateway: RunningGateway, pattern: str) -> int:
    return sum(path.read_bytes().count(b'"status":404') for path in gateway.logs(pattern))


def unwritten(gateway: RunningGateway) -> float:
    return gateway.metric("api_refusals_unwritten_total")


def test_a_scan_does_not_fill_the_disk_and_is_counted(backend: FakeVllm, tmp_path: Path) -> None:
    with running_gateway(tmp_path, short_form(backend)) as gateway:
        scanned(gateway)
        until(lambda: gateway.metric("api_requests_total", status="404") == SCAN, 20, "all of them in the metrics")
        until(lambda: unwritten(gateway) + lines(gateway, "requests_*.log") == SCAN, 10, "each, written or counted")
        assert lines(gateway, "requests_*.log") <= ACCESSLOG_RECEIVERS * (AT_ONCE + 1000)
        assert unwritten(gateway) > 0
        until(lambda: "than are written" in gateway.logs("app_*.log")[0].read_text(), 10, "a word in the log")

        before = lines(gateway, "envoy_access.log")
        scanned(gateway)
        until(lambda: gateway.metric("api_requests_total", status="404") == 2 * SCAN, 20)
        with gateway.client(headers={"authorization": f"Bearer {PREMIUM}"}) as client:
            answer = client.post("/v1/embeddings", json={"model": MODEL, "input": "hi"})
        assert gateway.record(answer.headers["x-request-id"])["status"] == 200
        ours = answer.headers["x-request-id"].encode()
        until(lambda: ours in gateway.logs("envoy_access.log")[0].read_bytes(), 10, "Envoy's own line")
        assert lines(gateway, "envoy_access.log") - before < SCAN / 10
