"""A certificate is checked before anyone is served with it, and what is wrong is said of the file it is in."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from gatehouse.cli import app
from gatehouse.config import ConfigError
from gatehouse.config.model import Tls
from gatehouse.gateway.certificate import MismatchError, read, untimely
from testkit.authority import Authority

NAME = "llm.example.com"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "ca")


def tls(pair: tuple[Path, Path], client_ca: Path | None = None) -> Tls:
    return Tls(cert_file=str(pair[1]), key_file=str(pair[0]), client_ca_file=str(client_ca) if client_ca else None)


def refused(files: Tls) -> str:
    with pytest.raises(ConfigError) as caught:
        read(files)
    return str(caught.value)


def test_a_pair_is_read_with_the_time_it_is_good(authority: Authority) -> None:
    files = tls(authority.issue("server", NAME), authority.certificate)
    found = read(files)
    assert found.subject == f"CN={NAME}"
    assert found.chain == Path(files.cert_file).read_text()
    assert found.client_ca == authority.certificate.read_text()
    assert untimely(found, files, datetime.now(UTC)) is None


def test_the_key_is_not_shown(authority: Authority) -> None:
    assert "PRIVATE" not in repr(read(tls(authority.issue("server", NAME))))


def test_a_whole_chain_is_kept(authority: Authority) -> None:
    key, certificate = authority.issue("server", NAME)
    certificate.write_text(certificate.read_text() + authority.certificate.read_text())
    assert read(tls((key, certificate))).chain.count("BEGIN CERTIFICATE") == 2


def test_a_certificate_file_that_holds_the_key_too_gives_only_certificates_away(authority: Authority) -> None:
    key, certificate = authority.issue("server", NAME)
    certificate.write_text(key.read_text() + certificate.read_text())
    assert "PRIVATE" not in read(tls((certificate, certificate))).chain


def test_a_key_of_another_certificate_is_refused(authority: Authority) -> None:
    key, _ = authority.issue("other", NAME)
    _, certificate = authority.issue("server", NAME)
    with pytest.raises(MismatchError, match=r"other.key: server.tls.key_file: does not match the certificate"):
        read(tls((key, certificate)))


@pytest.mark.parametrize("which", ["key", "crt"])
def test_what_is_no_pem_is_refused(authority: Authority, which: str) -> None:
    pair = authority.issue("server", NAME)
    next(path for path in pair if path.suffix == f".{which}").write_text("garbage")
    assert f"server.{which}: server.tls." in (said := refused(tls(pair)))
    assert "in PEM" in said


@pytest.mark.parametrize("which", [0, 1])
def test_a_file_that_is_not_there_is_named(authority: Authority, which: int) -> None:
    pair = authority.issue("server", NAME)
    pair[which].unlink()
    assert f"{pair[which]}: server.tls." in (said := refused(tls(pair)))
    assert "can't be read: No such file or directory" in said


def test_an_encrypted_key_is_refused_as_such(authority: Authority) -> None:
    from cryptography.hazmat.primitives import serialization as s

    key, certificate = authority.issue("server", NAME)
    plain = s.load_pem_private_key(key.read_bytes(), None)
    locked = s.BestAvailableEncryption(b"secret")
    key.write_bytes(plain.private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, locked))
    assert "the key is encrypted" in refused(tls((key, certificate)))


def test_one_that_has_expired_or_is_not_good_yet_is_told(authority: Authority) -> None:
    expired = tls(authority.issue("old", NAME, timedelta(days=-1)))
    assert "expired at" in str(untimely(read(expired), expired, datetime.now(UTC)))
    early = datetime.now(UTC) - timedelta(days=60)
    assert "not valid before" in str(untimely(read(expired), expired, early))


def checked(tmp_path: Path, pair: tuple[Path, Path]) -> Result:
    file = tmp_path / "gatehouse.yaml"
    server = f"server: {{tls: {{cert_file: {pair[1]}, key_file: {pair[0]}}}}}"
    file.write_text(f"vllm: {{base_url: 'http://h/v1'}}\n{server}\n")
    return CliRunner().invoke(app, ["check", str(file)])


def test_check_passes_one_that_has_expired_with_a_warning(authority: Authority, tmp_path: Path) -> None:
    """A gateway that must be started again is better up than down, and says what is wrong."""
    result = checked(tmp_path, authority.issue("old", NAME, timedelta(days=-1)))
    assert result.exit_code == 0
    assert "old.crt: server.tls.cert_file: the certificate expired at" in result.stderr


def test_check_refuses_a_pair_that_does_not_fit(authority: Authority, tmp_path: Path) -> None:
    result = checked(tmp_path, (authority.issue("other", NAME)[0], authority.issue("server", NAME)[1]))
    assert result.exit_code == 2
    assert "other.key: server.tls.key_file: does not match the certificate in" in result.stderr
