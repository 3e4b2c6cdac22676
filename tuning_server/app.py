"""The app: the endpoints behind the gate, and the worker's life from start to stop."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import Depends, FastAPI

from tuning_server import chat, completions, embeddings, files, jobs, models, page, scores
from tuning_server.errors import Failure, install_handlers
from tuning_server.gate import Gate
from tuning_server.service import Activity, Service, refuse_query
from tuning_server.store import Store
from tuning_server.types import Settings
from tuning_server.worker import Worker

STOP_TIMEOUT_S = 1.0
FAILED: dict[str, Any] = {"model": Failure, "description": "What was wrong, in OpenAI's shape."}


def make_app(settings: Settings) -> FastAPI:
    """Put a server together around a store that this process owns.

    Raises
    ------
    StoreError
        If the store's database cannot be used.
    """
    activity = Activity()
    store = Store(settings.store)
    service = Service(settings, store, Worker(settings, store, activity), activity)

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        service.worker.start()
        try:
            yield
        finally:
            service.worker.stop()
            if service.worker.join(timeout=STOP_TIMEOUT_S):
                store.close()

    app = FastAPI(
        title="Tuning Fork", version="1", lifespan=life, docs_url=None, redoc_url=None, redirect_slashes=False,
        responses={400: FAILED, "default": FAILED},  # which also keeps FastAPI from promising its own 422
    )  # fmt: skip
    app.state.service = service
    app.add_middleware(Gate, settings=settings, activity=activity)
    install_handlers(app)
    for part in (models, files, jobs, completions, chat, embeddings, scores):
        app.include_router(part.router, dependencies=[Depends(refuse_query)])
    app.include_router(page.router)
    return app
