"""Put a base into a store, whole or not at all, whoever else is making the same one."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock, Timeout

from tuning_server.disk import write_json


def add_base(store: Path, name: str, hash_: str, make: Callable[[Path, Path], None], *, is_default: bool) -> str:
    """Put a base into a store, unless it is there; returns its id, ``<name>@<hash>``.

    Parameters
    ----------
    make : called with a folder to work in, where a run that was killed left its files, and the one to rename it to
    is_default : let the plain name stand for this base even if it stands for another one already

    Raises
    ------
    ValueError
        If another process is making the same base.
    """
    bases = store / "bases"
    folder, working, pointer = bases / f"{name}@{hash_}", bases / f".making-{name}@{hash_}", bases / f"{name}.json"
    if not folder.exists():
        bases.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(bases / f".{folder.name}.lock", timeout=0):
                if not folder.exists():
                    make(working, folder)
        except Timeout as error:
            raise ValueError(f"another process is making {folder.name}: wait for it, then call again") from error
    shutil.rmtree(working, ignore_errors=True)
    if is_default or not pointer.exists():
        write_json(pointer, {"current": hash_})
    return folder.name
