"""Pure functions from the config model to Envoy's configuration.

Modules: `bootstrap` (the process), `listener` (connection managers), `tls` (certificates), `filters` (the chain, in
order), `request_reader` and `answer_reader` (bodies and token counts), `routes` and `backends` (what changes with
models; served to Envoy from files), `clusters` (the sidecars), `local_replies` (Envoy's own errors as OpenAI's),
`access_log` (the fields of an entry). `render` assembles them.

Everything is plain data, as in Envoy's YAML: `--mode validate` of the real binary checks it, and a test compares it
with typed messages where their schema has the field.
"""

from gatehouse.envoy.render import Rendered, merged, render

__all__ = ["Rendered", "merged", "render"]
