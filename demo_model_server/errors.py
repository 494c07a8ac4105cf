"""Errors in vLLM's shape: `{"error": {"message", "type", "param", "code"}}`, where the code is the HTTP status."""

from pydantic import ValidationError

from demo_model_server.wire import Json


class ApiError(Exception):
    """A request that is answered with an error. `kind` is the error's `type`, in vLLM's words."""

    def __init__(self, status: int, kind: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.body: Json = {"error": {"message": message, "type": kind, "param": param, "code": status}}


def bad_parameter(name: str, message: str) -> ApiError:
    """The value of one parameter makes no sense."""
    return ApiError(400, "BadRequestError", f"{message} (parameter={name})", name)


def unknown_model(name: str) -> ApiError:
    return ApiError(404, "NotFoundError", f"The model `{name}` does not exist.", "model")


def wrong_media_type() -> ApiError:
    return ApiError(400, "Bad Request", "Unsupported Media Type: Only 'application/json' is allowed")


def invalid(error: ValidationError) -> ApiError:
    """A body that is not JSON, or lacks a field, or has one of a wrong type. Says where, never what was sent."""
    problems = error.errors(include_input=False, include_url=False, include_context=False)
    places = [".".join(["body", *map(str, problem["loc"])]) for problem in problems]
    lines = [f"  {place}: {problem['msg']}" for place, problem in zip(places, problems, strict=True)]
    return ApiError(400, "Bad Request", "\n".join([f"{len(lines)} validation error:", *lines]), places[0])
