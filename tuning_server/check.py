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

from tuning_server.disk import read_json
from tuning_server.engine.folders import GONE, WRITING, states
from tuning_server.engine.registry import FINE_TUNE, base_folder, fingerprint, flaw
from tuning_server.sharing import RECORD
from tuning_server.store import UNFINISHED, CannotStart, Row, acquire_store, check_schema, file_path, was_interrupted

Findings = Iterator[tuple[str, str]]  # a problem with what to do, or a note without
RESTORE = "restore server.db from a backup, or move server.db* out of the store: models stay, files and jobs go"


def check_database(db: sqlite3.Connection) -> Findings:
    """Damaged pages, and rows that are not JSON."""
    try:
        check_schema(db)
        (result,) = db.execute("PRAGMA integrity_check(1)").fetchone()
        if result != "ok":
            yield f"server.db: {result.splitlines()[-1]}", RESTORE
        for table in ("files", "jobs", "events", "checkpoints"):
            for (row_id,) in db.execute(f"SELECT id FROM {table} WHERE NOT json_valid(body)"):
                yield f"server.db: {row_id} in {table} is not JSON", RESTORE
    except sqlite3.DatabaseError as error:
        yield f"server.db: {error}", RESTORE


def check_files(store: Path, files: list[Row]) -> Findings:
    """Records without their bytes, bytes without a record."""
    unknown = set((store / "files").glob("*"))
    for file in files:
        path = file_path(store, file["id"], file["purpose"])
        unknown.discard(path)
        n_bytes = path.stat().st_size if path.is_file() else 0
        if n_bytes != file["bytes"]:
            what = f"file {file['id']} ({file['filename']!r}): {n_bytes} of its {file['bytes']} bytes are there"
            yield what, "upload it again and delete this one"
    for path in sorted(unknown):
        reason = "was cut off: the next server deletes it" if path.name[0] == "." else "belongs to no known file"
        yield f"files/{path.name} {reason}", ""


def check_bases(weights: Path) -> Findings:
    """Base models that are damaged, or that a plain name stands for and are not there."""
    for base in sorted((weights / "bases").glob("*@*/")):
        for folder in (*base.glob("init"), base):
            reason = flaw(folder) or ("" if (folder / "config.json").is_file() else "it has no config.json")
            if reason:
                yield f"{folder.relative_to(weights)}: {reason}", f"delete bases/{base.name} and make the model again"
    for pointer in sorted((weights / "bases").glob("*.json")):
        if base_folder(pointer.stem, None, weights) is None:
            yield f"bases/{pointer.name}: the base that it names is not there", f"make {pointer.stem} again"


def check_tuned(weights: Path, jobs: dict[str, Row], *, shared: bool) -> Findings:
    """Fine-tunes that are damaged or changed, and what a kill left beside them."""
    for run in sorted((weights / "tuned").glob("*/")):
        job, name = jobs.get(run.name), f"tuned/{run.name}"
        if shared and not (run / RECORD).is_file():
            yield (
                f"{name} is being trained, or was left by a server that is gone: the next one with this job clears it",
                "",
            )
            continue
        if job is None and not shared:
            yield f"{name} belongs to no job that the database knows; its models can be used", ""
        for left in sorted([*run.glob(f"{WRITING}*"), *run.glob(f"{GONE}*")]):
            yield f"{name}/{left.name} was cut off and can be deleted", ""
        for state in states(run):
            if job is None or not (job["status"] in UNFINISHED or was_interrupted(job)):
                yield f"{name}/{state.name} is of no use any more and can be deleted", ""
            elif reason := flaw(state):
                yield f"{name}/{state.name}: {reason}; the job goes on from where it was before", ""
        for folder in sorted([*run.glob("step-*"), *run.glob("final")]):
            if reason := flaw(folder) or changed(folder):
                yield f"{name}/{folder.name}: {reason}", "delete this folder, or restore it from a backup"


def changed(folder: Path) -> str | None:
    """Whether a fine-tune lacks its card, or its weights are others than the card says."""
    card = read_json(folder / "tuned.json") if (folder / "tuned.json").is_file() else None
    if not isinstance(card, dict) or not {"id", "parent"} <= set(card):
        return "it has no tuned.json that says what it is"
    if card.get("fingerprint") in (None, fingerprint(card["id"], folder, recompute=True)):  # older ones have none
        return None
    return "its weights are not those that were written"


def check_jobs(weights: Path, jobs: dict[str, Row], files: list[Row], checkpoints: list[Row]) -> Findings:
    """Jobs that lack a file, checkpoints that lack their weights."""
    file_ids = {None, *(file["id"] for file in files)}
    for job in jobs.values():
        for param in ("training_file", "validation_file"):
            if job["status"] in UNFINISHED and job[param] not in file_ids:
                what = f"job {job['id']} ({job['status']}): its {param.replace('_', ' ')} {job[param]} is gone"
                yield what, "upload the file and start another job: this one fails when its turn comes"
    for row in checkpoints:
        tuned = FINE_TUNE.fullmatch(row["fine_tuned_model_checkpoint"])
        name = tuned and f"tuned/{tuned['short']}/" + (f"step-{tuned['step']}" if tuned["step"] else "final")
        if name and not (weights / name).is_dir():
            what = f"{name}: the weights of {row['fine_tuned_model_checkpoint']} are gone"
            yield what, "restore the folder from a backup, or train again"


def findings(store: Path, registry: Path | None) -> Findings:
    """All findings in a store, and in the registry that has its weights."""
    weights = registry or store
    files, jobs, checkpoints = list[Row](), list[Row](), list[Row]()
    path = store / "server.db"
    if path.exists():
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=10)) as db:
            damage = list(check_database(db))
            if damage:
                yield from damage
                yield "files, jobs and fine-tunes are not checked while the database is damaged", ""
                yield from check_bases(weights)
                return
            files, jobs, checkpoints = (
                [json.loads(body) for (body,) in db.execute(f"SELECT body FROM {table}")]
                for table in ("files", "jobs", "checkpoints")
            )
    jobs_of = {job["_short"]: job for job in jobs}
    yield from check_files(store, files)
    yield from check_bases(weights)
    yield from check_tuned(weights, jobs_of, shared=registry is not None)
    yield from check_jobs(weights, jobs_of, files, checkpoints)
    n_bases = len(list((weights / "bases").glob("*@*/")))
    counts = f"{len(files)} files, {len(jobs)} jobs, {len(checkpoints)} checkpoints, {n_bases} bases"
    sys.stdout.write(f"checked: {counts}\n")


def check(store: Path, registry: Path | None = None) -> int:
    """Print the findings; returns the exit code, 1 if there is a problem.

    Raises
    ------
    CannotStart
        If the store is not there, cannot be read, or is used by a server.
    """
    if not store.is_dir():
        raise CannotStart(f"--store {store} is not a folder")
    if registry is not None and not registry.is_dir():
        raise CannotStart(f"--registry {registry} is not a folder")
    n_problems = 0
    with acquire_store(store):
        try:
            for what, advice in findings(store, registry):
                n_problems += bool(advice)
                sys.stdout.write(f"problem  {what}\n         -> {advice}\n" if advice else f"note     {what}\n")
                sys.stdout.flush()  # a large store takes a while
        except (OSError, ValueError, sqlite3.Error) as error:
            raise CannotStart(f"cannot check {store}: {error}") from error
    sys.stdout.write(f"{n_problems} problem{'s' * (n_problems > 1)}\n" if n_problems else "nothing is wrong\n")
    return 1 if n_problems else 0
