"""Atomic writes, JSON files and content hashes."""

from __future__ import annotations

import codecs
import hashlib
import json
import math
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any


def store_root() -> Path:
    """Folder of weights, jobs and files: ``$TUNING_FORK_STORE``, else ``data/store`` in the current folder."""
    return Path(os.environ.get("TUNING_FORK_STORE") or Path("data", "store"))


def registry_root() -> Path | None:
    """Folder of weights that several servers share: ``$TUNING_FORK_REGISTRY``, else none."""
    return Path(value) if (value := os.environ.get("TUNING_FORK_REGISTRY")) else None


@contextmanager
def atomic_write(path: Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Open a temporary file beside `path` that replaces it only when the block ends well.

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


def write_json(path: Path, value: Any) -> None:
    """Write one JSON value, readable by people, whole or not at all."""
    with atomic_write(path) as file:
        json.dump(value, file, indent=1, ensure_ascii=False)
        file.write("\n")


def read_json(path: Path) -> Any:
    """Read one JSON value; a broken file is named in the error (`ValueError`)."""
    try:
        return json.loads(path.read_bytes())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from error


class BadRow(ValueError):
    """A file of rows cannot be used; the message has the line and the reason."""


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        keys = [key for key, _ in pairs]
        repeated = next(key for key in keys if keys.count(key) > 1)
        raise BadRow(f"the key {repeated!r:.60} occurs twice in one object")
    return row


def json_rows(lines: Iterable[bytes], *, max_line_bytes: float = math.inf) -> Iterator[tuple[int, dict[str, Any]]]:
    """JSON objects of a file with their line numbers; blank lines, and a byte order mark in front, are skipped.

    Raises
    ------
    BadRow
        If a line is too long, not UTF-8, not JSON or not an object, or an object has a key twice.

    >>> list(json_rows([b'{"a": 1}', b"oops"]))
    Traceback (most recent call last):
    tuning_server.disk.BadRow: Line 2: not JSON (Expecting value, column 1)
    """
    for number, line in enumerate(lines, start=1):
        if number == 1:
            line = line.removeprefix(codecs.BOM_UTF8)
        if not line.strip():
            continue
        row, reason = None, ""
        try:
            if len(line) > max_line_bytes:
                raise BadRow(f"longer than {max_line_bytes} bytes")
            row = json.loads(line.decode("utf-8"), object_pairs_hook=_unique_keys)
        except BadRow as error:
            reason = str(error)
        except UnicodeDecodeError as error:
            reason = f"not UTF-8 (byte {error.start + 1} of the line)"
        except json.JSONDecodeError as error:
            reason = f"not JSON ({error.msg}, column {error.colno})"
        except (RecursionError, ValueError):
            reason = "not JSON that can be read (nested too deeply or a number too long)"
        if not isinstance(row, dict):
            raise BadRow(f"Line {number}: {reason or f'expected a JSON object, found {type(row).__name__}'}")
        yield number, row


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
