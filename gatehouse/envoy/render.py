"""The config model -> the files Envoy reads."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from hashlib import sha256

from gatehouse.config.model import Config
from gatehouse.envoy import upstream_keys
from gatehouse.envoy.backends import model_clusters
from gatehouse.envoy.bootstrap import bootstrap
from gatehouse.envoy.listener import rds
from gatehouse.envoy.message import Message, typed
from gatehouse.envoy.routes import routes
from gatehouse.run_dir import RunDir

BOOTSTRAP, ROUTES, CLUSTERS = "envoy.yaml", "routes.yaml", "clusters.yaml"


@dataclass(frozen=True, slots=True)
class Rendered:
    """Envoy's configuration: what it starts with, and what it watches for changes.

    `secrets` are files that say where credentials for model servers are.
    """

    bootstrap: Message
    routes: Message
    clusters: Message
    secrets: Mapping[str, Message]

    def files(self) -> dict[str, Message]:
        """File name -> content, in the order in which they are to be written: a cluster needs its secret."""
        return {BOOTSTRAP: self.bootstrap, **self.secrets, ROUTES: self.routes, CLUSTERS: self.clusters}


def render(config: Config, run_dir: RunDir, access_log_file: str) -> Rendered:
    """Envoy's configuration for `config`, for sockets in `run_dir` and files in `run_dir.envoy`."""
    directory = str(run_dir.envoy)
    dynamic = {"cds_config": _watched(directory, CLUSTERS)}
    route_specifier = rds(f"{directory}/{ROUTES}", directory)
    clusters = model_clusters(config, partial(_watched, directory))
    secret = "envoy.extensions.transport_sockets.tls.v3.Secret"
    return Rendered(
        bootstrap={**bootstrap(config, run_dir, access_log_file, route_specifier), "dynamic_resources": dynamic},
        routes=versioned([typed("envoy.config.route.v3.RouteConfiguration", **routes(config))]),
        clusters=versioned([typed("envoy.config.cluster.v3.Cluster", **each) for each in clusters]),
        secrets={file: versioned([typed(secret, **each)]) for file, each in upstream_keys.secrets(config).items()},
    )


def merged(config: Config, run_dir: RunDir, access_log_file: str) -> Message:
    """The same, as one static file: `envoy --mode validate` does not look into files that Envoy watches."""
    document = bootstrap(config, run_dir, access_log_file, {"route_config": routes(config)})
    document["static_resources"]["clusters"] += model_clusters(config)
    document["static_resources"]["secrets"] = upstream_keys.placeholders(config)
    return document


def _watched(directory: str, file: str) -> Message:
    """A source of configuration: `file`, read anew whenever it is replaced."""
    source = {"path": f"{directory}/{file}", "watched_directory": {"path": directory}}
    return {"path_config_source": source, "resource_api_version": "V3"}


def versioned(resources: list[Message]) -> Message:
    """A file of a file-based xDS source. Its version, which Envoy tells when it has taken it up, is of its content."""
    body = {"resources": resources}
    version = sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:12]
    return {"version_info": version, **body}
