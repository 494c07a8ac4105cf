"""Generate `gatehouse/pb` from `protos/`.

    python scripts/protos.py            rewrite the generated modules and their type stubs
    python scripts/protos.py --check    exit 1 and name what is out of date; writes nothing

Needs grpcio-tools, which carries protoc and Google's own .proto files.
"""

import argparse
import sys
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory

from grpc_tools import protoc  # type: ignore[import-untyped]  # ships no types

ROOT = Path(__file__).resolve().parent.parent
PROTOS = ROOT / "protos"
PACKAGE = Path("gatehouse/pb")

Sources = dict[Path, str]
"""Generated files: path below the root of the project -> text."""


def generate() -> Sources:
    """What protoc makes of `protos/`.

    Raises SystemExit if protoc refuses a file; protoc itself prints where and why.
    """
    with TemporaryDirectory() as out:
        includes = [f"-I{PROTOS}", f"-I{files('grpc_tools') / '_proto'}"]
        sources = [str(path) for path in sorted(PROTOS.rglob("*.proto"))]
        if protoc.main(["protoc", *includes, f"--python_out={out}", f"--pyi_out={out}", *sources]) != 0:
            raise SystemExit("protoc refused the files in protos/")
        return {path.relative_to(out): path.read_text() for path in Path(out).rglob("*_pb2.py*")}


def committed(root: Path) -> Sources:
    """The generated files that `root` holds now."""
    return {path.relative_to(root): path.read_text() for path in (root / PACKAGE).glob("*_pb2.py*")}


def stale(wanted: Sources, found: Sources) -> Iterator[str]:
    """One line for each file that is missing, left over or different."""
    for path in sorted(wanted.keys() | found.keys()):
        if path not in found:
            yield f"{path}: missing"
        elif path not in wanted:
            yield f"{path}: has no .proto any more"
        elif wanted[path] != found[path]:
            yield f"{path}: differs"


def rewrite(wanted: Sources, root: Path) -> None:
    """Make `root` hold exactly `wanted`."""
    for path in committed(root).keys() - wanted.keys():
        (root / path).unlink()
    for path, text in wanted.items():
        (root / path).write_text(text)


def main() -> int:
    parser = argparse.ArgumentParser(description="Generate gatehouse/pb from protos/.")
    parser.add_argument("--check", action="store_true", help="exit 1 if gatehouse/pb is out of date; write nothing")
    wanted = generate()
    if not parser.parse_args().check:
        rewrite(wanted, ROOT)
        return 0
    problems = list(stale(wanted, committed(ROOT)))
    if problems:
        print(*problems, "run: python scripts/protos.py", sep="\n", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
