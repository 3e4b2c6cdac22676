"""The app: its routes behind the checks of host, origin, key and size, and the worker's life from start to stop.

A web page that a user happens to have open must not be able to reach a server on the loopback: its requests carry a
foreign ``Origin``, or (by DNS rebinding) a foreign ``Host``; both are refused whether or not there is a key. The checks
are our own because Starlette's TrustedHostMiddleware answers in plain text, and FastAPI's HTTPBearer does not see
unknown routes.
"""

from __future__ import annotations

import hmac
import logging
import re
import secrets
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import Depends, FastAPI, Request
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tuning_server import chat, completions, files, jobs, models, page, scores
from tuning_server.errors import ApiError, ErrorBody, install_handlers, known_failure
from tuning_server.service import Service
from tuning_server.store import Store
from tuning_server.types import LOOPBACK_NAMES, Settings, hash_key
from tuning_server.worker import Worker

logger = logging.getLogger(__name__)
STOP_TIMEOUT_S = 1.0
HOST = re.compile(r"(?:\[([0-9a-f:.]+)\]|([\w.-]+))(?::\d*)?", re.ASCII | re.IGNORECASE)


def host_name(header: str) -> str:
    """Name in a ``Host`` header, without port and brackets; empty if it is none.

    >>> host_name("LocalHost:8080"), host_name("[::1]:80"), host_name("evil@localhost")
    ('localhost', '::1', '')
    """
    match = HOST.fullmatch(header)
    return (match[1] or match[2]).lower() if match else ""


def check_access(scope: Scope, settings: Settings) -> None:
    """Refuse foreign hosts and origins, and requests without the server's key, if it has one.

    The page at ``/`` is open to links from elsewhere and needs no key: it holds no data, and asks a person for the key.

    Raises
    ------
    ApiError
        403, if ``Host`` is not this server's name or a browser reports another origin than this very server (behind a
        proxy, over https) or another site in ``Sec-Fetch-Site``; 401 without the key.
    """
    headers, own_address = Headers(scope=scope), (scope.get("server") or ("", None))[0]
    host = headers.get("host", "")
    if host_name(host) not in LOOPBACK_NAMES | {own_address} | settings.allow_hosts:
        message = f"Host {host!r} is not a name of this server; start it with --allow-host NAME to add one."
        raise ApiError(message, status=403, code="foreign_host")
    for origin in headers.getlist("origin"):
        if origin.lower() not in (f"http://{host}".lower(), f"https://{host}".lower()):
            message = f"Requests from the web page {origin!r} are refused: it is not served by this server."
            raise ApiError(message, status=403, code="foreign_origin")
    if scope["path"] in page.FILES and scope["method"] in ("GET", "HEAD"):
        return
    site = headers.get("sec-fetch-site", "none")
    if site not in ("same-origin", "none"):  # this server's page, or a person who typed the address
        message = f"Requests from web pages of others ({site}) are refused: use this server's own page, at '/'."
        raise ApiError(message, status=403, code="foreign_origin")
    scheme, _, key = headers.get("authorization", "").partition(" ")
    is_right = hmac.compare_digest(hash_key(key.strip()), settings.key_hash or b"")  # in constant time
    if settings.key_hash and not (scheme.lower() == "bearer" and is_right):
        message = "Incorrect API key provided: send it as 'Authorization: Bearer KEY'."
        raise ApiError(message, status=401, code="invalid_api_key")


def limit_size(scope: Scope, receive: Receive, settings: Settings) -> Receive:
    """Refuse a request (`ApiError`) that announces, or goes on to send, more bytes than the server takes."""
    is_upload = scope["path"].rstrip("/") == "/v1/files"
    limit = settings.max_file_bytes + 2**16 if is_upload else settings.max_request_bytes
    message = f"The request is larger than this server takes ({limit} bytes)."
    too_large = ApiError(message, status=413, code="request_too_large")
    n_bytes, announced = 0, Headers(scope=scope).get("content-length", "0")
    if announced.isdigit() and int(announced) > limit:
        raise too_large

    async def counted() -> Message:
        nonlocal n_bytes
        part = await receive()
        n_bytes += len(part.get("body", b""))
        if n_bytes > limit:
            raise too_large
        return part

    return counted


class Gate:
    """ASGI middleware around the whole app: access, size, request ids, one line in the log per request."""

    def __init__(self, app: ASGIApp, *, service: Service) -> None:
        self.app, self.service, self.settings = app, service, service.settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, request_id, status = time.monotonic(), f"req_{secrets.token_hex(8)}", 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["x-request-id"] = request_id
            await send(message)

        self.service.n_in_flight += 1
        try:
            check_access(scope, self.settings)
            await self.app(scope, limit_size(scope, receive, self.settings), send_with_id)
        except ClientDisconnect:
            status = 499  # in the log alone, as nginx has it
        except Exception as error:
            reply = known_failure(error)
            if reply is None:
                message = f"The server had an error while it processed the request; see {request_id} in its log."
                code = "os_error" if isinstance(error, OSError | sqlite3.Error) else None
                reply = ApiError(message, status=500, code=code)
            if reply is not error and reply.status >= 500:
                logger.error("%s failed", request_id, exc_info=error)
            if status == 0:
                await reply.response()(scope, receive, send_with_id)
        finally:
            self.service.n_in_flight -= 1
            self.service.last_request = time.monotonic()
            ms = 1000 * (time.monotonic() - started)
            # %r, so that no client can write lines of its own into the log
            logger.info("%s %s %r %d %.0f ms", request_id, scope["method"], scope["path"], status, ms)


def refuse_query(request: Request) -> None:
    """Refuse query parameters (`ApiError`) where an endpoint takes none; those that take some check all of them."""
    for name in request.query_params:
        if not request.scope["route"].dependant.query_params:
            raise ApiError(f"Unrecognized request argument supplied: {name}", param=name, code="unknown_parameter")


def make_app(settings: Settings) -> FastAPI:
    """Build a server around a store that this process owns.

    Raises
    ------
    CannotStart
        If the store's database cannot be used.
    """
    store = Store(settings.store)
    service = Service(settings, store, Worker(settings, store))

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service.worker.start()
        try:
            yield
        finally:
            service.worker.stop()
            if service.worker.join(timeout=STOP_TIMEOUT_S):
                store.close()

    failed: dict[str, Any] = {"model": ErrorBody, "description": "What was wrong, in OpenAI's shape."}
    app = FastAPI(
        title="Tuning Fork", version="1", lifespan=lifespan, docs_url=None, redoc_url=None, redirect_slashes=False,
        responses={400: failed, "default": failed},  # which also keeps FastAPI from promising its own 422
    )  # fmt: skip
    app.state.service = service
    app.add_middleware(Gate, service=service)
    install_handlers(app)

    for endpoints in (models, files, jobs, completions, chat, scores):
        app.include_router(endpoints.router, dependencies=[Depends(refuse_query)])
    app.include_router(page.router)
    return app
