"""`python -m scripts.audit`: known vulnerabilities in what the image is made of, and in the oldest dependencies that
pyproject.toml allows, as PyPI and OSV tell them to pip-audit. Exit status 1: there are some.

If neither can be reached it says so and exits 0, or 3 with `--strict`: "nothing found" would be untrue.
"""

import json
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
LOCKS = ("deploy/requirements.lock", "deploy/build.lock", "deploy/envoy.lock")
UNKNOWN = 3


def floors(project: Mapping[str, Any]) -> str:
    """The oldest allowed version of each dependency, as requirements."""
    found = (
        re.match(r"([a-zA-Z0-9._-]+)(?:\[[^]]*\])?(?:>=|==)([0-9.]+?)(?:\.\*)?(?:,<.*)?$", each)
        for each in project["dependencies"]
    )
    return "\n".join(f"{each[1]}=={each[2]}" for each in found if each)


def verdict(reports: Iterable[Mapping[str, Any]], *, strict: bool) -> tuple[int, list[str]]:
    """The exit status, and what is to be said, of pip-audit's JSON reports."""
    entries = [entry for report in reports for entry in report["dependencies"]]
    looked_at = [entry for entry in entries if "skip_reason" not in entry]
    if not looked_at:
        return UNKNOWN if strict else 0, ["no database of vulnerabilities can be reached: nothing was audited"]
    bad = sorted(
        {
            f"{e['name']} {e['version']}: {v['id']}, fixed in {', '.join(v['fix_versions']) or 'nothing yet'}"
            for e in looked_at
            for v in e["vulns"]
        }
    )
    return 1 if bad else 0, bad or [f"{len(looked_at)} of {len(entries)} looked at, nothing known against them"]


def audited(requirements: Path) -> Mapping[str, Any]:
    """pip-audit's report. Raises `OSError` or `ValueError` when there is none."""
    command = [sys.executable, "-m", "pip_audit", "--no-deps", "--disable-pip", "-f", "json", "-r", str(requirements)]
    report: Mapping[str, Any] = json.loads(subprocess.run(command, capture_output=True, text=True, check=False).stdout)
    return report


def main(strict: bool) -> int:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as oldest:
        oldest.write(floors(project))
        oldest.flush()
        try:
            reports = [audited(path) for path in (*(ROOT / lock for lock in LOCKS), Path(oldest.name))]
        except ValueError:
            reports = []
    status, said = verdict(reports, strict=strict)
    print("\n".join(said))
    return status


if __name__ == "__main__":
    sys.exit(main(strict="--strict" in sys.argv))
