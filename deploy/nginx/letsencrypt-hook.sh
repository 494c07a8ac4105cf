#!/bin/sh
# What certbot runs when Let's Encrypt has issued or renewed a certificate (certbot --deploy-hook; certbot sets
# RENEWED_LINEAGE): the pair is put where nginx, or Gatehouse itself (server.tls), reads it.
#
#   certbot certonly --webroot -w /var/www/acme -d llm.example.com --deploy-hook /opt/gatehouse/letsencrypt-hook.sh
#
# TLS_DIR    where to put tls.crt and tls.key       (default: /etc/nginx/gatehouse)
# TLS_OWNER  USER:GROUP that may read the key       (default: root:root; nginx reads it as root)
# RELOAD     what makes the reader take it up       (default: nginx -s reload; Gatehouse needs nothing: RELOAD=true)
#
# Nothing but a pair that fits is put in place, the key before the certificate, each by a rename.
# Tried with certificates of openssl, by tests/deploy/test_nginx.py; not with Let's Encrypt itself, which wants a host
# that the internet can reach.
set -eu

TLS_DIR=${TLS_DIR:-/etc/nginx/gatehouse}
TLS_OWNER=${TLS_OWNER:-root:root}
RELOAD=${RELOAD:-nginx -s reload}
from=${RENEWED_LINEAGE:?is set by certbot; by hand: RENEWED_LINEAGE=/etc/letsencrypt/live/llm.example.com}

public() { openssl "$@" 2>/dev/null || { echo "letsencrypt-hook.sh: $from can't be read" >&2; exit 1; }; }
certified=$(public x509 -noout -pubkey -in "$from/fullchain.pem")
held=$(public pkey -pubout -in "$from/privkey.pem")
[ "$certified" = "$held" ] || { echo "letsencrypt-hook.sh: certificate and key in $from don't fit" >&2; exit 1; }

mkdir -p "$TLS_DIR"
put() { # put FROM TO MODE
  install -m 0600 "$1" "$TLS_DIR/.$2.new"
  chown "$TLS_OWNER" "$TLS_DIR/.$2.new"
  chmod "$3" "$TLS_DIR/.$2.new"
  mv -f "$TLS_DIR/.$2.new" "$TLS_DIR/$2"
}
put "$from/privkey.pem" tls.key 0640
put "$from/fullchain.pem" tls.crt 0644
$RELOAD
