#!/bin/sh
# Put Envoy's own release in place, if it is the very file that its SHA-256 says:
#
#   envoy.sh https://github.com/envoyproxy/envoy/releases/download/v1.40.2/envoy-1.40.2-linux-x86_64 SHA256 /opt/gatehouse/envoy
#
# The sum stands in checksums.txt.asc of the release. A file in place of the URL will do. Called by install.sh.
# Tested by tests/deploy/test_supply_chain.py.
set -eu

[ $# = 3 ] || { echo "usage: envoy.sh URL-OR-FILE SHA256 TARGET" >&2; exit 2; }
source=$1 sum=$2 target=$3
fresh=$(mktemp -d)
trap 'rm -rf "$fresh"' EXIT

case $source in
  *://*) curl --proto '=https' -fsSL -o "$fresh/envoy" "$source" ;;
  *) cp "$source" "$fresh/envoy" ;;
esac
echo "$sum  $fresh/envoy" | sha256sum --check --status \
  || { echo "envoy.sh: $source is not the file with the SHA-256 $sum; nothing was installed" >&2; exit 1; }
install -m 0755 "$fresh/envoy" "$target.new"
mv "$target.new" "$target"
