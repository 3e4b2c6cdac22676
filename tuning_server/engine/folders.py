"""Folders of runs: they appear and go by one rename each, so that a kill leaves nothing that looks whole."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

WRITING = ".writing-"  # begins the name of a folder until it is whole
GONE = ".gone-"  # begins the name of a folder that is being deleted


def tuned_folders(tuned: Path) -> Iterator[Path]:
    """Folders with a ``tuned.json``, but none that is being written or deleted; glob would take twice as long."""
    for run in os.scandir(tuned) if tuned.is_dir() else ():
        with suppress(FileNotFoundError):  # another server may be deleting the run
            for folder in os.scandir(run) if run.is_dir() else ():
                if not folder.name.startswith(".") and os.path.exists(f"{folder.path}/tuned.json"):
                    yield Path(folder.path)


def states(folder: Path) -> list[Path]:
    """Folders of a run that it can go on from, oldest first."""
    return sorted(folder.glob("state-*"), key=lambda path: int(path.name.removeprefix("state-")))


def drop(folder: Path) -> None:
    """Delete a folder, if it is there; a kill in between leaves nothing that looks whole."""
    gone = folder.with_name(f"{GONE}{secrets.token_hex(8)}")
    with suppress(FileNotFoundError):
        folder.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)


def drop_state(folder: Path) -> None:
    """Remove what a run would go on from: it has ended, or will not be taken up again."""
    with suppress(OSError):
        for state in states(folder):
            drop(state)
    for left in folder.glob(f"{GONE}*"):  # by a kill
        shutil.rmtree(left, ignore_errors=True)
