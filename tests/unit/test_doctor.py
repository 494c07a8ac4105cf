"""What the checks of `gatehouse doctor` make of what they see, without anybody to ask."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from gatehouse.config.machine import memory_bytes
from gatehouse.config.model import Config, Tls
from gatehouse.doctor.backends import Target, healthy, serves, targets
from gatehouse.doctor.certificates import certificates
from gatehouse.doctor.files import key_files, log_directory, secret_file
from gatehouse.doctor.finding import Finding
from gatehouse.doctor.redis import clock
from gatehouse.doctor.resources import files_for, watchers, watchers_for

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
MODEL = {"backends": [{"url": "http://gpu/llm/v1"}], "aliases": ["gpt-4o"]}
TARGET = Target("vllm.base_url", "http://gpu:8100/v1", ("llama", "gpt-4o"))


def levels(found: list[Finding]) -> list[str]:
    return [finding.level for finding in found]


class TestBackends:
    def test_each_must_know_every_name_of_its_model(self) -> None:
        config = Config.model_validate({"models": {"llama": MODEL, "qwen": {"backends": [{"url": "https://q"}] * 2}}})
        found = [(target.field, target.names, target.root) for target in targets(config)]
        assert found == [
            ("models.llama.backends[0].url", ("llama", "gpt-4o"), "http://gpu/llm"),
            ("models.qwen.backends[0].url", ("qwen",), "https://q"),
            ("models.qwen.backends[1].url", ("qwen",), "https://q"),
        ]

    def test_the_short_form_asks_for_its_default_model_alone(self) -> None:
        assert targets(Config.model_validate({"vllm": {"base_url": "http://a/v1"}}))[0].names == ()

    @pytest.mark.parametrize(("status", "level"), [(200, "ok"), (404, "ok"), (503, "error"), (500, "error")])
    def test_health(self, status: int, level: str) -> None:
        assert healthy(TARGET, status).level == level

    @pytest.mark.parametrize(
        ("status", "body", "level"),
        [
            (200, {"data": [{"id": "gpt-4o"}, {"id": "llama"}, {"id": "more"}]}, "ok"),
            (200, {"data": [{"id": "llama"}]}, "error"),
            (401, None, "error"),
            (404, {"detail": "Not Found"}, "warning"),
            (200, None, "warning"),
            (200, {"data": None}, "warning"),
            (200, {"data": [1, {}]}, "warning"),
            (200, [], "warning"),
        ],
    )
    def test_models(self, status: int, body: Any, level: str) -> None:
        assert serves(TARGET, status, body).level == level

    def test_a_name_that_is_not_served_is_told_with_what_is(self) -> None:
        found = serves(TARGET, 200, {"data": [{"id": "llama"}]})
        assert found.message == "http://gpu:8100/v1 serves llama, not gpt-4o"
        assert found.fix == "start it with --served-model-name llama gpt-4o, or use the name it has"


@pytest.mark.parametrize(
    ("redis_says", "level", "side"),
    [
        (100.5, "ok", ""),
        (98.1, "ok", ""),
        (102.9, "ok", ""),
        (110.0, "warning", "behind"),
        (90.0, "warning", "ahead of"),
    ],
)
def test_a_clock_that_is_off_is_a_warning(redis_says: float, level: str, side: str) -> None:
    found = clock(redis_says, before=100.0, after=101.0)
    assert found.level == level
    assert side in found.message


class TestRoom:
    def test_watchers_are_enough_for_two_gateways(self) -> None:
        """Envoy aborts where it gets no inotify instance (source/common/filesystem/inotify/watcher_impl.cc)."""
        assert watchers_for(96, 128).level == "ok"
        found = watchers_for(97, 128)
        assert found.level == "warning"
        assert found.fix.startswith("sysctl fs.inotify.max_user_instances=1024")
        assert len(watchers()) == Path("/proc/sys/fs/inotify/max_user_instances").exists()

    def test_each_connection_may_need_two_files(self) -> None:
        assert files_for(10_000, 20_000, 20_000).level == "ok"
        assert files_for(10_001, 20_000, 40_000).level == "warning"
        assert files_for(20_000, -1, -1).level == "ok"

    def test_what_a_shell_starts_with_is_few(self) -> None:
        found = files_for(512, 1024, 1_048_576)
        assert (found.level, found.fix) == ("warning", "ulimit -n 2000, or LimitNOFILE=2000 in the unit")

    def test_the_memory_of_a_container_counts(self, tmp_path: Path) -> None:
        (tmp_path / "own").write_text("0::/kube/pod\n")
        (tmp_path / "kube" / "pod").mkdir(parents=True)
        (tmp_path / "kube" / "memory.max").write_text("1073741824\n")
        (tmp_path / "kube" / "pod" / "memory.max").write_text("max\n")
        assert memory_bytes(tmp_path / "own", tmp_path) == 1024**3

    def test_so_does_that_of_an_older_one(self, tmp_path: Path) -> None:
        (tmp_path / "own").write_text("5:cpu,memory:/docker/1\n4:devices:/docker/1\n")
        (tmp_path / "memory").mkdir()
        (tmp_path / "memory" / "memory.limit_in_bytes").write_text("536870912")
        assert memory_bytes(tmp_path / "own", tmp_path) == 512 * 1024**2

    def test_without_a_container_it_is_the_machines(self, tmp_path: Path) -> None:
        assert memory_bytes(tmp_path / "none", tmp_path) == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


class TestFiles:
    def test_a_log_directory_that_can_be_made_is_fine(self, tmp_path: Path) -> None:
        assert levels(log_directory(logging_to(tmp_path / "a" / "b"))) == ["ok"]

    def test_a_file_in_its_place_is_an_error(self, tmp_path: Path) -> None:
        (tmp_path / "logs").write_text("")
        assert levels(log_directory(logging_to(tmp_path / "logs"))) == ["error"]

    @pytest.mark.parametrize(
        ("mode", "expected"), [(0o600, []), (0o440, []), (0o644, ["warning"]), (0o602, ["warning"])]
    )
    def test_a_secret_is_not_for_everybody(self, tmp_path: Path, mode: int, expected: list[str]) -> None:
        (tmp_path / "key").write_text("secret")
        (tmp_path / "key").chmod(mode)
        assert levels(secret_file("key files", str(tmp_path / "key"))) == expected

    def test_all_files_with_keys_are_looked_at(self, tmp_path: Path) -> None:
        config = Config.model_validate(
            {
                "vllm": {"base_url": "http://a"},
                "key_files": [str(tmp_path / "keys.yaml")],
                "keys": {"peppers": {"1": f"file:{tmp_path}/pepper", "2": "env:PEPPER"}},
            }
        )
        main = tmp_path / "gatehouse.yaml"
        main.write_text("")
        main.chmod(0o644)
        found = key_files(config, main, plain_keys=True)
        assert levels(found) == ["error", "error", "advice"]
        assert levels(key_files(config, main, plain_keys=False)) == ["error", "error"]


def logging_to(directory: Path) -> Config:
    return Config.model_validate({"vllm": {"base_url": "http://a"}, "logging": {"dir": str(directory)}})


class TestCertificates:
    def test_a_pair_is_good_for_so_many_days(self, tmp_path: Path) -> None:
        [found] = certificates(tls(*pair(tmp_path, days=90)), NOW)
        assert (found.level, found.message) == ("ok", f"{tmp_path}/tls.crt is good for 90 days")

    @pytest.mark.parametrize(
        ("days", "level", "words"), [(20, "warning", "expires in 20 days"), (-1, "error", "expired on 2026-11-23")]
    )
    def test_the_end_is_told_in_time(self, tmp_path: Path, days: int, level: str, words: str) -> None:
        [found] = certificates(tls(*pair(tmp_path, days=days)), NOW)
        assert found.level == level
        assert words in found.message

    def test_one_of_tomorrow_is_an_error(self, tmp_path: Path) -> None:
        [found] = certificates(tls(*pair(tmp_path, days=90)), NOW - timedelta(days=400))
        assert "not valid before" in found.message

    def test_another_key_is_an_error(self, tmp_path: Path) -> None:
        cert_file, _ = pair(tmp_path, days=90)
        (tmp_path / "other").mkdir()
        _, key_file = pair(tmp_path / "other", days=90)
        [found] = certificates(tls(cert_file, key_file), NOW)
        assert found.level == "error"
        assert "does not match the certificate" in found.message

    @pytest.mark.parametrize(
        "content", [b"", b"-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n", b"\xff"]
    )
    def test_what_is_no_certificate_is_an_error(self, tmp_path: Path, content: bytes) -> None:
        cert_file, key_file = pair(tmp_path, days=90)
        (tmp_path / "junk").write_bytes(content)
        (tmp_path / "junk").chmod(0o600)
        junk = str(tmp_path / "junk")
        assert levels(certificates(tls(junk, key_file), NOW)) == ["error"]
        assert levels(certificates(tls(cert_file, junk), NOW)) == ["error"]
        assert levels(certificates(tls(cert_file, key_file, junk), NOW)) == ["error"]
        assert levels(certificates(tls(cert_file, str(tmp_path / "none")), NOW)) == ["error", "error"]

    def test_a_key_for_everybody_is_a_warning(self, tmp_path: Path) -> None:
        cert_file, key_file = pair(tmp_path, days=90)
        Path(key_file).chmod(0o644)
        assert levels(certificates(tls(cert_file, key_file, cert_file), NOW)) == ["ok", "warning", "ok"]


def tls(cert_file: str, key_file: str, client_ca_file: str | None = None) -> Tls:
    return Tls(cert_file=cert_file, key_file=key_file, client_ca_file=client_ca_file)


def pair(directory: Path, *, days: int) -> tuple[str, str]:
    """A certificate that ends in so many days, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "gatehouse")])
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(NOW - timedelta(days=30))
        .not_valid_after(NOW + timedelta(days=days))
        .sign(key, hashes.SHA256())
    )
    cert_file, key_file = directory / "tls.crt", directory / "tls.key"
    cert_file.write_bytes(certificate.public_bytes(Encoding.PEM))
    key_file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    key_file.chmod(0o600)
    return str(cert_file), str(key_file)
