"""Ends this process when those that started it are gone, so that a kill leaves no orphan writing.

A SIGKILL of make or Snakemake cannot be passed on by them; whoever works for them looks up instead.
"""

from __future__ import annotations

import os
import threading
import time

import psutil

WATCH = "TUNING_FORK_WATCH"


def ancestors(top: int) -> list[psutil.Process]:
    """The processes between this one and the one numbered `top`, which is the last; none if it is no ancestor.

    >>> ancestors(-1)
    []
    """
    found: list[psutil.Process] = []
    for process in psutil.Process().parents():
        found.append(process)
        if process.pid == top:
            return found
    return []


def end_with_parents(*, every_s: float = 0.5) -> None:
    """Watch all processes up to the one that ``$TUNING_FORK_WATCH`` numbers; end this one when any of them is gone.

    The children of this process end with it, at once. Without the variable, or when it names no ancestor (a job that a
    cluster runs elsewhere), nothing is watched.
    """
    top = os.environ.get(WATCH, "")
    watched = ancestors(int(top)) if top.isdigit() else []
    if watched:
        threading.Thread(target=_watch, args=(watched, every_s), daemon=True).start()


def _watch(watched: list[psutil.Process], every_s: float) -> None:
    while all(_is_alive(process) for process in watched):
        time.sleep(every_s)
    for child in psutil.Process().children():
        child.kill()
    os._exit(1)


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
