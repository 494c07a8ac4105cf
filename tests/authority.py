"""A certificate authority for tests, made with the openssl command."""

import shutil
import subprocess
from pathlib import Path

import pytest


class Authority:
    """In a folder of its own; `certificate` is what those trust who trust it."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._folder = folder
        if shutil.which("openssl") is None:
            pytest.skip("needs the openssl command")
        self._key, self.certificate = self._signed("ca", "CA", ["-x509", "-days", "2"])

    def issue(self, file: str, name: str, kind: str = "DNS") -> tuple[Path, Path]:
        """Key and certificate for `name`, a host name or, where `kind` is `IP`, an address."""
        by = ["-x509", "-days", "2", "-CA", str(self.certificate), "-CAkey", str(self._key)]
        return self._signed(file, name, [*by, "-addext", f"subjectAltName={kind}:{name}"])

    def _signed(self, file: str, name: str, options: list[str]) -> tuple[Path, Path]:
        key, certificate = self._folder / f"{file}.key", self._folder / f"{file}.crt"
        where = ["-keyout", str(key), "-out", str(certificate), "-subj", f"/CN={name}"]
        new = ["openssl", "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        subprocess.run([*new, *where, *options], check=True, capture_output=True)
        return key, certificate
