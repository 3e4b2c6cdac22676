"""Every error leaves the server in OpenAI's shape, with the right status and a sentence that helps."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response

from tuning_server.engine.devices import DoesNotFit, is_out_of_memory
from tuning_server.engine.registry import UnknownModel

MAX_MESSAGE = 2000  # characters: a message may repeat what a client sent, but not megabytes of it
RETIRED = ("/v1/fine-tunes", "/v1/engines", "/v1/edits", "/v1/answers", "/v1/classifications", "/v1/search")


class ErrorDetail(BaseModel):
    """What went wrong: see `ApiError`."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    """Every reply that is an error; a request that does not fit is 400, never 422."""

    error: ErrorDetail


def is_full_disk(error: Exception) -> bool:
    """Whether a write failed for want of space, by its message: SQLite and safetensors have no error number.

    >>> is_full_disk(OSError(28, "No space left on device")), is_full_disk(OSError("no"))
    (True, False)
    """
    return any(words in str(error).lower() for words in ("no space left", "disk is full", "quota exceeded"))


class ApiError(Exception):
    """What went wrong with a request, as the client will see it.

    Parameters
    ----------
    message : a sentence: what came, what was expected, what to do
    status : HTTP status
    param : the request's field that is wrong, if one is
    code : machine-readable kind of the error; where a field is wrong, ``invalid_value`` unless it is another

    >>> ApiError("Expected a number.", param="n").code
    'invalid_value'
    """

    def __init__(self, message: str, *, status: int = 400, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message, self.status, self.param = clipped(message), status, param and clipped(param)
        self.code = code or ("invalid_value" if param else None)

    def response(self) -> JSONResponse:
        """The reply itself; 429 and 503 ask the client to come again."""
        kind = "server_error" if self.status >= 500 else "requests" if self.status == 429 else "invalid_request_error"
        error = {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        headers = {"retry-after": "1"} if self.status in (429, 503) else None
        return JSONResponse({"error": error}, status_code=self.status, headers=headers)


def clipped(text: str, limit: int = MAX_MESSAGE) -> str:
    """A text without its middle, if it is long.

    >>> clipped("No such file: " + "x" * 5000 + ".", 20)
    'No such fi ... xxxxxxxxx.'
    """
    return text if len(text) <= limit else f"{text[: limit // 2]} ... {text[-limit // 2 :]}"


def at_most(
    limit: int, found: int, what: str, *, param: str, code: str | None = None, advice: str = "send a part at a time"
) -> None:
    """Refuse (`ApiError`) what one request may not have so many of."""
    if found > limit:
        raise ApiError(f"At most {limit} {what} per request, found {found}: {advice}.", param=param, code=code)


def model_error(error: Exception, *, param: str = "model") -> ApiError:
    """404 for a model that does not exist or (by the `code` of the error) cannot be loaded.

    >>> model_error(ValueError("the model 'fork' does not exist")).code
    'model_not_found'
    """
    reason = (str(error) or type(error).__name__).splitlines()[0].rstrip(".")
    code = getattr(error, "code", "model_not_found")
    return ApiError(f"{reason[0].upper()}{reason[1:]}.", status=404, param=param, code=code)


def known_failure(error: Exception) -> ApiError | None:
    """The refusal for an error that is not ours: of the model, the memory or the disk; None for any other."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, UnknownModel):
        return model_error(error)
    if is_out_of_memory(error):
        message = "There is not enough memory: choose a smaller model, or fewer or shorter answers or rows at a time"
        return ApiError(f"{error if isinstance(error, DoesNotFit) else message}.", param="model", code="out_of_memory")
    if is_full_disk(error):
        message = "The disk of the server is full and nothing more was kept. Free some space and try again."
        return ApiError(message, status=507, code="disk_full")
    if isinstance(error, OSError) and error.errno == errno.EROFS:
        return ApiError("The files of the server can only be read.", status=403, code="read_only")
    return None


