"""authz_service: who is this, may they. Envoy's ext_authz asks it once a request, with two headers and an address.

- `credential`    headers -> the key, or why there is none
- `gate`          the way of a key: refused by its looks, or after too many `guesses`, or looked up
- `keyring`       every key there is, from files and store; `store` follows the store, `restrictions` outlast a restart
- `cutting`       which keys' running streams Envoy is to end
- `principals`    a record of a key -> whom it stands for
- `access`        what key, user, team and tier together allow
- `decide`        the decision: pure, and knows no transport
- `sso`           JSON Web Tokens in the place of keys: whom each stands for
- `service`       protobuf in, protobuf out
- `metrics`       what is counted
"""
