"""Puts right what the request log has lost: compares it with Envoy's own JSON log, and restores the records it lacks.

- `envoy_line`    a line of Envoy's log -> the entry that Envoy sent, or would have
- `envoy_log`     the files of Envoy's log, line by line
- `request_log`   which requests the request log knows
- `settling`      what the limiter is told of restored requests
- `compare`       a million requests at a time: cross out what is known, restore the rest
"""
