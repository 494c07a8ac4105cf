"""What a command can't do."""

from gatehouse.contract.failures import GatehouseError


class RefusedError(GatehouseError):
    """The message says why and what to do. Nothing was changed."""
