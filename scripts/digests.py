"""`python -m scripts.digests`: pin every image that deploy/ names to what its tag stands for now; `--check`: say which
are not pinned so, and exit 1.

`NAME:TAG` becomes `NAME:TAG@sha256:…`, of the manifest of all platforms. A job runs it once a week
(.github/workflows/supply-chain.yaml) and proposes what has changed. If no registry can be reached, it
says so and changes nothing.
"""

import json
import re
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

DEPLOY = Path(__file__).parents[1] / "deploy"
FILES = ("Dockerfile", "compose/compose.yaml", "kubernetes/**/*.yaml", "helm/gatehouse/values.yaml")
OURS = "gatehouse"
IMAGE = re.compile(
    r"(?P<before>(?:image|envoyImage): (?:\$\{\w+:-)?|ARG \w+_IMAGE=)"
    r"(?P<name>[a-z0-9][a-z0-9./_-]*):(?P<tag>v?\d[\w.-]*)(?P<digest>@sha256:[0-9a-f]{64})?"
)
_MANIFESTS = ", ".join(
    f"application/vnd.{kind}+json" for kind in ("oci.image.index.v1", "docker.distribution.manifest.list.v2")
)

Resolve = Callable[[str, str], str]
"""Image and tag -> `sha256:…`. Raises `OSError`."""


def pinned(text: str, resolve: Resolve) -> str:
    """`text` with every foreign image at the digest that its tag has now."""

    def at_digest(found: re.Match[str]) -> str:
        name, tag = found["name"], found["tag"]
        if name == OURS:
            return found[0]
        return f"{found['before']}{name}:{tag}@{resolve(name, tag)}"

    return IMAGE.sub(at_digest, text)


def unpinned(text: str) -> list[str]:
    """Foreign images without a digest."""
    found = IMAGE.finditer(text)
    return [f"{each['name']}:{each['tag']}" for each in found if not each["digest"] and each["name"] != OURS]


def of_registry(name: str, tag: str, registry: str = "https://registry-1.docker.io") -> str:
    """Ask the registry (OCI Distribution Specification, "Pulling manifests"), with the token that it asks for."""
    repository = name if "/" in name else f"library/{name}"
    url = f"{registry}/v2/{repository}/manifests/{tag}"
    try:
        return _digest(url, None)
    except urllib.error.HTTPError as refused:
        challenge = refused.headers.get("WWW-Authenticate", "")
        if refused.code != 401 or not challenge.startswith("Bearer "):
            raise
        return _digest(url, _token(challenge))


def _digest(url: str, token: str | None) -> str:
    headers = {"Accept": _MANIFESTS, **({"Authorization": f"Bearer {token}"} if token else {})}
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers, method="HEAD"), timeout=20) as answer:
        digest: str = answer.headers["Docker-Content-Digest"]
        return digest


def _token(challenge: str) -> str:
    asked = dict(re.findall(r'(\w+)="([^"]*)"', challenge))
    url = f"{asked['realm']}?service={asked.get('service', '')}&scope={asked.get('scope', '')}"
    with urllib.request.urlopen(url, timeout=20) as answer:
        token: str = json.load(answer)["token"]
        return token


def main(check: bool) -> int:
    files = [path for pattern in FILES for path in sorted(DEPLOY.glob(pattern))]
    if check:
        lacking = [f"{path.relative_to(DEPLOY)}: {each}" for path in files for each in unpinned(path.read_text())]
        print("\n".join(lacking) or "every image is pinned by digest")
        return 1 if lacking else 0
    try:
        new = {path: pinned(path.read_text(), of_registry) for path in files}
    except OSError as error:
        print(f"no registry can be reached, so nothing was changed: {error}", file=sys.stderr)
        return 1
    for path, text in new.items():
        path.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(check="--check" in sys.argv))
