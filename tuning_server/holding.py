"""Who owns a store? One process at a time, so that weights, queue and database have one writer."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

from filelock import FileLock, Timeout

HELD = 3


class CannotStart(Exception):
    """One line for the person who started the server."""

    def __init__(self, message: str, *, code: int = 1) -> None:
        super().__init__(message)
        self.code = code


def hold(store: Path) -> FileLock:
    """Own the store, or say who does."""
    lock = FileLock(store / "server.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        who = "another server, which is starting or stopping"
        with contextlib.suppress(OSError, ValueError, KeyError):
            address = json.loads((store / "server.json").read_text())
            who = f"the server at {address['url']} (pid {address['pid']})"
        raise CannotStart(
            f"{store} is held by {who}: use that one, stop it, or choose another --store", code=HELD
        ) from None
    return lock
