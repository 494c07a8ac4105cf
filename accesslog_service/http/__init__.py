"""The gateway's own pages, behind Envoy (`public`) and on the operator's port (`operator`).

- `pages`      what each answers
- `health`     is any model server alive
- `catalogue`  which models a key sees
- `envoy_stats`  what Envoy counts: running requests, healthy replicas
- `near_limits`  whose limits are nearly used up
- `teams`      who is in which team
- `overview`   what `/ui` shows, as JSON
- `people`     the pages `/ui` and `/usage`, which are files in `assets`
- `backends`   questions to the model servers
- `kept`       one answer for everyone who asks at the same time
- `serving`    the two applications, their routes, errors and sockets
"""
