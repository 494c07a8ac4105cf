"""A file that is written in two halves, each of them valid: nobody is refused meanwhile; what is whole counts soon."""

import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx2 as httpx
import pytest
import yaml

from testkit.fakes.fake_vllm import FakeVllm
from testkit.running_gateway import RunningGateway, running_gateway
from testkit.waiting import until

BODY = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}
GAP_S = 0.4
IN_FILE, IN_KEY_FILE = "sk-half-main-0001", "sk-half-keys-0002"


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[RunningGateway]:
    keys = tmp_path / "keys.yaml"
    keys.write_text(
        yaml.safe_dump({"sk-half-first-0000": entry("first"), IN_KEY_FILE: entry("second")}, sort_keys=False)
    )
    with FakeVllm(("m",)) as backend:
        config = {
            "vllm": {"base_url": f"{backend.url}/v1", "default_model": "m"},
            "key_files": [str(keys)],
            "rate_limits": {"open": {}},
            "api_keys": {IN_FILE: entry("main")},
        }
        with running_gateway(tmp_path, config) as running:
            yield running


def text_of(document: Mapping[str, object]) -> str:
    """In this order."""
    return yaml.safe_dump(document, sort_keys=False)


def entry(user: str) -> dict[str, str]:
    return {"user_id": user, "tier": "open"}


def status(gateway: RunningGateway, key: str) -> int:
    return httpx.post(f"{gateway.url}/v1/chat/completions", json=BODY, headers={"x-api-key": key}).status_code


def in_halves(file: Path, text: str, cut: int, *, new: bool) -> None:
    """`new`: the file is removed first, so that what is written is another one."""
    if new:
        file.unlink()
    with file.open("w") as out:
        out.write(text[:cut])
        out.flush()
        time.sleep(GAP_S)
        out.write(text[cut:])


@contextmanager
def nobody_refused(gateway: RunningGateway, key: str) -> Iterator[None]:
    """While the block runs, and a little longer."""
    seen, over = Counter[int](), threading.Event()

    def keep_asking() -> None:
        while not over.is_set():
            seen[status(gateway, key)] += 1

    asking = threading.Thread(target=keep_asking)
    asking.start()
    try:
        yield
        time.sleep(0.5)
    finally:
        over.set()
        asking.join()
    assert seen.keys() == {200}, seen


@pytest.mark.parametrize(("name", "key"), [("gatehouse.yaml", IN_FILE), ("keys.yaml", IN_KEY_FILE)])
def test_half_a_file_is_never_taken(gateway: RunningGateway, name: str, key: str) -> None:
    file = gateway.directory / name
    document = yaml.safe_load(file.read_text())
    if name == "keys.yaml":
        text = text_of(document)
    else:
        keys = document.pop("api_keys")
        text = text_of({**document, "api_keys": {"sk-half-other-0004": entry("other"), **keys}})
    cut, indent = text.rindex("\n", 0, text.index(key)) + 1, "" if name == "keys.yaml" else "  "
    with nobody_refused(gateway, key):
        for new in (False, True):
            fresh = f"sk-half-new-000{new:d}"
            text += f"{indent}{fresh}: {{user_id: new, tier: open}}\n"
            in_halves(file, text, cut, new=new)
            until(lambda fresh=fresh: status(gateway, fresh) == 200, 2, "what was written")
