"""The config model -> the files Envoy reads."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256

from gatehouse.config.model import Config
from gatehouse.envoy import tls
from gatehouse.envoy.bootstrap import bootstrap
from gatehouse.envoy.clusters import model_clusters
from gatehouse.envoy.listener import rds
from gatehouse.envoy.message import Message, typed
from gatehouse.envoy.routes import routes
from gatehouse.run_dir import RunDir

BOOTSTRAP, ROUTES, CLUSTERS = "envoy.yaml", "routes.yaml", "clusters.yaml"


@dataclass(frozen=True, slots=True)
class Rendered:
    """Envoy's configuration: what it starts with, and what it watches for changes."""

    bootstrap: Message
    routes: Message
    clusters: Message
    secrets: Mapping[str, Message] = field(repr=False)

    def files(self) -> dict[str, Message]:
        """File name -> content."""
        return {BOOTSTRAP: self.bootstrap, ROUTES: self.routes, CLUSTERS: self.clusters, **self.secrets}


def render(config: Config, run_dir: RunDir, access_log_file: str) -> Rendered:
    """Envoy's configuration for `config`, for sockets in `run_dir` and files in `run_dir.envoy`."""
    directory = str(run_dir.envoy)
    source = {"path": f"{directory}/{CLUSTERS}", "watched_directory": {"path": directory}}
    dynamic = {"cds_config": {"path_config_source": source, "resource_api_version": "V3"}}
    route_specifier = rds(f"{directory}/{ROUTES}", directory)
    secrets = tls.watched(config.server.tls, directory)
    started_with = bootstrap(config, run_dir, access_log_file, route_specifier, secrets)
    return Rendered(
        bootstrap={**started_with, "dynamic_resources": dynamic},
        routes=_resources("envoy.config.route.v3.RouteConfiguration", [routes(config)]),
        clusters=_resources("envoy.config.cluster.v3.Cluster", model_clusters(config)),
        secrets=tls.named_files(config.server.tls),
    )


def merged(config: Config, run_dir: RunDir, access_log_file: str, secrets: Message | None = None) -> Message:
    """The same, as one static file: `envoy --mode validate` does not look into files that Envoy watches.

    `secrets`, parts of a TLS context, take the place of those in the files of `server.tls`.
    """
    if secrets is None:
        secrets = tls.given(*tls.by_name(config.server.tls)) if config.server.tls else {}
    document = bootstrap(config, run_dir, access_log_file, {"route_config": routes(config)}, secrets)
    document["static_resources"]["clusters"] += model_clusters(config)
    return document


def _resources(type_name: str, resources: list[Message]) -> Message:
    """A file of a file-based xDS source."""
    body = {"resources": [typed(type_name, **resource) for resource in resources]}
    version = sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:12]
    return {"version_info": version, **body}
