"""Many keys: all of them are found, and none of them weighs much."""

import tracemalloc
from pathlib import Path

from authz_service.keyring import Keyring
from gatehouse.contract.key_digest import digest_of
from gatehouse.loading.files import Files
from gatehouse.loading.key_table import KeyRetention

COUNT = 20_000


def test_many_keys_are_found_and_weigh_less_than_half_a_kilobyte_each(tmp_path: Path) -> None:
    keys = "".join(
        f"  '{digest_of(f'sk-many-{n}')}': {{user_id: user-{n % 50}, name: key-{n}, tier: t, models: ['llama-*']}}\n"
        for n in range(COUNT)
    )
    file = tmp_path / "gatehouse.yaml"
    file.write_text(f"vllm: {{base_url: 'http://h/v1'}}\nrate_limits: {{t: {{}}}}\napi_keys:\n{keys}")
    files = Files(file, KeyRetention.RECORDS, {})
    tracemalloc.start()
    files.load()
    keyring = Keyring(files.records)
    weight, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert weight / COUNT < 500
    found = [keyring.get(digest_of(f"sk-many-{n}")) for n in range(0, COUNT, 997)]
    assert [principal.key_id for principal in found if principal] == [f"key-{n}" for n in range(0, COUNT, 997)]
