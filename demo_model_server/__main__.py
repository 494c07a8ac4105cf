"""`python -m demo_model_server`: serve until SIGTERM or Ctrl-C; streams still open a second later are cut."""

import argparse

import uvloop
from aiohttp import web

from demo_model_server.app import DEFAULT_MODEL, Settings, create_app

SHUTDOWN_TIMEOUT_S = 0.5  # aiohttp waits so long for handlers to end, and once more for requests to be read


def main() -> None:
    options = _parser().parse_args()
    settings = Settings(tuple(options.model or [DEFAULT_MODEL]), options.strict, options.delay_ms / 1000)
    web.run_app(
        create_app(settings),
        host=options.host,
        port=options.port,
        path=options.unix_socket,
        shutdown_timeout=SHUTDOWN_TIMEOUT_S,
        backlog=1024,
        access_log=None,
        handler_cancellation=True,
        print=None,
        loop=uvloop.new_event_loop(),
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m demo_model_server", description="A model server that says prompts back."
    )
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8100)
    parser.add_argument("--unix-socket", metavar="PATH", help="listen there too")
    parser.add_argument("--model", action="append", metavar="NAME", help="a model to list; may be given again")
    parser.add_argument("--strict", action="store_true", help="answer 404 for models that were not given")
    parser.add_argument("--delay-ms", type=milliseconds, default=20.0, help="time before each token (default: 20)")
    return parser


def milliseconds(text: str) -> float:
    value = float(text)
    if not 0 <= value < float("inf"):
        raise ValueError
    return value


if __name__ == "__main__":
    main()
