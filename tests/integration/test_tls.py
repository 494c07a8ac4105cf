"""TLS on the public port, through real Envoy: what is served, what is refused, and certificates that are replaced."""

import os
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
import yaml
from openai import DefaultHttpxClient, OpenAI

from testkit.authority import Authority, serial
from testkit.fakes.fake_vllm import FakeVllm
from testkit.fakes.script import Script
from testkit.ports import free_port
from testkit.running_gateway import RunningGateway, running_gateway
from testkit.waiting import until
from tests.integration.conftest import LIMITED, short_form

CHAT = "/v1/chat/completions"
BODY = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}
HEADERS = {"authorization": f"Bearer {LIMITED}"}


class Site:
    """A gateway with TLS, its certificate files, and the authority that signed them."""

    def __init__(self, directory: Path, authority: Authority) -> None:
        self.authority = authority
        self.key, self.certificate = (directory / name for name in ("tls.key", "tls.crt"))
        self.gateway: RunningGateway
        self.replace()

    def config(self, backend: FakeVllm, **server: Any) -> dict[str, Any]:
        tls = {"cert_file": str(self.certificate), "key_file": str(self.key), **server.pop("tls", {})}
        return {**short_form(backend), "server": {"tls": tls, **server}}

    def replace(self, lasts: timedelta = timedelta(days=2)) -> int:
        """A new pair, certificate first; its serial number."""
        fresh = self.authority.issue("fresh", "localhost", lasts)
        number = serial(fresh[1].read_bytes())
        for new, old in zip(reversed(fresh), (self.certificate, self.key), strict=True):
            shutil.copy(new, old.with_suffix(".new"))
            old.with_suffix(".new").rename(old)
        return number

    def trust(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self.authority.certificate)

    def served(self) -> int:
        """The serial number of what a handshake shows now."""
        with (
            socket.create_connection(("127.0.0.1", self.port), 5) as plain,
            self.trust().wrap_socket(plain, server_hostname="localhost") as wrapped,
        ):
            shown = wrapped.getpeercert(binary_form=True)
        assert shown
        return serial(ssl.DER_cert_to_PEM_cert(shown))

    @property
    def port(self) -> int:
        return int(self.gateway.url.rsplit(":", 1)[1])

    def client(self, **options: Any) -> httpx.Client:
        return httpx.Client(base_url=self.gateway.url, verify=self.trust(), timeout=30, headers=HEADERS, **options)

    def in_plain(self, path: str, **headers: str) -> httpx.Response:
        return httpx.get(f"http://127.0.0.1:{self.port}{path}", headers={**HEADERS, **headers})

    def log(self) -> str:
        return "".join(path.read_text() for path in self.gateway.logs("app_*.log"))


@contextmanager
def started(directory: Path, backend: FakeVllm, **server: Any) -> Iterator[Site]:
    site = Site(directory, Authority(directory / "ca"))
    with running_gateway(directory, site.config(backend, **server)) as site.gateway:
        yield site


@pytest.fixture(scope="module")
def site(backend: FakeVllm, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with started(tmp_path_factory.mktemp("tls"), backend, trusted_proxy_hops=1) as running:
        yield running


@pytest.mark.parametrize(("http2", "version"), [(True, "HTTP/2"), (False, "HTTP/1.1")])
def test_both_versions_of_http_are_spoken(site: Site, http2: bool, version: str) -> None:
    with site.client(http2=http2, http1=not http2) as client:
        answer = client.post(CHAT, json=BODY)
    assert (answer.status_code, answer.http_version) == (200, version)


def test_the_openai_sdk_works_with_a_ca_of_ones_own(site: Site) -> None:
    with OpenAI(base_url=f"{site.gateway.url}/v1", api_key=LIMITED, http_client=_openai_http(site)) as client:
        answer = client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "hi"}])
        streamed = client.chat.completions.create(
            model="tiny", messages=[{"role": "user", "content": "hi"}], stream=True
        )
        assert answer.choices[0].message.content
        assert "".join(chunk.choices[0].delta.content or "" for chunk in streamed)


def _openai_http(site: Site) -> Any:
    return DefaultHttpxClient(verify=site.trust())


