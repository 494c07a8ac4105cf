"""`python -m scripts.dashboards`: write them; `--check`: say whether the files are as described."""

import json
import sys
from pathlib import Path

from scripts.dashboards.described import ALL

FOLDER = Path(__file__).parents[2] / "deploy" / "grafana" / "dashboards"


def main() -> int:
    wanted = {FOLDER / f"{each.name}.json": json.dumps(each.json(), indent=2) + "\n" for each in ALL}
    if "--check" in sys.argv:
        there = {path: path.read_text() for path in FOLDER.glob("*.json")}
        if there != wanted:
            print("deploy/grafana/dashboards is not as scripts/dashboards describes it: make dashboards")
        return int(there != wanted)
    for path, text in wanted.items():
        path.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
