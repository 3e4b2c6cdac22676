"""The store: files, jobs, events and checkpoints in one SQLite database, weights and the bytes of files beside it.

A store's folder::

    server.lock    locked by the one process that owns the store
    server.json    address of that process (url, pid, key_file) and how it was started; deleted at its end
    server.db      the database, with server.db-wal and server.db-shm
    files/         <id>.jsonl uploads, <id>.csv tables of results, names with a dot in front while one is written
    bases/         <name>@<hash>/ base models, <name>.json which of them the plain name stands for
    hub/           <id>.json commit that a model of the Hugging Face hub was pinned to when it was first used
    tuned/<short>/ of one job: step-<n>/ and final/ models, state-<n>/ and reference/ for a resume,
                   .writing-* and .gone-* folders that are being written or deleted

Folders of models appear by rename, whole or not at all, and do not change; servers of several stores may share
``bases/`` and ``tuned/``. Every change of the database is one transaction in write-ahead mode, so that a kill leaves
either the old or the new state; files are written before the database names them and deleted after it forgets them.
"""

from __future__ import annotations

import json
import secrets
import sqlite3
import string
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from filelock import BaseFileLock, FileLock, Timeout

SCHEMA_VERSION = 1
SCHEMA = """
CREATE TABLE files (seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT UNIQUE NOT NULL, body TEXT NOT NULL);
CREATE TABLE jobs (seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT UNIQUE NOT NULL, status TEXT NOT NULL,
                   body TEXT NOT NULL);
CREATE INDEX jobs_status ON jobs (status);
CREATE TABLE events (seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT UNIQUE NOT NULL, job TEXT NOT NULL, step INTEGER,
                     body TEXT NOT NULL);
CREATE INDEX events_job ON events (job, seq);
CREATE TABLE checkpoints (seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT UNIQUE NOT NULL, job TEXT NOT NULL,
                          step INTEGER NOT NULL, body TEXT NOT NULL, UNIQUE (job, step));
"""
DUE = ("validating_files", "queued", "running")  # in the order that a job goes through them
UNFINISHED = (*DUE, "paused")
INTERRUPTED = "training_interrupted"  # error of a job that can be resumed though it failed
RESULTS: Final = "fine-tune-results"  # purpose of a file, as OpenAI has it
LOCK_HELD = 3  # exit code
NAMED = "json_extract(body, '$.fine_tuned_model_checkpoint') = ?"
ALPHABET = string.ascii_lowercase + string.digits
Row = dict[str, Any]


def file_path(store: Path, file_id: str, purpose: str = "fine-tune") -> Path:
    """Where the bytes of a file lie: rows as JSON lines, a job's results as a table."""
    return store / "files" / f"{file_id}.{'csv' if purpose == RESULTS else 'jsonl'}"


class CannotStart(Exception):
    """Why a command cannot use a store: one line for the person who started it, and the exit code."""

    def __init__(self, message: str, *, code: int = 1) -> None:
        super().__init__(message)
        self.code = code


def acquire_store(store: Path, *, wait_s: float = 0) -> AbstractContextManager[BaseFileLock]:
    """Own an existing or new store, until the context that is returned ends; waits a while for another owner to end.

    Raises
    ------
    CannotStart
        If another process owns it, or it cannot be written.
    """
    try:
        store.mkdir(parents=True, exist_ok=True)
        return FileLock(store / "server.lock").acquire(timeout=wait_s)
    except Timeout:
        owner = "another server, which is starting or stopping"
        with suppress(OSError, ValueError, KeyError):
            address = json.loads((store / "server.json").read_text())
            owner = f"the server at {address['url']} (pid {address['pid']})"
        message = f"{store} is held by {owner}: use that one, stop it, or choose another --store"
        raise CannotStart(message, code=LOCK_HELD) from None
    except OSError as error:
        advice = "make it a folder that can be written, or choose another by --store or TUNING_FORK_STORE"
        raise CannotStart(f"cannot use the store {store} ({error.strerror}): {advice}") from error


def check_schema(db: sqlite3.Connection) -> int:
    """Version of a database's tables, 0 if it has none; refused (`CannotStart`) if a newer server wrote them."""
    version: int = db.execute("PRAGMA user_version").fetchone()[0]
    if version > SCHEMA_VERSION:
        message = f"the store was written by a newer version (schema {version}, this one reads {SCHEMA_VERSION})"
        raise CannotStart(f"{message}: update Tuning Fork or choose another --store")
    return version


