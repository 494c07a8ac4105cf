"""The root of this project's exceptions."""


class GatehouseError(Exception):
    """Something expected went wrong; the message says what, where and how to mend it.

    A command that ends with one prints the message and exits with `exit_status`, never with a traceback.
    """

    exit_status = 1
