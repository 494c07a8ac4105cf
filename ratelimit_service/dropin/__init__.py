"""A drop-in for envoyproxy/ratelimit: its YAML files, its environment variables, its protocol, on our store.

Decisions, without I/O:

- `match`                         a request's descriptors -> the limits that apply
- `decide`, `answer`              limits -> what the store is asked, and what is answered
- `exposition`                    counts -> Prometheus' text format

At the rim:

- `service`, `http_pages`         gRPC and HTTP
- `environment`, `settings`       its environment variables
- `config`                        its configuration files -> a tree of rules, checked and reloaded
- `redis_clients`, `local_cache`, `per_second`, `health`, `stats`, `tls`, `logs`
- `serve`                         the process
"""
