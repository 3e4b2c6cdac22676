"""What a person at a terminal sees of long work: plain log lines and progress bars."""

from __future__ import annotations

import logging
import sys

from tqdm import tqdm


def set_up() -> None:
    """Show the log of this project's command lines as plain lines on standard error."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    for name in ("lib", "tools", "__main__"):
        logging.getLogger(name).setLevel(logging.INFO)


def progress(total: int, description: str, *, unit: str = "it") -> tqdm:
    """A bar with count, rate and time left on standard error; silent where ``TQDM_DISABLE`` is set."""
    interval = 0.1 if sys.stderr.isatty() else 5.0
    return tqdm(total=total, desc=description, unit=unit, mininterval=interval, ncols=100, leave=False)