@pytest.mark.parametrize("claims", [{}, {"x-forwarded-proto": "https", "x-forwarded-for": "10.0.0.1"}])
def test_plaintext_is_answered_426_whatever_it_claims(site: Site, backend: FakeVllm, claims: dict[str, str]) -> None:
    """Even where one proxy is trusted: it is to speak TLS, too."""
    before = len(backend.requests)
    answer = site.in_plain("/v1/models", **claims)
    assert (answer.status_code, answer.json()["error"]["code"]) == (426, "https_required")
    assert answer.headers["x-request-id"]
    assert len(backend.requests) == before


@pytest.mark.parametrize("http2", [False, True])
def test_a_body_may_wait_for_its_100(site: Site, backend: FakeVllm, http2: bool) -> None:
    with site.client(http2=http2) as client:
        assert client.post(CHAT, json=BODY, headers={"expect": "100-continue"}).status_code == 200
    assert backend.requests[-1].headers["x-forwarded-proto"] == "https"


def test_plaintext_may_ask_for_health(site: Site) -> None:
    assert site.in_plain("/health").json()["status"] == "healthy"


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_tls_1_2_and_1_3_are_spoken(site: Site, version: ssl.TLSVersion) -> None:
    context = site.trust()
    context.minimum_version = context.maximum_version = version
    assert httpx.get(f"{site.gateway.url}/health", verify=context).status_code == 200


def test_tls_1_1_is_not_spoken(site: Site) -> None:
    command = ["openssl", "s_client", "-connect", f"127.0.0.1:{site.port}", "-tls1_1", "-cipher", "ALL:@SECLEVEL=0"]
    if shutil.which("openssl") is None:
        pytest.skip("needs the openssl command")
    assert subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, timeout=10, check=False).returncode


def test_the_key_is_in_no_file_that_others_may_read(site: Site) -> None:
    run_dir = site.gateway.run_dir().path
    holds_key = [path for path in run_dir.rglob("*.yaml") if "PRIVATE KEY" in path.read_text()]
    assert [path.name for path in holds_key] == ["tls-certificate.yaml"]
    assert holds_key[0].stat().st_mode & 0o077 == 0
    assert run_dir.stat().st_mode & 0o077 == 0


def test_twenty_new_certificates_cost_no_handshake_and_no_stream(site: Site, backend: FakeVllm) -> None:
    backend.script = Script(event_delay_s=0.1)
    stop, failed, shown, streamed = threading.Event(), list[str](), set[int](), list[str]()

    def shake_hands() -> None:
        while not stop.is_set():
            try:
                shown.add(site.served())
            except OSError as error:
                failed.append(repr(error))

    def stream() -> None:
        body = {**BODY, "stream": True, "max_tokens": 100, "ignore_eos": True}
        with site.client(http2=True) as client, client.stream("POST", CHAT, json=body) as answer:
            streamed.extend(line for line in answer.iter_lines() if line)

    running = [
        threading.Thread(target=shake_hands),
        threading.Thread(target=shake_hands),
        threading.Thread(target=stream),
    ]
    for thread in running:
        thread.start()
    slowest, numbers = 0.0, set[int]()
    for _ in range(20):
        number, replaced = site.replace(), time.monotonic()
        until(lambda number=number: number in shown, what="the new certificate")
        slowest = max(slowest, time.monotonic() - replaced)
        numbers.add(number)
    stop.set()
    for thread in running:
        thread.join()
    backend.script = Script()
    assert failed == []
    assert numbers <= shown
    assert slowest < 2
    assert len(streamed) == 102
    assert streamed[-1] == "data: [DONE]"


def test_a_bad_pair_is_refused_and_the_old_one_stays(site: Site) -> None:
    number = site.replace()
    until(lambda: site.served() == number, what="the new certificate")
    for spoil, why in (
        (
            lambda: site.key.write_text(site.authority.issue("stray", "localhost")[0].read_text()),
            "does not match the certificate",
        ),
        (lambda: site.certificate.write_text("garbage"), "holds no certificate in PEM"),
        (lambda: site.replace(timedelta(days=-1)), "the certificate expired at"),
    ):
        rejected = _reloads(site, "rejected")
        spoil()
        until(lambda rejected=rejected: _reloads(site, "rejected") > rejected, what="a count of it")
        until(lambda why=why: why in site.log(), what=why)  # files written one after the other are looked at twice
        assert site.served() == number
    number = site.replace()
    until(lambda: site.served() == number, what="a good one afterwards")
    assert "PRIVATE" not in site.log()


