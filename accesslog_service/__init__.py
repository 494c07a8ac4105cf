"""accesslog_service: what happened. It receives Envoy's access log, writes it down, and settles what was used.

- `entry`    an access-log entry -> a record: pure, and knows no transport
- `refusal`  why the gateway refused a request
- `record`   one line of the request log
- `service`  protobuf in, records out to the sinks
- `sinks`    where records go: the request log, Prometheus, OpenTelemetry
- `settlements`  what a request used, for ratelimit_service
- `reconcile`    the request log compared with Envoy's own
"""
