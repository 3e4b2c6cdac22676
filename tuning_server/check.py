"""Report what is wrong with a store: ``python -m tuning_server check``. Nothing is changed.

A problem comes with what to do. A note is for what a kill left half done, which the server passes over or cleans up.
"""

from __future__ import annotations

import json
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from tuning_server.disk import read_json
from tuning_server.engine.registry import FINE_TUNE, GONE, WRITING, fingerprint, flaw, states
from tuning_server.store import SCHEMA_VERSION, UNFINISHED, CannotStart, Row, acquire_store, file_path

RESTORE = "restore server.db from a backup, or move server.db* out of the store: models stay, files and jobs go"


class Finding(NamedTuple):
    """A problem, or without `advice` a note."""

    what: str
    advice: str = ""


def check_database(db: sqlite3.Connection) -> Iterator[Finding]:
    """Damaged pages, and rows that are not JSON."""
    try:
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if version > SCHEMA_VERSION:
            message = f"the store was written by a newer version (schema {version}, this one reads {SCHEMA_VERSION})"
            raise CannotStart(f"{message}: update Tuning Fork")
        (result,) = db.execute("PRAGMA integrity_check(1)").fetchone()
        if result != "ok":
            yield Finding(f"server.db: {result.splitlines()[-1]}", RESTORE)
        for table in ("files", "jobs", "events", "checkpoints"):
            for (row_id,) in db.execute(f"SELECT id FROM {table} WHERE NOT json_valid(body)"):
                yield Finding(f"server.db: {row_id} in {table} is not JSON", RESTORE)
    except sqlite3.DatabaseError as error:
        yield Finding(f"server.db: {error}", RESTORE)


def check_files(store: Path, files: list[Row]) -> Iterator[Finding]:
    """Records without their bytes, bytes without a record."""
    unknown = set((store / "files").glob("*"))
    for file in files:
        path = file_path(store, file["id"], file["purpose"])
        unknown.discard(path)
        n_bytes = path.stat().st_size if path.is_file() else 0
        if n_bytes != file["bytes"]:
            what = f"file {file['id']} ({file['filename']!r}): {n_bytes} of its {file['bytes']} bytes are there"
            yield Finding(what, f"upload it again and delete this one: DELETE /v1/files/{file['id']}")
    for path in sorted(unknown):
        reason = "was cut off: the next server deletes it" if path.suffix == ".part" else "belongs to no known file"
        yield Finding(f"files/{path.name} {reason}")


def check_bases(store: Path) -> Iterator[Finding]:
    """Base models that are damaged, or that a plain name stands for and are not there."""
    for base in sorted((store / "bases").glob("*@*/")):
        for folder in (*base.glob("init"), base):
            reason = flaw(folder) or ("" if (folder / "config.json").is_file() else "it has no config.json")
            if reason:
                advice = f"delete the folder bases/{base.name} and make the model again"
                yield Finding(f"{folder.relative_to(store)}: {reason}", advice)
    for pointer in sorted((store / "bases").glob("*.json")):
        try:
            is_there = pointer.with_name(f"{pointer.stem}@{read_json(pointer)['current']}").is_dir()
        except (ValueError, KeyError, TypeError):
            is_there = False
        if not is_there:
            yield Finding(f"bases/{pointer.name}: the base that it names is not there", f"make {pointer.stem} again")


def check_tuned(store: Path, jobs: dict[str, Row]) -> Iterator[Finding]:
    """Fine-tunes that are damaged or changed, and what a kill left beside them."""
    for run in sorted((store / "tuned").glob("*/")):
        job, name = jobs.get(run.name), f"tuned/{run.name}"
        if job is None:
            yield Finding(f"{name} belongs to no job that the database knows; its models can be used")
        for left in sorted([*run.glob(f"{WRITING}*"), *run.glob(f"{GONE}*")]):
            yield Finding(f"{name}/{left.name} was cut off and can be deleted")
        for state in states(run):
            if job is None or job["status"] not in UNFINISHED:
                yield Finding(f"{name}/{state.name} is of no use any more and can be deleted")
            elif reason := flaw(state):
                yield Finding(f"{name}/{state.name}: {reason}; the job goes on from where it was before")
        for folder in sorted([*run.glob("step-*"), *run.glob("final")]):
            if reason := flaw(folder) or changed(folder):
                yield Finding(f"{name}/{folder.name}: {reason}", "delete this folder, or restore it from a backup")


