"""What every endpoint is given: the settings, the store, the worker and when it last had a request."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, Request
from starlette.requests import ClientDisconnect

from tuning_server.engine.registry import resolve
from tuning_server.errors import ApiError
from tuning_server.store import Row, Store
from tuning_server.types import Page, PageQuery, Settings
from tuning_server.worker import Sampling, Task, Worker


@dataclass
class Service:
    """One server's parts."""

    settings: Settings
    store: Store
    worker: Worker
    n_in_flight: int = 0  # requests
    last_request: float = field(default_factory=time.monotonic)  # its end; idle time is counted from then

    def folder(self, model_id: str) -> Path:
        """Folder of a model's weights; `UnknownModel` becomes 404 with ids that are near."""
        return resolve(model_id, self.settings.weights, **self.settings.source)

    def require(self, table: str, row_id: str, what: str, *, param: str) -> Row:
        """A row of the store, or 404 in words."""
        row = self.store.get(table, row_id)
        if row is None:
            raise ApiError(f"No such {what}: {row_id}", status=404, param=param, code="not_found")
        return row

    def page(self, table: str, query: PageQuery, shown: Callable[[Row], Any], **filters: Any) -> Page:
        """A page of the store's rows as the API shows them; an unknown cursor is 404 in words."""
        try:
            rows, has_more = self.store.page(table, after=query.after, limit=query.limit, **filters)
        except KeyError:
            message = f"No such object to go on after: {query.after}"
            raise ApiError(message, status=404, param="after", code="not_found") from None
        data = [shown(row) for row in rows]
        first, last = (data[0].id, data[-1].id) if data else (None, None)
        return {"object": "list", "data": data, "has_more": has_more, "first_id": first, "last_id": last}

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
