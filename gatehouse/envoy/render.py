"""Renders the config model as the files that Envoy reads."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256

from gatehouse.config.model import Config
from gatehouse.config.run_dir import RunDir
from gatehouse.envoy import tls, upstream_keys
from gatehouse.envoy.backends import model_clusters
from gatehouse.envoy.bootstrap import bootstrap
from gatehouse.envoy.listener import rds
from gatehouse.envoy.message import Message, typed
from gatehouse.envoy.routes import routes

BOOTSTRAP, ROUTES, CLUSTERS = "envoy.yaml", "routes.yaml", "clusters.yaml"
_SECRET = "envoy.extensions.transport_sockets.tls.v3.Secret"


@dataclass(frozen=True, slots=True)
class Rendered:
    """Envoy's configuration: what it starts with, and what it watches for changes.

    `secrets` are files with the places of credentials for model servers; `certificates` are those of `server.tls`.
    """

    bootstrap: Message
    routes: Message
    clusters: Message
    secrets: Mapping[str, Message] = field(default_factory=dict)
    certificates: Mapping[str, Message] = field(default_factory=dict)

    def files(self) -> dict[str, Message]:
        """File name -> content, in the order in which to write them: a cluster needs its secret."""
        secrets = {**self.certificates, **self.secrets}
        return {BOOTSTRAP: self.bootstrap, **secrets, ROUTES: self.routes, CLUSTERS: self.clusters}


def render(config: Config, run_dir: RunDir, access_log_file: str) -> Rendered:
    """Envoy's configuration for `config`, for sockets in `run_dir` and files in `run_dir.envoy`."""
    directory = str(run_dir.envoy)
    dynamic = {"cds_config": _watched(directory, CLUSTERS)}
    route_specifier = rds(f"{directory}/{ROUTES}", directory)
    clusters = model_clusters(config, partial(_watched, directory))
    certificates = tls.watched_secrets(config.server.tls, directory)
    document = bootstrap(config, run_dir, access_log_file, route_specifier, certificates)
    return Rendered(
        bootstrap={**document, "dynamic_resources": dynamic},
        routes=versioned([typed("envoy.config.route.v3.RouteConfiguration", **routes(config))]),
        clusters=versioned([typed("envoy.config.cluster.v3.Cluster", **each) for each in clusters]),
        secrets={file: versioned([typed(_SECRET, **each)]) for file, each in upstream_keys.secrets(config).items()},
        certificates=tls.files_by_name(config.server.tls),
    )


def merged(config: Config, run_dir: RunDir, access_log_file: str, secrets: Message | None = None) -> Message:
    """The same, as one static file: `envoy --mode validate` does not read files that Envoy watches.

    `secrets`, parts of a TLS context, replace those in the files of `server.tls`.
    """
    if secrets is None:
        secrets = tls.static_secrets(*tls.file_sources(config.server.tls)) if config.server.tls else {}
    document = bootstrap(config, run_dir, access_log_file, {"route_config": routes(config)}, secrets)
    document["static_resources"]["clusters"] += model_clusters(config)
    document["static_resources"]["secrets"] = upstream_keys.placeholders(config)
    return document


def _watched(directory: str, file: str) -> Message:
    """A source of configuration: `file`, reloaded whenever it is replaced."""
    source = {"path": f"{directory}/{file}", "watched_directory": {"path": directory}}
    return {"path_config_source": source, "resource_api_version": "V3"}


def versioned(resources: list[Message]) -> Message:
    """A file of a file-based xDS source. Its version, which Envoy reports once applied, is a hash of its content."""
    body = {"resources": resources}
    version = sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:12]
    return {"version_info": version, **body}
