"""Gatehouse: what its processes must agree on, and the command line.

The front door of the code:

- `config`  the one file an operator writes, as a frozen model
- `keys`    what an API key is and how it is kept
- `errors`  every error a client can be given by the gateway itself
- `envoy`   pure functions from the config model to Envoy's configuration
- `server`  the gRPC shell the three services run in
- `cli`     the `gatehouse` command
"""

__version__ = "0.1.0"
