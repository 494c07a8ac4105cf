"""The gateway's own pages, behind Envoy (`public`) and on the operator's port (`operator`).

- `pages`      what each answers
- `health`     is any model server alive
- `catalogue`  which models a key sees
- `envoy_stats`, `in_flight`, `entries_sent`  what Envoy counts: requests that are running, entries it has sent
- `backends`   questions to the model servers
- `kept`       one answer for everyone who asks at the same time
- `serving`    the two applications, their routes, errors and sockets
"""
