"""A drop-in for envoyproxy/ratelimit: its YAML files, its environment variables, its protocol, on our store.

Decisions, without I/O:

- `yaml_nodes`, `yaml_file`, `config`, `rules`  its configuration files -> a tree of rules
- `match`                         a request's descriptors -> the limits that apply
- `decide`, `answer`              limits -> what the store is asked, and what is answered
- `exposition`                    counts -> Prometheus' text format

At the rim:

- `service`, `http_pages`         gRPC and HTTP
- `environment`, `settings`       its environment variables
- `config_files`, `reading`, `configuration`  reload of changed files, read by another process
- `redis_clients`, `local_cache`, `per_second`, `health`, `stats`, `tls`, `logs`
- `serve`, `check`                the process, and the check of a directory
"""
