"""What every endpoint is given: the settings, the store, the worker and the record of activity."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, Request
from starlette.requests import ClientDisconnect

from tuning_server.errors import ApiError
from tuning_server.store import Row, Store
from tuning_server.types import Activity, Settings
from tuning_server.worker import Sampling, Task, Worker


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
        """The worker's result for a request, unless its client disconnects: work that has not begun is then dropped.

        Raises
        ------
        ClientDisconnect
            If the client disconnects first.
        """
        answer = asyncio.wrap_future(self.worker.submit(work))
        gone = asyncio.ensure_future(client_disconnected(request))
        try:
            await asyncio.wait((answer, gone), return_when=asyncio.FIRST_COMPLETED)
            if not answer.done():
                work.is_awaited = False
                raise ClientDisconnect
            return answer.result()
        finally:
            gone.cancel()
            answer.cancel()


async def client_disconnected(request: Request) -> None:
    """Wait until the client of a request, whose body has been read, disconnects."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def current(request: Request) -> Service:
    """The service of the app that serves a request."""
    service: Service = request.app.state.service
    return service


CurrentService = Annotated[Service, Depends(current)]
