"""The error of commands that can't do what they are asked."""

from gatehouse.contract.failures import GatehouseError


class RefusedError(GatehouseError):
    """The message says why and what to do. Nothing was changed."""
