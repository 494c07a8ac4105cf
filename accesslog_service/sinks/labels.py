"""The label values of records, of which there are few whatever clients send."""

from accesslog_service.record import Record
from gatehouse.config.model import Config
from gatehouse.contract import names
from gatehouse.contract.labels import MAX_MODELS, OTHER, Names

MAX_USERS = 1000
MAX_TIERS = 100
MAX_BACKENDS = 256

ENDPOINTS = frozenset({*names.ENDPOINTS, "/", "/health", "/metrics", "/usage", "/v1/models", "/v1/usage"})
ONE_MODEL = "/v1/models/{id}"


class Labels:
    """The label values of records, bounded for the life of a process."""

    def __init__(self, config: Config) -> None:
        """In the short form the model server answers for any name, so those it has answered for become known."""
        self.known_models = len(config.known_models())
        self._models = Names(config.known_models(), MAX_MODELS if config.vllm else 0)
        self._users = Names((), MAX_USERS)
        self._backends = Names((), MAX_BACKENDS)
        self._tiers = Names(config.rate_limits, 0 if config.rate_limits else MAX_TIERS)

    def adopt(self, config: Config) -> None:
        """Know what `config` names, too. What was known stays: requests of it may still end."""
        self._models.know(config.known_models())
        self._tiers.know(config.rate_limits)

    def endpoint(self, record: Record) -> str:
        if record.endpoint in ENDPOINTS:
            return record.endpoint
        return ONE_MODEL if record.endpoint.startswith("/v1/models/") else OTHER

    def model(self, record: Record) -> str:
        return self._models.label(record.model, genuine=200 <= record.status < 300)

    def backend(self, record: Record) -> str:
        """`address:port`. Addresses of a name may change for ever."""
        return self._backends.label(record.backend)

    def user(self, record: Record) -> str:
        return self._users.label(record.user_id)

    def tier(self, record: Record) -> str:
        return self._tiers.label(record.tier)
