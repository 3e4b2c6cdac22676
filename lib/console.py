"""What a person at a terminal sees of a run: plain lines, the progress of a notebook's kernel, and time left."""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tqdm import tqdm

PROGRESS_FILE = "TUNING_FORK_PROGRESS"  # lib.run names a file here: a notebook's kernel has no terminal of its own
_UNITS = {"s": 1.0, "min": 60.0, "h": 3600.0}


def set_up() -> None:
    """Show the log of this project's command lines as plain lines on standard error."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("lib").setLevel(logging.INFO)
    logging.getLogger("__main__").setLevel(logging.INFO)


def expected_seconds(notebook: Path, preset: str) -> float:
    """Seconds that a notebook says it takes at a preset, 0 if it does not.

    Its first cell says so in a line such as ``**Time** tiny 5 s, laptop 2 min, paper 3 h``.
    """
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    source = "".join(cells[0]["source"]) if cells else ""
    return stated_seconds(source, preset)


def stated_seconds(text: str, preset: str) -> float:
    """Seconds stated for a preset in a line that begins with the word Time, 0 if none are.

    >>> stated_seconds("**Time**: tiny about 5 s, laptop 1.5 min, paper 3 h", "laptop")
    90.0
    """
    line = next((line for line in text.splitlines() if re.match(r"\W*Time\b", line)), "")
    found = re.search(rf"\b{re.escape(preset)}\b\D*?([\d.]+)\s*(s|min|h)\b", line)
    return float(found[1]) * _UNITS[found[2]] if found else 0.0


def about(seconds: float, *, of_all: bool = False) -> str:
    """A duration for people.

    >>> about(8), about(400, of_all=True)
    ('(about 10 s)', '(about 7 min left)')
    """
    text = f"{max(round(seconds, -1), 5):.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
    return f"(about {text}{' left' if of_all else ''})"


@contextmanager
def shown_progress() -> Iterator[None]:
    """Show here what the progress bars of a notebook's kernel write.

    A kernel has no terminal of its own: it writes to this one if there is one, else to a file that is copied to
    standard error as it grows, one line a bar's step.
    """
    if os.environ.get("TQDM_DISABLE") or os.environ.get(PROGRESS_FILE):
        yield
        return
    if sys.stderr.isatty():
        os.environ[PROGRESS_FILE] = os.ttyname(sys.stderr.fileno())
        try:
            yield
        finally:
            del os.environ[PROGRESS_FILE]
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "progress"
        path.touch()
        os.environ[PROGRESS_FILE] = str(path)
        ended = threading.Event()
        copier = threading.Thread(target=_copy, args=(path, ended), daemon=True)
        copier.start()
        try:
            yield
        finally:
            ended.set()
            copier.join()
            del os.environ[PROGRESS_FILE]


def _copy(path: Path, ended: threading.Event) -> None:
    with path.open(encoding="utf-8", newline="") as file:
        is_last = False
        while not is_last:
            is_last = ended.wait(0.5)
            text = re.sub(r"[\r\n]+", "\n", file.read()).lstrip("\n")
            if text:
                sys.stderr.write(text if text.endswith("\n") else text + "\n")
                sys.stderr.flush()


def progress(total: int, description: str, *, unit: str = "it") -> tqdm:
    """A progress bar with count, rate and time left; silent where ``TQDM_DISABLE`` is set."""
    path = os.environ.get(PROGRESS_FILE)
    target = open(path, "a", buffering=1, encoding="utf-8") if path else sys.stderr  # noqa: SIM115 (lives with the bar)
    interval = 0.1 if target.isatty() else 5.0
    return tqdm(
        total=total, desc=description, unit=unit, file=target, mininterval=interval, ncols=100, leave=bool(path)
    )
