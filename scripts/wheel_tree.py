"""Set up the tests for an installed wheel: `build/wheel-env` has the wheel, built from this checkout, and `build/tree`
everything but the packages, so that imports can only come from the wheel.

    python scripts/wheel_tree.py && cd build/tree && ../wheel-env/bin/python -m pytest
"""

import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "build"
ENVIRONMENT, TREE = BUILD / "wheel-env", BUILD / "tree"
_OF_A_RUN = (
    ".git",
    ".venv",
    ".venv-vllm",
    "build",
    "dist",
    "logs",
    "bench-results",
    ".hypothesis",
    ".mypy_cache",
    ".ruff_cache",
    ".pytest_cache",
    ".import_linter_cache",
)


def main() -> None:
    for folder in (ENVIRONMENT, TREE, BUILD / "wheel"):
        shutil.rmtree(folder, ignore_errors=True)
    wheel = _built()
    _environment(wheel)
    _tree()


def _pip(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments], check=True)


def _built() -> Path:
    _pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(BUILD / "wheel"), str(ROOT))
    [wheel] = (BUILD / "wheel").glob("*.whl")
    return wheel


def _environment(wheel: Path) -> None:
    """What the wheel depends on comes from the environment of this interpreter. A path in a `.pth` file is searched
    for modules, and its own `.pth` files are left alone: so the checkout, if installed there as editable, is not."""
    venv.create(ENVIRONMENT, with_pip=False, symlinks=True)
    own = ENVIRONMENT / Path(sysconfig.get_path("purelib")).relative_to(sys.prefix)
    (own / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    _pip("--python", str(ENVIRONMENT / "bin" / "python"), "install", "--no-deps", str(wheel))


def _tree() -> None:
    """Works without git, too: an unpacked archive has none, and git rejects a checkout of another user."""
    hatch = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]
    left_out = {*hatch["build"]["targets"]["wheel"]["packages"], *_OF_A_RUN}
    here = [path for path in ROOT.iterdir() if path.name not in left_out]
    TREE.mkdir(parents=True)
    for path in here:
        if path.is_dir():
            shutil.copytree(path, TREE / path.name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(path, TREE / path.name)


if __name__ == "__main__":
    main()
