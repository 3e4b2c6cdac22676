"""What every endpoint is given: the settings, the store, the worker and the record of activity."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import Depends, Request
from starlette.requests import ClientDisconnect

from tuning_server.errors import ApiError
from tuning_server.store import Row, Store
from tuning_server.types import Settings

if TYPE_CHECKING:
    from tuning_server.worker import Sampling, Task, Worker


def hash_key(key: str) -> bytes:
    """What the server keeps of an API key."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def same_key(key: str, key_hash: bytes) -> bool:
    """Compare without telling by the time taken how much of the key was right.

    >>> same_key("a", hash_key("a")), same_key("b", hash_key("a"))
    (True, False)
    """
    return hmac.compare_digest(hash_key(key), key_hash)


@dataclass
class Activity:
    """When the server last had something to do; what idle time is counted from."""

    in_flight: int = 0
    last: float = field(default_factory=time.monotonic)

    def touch(self) -> None:
        self.last = time.monotonic()


@dataclass
class Service:
    """One server's parts."""

    settings: Settings
    store: Store
    worker: Worker
    activity: Activity

    def require(self, table: str, row_id: str, what: str, *, param: str) -> Row:
        """A row of the store, or 404 in words."""
        row = self.store.get(table, row_id)
        if row is None:
            raise ApiError(f"No such {what}: {row_id}", status=404, param=param, code="not_found")
        return row

    def page(self, table: str, *, after: str | None, limit: int, **filters: Any) -> tuple[list[Row], bool]:
        """A page of the store's rows; an unknown cursor is 404 in words."""
        try:
            return self.store.page(table, after=after, limit=limit, **filters)
        except KeyError:
            message = f"No such object to go on after: {after}"
            raise ApiError(message, status=404, param="after", code="not_found") from None

    async def answered(self, work: Sampling | Task, request: Request) -> Any:
        """What the worker makes of a request, unless its client goes away: then what has not begun never does.

        Raises
        ------
        ClientDisconnect
            If nobody waits any more.
        """
        answer, gone = asyncio.wrap_future(self.worker.submit(work)), asyncio.ensure_future(_hang_up(request))
        try:
            await asyncio.wait((answer, gone), return_when=asyncio.FIRST_COMPLETED)
            if not answer.done():
                work.is_wanted = False
                raise ClientDisconnect
            return answer.result()
        finally:
            gone.cancel()
            answer.cancel()


async def _hang_up(request: Request) -> None:
    """Wait until the client of a request, whose body has been read, goes away."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def current(request: Request) -> Service:
    """The service of the app that serves a request."""
    service: Service = request.app.state.service
    return service


CurrentService = Annotated[Service, Depends(current)]


def refuse_query(request: Request) -> None:
    """Refuse query parameters (`ApiError`) where an endpoint takes none; those that take some look at all of them."""
    for name in request.query_params:
        if not request.scope["route"].dependant.query_params:
            raise ApiError(f"Unrecognized request argument supplied: {name}", param=name, code="unknown_parameter")
