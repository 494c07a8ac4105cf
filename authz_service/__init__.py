"""authz_service: who calls, and may they? Envoy's ext_authz asks it once a request, with two headers and an address.

- `credential`    headers -> the key, or why there is none
- `gate`          checks before the look-up: malformed keys, and addresses with too many failures (`guesses`)
- `keyring`       all keys, from files and store; `store` follows the store, `restrictions` survive a restart
- `cutting`       tells Envoy which keys' running streams must end
- `principals`    a key's record -> its holder
- `access`        what key, user, team and tier together allow
- `decide`        the decision: pure, and knows no transport
- `sso`           JSON Web Tokens instead of keys
- `service`       protobuf in, protobuf out
- `metrics`       what is counted
"""
