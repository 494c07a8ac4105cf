"""A module that calls itself pure, or without I/O, is in the import contract that holds it to that."""

import ast
import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
CONTRACT = "Modules that call themselves pure, or without I/O, import nothing that does any"
PACKAGES = ("gatehouse", "authz_service", "ratelimit_service", "accesslog_service", "demo_model_server")


def says_so(file: Path) -> bool:
    doc = ast.get_docstring(ast.parse(file.read_text())) or ""
    return bool(re.search(r"\bpure\b|\b(no|without) I/O\b", doc, re.IGNORECASE))


def test_the_contract_names_every_module_that_calls_itself_pure() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    listed = next(each["source_modules"] for each in contracts if each["name"] == CONTRACT)
    files = [file for name in PACKAGES for file in (ROOT / name).rglob("*.py") if file.name != "__init__.py"]
    modules = {".".join(file.relative_to(ROOT).with_suffix("").parts) for file in files if says_so(file)}
    assert modules == set(listed)
