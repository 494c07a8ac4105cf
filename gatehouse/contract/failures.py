"""The root of this project's exceptions."""


class GatehouseError(Exception):
    """An expected failure; the message says what went wrong, where, and how to fix it.

    A command that ends with one prints the message and exits with `exit_status`, never with a traceback.
    """

    exit_status = 1
