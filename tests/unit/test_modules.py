"""What holds of all modules: who calls itself pure is held to it; every exception of ours has the one root."""

import ast
import re
import tomllib
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).parents[2]
CONTRACT = "Modules that call themselves pure, or without I/O, import nothing that does any"
PACKAGES = (
    "gatehouse",
    "authz_service",
    "ratelimit_service",
    "accesslog_service",
    "portal_service",
    "demo_model_server",
)


def modules_of(package: str) -> Iterator[tuple[str, Path]]:
    spec = find_spec(package)
    assert spec
    assert spec.origin
    root = Path(spec.origin).parent
    for file in root.rglob("*.py"):
        if file.name != "__init__.py":
            yield ".".join((package, *file.relative_to(root).with_suffix("").parts)), file


def says_so(file: Path) -> bool:
    doc = ast.get_docstring(ast.parse(file.read_text())) or ""
    return bool(re.search(r"\bpure\b|\b(no|without) I/O\b", doc, re.IGNORECASE))


def test_the_contract_names_every_module_that_calls_itself_pure() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    listed = next(each["source_modules"] for each in contracts if each["name"] == CONTRACT)
    assert {module for name in PACKAGES for module, file in modules_of(name) if says_so(file)} == set(listed)


def test_every_exception_of_ours_has_the_one_root() -> None:
    others = [
        f"{module}: {line}"
        for name in PACKAGES
        if name != "demo_model_server"
        for module, file in modules_of(name)
        if module != "gatehouse.contract.failures"
        for line in file.read_text().splitlines()
        if re.match(r"class \w+\((Exception|ValueError|RuntimeError|OSError)\)", line)
    ]
    assert others == []
