"""deploy/nginx with a real nginx before a real gateway: clients and Gatehouse see what they would see without it."""

import os
import re
import shutil
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2 as httpx
import pytest

from testkit.ports import free_port
from testkit.running_gateway import ROOT, RunningGateway, running_gateway

DIRECTORY = ROOT / "deploy" / "nginx"
NGINX = shutil.which("nginx") or shutil.which("/usr/sbin/nginx")
CHAT, KEY = "/v1/chat/completions", "sk-behind-nginx-1"
WORDS = 100

pytestmark = [
    pytest.mark.skipif(NGINX is None, reason="needs nginx (Debian: apt-get install nginx-light)"),
    pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl"),
]


def certificate(directory: Path, name: str) -> Path:
    """A self-signed pair, named as certbot names what it has been given."""
    directory.mkdir(parents=True)
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-subj", f"/CN={name}", "-addext", "subjectAltName=DNS:llm.example.com,IP:127.0.0.1", "-days", "2"]
    command += ["-keyout", str(directory / "privkey.pem"), "-out", str(directory / "fullchain.pem")]
    subprocess.run(command, check=True, capture_output=True, timeout=30)
    return directory


def hook(lineage: Path, into: Path, reload: str) -> "subprocess.CompletedProcess[str]":
    """What certbot does with a new certificate."""
    owner = f"{os.getuid()}:{os.getgid()}"
    settings = {"RENEWED_LINEAGE": str(lineage), "TLS_DIR": str(into), "TLS_OWNER": owner, "RELOAD": reload}
    command = [str(DIRECTORY / "letsencrypt-hook.sh")]
    return subprocess.run(
        command, env={**os.environ, **settings}, capture_output=True, text=True, check=False, timeout=30
    )


@dataclass
class Front:
    """A running nginx: where it answers, and its files."""

    url: str
    plain_url: str
    directory: Path
    reload: str

    def client(self) -> httpx.Client:
        trusted = ssl.create_default_context(cafile=str(self.directory / "tls" / "tls.crt"))
        return httpx.Client(base_url=self.url, verify=trusted, headers={"Authorization": f"Bearer {KEY}"}, timeout=30)


