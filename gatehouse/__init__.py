"""Gatehouse: what its processes share, and the command line.

From the ground up; each imports only what stands above it:

- `contract`      names, errors and fields that Envoy's configuration and the services agree on
- `files`         atomic writes, daily files, watching
- `config`        the shape of `gatehouse.yaml`
- `keys`          what an API key is and how it is stored
- `loading`       files -> a complete configuration with its keys, followed as they change
- `redis_client`  clients for the Redis that a URL names
- `envoy`         pure functions from the configuration to Envoy's
- `rpc`           gRPC servers and clients
- `process`       workers, signals, supervision, logs
- `gateway`       the running gateway: Envoy and the services, reload, handover
- `doctor`, `usage_report`, `cli`  the `gatehouse` command
- `metrics`, `pb` Prometheus samples; generated protobuf messages
"""

__version__ = "0.1.0"
