"""Single sign-on: JSON Web Tokens of the configured issuers, taken in the place of keys.

- `token`      a token -> its claims, or why it proves nothing: pure
- `jwks`       an issuer's JWK Set -> the keys that may check its tokens: pure
- `claims`     claims -> the principal they stand for: pure
- `fetch`      documents of an issuer over HTTP
- `issuer`     one issuer: its keys, fetched in the background and kept up to date
- `verified`   tokens that were found good, so that each is checked once
- `principals` the way of a token through all of these
- `metrics`    what is counted
"""