def changed(folder: Path) -> str | None:
    """Whether a fine-tune lacks its card, or its weights are others than the card says."""
    card = read_json(folder / "tuned.json") if (folder / "tuned.json").is_file() else None
    if not isinstance(card, dict) or not {"id", "parent"} <= set(card):
        return "it has no tuned.json that says what it is"
    if card.get("fingerprint") in (None, fingerprint(card["id"], folder, recompute=True)):  # older ones have none
        return None
    return "its weights are not those that were written"


def check_jobs(store: Path, jobs: dict[str, Row], files: set[str], checkpoints: list[Row]) -> Iterator[Finding]:
    """Jobs that lack a file, checkpoints that lack their weights."""
    for job in jobs.values():
        for param in ("training_file", "validation_file"):
            if job["status"] in UNFINISHED and job[param] and job[param] not in files:
                what = f"job {job['id']} ({job['status']}): its {param.replace('_', ' ')} {job[param]} is gone"
                yield Finding(what, "upload it again and start another job: this one fails when its turn comes")
    for row in checkpoints:
        tuned = FINE_TUNE.fullmatch(row["fine_tuned_model_checkpoint"])
        name = tuned and f"tuned/{tuned['short']}/" + (f"step-{tuned['step']}" if tuned["step"] else "final")
        if name and not (store / name).is_dir():
            what = f"{name}: the weights of {row['fine_tuned_model_checkpoint']} are gone"
            yield Finding(what, "restore the folder from a backup, or train again")


def findings(store: Path) -> Iterator[Finding]:
    """All findings in a store."""
    rows: dict[str, list[Row]] = {"files": [], "jobs": [], "checkpoints": []}
    path = store / "server.db"
    if path.exists():
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=10)) as db:
            damage = list(check_database(db))
            yield from damage
            if damage:
                yield Finding("files and jobs are not checked while the database is damaged")
                yield from check_bases(store)
                return
            for table in rows:
                rows[table] = [json.loads(body) for (body,) in db.execute(f"SELECT body FROM {table}")]
    jobs = {job["_short"]: job for job in rows["jobs"]}
    yield from check_files(store, rows["files"])
    yield from check_bases(store)
    yield from check_tuned(store, jobs)
    yield from check_jobs(store, jobs, {file["id"] for file in rows["files"]}, rows["checkpoints"])
    counts = ", ".join(f"{len(found)} {table}" for table, found in rows.items())
    sys.stdout.write(f"checked: {counts}, {len(list((store / 'bases').glob('*@*/')))} bases\n")


def check(store: Path) -> int:
    """Print the findings; returns the exit code, 1 if there is a problem.

    Raises
    ------
    CannotStart
        If the store is not there, cannot be read, or is used by a server.
    """
    if not store.is_dir():
        raise CannotStart(f"--store {store} is not a folder")
    n_problems = 0
    with acquire_store(store):
        try:
            for what, advice in findings(store):
                n_problems += bool(advice)
                sys.stdout.write(f"problem  {what}\n         -> {advice}\n" if advice else f"note     {what}\n")
                sys.stdout.flush()  # a large store takes a while
        except (OSError, ValueError, sqlite3.Error) as error:
            raise CannotStart(f"cannot check {store}: {error}") from error
    sys.stdout.write(f"{n_problems} problem{'s' * (n_problems > 1)}\n" if n_problems else "nothing is wrong\n")
    return 1 if n_problems else 0
