"""The process around the app: its address in the store, signals, idle time, a quick end."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import signal
import socket
import time
from pathlib import Path

import uvicorn

from tuning_server.app import make_app
from tuning_server.disk import write_json
from tuning_server.service import Service
from tuning_server.types import Settings

logger = logging.getLogger(__name__)
GRACE_S = 1  # for replies that are being written when the server is stopped


def url_of(bound: socket.socket) -> str:
    """Base URL under which a client on this machine reaches a bound socket."""
    host, port = bound.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}/v1" if ":" in host else f"http://{host}:{port}/v1"


class Process(uvicorn.Server):
    """uvicorn that writes its address into the store, ends when idle, and stops the worker at the first signal."""

    def __init__(self, config: uvicorn.Config, service: Service, *, address: dict[str, object], idle_s: float) -> None:
        super().__init__(config)
        self.service, self._address, self._idle_s = service, address, idle_s
        self._record = service.settings.store / "server.json"

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        try:
            write_json(self._record, self._address)
        except OSError as error:  # a full disk: what frees it, deleting over the API, needs a server
            logger.warning("%s cannot be written (%s), so that no client finds the server by it", self._record, error)
        logger.info("serving %s at %s (pid %d)", self.service.settings.store, self._address["url"], os.getpid())

    async def on_tick(self, counter: int) -> bool:
        service, worker = self.service, self.service.worker
        quiet_s = time.monotonic() - max(service.last_request, worker.last_worked)
        if self._idle_s and quiet_s > self._idle_s and service.n_in_flight == 0 and not worker.busy:
            logger.info("nothing to do for %.1f minutes: stopping", self._idle_s / 60)
            self.should_exit = True
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        with contextlib.suppress(OSError):
            self._record.unlink(missing_ok=True)
        self.service.worker.stop()  # what waits is answered 503, so that no reply holds up the end
        await super().shutdown(sockets)


def run(settings: Settings, bound: socket.socket, *, idle_minutes: float, key_file: Path | None) -> None:
    """Serve on a bound socket until idleness or a signal ends it.

    By a signal, or while the engine is at work, the whole process ends.

    Raises
    ------
    CannotStart
        If the store's database cannot be used.
    """
    app = make_app(settings)
    gc.freeze()  # what was imported stays: passing it over shortens each garbage collection by a tenth of a second
    config = uvicorn.Config(
        app, log_config=None, access_log=False, timeout_graceful_shutdown=GRACE_S, timeout_keep_alive=75,
        server_header=False, ws="none", lifespan="on", http="h11",  # which bounds the head of a request
    )  # fmt: skip
    address = {
        "url": url_of(bound), "pid": os.getpid(), "key_file": key_file and str(key_file.resolve()),
        "models": settings.models_dir and str(settings.models_dir.resolve()), "download": settings.download,
        "idle_minutes": idle_minutes,
    }  # fmt: skip
    process = Process(config, app.state.service, address=address, idle_s=60 * idle_minutes)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # uvicorn shuts down, then raises the signal again
    with contextlib.suppress(KeyboardInterrupt):
        process.run(sockets=[bound])
        if process.service.worker.join(timeout=0):
            return
    # at once, also out of a long step: every file appears by rename, and torch's modules take seconds to be freed
    os._exit(0)
