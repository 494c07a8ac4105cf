"""What a command can't do."""


class RefusedError(Exception):
    """The message says why and what to do. Nothing was changed."""
