"""Pure functions from the config model to Envoy's configuration.

A room a file: `bootstrap` (the process), `listener` (one connection manager), `tls` (certificates), `filters` (the
chain, in order), `usage` (token counts), `routes` and `clusters` (what changes when models change; served to Envoy
from files), `local_replies` (its own errors as OpenAI's), `access_log` (what an entry holds). `render` puts them
together.

Everything is plain data, as Envoy's YAML has it: `--mode validate` of the real binary checks it, and a test compares it
with typed messages where their schema knows the field.
"""

from gatehouse.envoy.render import Rendered, merged, render

__all__ = ["Rendered", "merged", "render"]
