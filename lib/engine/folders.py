"""What lies in the folder of a run or of a model, and whether it is whole: asked without loading any weights."""

from __future__ import annotations

import secrets
import shutil
from contextlib import suppress
from pathlib import Path

from safetensors import SafetensorError, safe_open

from lib.paths import read_json

WRITING = ".writing-"  # begins the name of a folder until it is whole
GONE = ".gone-"  # begins the name of a folder that is being deleted
REFERENCE = "reference"  # what DPO computes before its first step


def states(folder: Path) -> list[Path]:
    """Folders of a run that it can go on from, oldest first."""
    return sorted(folder.glob("state-*"), key=lambda path: int(path.name.removeprefix("state-")))


def drop(folder: Path) -> None:
    """Delete a model or a state of a run, if it is there: it is out of sight at once, however far the deletion gets."""
    gone = folder.with_name(f"{GONE}{secrets.token_hex(8)}")
    with suppress(FileNotFoundError):
        folder.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)


def drop_state(folder: Path) -> None:
    """Remove what a run would go on from: it has ended, or will not be taken up again."""
    with suppress(OSError):
        for state in [*folder.glob("state-*"), folder / REFERENCE]:
            drop(state)
    for left in folder.glob(f"{GONE}*"):  # by a kill
        shutil.rmtree(left, ignore_errors=True)


def flaw(folder: Path) -> str | None:
    """What keeps a model, or the state of a run, from being loaded; None if nothing does.

    Of the weights the headers are read, which say how long each file is: one that was cut short is found without
    reading the rest of it. A byte that changed is not (see the ``fingerprint`` in ``tuned.json``).

    >>> flaw(Path("/nowhere"))
    'it holds no weights'
    """
    weights = sorted(folder.glob("*.safetensors"))
    try:
        records = {file.name: read_json(file) for file in sorted(folder.glob("*.json"))}
    except (ValueError, OSError) as error:
        return str(error).removeprefix(f"{folder}/")
    wanted = {
        name
        for record, about in records.items()
        if record.endswith(".safetensors.index.json")
        for name in about.get("weight_map", {}).values()
    }
    missing = sorted(wanted - {file.name for file in weights})
    if missing or not weights:
        return f"its file {missing[0]} is missing" if missing else "it holds no weights"
    for file in weights:
        try:
            with safe_open(file, framework="numpy"):
                pass
        except (SafetensorError, OSError) as error:
            return f"its file {file.name} is damaged or cut short ({file.stat().st_size} bytes; {error})"
    return None
