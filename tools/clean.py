"""Remove all runs and models: ``python -m tools.clean``. The server of the store is ended first."""

from __future__ import annotations

import logging
import shutil
import subprocess
import sys
from pathlib import Path

from lib import console
from lib.paths import ROOT, runs_root, store_root

log = logging.getLogger(__name__)


def stop_server(store: Path) -> None:
    """End the server that owns a store, if one runs."""
    subprocess.run([sys.executable, "-m", "tuning_server", "stop", "--store", str(store)], cwd=ROOT, check=False)


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
