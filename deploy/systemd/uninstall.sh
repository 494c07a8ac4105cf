#!/bin/sh
# Stop Gatehouse (running requests may finish) and remove what install.sh has installed. Run as root.
# Configuration, secrets, keys and logs stay, unless --purge is given.
# Tested by tests/deploy/test_systemd.py.
set -eu

[ "$(id -u)" = 0 ] || { echo "uninstall.sh: must be run as root" >&2; exit 1; }
case "${1:-}" in ""|--purge) ;; *) echo "usage: uninstall.sh [--purge]" >&2; exit 2 ;; esac

systemctl disable --now gatehouse.service 2>/dev/null || true
rm -f /etc/systemd/system/gatehouse.service
[ "$(readlink /usr/local/bin/gatehouse || true)" != /opt/gatehouse/bin/gatehouse ] || rm -f /usr/local/bin/gatehouse
rm -rf /opt/gatehouse
systemctl daemon-reload
if [ "${1:-}" = --purge ]; then
  rm -rf /etc/gatehouse /var/lib/gatehouse /var/lib/private/gatehouse /var/log/gatehouse /var/log/private/gatehouse
  groupdel gatehouse-config 2>/dev/null || true
else
  echo "Left: /etc/gatehouse, /var/lib/gatehouse, /var/log/gatehouse (uninstall.sh --purge removes them)"
fi
