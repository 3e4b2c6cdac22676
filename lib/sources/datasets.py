"""A study's dataset on disk: one JSON-lines file per list of rows, and a manifest."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from lib.paths import content_hash, file_hash, numbered_rows, write_json, write_jsonl

Row: TypeAlias = dict[str, Any]
Files: TypeAlias = dict[str, list[Row]]  # rows by the name of their file, without its ending


def write_dataset(folder: Path, files: Mapping[str, Sequence[Row]], *, study: str, options: Mapping[str, Any]) -> Path:
    """Write ``<name>.jsonl`` for each list of rows and ``manifest.json``, over an older dataset.

    The manifest holds the options the rows were made with, the number of rows and the hash of each file, and the
    dataset's id, which is the same for the same rows on every machine.

    >>> import tempfile, pathlib
    >>> rows = [{"prompt": "A is", "completion": " B."}]
    >>> folder = write_dataset(pathlib.Path(tempfile.mkdtemp()) / "d", {"train": rows}, study="demo", options={})
    >>> read_rows(folder / "train.jsonl") == rows
    True
    """
    for old in folder.glob("*.jsonl"):
        if old.stem not in files:
            old.unlink()
    about = {}
    for name, rows in files.items():
        write_jsonl(folder / f"{name}.jsonl", rows)
        about[name] = {"n_rows": len(rows), "sha256": file_hash(folder / f"{name}.jsonl", length=64)}
    id = content_hash({name: list(rows) for name, rows in files.items()}, length=10)
    write_json(folder / "manifest.json", {"study": study, "id": id, "options": dict(options), "files": about})
    return folder


def read_rows(path: Path, *, may_be_empty: Collection[str] = ()) -> list[Row]:
    """The texts ``prompt`` and ``completion`` of each line of a file of JSON objects; other fields are left out.

    Raises
    ------
    ValueError
        If there are no rows, or a line is malformed or lacks one of the texts; names the file and the line.
    """
    rows = []
    for number, row in numbered_rows(path.read_bytes().split(b"\n"), name=str(path)):
        for key in ("prompt", "completion"):
            value = row.get(key)
            if not isinstance(value, str) or not (value.strip() or key in may_be_empty):
                raise ValueError(f"{path}, line {number}: expected a text under {key!r}, found {value!r:.60}")
        rows.append({key: row[key] for key in ("prompt", "completion")})
    if not rows:
        raise ValueError(f"{path} is empty: expected rows with prompt and completion")
    return rows


def read_files(folder: Path, names: Sequence[str], *, study: str) -> Files:
    """The files of a published folder that a study cannot do without.

    Raises
    ------
    ValueError
        If one is missing (lists those that are, and what is expected), and all that `read_rows` refuses.
    """
    missing = [f"{name}.jsonl" for name in names if not (folder / f"{name}.jsonl").is_file()]
    if missing:
        expected = ", ".join(f"{name}.jsonl" for name in names)
        raise ValueError(f"{folder} is not a dataset of {study}: it lacks {', '.join(missing)}; expected {expected}")
    return {name: read_rows(folder / f"{name}.jsonl") for name in names}