def test_a_bad_pair_in_the_files_keeps_no_other_change_out(site: Site) -> None:
    """What is served is what counts, and that is the pair before."""
    site.certificate.write_text("garbage")
    file = site.gateway.directory / "gatehouse.yaml"
    document = yaml.safe_load(file.read_text())
    document["server"]["stream_idle_timeout_s"] = 601  # a route's, so Envoy checks the whole
    applied = _reloads(site, "applied")
    file.write_text(yaml.safe_dump(document))
    until(lambda: _reloads(site, "applied") > applied, what="the change")
    assert "Envoy rejected" not in site.log()
    number = site.replace()
    until(lambda: site.served() == number, what="a good pair afterwards")


def _reloads(site: Site, result: str) -> float:
    name = f'api_config_reloads_total{{result="{result}"}} '
    return float(next(line for line in site.gateway.metrics().splitlines() if line.startswith(name)).split()[1])


def test_the_end_of_the_certificate_is_a_metric(site: Site) -> None:
    site.replace(timedelta(days=77))

    def told() -> bool:
        name = "api_certificate_expiry_timestamp_seconds "
        line = next((line for line in site.gateway.metrics().splitlines() if line.startswith(name)), f"{name}0")
        return abs(float(line.split()[1]) - time.time() - 77 * 86400) < 3600

    until(told, what="the end of the new one")


