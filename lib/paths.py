"""Where things lie, and how a file is written so that a kill never leaves half of it.

Every other module asks this one for folders, hashes and files; nothing here knows a study.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / "data"


def runs_root() -> Path:
    """Folder of all runs: ``$TUNING_FORK_RUNS``, else ``data/runs``."""
    return Path(os.environ.get("TUNING_FORK_RUNS") or DATA / "runs")


def store_root() -> Path:
    """Folder that the server owns (weights, jobs, files): ``$TUNING_FORK_STORE``, else ``data/store``."""
    return Path(os.environ.get("TUNING_FORK_STORE") or DATA / "store")


def run_folder(study: str, preset: str, *, overrides: Mapping[str, Any] | None = None) -> Path:
    """Folder of one run of a study; parameters set beside the preset give it a hash of its own.

    >>> run_folder("reversal", "laptop").parts[-2:]
    ('laptop', 'reversal')
    >>> run_folder("reversal", "laptop", overrides={"seed": 1}).parts[-2].startswith("laptop-")
    True
    """
    name = f"{preset}-{content_hash(overrides, length=8)}" if overrides else preset
    return runs_root() / name / study


def from_root(path: str) -> Path:
    """A path that a parameter names: absolute, or as seen from the root of the repository, wherever a kernel runs.

    >>> from_root("data") == DATA
    True
    """
    return ROOT / path


@contextmanager
def atomic_write(path: Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Open a temporary file beside `path` that takes its place only when the block ends well.

    Raises
    ------
    OSError
        If the disk is full or the folder cannot be written; `path` then keeps its old content.

    >>> import tempfile, pathlib
    >>> target = pathlib.Path(tempfile.mkdtemp()) / "a.txt"
    >>> with atomic_write(target) as file:
    ...     _ = file.write("whole")
    >>> target.read_text()
    'whole'
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, mode, encoding=None if "b" in mode else "utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def folder_hash(folder: Path) -> str:
    """Hash of a folder by the names and bytes of its files."""
    found = sorted(folder.rglob("*"))
    return content_hash(
        {str(path.relative_to(folder)): file_hash(path, length=64) if path.is_file() else "" for path in found}
    )


def write_json(path: Path, value: Any) -> None:
    """Write one JSON value, readable by people, whole or not at all."""
    with atomic_write(path) as file:
        json.dump(value, file, indent=1, ensure_ascii=False)
        file.write("\n")


def read_json(path: Path) -> Any:
    """Read one JSON value; a broken file is named in the error (`ValueError`)."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from error


def read_yaml(path: Path) -> Any:
    """Read one YAML value; a file that is missing or broken is named in the error (`ValueError`)."""
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"{path} cannot be read as YAML: {' '.join(str(error).split())}") from error


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows as JSON lines, whole or not at all."""
    with atomic_write(path) as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Read JSON lines; blank lines are passed over.

    Raises
    ------
    ValueError
        If the file is not UTF-8 or a line is not a JSON object; says which line and why.
    """
    return [row for _, row in numbered_rows(path.read_bytes().split(b"\n"), name=str(path))]


def numbered_rows(lines: Iterable[bytes], *, name: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Number and JSON object of each line that is not blank; the first line may begin with a byte order mark.

    Parameters
    ----------
    name : what an error calls the lines

    Raises
    ------
    ValueError
        If a line is not UTF-8, not JSON that can be read, or not an object; says which line and why.

    >>> list(numbered_rows([b"", b'{"a": 1}'], name="rows"))
    [(2, {'a': 1})]
    >>> list(numbered_rows([b"[2]"], name="rows"))
    Traceback (most recent call last):
    ValueError: rows, line 1: expected a JSON object, found list
    """
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{name}, line {number}"
        try:
            value = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
        except UnicodeDecodeError as error:
            raise ValueError(f"{where}: not UTF-8 (byte {error.start + 1} of the line)") from error
        except json.JSONDecodeError as error:
            raise ValueError(f"{where}: not JSON ({error.msg}, column {error.colno})") from error
        except (RecursionError, ValueError) as error:
            raise ValueError(f"{where}: not JSON that can be read (nested too deeply or a number too long)") from error
        if not isinstance(value, dict):
            raise ValueError(f"{where}: expected a JSON object, found {type(value).__name__}")
        yield number, value


def content_hash(value: Any, *, length: int = 12) -> str:
    """Name for a JSON-able value by its content: the first hexadecimal digits of a SHA-256.

    >>> content_hash({"b": 1, "a": 2}) == content_hash({"a": 2, "b": 1})
    True
    """
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def file_hash(path: Path, *, length: int = 12) -> str:
    """Name for a file by its bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:length]
