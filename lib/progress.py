"""One progress bar for every long job, seen in a terminal, in Jupyter and through ``python -m lib.run``."""

from __future__ import annotations

import os
import sys

from tqdm import tqdm

PROGRESS_FILE = "TUNING_FORK_PROGRESS"  # lib.run names a file here: a notebook's kernel has no terminal of its own


def progress(total: int, description: str, *, unit: str = "it") -> tqdm:
    """A bar with count, rate and time left; silent where ``TQDM_DISABLE`` is set."""
    path = os.environ.get(PROGRESS_FILE)
    target = open(path, "a", buffering=1, encoding="utf-8") if path else sys.stderr  # noqa: SIM115 (lives with the bar)
    interval = 0.1 if target.isatty() else 5.0
    return tqdm(
        total=total, desc=description, unit=unit, file=target, mininterval=interval, ncols=100, leave=bool(path)
    )
