"""`python deploy/sbom.py BOM DPKG_STATUS ENVOY_VERSION`: add to a CycloneDX bill of the Python packages what else the
image is made of: Debian's packages, as dpkg tells them, and Envoy.

Package URLs as in https://github.com/package-url/purl-spec. Only the standard library, for it runs while the image is
built.
"""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Component = dict[str, Any]


def debian(status: str) -> Iterator[Component]:
    """The packages that are installed, of dpkg's `status`."""
    for stanza in status.split("\n\n"):
        fields = dict(re.findall(r"^(Package|Version|Architecture|Status): (.*)$", stanza, re.MULTILINE))
        if fields.get("Status", "").endswith(" installed"):
            name, version = fields["Package"], fields["Version"]
            purl = (
                f"pkg:deb/debian/{name}@{version.replace(':', '%3A').replace('+', '%2B')}?arch={fields['Architecture']}"
            )
            yield {"type": "library", "name": name, "version": version, "purl": purl, "bom-ref": purl}


def envoy(said: str) -> Component:
    """Of what `envoy --version` says: `envoy  version: COMMIT/1.40.2/Clean/RELEASE/BoringSSL`."""
    found = re.search(r"([0-9a-f]+)/(\d+\.\d+\.\d+)", said)
    if found is None:
        raise SystemExit(f"no version of Envoy in {said!r}")
    commit, version = found.groups()
    purl = f"pkg:github/envoyproxy/envoy@v{version}"
    return {
        "type": "application",
        "name": "envoy",
        "version": version,
        "purl": purl,
        "bom-ref": purl,
        "cpe": f"cpe:2.3:a:envoyproxy:envoy:{version}:*:*:*:*:*:*:*",
        "properties": [{"name": "commit", "value": commit}],
    }


def main(bom: Path, status: Path, version: str) -> None:
    bill = json.loads(bom.read_text())
    bill["components"] = [*bill.get("components", []), envoy(version), *debian(status.read_text())]
    bom.write_text(json.dumps(bill, indent=2) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