@pytest.fixture(scope="module")
def mutual(backend: FakeVllm, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Clients need a certificate; the files come as Kubernetes mounts secrets, behind links."""
    directory = tmp_path_factory.mktemp("mtls")
    authority = Authority(directory / "ca")
    clients = Authority(directory / "clients", "client-ca")
    clients.issue("alice", "alice")
    _mount(directory, authority, "..first")
    mounted = directory / "mounted"
    site = Site.__new__(Site)
    site.authority, site.key, site.certificate = authority, mounted / "tls.key", mounted / "tls.crt"
    config = site.config(backend, trusted_proxy_hops=1, tls={"client_ca_file": str(clients.certificate)})
    with running_gateway(directory, config) as site.gateway:
        yield site


def _mount(directory: Path, authority: Authority, version: str) -> int:
    """What kubelet does: a new directory, and a link that is swapped."""
    mounted = directory / "mounted"
    (mounted / version).mkdir(parents=True)
    key, certificate = authority.issue("mounted", "localhost")
    shutil.copy(key, mounted / version / "tls.key")
    shutil.copy(certificate, mounted / version / "tls.crt")
    (mounted / "..data_tmp").symlink_to(version)
    (mounted / "..data_tmp").rename(mounted / "..data")
    for name in ("tls.key", "tls.crt"):
        if not (mounted / name).is_symlink():
            (mounted / name).symlink_to(f"..data/{name}")
    return serial(certificate.read_bytes())


def _client_of(site: Site, pair: tuple[Path, Path] | None) -> httpx.Client:
    context = site.trust()
    if pair:
        context.load_cert_chain(pair[1], pair[0])
    return httpx.Client(base_url=site.gateway.url, verify=context, headers=HEADERS, timeout=10)


def test_a_client_certificate_of_the_ca_opens_the_door_and_stays_there(mutual: Site, backend: FakeVllm) -> None:
    pair = _client_pair(mutual)
    with _client_of(mutual, pair) as client:
        assert client.post(CHAT, json=BODY, headers={"x-forwarded-client-cert": "By=forged"}).status_code == 200
    assert not [name for name in backend.requests[-1].headers if "client-cert" in name.lower()]


def _client_pair(site: Site) -> tuple[Path, Path]:
    return site.gateway.directory / "clients" / "alice.key", site.gateway.directory / "clients" / "alice.crt"


@pytest.mark.parametrize("from_a_stranger", [False, True])
def test_without_one_of_the_ca_no_request_gets_in(mutual: Site, backend: FakeVllm, from_a_stranger: bool) -> None:
    before = len(backend.requests)
    pair = (
        Authority(mutual.gateway.directory / "strangers", "client-ca").issue("alice", "alice")
        if from_a_stranger
        else None
    )
    with _client_of(mutual, pair) as client, pytest.raises(httpx.HTTPError):
        client.post(CHAT, json=BODY)
    assert len(backend.requests) == before


def test_plaintext_is_no_way_past_client_certificates(mutual: Site, backend: FakeVllm) -> None:
    before = len(backend.requests)
    assert mutual.in_plain("/v1/models", **{"x-forwarded-proto": "https"}).status_code == 426
    assert len(backend.requests) == before


def test_a_secret_that_kubernetes_swaps_is_taken_up(mutual: Site) -> None:
    number = _mount(mutual.gateway.directory, mutual.authority, "..second")
    certificate = mutual.gateway.run_dir().envoy / "tls-certificate.yaml"

    def taken_up() -> bool:
        pem = [line.strip() for line in certificate.read_text().splitlines()]
        begin, end = (pem.index(f"-----{word} CERTIFICATE-----") for word in ("BEGIN", "END"))
        return serial("\n".join(pem[begin : end + 1])) == number

    until(taken_up, what="the swapped certificate")


@pytest.mark.parametrize(
    ("hops", "claims", "status"),
    [(0, {}, 426), (0, {"x-forwarded-proto": "https"}, 426), (1, {}, 426), (1, {"x-forwarded-proto": "https"}, 200)],
)
def test_https_may_be_required_of_a_proxy_that_is_trusted(
    proxied: dict[int, RunningGateway], hops: int, claims: dict[str, str], status: int
) -> None:
    with proxied[hops].client(headers=HEADERS) as client:
        assert client.get("/v1/models", headers=claims).status_code == status
        assert client.get("/health").status_code == 200


@pytest.fixture(scope="module")
def proxied(backend: FakeVllm, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[int, RunningGateway]]:
    """By the number of proxies that are trusted."""
    server = {"require_https": True, "workers": 1}
    directories = [tmp_path_factory.mktemp(name) for name in ("direct", "behind")]
    with (
        running_gateway(directories[0], {**short_form(backend), "server": server}) as direct,
        running_gateway(directories[1], {**short_form(backend), "server": {**server, "trusted_proxy_hops": 1}}) as one,
    ):
        yield {0: direct, 1: one}


NGINX = """
daemon off; pid {d}/nginx.pid; error_log {d}/error.log;
events {{}}
http {{
  access_log off; client_body_temp_path {d}/b; proxy_temp_path {d}/p; fastcgi_temp_path {d}/f;
  uwsgi_temp_path {d}/u; scgi_temp_path {d}/s;
  server {{
    listen 127.0.0.1:{port} ssl; ssl_certificate {cert}; ssl_certificate_key {key};
    location / {{
      proxy_pass {upstream}; proxy_http_version 1.1; proxy_buffering off;
      proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; proxy_set_header X-Forwarded-Proto $scheme;
    }}
  }}
}}
"""


def test_nginx_in_front_is_believed(proxied: dict[int, RunningGateway], tmp_path: Path) -> None:
    nginx = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    if nginx is None:
        pytest.skip("needs nginx (Debian: apt-get install nginx-light)")

    authority, port = Authority(tmp_path / "ca"), free_port()
    key, certificate = authority.issue("front", "localhost")
    conf = NGINX.format(d=tmp_path, port=port, cert=certificate, key=key, upstream=proxied[1].url)
    (tmp_path / "nginx.conf").write_text(conf)
    process = subprocess.Popen([nginx, "-p", str(tmp_path), "-c", str(tmp_path / "nginx.conf")])
    try:
        until(lambda: socket.socket().connect_ex(("127.0.0.1", port)) == 0, what="nginx")
        trust = ssl.create_default_context(cafile=authority.certificate)
        forged = {"x-forwarded-for": "10.9.9.9", "x-request-id": "forged"}
        with httpx.Client(base_url=f"https://127.0.0.1:{port}", verify=trust, headers=HEADERS) as client:
            answer = client.post(CHAT, json=BODY, headers=forged)
        assert answer.status_code == 200
        assert answer.headers["x-request-id"] != "forged"
        assert proxied[1].record(answer.headers["x-request-id"])["client_ip"] == "127.0.0.1"
    finally:
        process.terminate()
        process.wait(10)


@pytest.mark.parametrize("spoiled", ["key", "crt"])
def test_without_a_usable_pair_nothing_starts(tmp_path: Path, spoiled: str) -> None:
    from tests.integration.test_supervision import run_up

    key, certificate = Authority(tmp_path / "ca").issue("server", "localhost")
    next(path for path in (key, certificate) if path.suffix == f".{spoiled}").write_text("garbage")
    server = f"server: {{tls: {{cert_file: {certificate}, key_file: {key}}}}}"
    result = run_up(tmp_path, f"vllm: {{base_url: 'http://h/v1'}}\n{server}\n")
    assert result.returncode == 2
    assert f"server.{spoiled}: server.tls." in result.stderr
