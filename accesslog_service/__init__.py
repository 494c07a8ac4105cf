"""accesslog_service: what happened. It receives Envoy's access log, and answers the gateway's own HTTP routes.

- `entry`    an access-log entry -> a record: pure, and knows no transport
- `refusal`  why the gateway refused a request
- `record`   one line of the request log
- `service`  protobuf in, records out to the sinks
- `sinks`    where records go: the request log, Prometheus, OpenTelemetry
- `tally`    what the request log adds up to
- `http`     /, /health, /metrics, /v1/models
"""
