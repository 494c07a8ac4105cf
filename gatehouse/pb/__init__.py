"""Protobuf messages of the wire: generated from `protos/` by `python scripts/protos.py`, never edited.

- `external_auth_pb2`              ext_authz: `envoy.service.auth.v3`
- `rls_pb2`, `ratelimit_pb2`       RLS: `envoy.service.ratelimit.v3`, and the descriptors it is asked about
- `als_pb2`, `accesslog_pb2`       ALS: `envoy.service.accesslog.v3`, and the entries it receives
- `settlement_pb2`                 `gatehouse.v1`: true token counts, from accesslog_service to ratelimit_service
- `health_pb2`                     the messages of `grpc.health.v1`
- `base_pb2`, `http_status_pb2`, `ratelimit_unit_pb2`, `status_pb2`: what the others are made of

Subsets of Envoy's API, wire-compatible with Envoy 1.40: fields left out are skipped when they arrive.

Needs the protobuf that pyproject.toml names (protoc stamps its own version into what it generates) with its `upb` backend
(C), which every binary wheel of protobuf brings and selects.
The pure-Python fallback takes 150 times as long to decode an access-log entry.
"""
