"""Signals of long-running processes.

SIGTERM and SIGINT stop the process. SIGHUP reloads the configuration and reopens logs, SIGUSR1 only reopens logs.
Others that would end a program that does not know them are passed over. A terminal that is closed sends SIGHUP, too:
that stops what was started from it.
"""

import asyncio
import logging
import os
import signal
from collections.abc import Callable

log = logging.getLogger(__name__)

STOP = (signal.SIGTERM, signal.SIGINT)
_PASSED_OVER = (signal.SIGUSR2, signal.SIGALRM, signal.SIGVTALRM, signal.SIGPROF, signal.SIGIO, signal.SIGPWR)

Act = Callable[[], None]


def bide() -> None:
    """Until `handle` is called, only signals that stop do anything. Programs that are executed don't inherit it."""
    for number in (signal.SIGHUP, signal.SIGUSR1, *_PASSED_OVER):
        signal.signal(number, lambda *_: None)


def handle(stop: Act, reread: Act, reopen: Act) -> None:
    """Install the handlers in the running event loop."""
    loop, started_from = asyncio.get_running_loop(), _terminal()
    for number in STOP:
        loop.add_signal_handler(number, stop)
    for number in _PASSED_OVER:
        loop.add_signal_handler(number, log.info, "%s means nothing here", number.name)

    def hang_up() -> None:
        if started_from and not _terminal():
            stop()
        else:
            log.info("SIGHUP: the configuration is read again, and logs are opened again")
            reread()
            reopen()

    loop.add_signal_handler(signal.SIGHUP, hang_up)
    loop.add_signal_handler(signal.SIGUSR1, reopen)


def _terminal() -> bool:
    """Whether there is one that controls this process."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True