@contextmanager
def refusing(param: str, code: str | None = None) -> Iterator[None]:
    """Turn the engine's `ValueError` about a field into a refusal; an error with a code of its own passes."""
    try:
        yield
    except ValueError as error:
        if hasattr(error, "code"):
            raise
        message = f"Invalid value for {param!r}: {str(error).rstrip('.')}."
        raise ApiError(message, param=param, code=code) from error


def from_validation(errors: Sequence[Any]) -> ApiError:
    """Turn the first complaint of pydantic into a sentence about one field.

    >>> from_validation([{"type": "extra_forbidden", "loc": ("body", "blend", "top_k"), "msg": "", "input": 3}]).message
    'Unrecognized request argument supplied: blend.top_k'
    """
    first = errors[0]
    kind, param = first["type"], _field(first)
    if kind == "extra_forbidden":
        return ApiError(f"Unrecognized request argument supplied: {param}", param=param, code="unknown_parameter")
    if param is None and kind in ("missing", "model_attributes_type"):
        message = "The request needs a JSON body: it should be a JSON object, with 'content-type: application/json'."
        return ApiError(message, code="invalid_value")
    if kind == "missing":
        return ApiError(f"Missing required parameter: {param!r}.", param=param, code="missing_required_parameter")
    if kind == "unsupported":
        return ApiError(f"{param!r} {first['msg']}.", param=param, code="unsupported")
    if kind == "json_invalid":
        reason, position = first["ctx"]["error"], first["loc"][-1] + 1
        return ApiError(f"The request's body is not JSON: {reason} (character {position}).")
    reasons = [error["msg"].removeprefix("Value error, ") for error in errors if _field(error) == param]
    reason = " or ".join(dict.fromkeys(reasons))
    return ApiError(f"Invalid value for {param!r}: {reason}." if param else f"{reason}.", param=param)


def _field(error: Any) -> str | None:
    """Name of the field that a complaint is about, without pydantic's names of the branches of a union.

    >>> _field({"loc": ("body", "messages", 0, "content", "list[TextPart]", 2, "type"), "type": "missing"})
    'messages[0].content[2].type'
    """
    *parents, last = error["loc"] or ("",)
    is_own = error["type"] == "extra_forbidden"  # the last part is then a name that the client chose
    parts = [*filter(_is_field, parents), *([last] if is_own or _is_field(last) else [])]
    name = "".join(f"[{part}]" if isinstance(part, int) else f".{part:.100}" for part in parts)
    return name.removeprefix(".") or None


def _is_field(part: str | int) -> bool:
    return part not in _BRANCHES and "[" not in str(part)


_BRANCHES = ("body", "query", "path", "str", "int", "float", "bool", "constrained-int", "constrained-float", "Lora")


def _unread(error: HTTPException) -> ApiError:
    """Why a body could not be read, from the cause of FastAPI's error."""
    cause = error.__cause__
    if isinstance(cause, ApiError | ClientDisconnect):  # it was too large, or ended early: see `Gate`
        raise cause
    if not isinstance(cause, ValueError | RecursionError):
        return ApiError(f"{error.detail.rstrip('.')}: send a multipart form with one 'file' and its 'purpose'.")
    reason = "it is nested too deeply or holds a number too long"
    if isinstance(cause, UnicodeDecodeError):
        reason = f"its byte {cause.start + 1} is not UTF-8"
    return ApiError(f"The request's body cannot be read, {reason}: expected JSON in UTF-8.")


def install_handlers(app: FastAPI) -> None:
    """Make every way of failing answer in the one shape; an `ApiError`, and what nobody foresaw, pass to `Gate`."""

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        return from_validation(list(error.errors())).response()

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        if error.status_code == 400:
            return _unread(error).response()
        path = request.url.path
        message = f"Unknown request URL: {request.method} {path}."
        if error.status_code == 405:
            message = f"Not allowed to {request.method} on {path}."
        if path.startswith(RETIRED):
            message += " OpenAI has retired this endpoint; docs/migrating.md says what replaces it here."
        reply = ApiError(message, status=error.status_code).response()
        reply.headers.update(error.headers or {})  # which methods are allowed
        return reply