def configuration(directory: Path, gateway_port: int, tls_port: int, plain_port: int) -> str:
    """The file that ships, with the places that differ here; everything else stands as it is."""
    text = (DIRECTORY / "gatehouse.conf").read_text()
    for shipped, here in {
        "127.0.0.1:8000": f"127.0.0.1:{gateway_port}",
        "listen 80;": f"listen 127.0.0.1:{plain_port};",
        "listen 443 ssl": f"listen 127.0.0.1:{tls_port} ssl",
        "/etc/nginx/gatehouse/": f"{directory}/tls/",
        "/var/log/nginx/": f"{directory}/",
        "/var/www/acme": f"{directory}/acme",
    }.items():
        assert shipped in text, shipped
        text = text.replace(shipped, here)
    text = re.sub(r"^ *listen \[::\].*\n", "", text, flags=re.MULTILINE)
    places = "".join(
        f"{kind}_temp_path {directory}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    user = "user root;\n" if os.getuid() == 0 else ""
    return f"{user}daemon off;\npid {directory}/pid;\nevents {{}}\nhttp {{\n{places}{text}}}\n"


@contextmanager
def nginx(directory: Path, gateway_port: int) -> Iterator[Front]:
    assert NGINX
    tls_port, plain_port = free_port(), free_port()
    file = directory / "nginx.conf"
    file.write_text(configuration(directory, gateway_port, tls_port, plain_port))
    done = hook(certificate(directory / "live", "first"), directory / "tls", "true")
    assert done.returncode == 0, done.stderr
    command = [NGINX, "-p", str(directory), "-c", str(file), "-e", str(directory / "error.log")]
    process = subprocess.Popen(command)
    front = Front(
        f"https://127.0.0.1:{tls_port}", f"http://127.0.0.1:{plain_port}", directory, f"kill -HUP {process.pid}"
    )
    try:
        deadline = time.monotonic() + 20
        while not _listens(front):
            assert process.poll() is None, (directory / "error.log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        yield front
    finally:
        process.terminate()
        process.wait(20)


def _listens(front: Front) -> bool:
    try:
        return httpx.get(front.plain_url).status_code == 301
    except httpx.TransportError:
        return False


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    config = {
        "server": {"trusted_proxy_hops": 1, "require_https": True, "max_body_mb": 1},
        "vllm": {"base_url": f"http://127.0.0.1:{free_port()}/v1", "default_model": "m"},
        "api_keys": {KEY: {"user_id": "ann", "tier": "free"}},
        "rate_limits": {"free": {}},
    }
    with running_gateway(tmp_path_factory.mktemp("gateway"), config, "--or-demo") as running:
        yield running


@pytest.fixture(scope="module")
def front(gateway: RunningGateway, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    with nginx(tmp_path_factory.mktemp("nginx"), int(gateway.url.rsplit(":", 1)[1])) as front:
        yield front


@pytest.fixture
def client(front: Front) -> Iterator[httpx.Client]:
    with front.client() as client:
        yield client


def chat(words: int, *, stream: bool) -> dict[str, object]:
    return {"stream": stream, "messages": [{"role": "user", "content": "word " * words}]}


def test_a_stream_arrives_token_by_token(client: httpx.Client) -> None:
    """The demo model server says a word every 20 ms."""
    arrivals = []
    with client.stream("POST", CHAT, json=chat(WORDS, stream=True)) as answer:
        for _ in answer.iter_raw():
            arrivals.append(time.monotonic())
    assert len(arrivals) > WORDS / 2
    assert arrivals[-1] - arrivals[0] > 1


def test_the_clients_own_address_counts_and_nothing_it_says_of_it(
    gateway: RunningGateway, client: httpx.Client
) -> None:
    answer = client.post(CHAT, json=chat(3, stream=False), headers={"X-Forwarded-For": "10.1.2.3"})
    assert gateway.record(answer.headers["x-request-id"])["client_ip"] == "127.0.0.1"


def test_the_id_of_a_request_is_one_everywhere(gateway: RunningGateway, front: Front, client: httpx.Client) -> None:
    answer = client.post(CHAT, json=chat(3, stream=False))
    assert answer.status_code == 200
    given = answer.headers["x-request-id"]
    assert gateway.record(given)["status"] == 200
    assert (front.directory / "gatehouse.log").read_text().count(given) == 1


def test_tls_at_nginx_is_https_for_the_gateway(gateway: RunningGateway, client: httpx.Client) -> None:
    assert client.get("/v1/models").status_code == 200
    assert httpx.get(f"{gateway.url}/v1/models", headers={"x-api-key": KEY}).status_code == 426


def test_plain_http_is_sent_to_https(front: Front) -> None:
    answer = httpx.get(f"{front.plain_url}/v1/models")
    assert (answer.status_code, answer.headers["location"]) == (301, "https://127.0.0.1/v1/models")


def test_lets_encrypt_finds_its_challenge_without_tls(front: Front) -> None:
    file = front.directory / "acme" / ".well-known" / "acme-challenge" / "token"
    file.parent.mkdir(parents=True)
    file.write_text("answer")
    assert httpx.get(f"{front.plain_url}/.well-known/acme-challenge/token").text == "answer"


@pytest.mark.parametrize(
    ("headers", "size", "status", "code"),
    [
        ({"Authorization": "Bearer nonsense"}, 1, 401, "invalid_api_key"),
        ({}, 2 * 1024 * 1024, 413, "request_too_large"),
        ({"x-long": "x" * 63_000}, 1, 431, "headers_too_large"),
        ({"x-long": "x" * 70_000}, 1, 431, "headers_too_large"),
    ],
)
def test_errors_are_the_gateways_or_look_like_them(
    client: httpx.Client, headers: dict[str, str], size: int, status: int, code: str
) -> None:
    answer = client.post(CHAT, json=chat(size // 5 + 1, stream=False), headers=headers)
    assert answer.status_code == status, answer.text
    assert answer.json()["error"]["code"] == code


def test_a_gateway_that_is_down_is_told_of_in_openais_shape(tmp_path: Path) -> None:
    with nginx(tmp_path, free_port()) as front, front.client() as client:
        answer = client.post(CHAT, json=chat(1, stream=False))
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
    assert answer.json()["error"]["code"] == "backend_unavailable"


def test_a_renewed_certificate_is_taken_up(front: Front, tmp_path: Path) -> None:
    done = hook(certificate(tmp_path / "live", "second"), front.directory / "tls", front.reload)
    assert done.returncode == 0, done.stderr
    assert (front.directory / "tls" / "tls.key").stat().st_mode & 0o777 == 0o640
    time.sleep(1)
    with front.client() as client:  # which trusts the new certificate alone
        assert client.get("/v1/models").status_code == 200


def test_a_pair_that_does_not_fit_is_not_put_in_place(tmp_path: Path) -> None:
    good, other = certificate(tmp_path / "good", "good"), certificate(tmp_path / "other", "other")
    assert hook(good, tmp_path / "tls", "true").returncode == 0
    before = (tmp_path / "tls" / "tls.crt").read_bytes()
    (other / "privkey.pem").write_bytes((good / "privkey.pem").read_bytes())
    done = hook(other, tmp_path / "tls", "true")
    assert done.returncode == 1
    assert "don't fit" in done.stderr
    assert (tmp_path / "tls" / "tls.crt").read_bytes() == before
