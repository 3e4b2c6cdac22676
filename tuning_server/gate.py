"""Who may come in: host, origin, key and size of each request; its id and its line in the log.

A web page that a user happens to have open must not be able to reach a server on the loopback: its requests carry a
foreign ``Origin``, or (by DNS rebinding) a foreign ``Host``; both are refused whether or not there is a key.
"""

from __future__ import annotations

import logging
import re
import secrets
import time
from collections.abc import Collection

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tuning_server.errors import ApiError
from tuning_server.service import Activity, same_key
from tuning_server.types import Settings

logger = logging.getLogger(__name__)
LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
HOST = re.compile(r"(?:\[([0-9a-f:.]+)\]|([\w.-]+))(?::\d*)?", re.ASCII | re.IGNORECASE)
GONE = 499  # in the log alone, as others have it: the client went away before there was an answer
OWN_PAGES = ("same-origin", "none")  # of Sec-Fetch-Site: this server's page, or a person who typed the address


def host_name(header: str) -> str:
    """Name in a ``Host`` header, without port and brackets; empty if it is none.

    >>> host_name("LocalHost:8080"), host_name("[::1]:80")
    ('localhost', '::1')
    """
    found = HOST.fullmatch(header)
    return (found[1] or found[2]).lower() if found else ""


def check_origin(headers: Headers, *, own_address: str, allowed: Collection[str]) -> None:
    """Refuse foreign hosts and origins.

    Raises
    ------
    ApiError
        403, if ``Host`` is not this server's name or ``Origin`` is not this very server (behind a proxy, over https).
    """
    host = headers.get("host", "")
    if host_name(host) not in LOOPBACK_NAMES | {own_address} | set(allowed):
        message = f"Host {host!r} is not a name of this server; start it with --allow-host NAME to add one."
        raise ApiError(message, status=403, code="foreign_host")
    for origin in headers.getlist("origin"):
        if origin.lower() not in (f"http://{host}".lower(), f"https://{host}".lower()):
            message = f"Requests from the web page {origin!r} are refused: it is not served by this server."
            raise ApiError(message, status=403, code="foreign_origin")


def check_fetch(headers: Headers) -> None:
    """Refuse what a foreign page asks for without an ``Origin``, as the source of a picture or by a link.

    Raises
    ------
    ApiError
        403, if a browser says so in ``Sec-Fetch-Site`` (Fetch Metadata Request Headers, section 2.3).
    """
    site = headers.get("sec-fetch-site", "none")
    if site not in OWN_PAGES:
        message = f"Requests from web pages of others ({site}) are refused: use this server's own page, at '/'."
        raise ApiError(message, status=403, code="foreign_origin")


def is_page(scope: Scope) -> bool:
    """Whether a request is for the page at ``/``: it holds no data, and it is what asks a person for the key."""
    return scope["path"] == "/" and scope["method"] in ("GET", "HEAD")


def check_key(headers: Headers, key_hash: bytes | None) -> None:
    """Refuse a request without the server's key (401), if it has one."""
    if key_hash is None:
        return
    scheme, _, key = headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not same_key(key.strip(), key_hash):
        raise ApiError(
            "Incorrect API key provided: send it as 'Authorization: Bearer KEY'.", status=401, code="invalid_api_key"
        )


class Gate:
    """ASGI middleware around the whole app."""

    def __init__(self, app: ASGIApp, *, settings: Settings, activity: Activity) -> None:
        self.app, self.settings, self.activity = app, settings, activity

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, request_id, status = time.monotonic(), f"req_{secrets.token_hex(8)}", 0

        async def send_marked(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["x-request-id"] = request_id
            await send(message)

        self.activity.in_flight += 1
        try:
            self._check(scope)
            await self.app(scope, self._limited(scope, receive), send_marked)
        except ApiError as error:
            await error.response()(scope, receive, send_marked)
        except ClientDisconnect:
            status = GONE
        except Exception as error:
            logger.error("%s failed", request_id, exc_info=error)
            if status == 0:
                message = (
                    f"The server had an error while it processed the request; its log has the cause ({request_id})."
                )
                await ApiError(message, status=500).response()(scope, receive, send_marked)
        finally:
            self.activity.in_flight -= 1
            self.activity.touch()
            ms = 1000 * (time.monotonic() - started)
            # %r, so that no client can write lines of its own into the log
            logger.info("%s %s %r %d %.0f ms", request_id, scope["method"], scope["path"], status, ms)

    def _check(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        own_address = (scope.get("server") or ("", None))[0]
        check_origin(headers, own_address=own_address, allowed=self.settings.allow_hosts)
        if not is_page(scope):
            check_fetch(headers)
            check_key(headers, self.settings.key_hash)
        length = headers.get("content-length", "0")
        if length.isdigit() and int(length) > self._limit(scope):
            raise self._too_large(scope)

    def _limit(self, scope: Scope) -> int:
        uploads = scope["path"].rstrip("/") == "/v1/files"
        return self.settings.max_file_bytes + 2**16 if uploads else self.settings.max_request_bytes

    def _too_large(self, scope: Scope) -> ApiError:
        message = f"The request is larger than this server takes ({self._limit(scope)} bytes)."
        return ApiError(message, status=413, code="request_too_large")

    def _limited(self, scope: Scope, receive: Receive) -> Receive:
        """Count what a request sends without announcing its length."""
        n_bytes = 0

        async def counted() -> Message:
            nonlocal n_bytes
            message = await receive()
            n_bytes += len(message.get("body", b""))
            if n_bytes > self._limit(scope):
                raise self._too_large(scope)
            return message

        return counted
