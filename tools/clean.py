"""Remove all runs and models: ``python -m tools.clean``. The server of the store is ended first."""

from __future__ import annotations

import logging
import shutil
import sys
from pathlib import Path

import psutil

from lib import console
from lib.paths import read_json, runs_root, store_root

log = logging.getLogger(__name__)


def stop_server(store: Path, *, wait_s: float = 20) -> bool:
    """End the server that owns a store, if one runs; returns whether one did.

    The number in ``server.json`` may by now be another's: only a process that is our server is ended.
    """
    try:
        process = psutil.Process(int(read_json(store / "server.json")["pid"]))
        if "tuning_server" not in process.cmdline():
            return False
        process.terminate()
    except (OSError, ValueError, KeyError, TypeError, psutil.Error):
        return False
    try:
        process.wait(wait_s)
    except psutil.TimeoutExpired:
        process.kill()
        process.wait(wait_s)
    return True


def main() -> int:
    """Command line of this module; returns the exit code."""
    console.set_up()
    stop_server(store_root())
    for folder in (runs_root(), store_root()):
        if folder.exists():
            shutil.rmtree(folder)
            log.info("removed %s", folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