def new_id(prefix: str, *, length: int = 24) -> str:
    """A fresh random id of small letters and digits.

    >>> len(new_id("ftjob-"))
    30
    """
    return prefix + "".join(secrets.choice(ALPHABET) for _ in range(length))


def method_of(job: Row) -> str:
    """Method of a stored job; those that were stored before there was DPO have none.

    >>> method_of({"_method": "dpo"}), method_of({})
    ('dpo', 'supervised')
    """
    return str(job.get("_method", "supervised"))


def was_interrupted(job: Row) -> bool:
    """Whether a job failed in a way that it can be resumed from."""
    return (job["error"] or {}).get("code") == INTERRUPTED


def _log(
    db: sqlite3.Connection, job_id: str, *messages: str, level: str = "info", step: int | None = None, data: Any = None
) -> None:
    """Append to a job's log, within a transaction."""
    for message in messages:
        body = {
            "id": new_id("ftevent-"), "object": "fine_tuning.job.event", "created_at": int(time.time()), "level": level,
            "message": message, "type": "message" if step is None else "metrics", "data": data,
        }  # fmt: skip
        values = (body["id"], job_id, step, json.dumps(body))
        db.execute("INSERT INTO events (id, job, step, body) VALUES (?, ?, ?, ?)", values)


class Store:
    """The database and the files of one store; safe to use from several threads.

    Raises
    ------
    CannotStart
        If the database is damaged, cannot be written, or was made by a newer version of the server.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = threading.Lock()
        (folder / "files").mkdir(parents=True, exist_ok=True)
        for left in (folder / "files").glob(".*"):
            left.unlink(missing_ok=True)  # an upload that a kill cut off
        path = folder / "server.db"
        self._db = sqlite3.connect(path, check_same_thread=False, isolation_level="IMMEDIATE", timeout=10)
        try:
            version = check_schema(self._db)
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = NORMAL")
            if version == 0:
                self._db.executescript(f"BEGIN;{SCHEMA}PRAGMA user_version = {SCHEMA_VERSION};COMMIT;")
        except sqlite3.Error as error:
            advice = f"python -m tuning_server check --store {folder} reports what is wrong with it"
            raise CannotStart(f"{path} cannot be used ({error}): {advice}") from error

    def close(self) -> None:
        with self._lock:
            self._db.close()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock, self._db as db:  # commits, or rolls back what fails, the commit itself included
            yield db

    def _query(self, sql: str, values: Iterable[Any] = ()) -> list[tuple[Any, ...]]:
        with self._lock:
            return self._db.execute(sql, tuple(values)).fetchall()

    # files

    def add_file(self, file_id: str, name: str, purpose: str = "fine-tune") -> Row:
        """Record a file whose bytes are there, in place of one of the same id; if that fails, the bytes are deleted."""
        path = file_path(self.folder, file_id, purpose)
        body: Row = {
            "id": file_id, "object": "file", "bytes": path.stat().st_size, "created_at": int(time.time()),
            "filename": name, "purpose": purpose, "status": "processed",
        }  # fmt: skip
        try:
            with self._transaction() as db:
                db.execute("INSERT OR REPLACE INTO files (id, body) VALUES (?, ?)", (file_id, json.dumps(body)))
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        return body

    def delete_file(self, file_id: str, purpose: str) -> None:
        with self._transaction() as db:
            db.execute("DELETE FROM files WHERE id = ?", (file_id,))
        file_path(self.folder, file_id, purpose).unlink(missing_ok=True)

    # jobs

    def add_job(self, body: Row, *, messages: Sequence[str] = ()) -> None:
        """Add a job, and messages to its log."""
        with self._transaction() as db:
            values = (body["id"], body["status"], json.dumps(body))
            db.execute("INSERT INTO jobs (id, status, body) VALUES (?, ?, ?)", values)
            _log(db, body["id"], *messages)

    def update_job(self, job_id: str, changes: Row, *, only: Sequence[str], messages: Sequence[str] = ()) -> bool:
        """Change a job, and add messages to its log, if its status is still one of `only`; returns whether it was."""
        with self._transaction() as db:
            found = db.execute("SELECT status, body FROM jobs WHERE id = ?", (job_id,)).fetchone()
            if found is None or found[0] not in only:
                return False
            body = json.loads(found[1]) | changes
            db.execute("UPDATE jobs SET status = ?, body = ? WHERE id = ?", (body["status"], json.dumps(body), job_id))
            _log(db, job_id, *messages, level="error" if body["status"] == "failed" else "info")
            return True

    def job_status(self, job_id: str) -> str:
        return str(self._query("SELECT status FROM jobs WHERE id = ?", (job_id,))[0][0])

    def jobs_in(self, *statuses: str, limit: int = -1) -> list[Row]:
        """Jobs of these statuses, oldest first."""
        marks = ", ".join("?" * len(statuses))
        sql = f"SELECT body FROM jobs WHERE status IN ({marks}) ORDER BY seq LIMIT ?"
        return [json.loads(row[0]) for row in self._query(sql, [*statuses, limit])]

    # events and checkpoints

    def add_event(self, job_id: str, message: str, **details: Any) -> None:
        """Append to a job's log; with `step` and `data` it is a metrics event."""
        with self._transaction() as db:
            _log(db, job_id, message, **details)

    def delete_steps(self, job_id: str, *, from_step: int) -> None:
        """Delete the events of steps that a resumed job is about to repeat."""
        with self._transaction() as db:
            db.execute("DELETE FROM events WHERE job = ? AND step >= ?", (job_id, from_step))

    def metrics(self, job_id: str) -> list[Row]:
        """Data of a job's metrics events, in the order of their steps."""
        sql = "SELECT body FROM events WHERE job = ? AND step IS NOT NULL ORDER BY step, seq"
        return [json.loads(row[0])["data"] for row in self._query(sql, (job_id,))]

    def add_checkpoint(self, body: Row, *, messages: Sequence[str] = ()) -> None:
        """Add a checkpoint, and messages to its job's log, unless there is one of this step already."""
        values = (body["id"], body["fine_tuning_job_id"], body["step_number"], json.dumps(body))
        sql = "INSERT OR IGNORE INTO checkpoints (id, job, step, body) VALUES (?, ?, ?, ?)"
        with self._transaction() as db:
            if db.execute(sql, values).rowcount:
                _log(db, body["fine_tuning_job_id"], *messages)

    def has_checkpoint(self, model_id: str) -> bool:
        return bool(self._query(f"SELECT 1 FROM checkpoints WHERE {NAMED}", (model_id,)))

    def delete_checkpoint(self, model_id: str) -> None:
        """Delete the record of a checkpoint whose weights are deleted."""
        with self._transaction() as db:
            db.execute(f"DELETE FROM checkpoints WHERE {NAMED}", (model_id,))

    # reading

    def get(self, table: str, row_id: str) -> Row | None:
        """One row of ``files``, ``jobs``, ``events`` or ``checkpoints``."""
        found = self._query(f"SELECT body FROM {table} WHERE id = ?", (row_id,))
        return json.loads(found[0][0]) if found else None

    def page(
        self,
        table: str,
        *,
        after: str | None,
        limit: int,
        where: Sequence[tuple[str, Sequence[Any]]] = (),
        ascending: bool = False,
    ) -> tuple[list[Row], bool]:
        """A page of rows, newest first unless `ascending`, and whether more follow.

        Parameters
        ----------
        where : SQL conditions (ours, never a client's) and the values of their question marks

        Raises
        ------
        KeyError
            If no row is called `after`.
        """
        conditions = [("1", []), *where]
        if after is not None:
            found = self._query(f"SELECT seq FROM {table} WHERE id = ?", (after,))
            if not found:
                raise KeyError(after)
            conditions.append(("seq > ?" if ascending else "seq < ?", found[0]))
        clauses, order = " AND ".join(clause for clause, _ in conditions), "ASC" if ascending else "DESC"
        values = [value for _, values in conditions for value in values]
        sql = f"SELECT body FROM {table} WHERE {clauses} ORDER BY seq {order} LIMIT ?"
        rows = [json.loads(row[0]) for row in self._query(sql, [*values, limit + 1])]
        return rows[:limit], len(rows) > limit
