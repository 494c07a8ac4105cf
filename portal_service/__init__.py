"""portal_service: the gateway's own HTTP, behind Envoy (`public`) and on the operators' port (`operator`); the tally.

- `turn`         one process works, another stands by
- `wiring`       the process that works
- `serving`      the two applications, their routes, errors and sockets
- `pages`        what each answers
- `health`       is any model server alive, and each service
- `catalogue`    which models a key sees
- `limits_left`  what is left of a caller's limits
- `envoy_stats`  what Envoy counts: running requests, healthy replicas
- `near_limits`  whose limits are nearly used up
- `teams`        who is in which team
- `overview`     what `/ui` shows, as JSON
- `static_files` the pages `/ui` and `/usage`, which are files in `assets`
- `hosts`        host names that the operators' port accepts
- `backends`     requests to the model servers
- `cached`       one call shared by concurrent callers
- `tally`        sums of the request log
"""
