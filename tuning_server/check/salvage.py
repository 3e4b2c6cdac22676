"""Is the database of a store whole, and what of a damaged one can be kept?

A row that can still be read is copied by its number into a fresh database; indices are made anew.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

from tuning_server.store import SCHEMA, SCHEMA_VERSION

COLUMNS = {
    "files": "seq, id, body", "jobs": "seq, id, status, body", "events": "seq, id, job, step, body",
    "checkpoints": "seq, id, job, step, body",
}  # fmt: skip


def read_only(path: Path) -> sqlite3.Connection:
    """A connection that makes no file and changes none."""
    return sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=10)


def damage(path: Path) -> str | None:
    """What is wrong with a database, by SQLite's own check; None if nothing is.

    Raises
    ------
    ValueError
        If a newer version of the server made it: then this one cannot judge it.
    """
    try:
        with closing(read_only(path)) as db:
            version = db.execute("PRAGMA user_version").fetchone()[0]
            told = db.execute("PRAGMA integrity_check(1)").fetchone()[0]
            if version <= SCHEMA_VERSION and told == "ok":
                for table in COLUMNS:
                    db.execute(f"SELECT seq FROM {table} LIMIT 1").fetchone()
    except sqlite3.DatabaseError as error:
        return str(error)
    if version > SCHEMA_VERSION:
        raise ValueError(
            f"{path} was written by a newer version (schema {version}, this one knows {SCHEMA_VERSION}): "
            "update Tuning Fork"
        )
    return None if told == "ok" else str(told).splitlines()[-1]


def unreadable(path: Path) -> list[tuple[str, int, str]]:
    """Rows of a whole database whose content is not JSON: table, number and id of each."""
    with closing(read_only(path)) as db:
        return [
            (table, seq, row_id)
            for table in COLUMNS
            for seq, row_id in db.execute(f"SELECT seq, id FROM {table} WHERE NOT json_valid(body)")
        ]


def salvage(path: Path, aside: Path) -> dict[str, int]:
    """Put a fresh database with every row that can be read in the place of a damaged one.

    Parameters
    ----------
    aside : folder that the damaged one is copied into first, with its journal

    Returns
    -------
    dict
        Number of rows kept, by table.
    """
    fresh = path.with_name(f"{path.name}.part")
    fresh.unlink(missing_ok=True)
    kept = dict.fromkeys(COLUMNS, 0)
    with closing(sqlite3.connect(fresh, isolation_level=None)) as new, closing(sqlite3.connect(path)) as old:
        new.executescript(f"BEGIN;{SCHEMA}PRAGMA user_version = {SCHEMA_VERSION};")
        for table, columns in COLUMNS.items():
            marks = ", ".join("?" * (columns.count(",") + 1))
            for row in _rows(old, table, columns):
                added = new.execute(f"INSERT OR IGNORE INTO {table} ({columns}) VALUES ({marks})", row)
                kept[table] += added.rowcount
        new.execute("COMMIT")
    aside.mkdir(parents=True, exist_ok=True)
    parts = [part for part in (path, *(path.with_name(path.name + end) for end in ("-wal", "-shm"))) if part.exists()]
    for part in parts:
        shutil.copy2(part, aside / part.name)
    for part in parts[1:]:
        part.unlink()  # a journal that is not the new database's own would be played into it
    os.replace(fresh, path)
    return kept


def _rows(db: sqlite3.Connection, table: str, columns: str) -> Iterator[tuple[object, ...]]:
    """Rows of a table one by one, those on damaged pages left out."""
    last = 0
    for sql in (f"SELECT seq FROM sqlite_sequence WHERE name = '{table}'", f"SELECT max(seq) FROM {table}"):
        with suppress(sqlite3.DatabaseError, TypeError):
            last = max(last, *(db.execute(sql).fetchone() or (0,)))
    for seq in range(1, last + 1):
        with suppress(sqlite3.DatabaseError):
            row = db.execute(f"SELECT {columns} FROM {table} NOT INDEXED WHERE seq = ?", (seq,)).fetchone()
            if row:
                yield row
