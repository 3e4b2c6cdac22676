"""What is wrong with the files, models and jobs of a store, and what would mend each of it?

Each ``look_at_...`` goes through one of them and yields findings; nothing is changed unless a finding's `mend` is
called, which may be done while the others are still being looked for. What holds somebody's data is set aside in the
store's ``lost/``, never deleted; only what was never whole, or is of no further use, is.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from tuning_server.check.salvage import read_only
from tuning_server.disk import read_json
from tuning_server.engine.registry import FINE_TUNE, GONE, REFERENCE, WRITING, fingerprint, flaw, states
from tuning_server.progress import checkpoint_of, model_id
from tuning_server.store import UNFINISHED, Row, file_path

LOST = "lost"


@dataclass(frozen=True)
class Finding:
    """Something that was found, and (unless it is beyond repair) what mends it.

    Parameters
    ----------
    remedy : what `mend` does, or without one what a person can do
    is_problem : False for what is only worth knowing: the server goes on with it as it is, and nothing is lost
    """

    what: str
    remedy: str = ""
    mend: Callable[[], object] | None = None
    is_problem: bool = True


@dataclass
class Records:
    """What the database says: files and jobs by id, checkpoints and the metrics of steps by job."""

    files: dict[str, Row] = field(default_factory=dict)
    jobs: dict[str, Row] = field(default_factory=dict)
    checkpoints: dict[str, list[Row]] = field(default_factory=lambda: defaultdict(list))
    metrics: dict[str, dict[int, Row]] = field(default_factory=lambda: defaultdict(dict))


def read_records(store: Path) -> Records:
    """Read what the database of a store says; of a store without one, nothing."""
    records, path = Records(), store / "server.db"
    if not path.exists():
        return records
    with closing(read_only(path)) as db:
        for table, found in (("files", records.files), ("jobs", records.jobs)):
            found |= {row_id: json.loads(body) for row_id, body in db.execute(f"SELECT id, body FROM {table}")}
        for job, body in db.execute("SELECT job, body FROM checkpoints ORDER BY step"):
            records.checkpoints[job].append(json.loads(body))
        for job, step, body in db.execute("SELECT job, step, body FROM events WHERE step IS NOT NULL"):
            records.metrics[job][step] = json.loads(body)["data"]
    return records


def change(store: Path, sql: str, *values: object) -> None:
    """Carry out one statement on the database of a store."""
    with closing(sqlite3.connect(store / "server.db", timeout=10)) as db, db:
        db.execute(sql, values)


def set_aside(store: Path, path: Path) -> None:
    """Move something into ``lost/``, under the name that it had."""
    place = store / LOST / path.relative_to(store)
    place.parent.mkdir(parents=True, exist_ok=True)
    number = 1
    while place.exists():
        number += 1
        place = place.with_name(f"{path.name}.{number}")
    path.rename(place)


def _aside(store: Path, path: Path, what: str, *, then: str = "", is_problem: bool = True) -> Finding:
    """A finding that setting something aside mends."""
    name = path.relative_to(store)
    return Finding(f"{name}: {what}", f"moved to {LOST}/{name}{then}", partial(set_aside, store, path), is_problem)


def _remainder(store: Path, path: Path, what: str) -> Finding:
    """What a kill leaves of something half done: no problem, since no answer ever told of it; of no use either."""
    mend = partial(shutil.rmtree, path) if path.is_dir() else path.unlink
    return Finding(f"{path.relative_to(store)}: {what}", "removed", mend, is_problem=False)


def look_at_files(store: Path, records: Records) -> Iterator[Finding]:
    """Writes that were cut off, records without bytes, bytes without a record, bytes that were cut short."""
    folder, known = store / "files", set[Path]()
    for part in sorted([*folder.glob("*.part"), *store.glob(".server.json.*")]):
        yield _remainder(store, part, "the writing of it was cut off")
    for file_id, body in records.files.items():
        path = file_path(store, file_id, body["purpose"])
        known.add(path)
        forget = partial(change, store, "DELETE FROM files WHERE id = ?", file_id)
        if not path.is_file():
            yield Finding(
                f"file {file_id} ({body['filename']!r}): its bytes are gone", "its record was removed", forget
            )
        elif (n_bytes := path.stat().st_size) != body["bytes"]:
            yield Finding(
                f"file {file_id}: {n_bytes} bytes are there, {body['bytes']} were kept",
                "its record was removed",
                forget,
            )
            yield _aside(store, path, "bytes of the file above")
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path not in known and path.suffix != ".part":
            yield _aside(store, path, "belongs to no file that the database knows", is_problem=False)


def look_at_models(store: Path) -> Iterator[Finding]:
    """Bases and fine-tunes whose files are damaged or not the ones that were written, and what was never whole."""
    for base in sorted((store / "bases").glob("fork-*@*")):
        if not (base / "init").is_dir():
            yield Finding(f"bases/{base.name} has no random weights beside it, for {base.name}:init", is_problem=False)
        for folder in (*base.glob("init"), base):
            if reason := flaw(folder) or _no_config(folder):
                then = f"; `python -m lib.base {base.name.split('@')[0]}` makes it anew"
                yield _aside(store, folder, reason, then=then)
    for pointer in sorted((store / "bases").glob("fork-*.json")):
        try:
            name = f"{pointer.stem}@{read_json(pointer)['current']}"
        except (ValueError, KeyError, TypeError):
            name = f"what bases/{pointer.name} points at"
        if not pointer.with_name(name).is_dir():
            yield Finding(f"bases: {name} is not there", f"make it: python -m lib.base {pointer.stem}")
    for run in sorted((store / "tuned").glob("*/")):
        for left in sorted([*run.glob(f"{WRITING}*"), *run.glob(f"{GONE}*")]):
            yield _remainder(store, left, "half written" if left.name.startswith(WRITING) else "half deleted")
        for folder in models_of(run):
            if reason := flaw(folder) or _not_as_written(folder):
                yield _aside(store, folder, reason)


def models_of(run: Path) -> list[Path]:
    """Folders of the models of a run: its checkpoints by step, then the final one."""
    steps = sorted(run.glob("step-*"), key=lambda path: int(path.name.removeprefix("step-")))
    return [*steps, *run.glob("final")]


def _no_config(folder: Path) -> str | None:
    return None if (folder / "config.json").is_file() else "it has no config.json that says what its weights are"


def _not_as_written(folder: Path) -> str | None:
    """Whether a fine-tune lacks its card, or its weights are others than the card says."""
    card = read_json(folder / "tuned.json") if (folder / "tuned.json").is_file() else None
    if not isinstance(card, dict) or not {"id", "parent"} <= set(card):
        return "it has no tuned.json that says what it is"
    told = card.get("fingerprint")  # older ones have none
    if told and told != (found := fingerprint(card["id"], folder, recompute=True)):
        return f"its weights are not those that were written (fingerprint {found}, not {told})"
    return None


def look_at_jobs(store: Path, records: Records) -> Iterator[Finding]:
    """States that no job goes on from, jobs that lack what they need, checkpoints that are known or there alone."""
    for job in records.jobs.values():
        run = store / "tuned" / job["_short"]
        live = job["status"] in UNFINISHED
        kept = [*states(run), *run.glob(REFERENCE)]
        for state in kept:
            if not live:
                yield _remainder(store, state, f"a state of a job that has ended ({job['status']})")
            elif reason := flaw(state):
                yield Finding(f"{state.relative_to(store)}: {reason}", "removed", partial(shutil.rmtree, state))
        if live:
            yield from _live(job, records, has_state=any(flaw(state) is None for state in states(run)))
        yield from _checkpoints(store, job, records)
    for run in sorted((store / "tuned").glob("*/")):
        if run.name not in {job["_short"] for job in records.jobs.values()}:
            yield _of_no_job(store, run)


def _live(job: Row, records: Records, *, has_state: bool) -> Iterator[Finding]:
    """What a job that has not ended may lack."""
    if "_n_tokens" in job and not has_state:
        yield Finding(
            f"job {job['id']} ({job['status']}) has no state: it goes on from its beginning", is_problem=False
        )
    for param in ("training_file", "validation_file"):
        if job[param] and job[param] not in records.files:
            what = f"job {job['id']} ({job['status']}): its {param.replace('_', ' ')} {job[param]} is gone"
            yield Finding(what, "upload it again and start another job: this one fails when its turn comes")


def _checkpoints(store: Path, job: Row, records: Records) -> Iterator[Finding]:
    """Checkpoints of a job that only the database knows, or that only lie on disk."""
    run, known = store / "tuned" / job["_short"], set[str]()
    for row in records.checkpoints[job["id"]]:
        tuned = FINE_TUNE.fullmatch(row["fine_tuned_model_checkpoint"])
        folder = run / (f"step-{tuned['step']}" if tuned and tuned["step"] else "final")
        known.add(folder.name)
        if not folder.is_dir():
            forget = partial(change, store, "DELETE FROM checkpoints WHERE id = ?", row["id"])
            what = f"job {job['id']}: the weights of its checkpoint at step {row['step_number']} are gone"
            yield Finding(what, "its record was removed", forget)
    if job["status"] in UNFINISHED:
        return  # what is there beside the records is told of when the job gets to it again
    for folder in models_of(run):
        if folder.name == "final" and job["status"] != "succeeded":
            yield _aside(store, folder, f"a final model of a job that {job['status']}", is_problem=False)
        elif folder.name not in known and flaw(folder) is None:
            row = _found(job, folder, records.metrics[job["id"]])
            values = (row["id"], job["id"], row["step_number"], json.dumps(row))
            sql = "INSERT OR REPLACE INTO checkpoints (id, job, step, body) VALUES (?, ?, ?, ?)"
            what = f"{folder.relative_to(store)}: a checkpoint that the database does not know"
            yield Finding(what, "its record was made", partial(change, store, sql, *values), is_problem=False)


def _found(job: Row, folder: Path, metrics: dict[int, Row]) -> Row:
    """The record of a checkpoint that lies on disk, with the losses that were told at its step."""
    is_final = folder.name == "final"
    step = max(metrics, default=0) if is_final else int(folder.name.removeprefix("step-"))
    return checkpoint_of(job, model_id(job, None if is_final else step), {"step": step, **metrics.get(step, {})})


def _of_no_job(store: Path, run: Path) -> Finding:
    """A folder under ``tuned/`` that no job made: a model from elsewhere is usable, anything else is a remainder."""
    if models_of(run):
        return Finding(
            f"tuned/{run.name}: models of no job that the database knows; they can be used", is_problem=False
        )
    return _aside(store, run, "left by a job that the database does not know")
