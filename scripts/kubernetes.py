"""`python -m scripts.kubernetes`: write the manifests that are made from others; `--check`: say whether they are so.

The Helm chart's templates are the manifests of the kustomize tree. A comment in these says what stands in the chart:

- `replicas: 2 # {{ .Values.replicas }}`: this expression instead of the value, a block below the line included;
- `# {{- if .Values.redis.enabled }}`, alone on its line: this line.

The rules of deploy/prometheus become a PrometheusRule here, and a file of the chart there.
"""

import re
import sys
from pathlib import Path

import yaml

DEPLOY = Path(__file__).parents[1] / "deploy"
TREE, CHART, RULES = DEPLOY / "kubernetes", DEPLOY / "helm" / "gatehouse", DEPLOY / "prometheus"
NOT_IN_CHART = {"kustomization.yaml", "gatehouse.yaml", "rules.yaml"}
PARTS = ("base", *(f"components/{name}" for name in ("redis", "vllm", "monitoring", "keda", "gateway-api", "ingress")))
"""What of the tree is in the chart; components/kept-logs patches others, and is not."""

_INSTEAD = re.compile(r"(?P<key>\s*(- )?[\w./-]+:|\s*-)(?P<value>.*?) # (?P<expression>\{\{.*\}\})$")
_LINE = re.compile(r"(?P<indent>\s*)# (?P<line>.*\{\{.*\}\}.*)$")
_MADE = "# Made from deploy/kubernetes/{}: change that, then `make manifests`.\n"


def template(manifest: str) -> str:
    """The text of a manifest -> that of the chart's template."""
    lines, inside = [], -1
    for line in manifest.splitlines():
        if inside >= 0 and line.strip() and _indent(line) > inside:
            continue
        inside = -1
        if found := _INSTEAD.match(line):
            lines.append(f"{found['key']} {found['expression']}")
            inside = _column(found["key"]) if not found["value"].strip() else -1
        elif found := _LINE.match(line):
            lines.append(found["indent"] + found["line"])
        else:
            lines.append(line)
    return "\n".join(lines) + "\n"


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _column(key: str) -> int:
    """Where a key stands, after the dash of a list if there is one: its block is what stands further right."""
    return len(key) - len(key.lstrip(" -"))


def templates() -> dict[Path, str]:
    """Every template that has a manifest, and its text."""
    sources = [file for part in PARTS for file in sorted((TREE / part).glob("*.yaml")) if file.name not in NOT_IN_CHART]
    return {
        CHART / "templates" / source.name: _MADE.format(source.relative_to(TREE)) + template(source.read_text())
        for source in sources
    }


def rules() -> str:
    """The groups of all rules, recording rules first."""
    files = [RULES / f"{name}.rules.yml" for name in ("recording", "alerts")]
    groups = [group for file in files for group in yaml.safe_load(file.read_text())["groups"]]
    return yaml.safe_dump({"groups": groups}, sort_keys=False, width=120, allow_unicode=True)


def prometheus_rule(groups: str) -> str:
    """As an object for the Prometheus operator."""
    labels = "{app.kubernetes.io/name: gatehouse, app.kubernetes.io/part-of: gatehouse}"
    head = "apiVersion: monitoring.coreos.com/v1\nkind: PrometheusRule\nmetadata:\n  name: gatehouse\n"
    body = "".join(f"  {line}\n" for line in groups.splitlines())
    return (
        f"# Made from deploy/prometheus: change that, then `make manifests`.\n{head}  labels: {labels}\nspec:\n{body}"
    )


def made() -> dict[Path, str]:
    """Every file that this writes, and its text."""
    monitoring = TREE / "components" / "monitoring" / "rules.yaml"
    return {**templates(), CHART / "files" / "rules.yaml": rules(), monitoring: prometheus_rule(rules())}


def main() -> int:
    wanted = made()
    if "--check" not in sys.argv:
        for path, text in wanted.items():
            path.write_text(text)
        return 0
    stale = [path for path, text in wanted.items() if not path.exists() or path.read_text() != text]
    for path in stale:
        print(f"{path.relative_to(DEPLOY.parent)} is not what it is made from: make manifests")
    return int(bool(stale))


if __name__ == "__main__":
    sys.exit(main())
