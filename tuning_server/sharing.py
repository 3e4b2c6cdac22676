"""A registry of bases and fine-tunes that the servers of several stores share.

A job's content key is the hash of its base, rows, settings and seed, and names its folder ``tuned/<short>/``, so that
all servers mean the same folder by the same content. Whoever trains holds ``tuned/.<short>.lock`` (the others wait, and
take up other jobs meanwhile) and writes ``job.json`` last: a job that finds it there uses the fine-tune. What a server
that vanished left behind is deleted by the next one that has the lock. ``registry.json`` has the version of the layout.

The lock is the operating system's (flock), which a shared file system has to support, as NFS 4, Lustre and GPFS do.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout

from tuning_server.disk import content_hash, file_hash, read_json, write_json
from tuning_server.engine.folders import drop, drop_state
from tuning_server.errors import ApiError
from tuning_server.progress import step_message, succeed
from tuning_server.store import ALPHABET, CannotStart, Row, Store, file_path, method_of, new_id
from tuning_server.types import Settings

VERSION = 1  # of the layout
RECORD = "job.json"
OWNER = "owner"  # in the folder of a run that has not ended: the id of the job that trains it

logger = logging.getLogger(__name__)


def open_registry(registry: Path) -> None:
    """Make a registry, or see that this version can use it; one that cannot be written is good for reading.

    Raises
    ------
    CannotStart
        If it is no folder, damaged, or was written by a newer version.
    """
    about = registry / "registry.json"
    try:
        registry.mkdir(parents=True, exist_ok=True)
        version = int(read_json(about)["version"]) if about.is_file() else 0
        if version == 0:
            write_json(about, {"version": VERSION})
    except (ValueError, KeyError, TypeError) as error:
        raise CannotStart(f"--registry {registry}: registry.json does not give its version ({error})") from error
    except OSError as error:
        if not registry.is_dir():
            raise CannotStart(f"--registry {registry} cannot be made or read ({error.strerror})") from error
        logger.warning("%s cannot be written (%s): its models can be used, jobs will fail", registry, error.strerror)
        return
    if version > VERSION:
        message = f"--registry {registry} was written by a newer version (layout {version}, this one reads {VERSION})"
        raise CannotStart(f"{message}: update Tuning Fork or choose another")


def named_by_content(store: Store, job: Row, fingerprint: str) -> Row:
    """Content key of a validated job: of all that its weights follow from; and the names that follow from the key.

    Parameters
    ----------
    fingerprint : of its base
    """
    ids = (job["training_file"], job["validation_file"])
    files = [id and file_hash(file_path(store.folder, id), length=64) for id in ids]
    key = content_hash([fingerprint, method_of(job), job["hyperparameters"], job["seed"], *files], length=32)
    return {"_key": key, "_short": short_of(key), "_model_id": f"{job['_model_id'][:-8]}{short_of(key)}"}


def short_of(key: str) -> str:
    """The short id that stands for a content key in names of folders and models.

    >>> short_of("00ff00ff00ff00ff")
    'dx2ikbn6'
    """
    number, letters = int(key[:16], 16), ""
    for _ in range(8):
        number, rest = divmod(number, len(ALPHABET))
        letters += ALPHABET[rest]
    return letters


def run_lock(folder: Path) -> BaseFileLock:
    """The lock on the folder of a run; not yet acquired."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(folder.with_name(f".{folder.name}.lock"))


def drop_resume(settings: Settings, folder: Path) -> None:
    """Delete what only a resume of a run needs, unless another server is training it."""
    if settings.registry is None:
        drop_state(folder)
        return
    with suppress(Timeout, OSError), run_lock(folder).acquire(timeout=0):
        drop_state(folder)


def write_record(store: Store, folder: Path, job: Row) -> None:
    """Record how a fine-tune came about, for the jobs of others that use it."""
    checkpoints, _ = store.page(
        "checkpoints", after=None, limit=10**6, where=[("job = ?", [job["id"]])], ascending=True
    )
    record = {
        "key": job["_key"], "model": job["_model_id"], "trained_tokens": job["_n_tokens"],
        "checkpoints": checkpoints, "metrics": store.metrics(job["id"]),
    }  # fmt: skip
    write_json(folder / RECORD, record)
    (folder / OWNER).unlink()


def adopt(store: Store, folder: Path, job: Row) -> bool:
    """End a job with the fine-tune of its folder; False if there is none of its content, or its model was deleted."""
    if not (folder / RECORD).is_file() or not (folder / "final" / "tuned.json").is_file():
        return False
    record: Row = read_json(folder / RECORD)
    if record["key"] != job.get("_key"):
        message = f"The registry's {folder.name} is of other content with the same short id: choose another seed."
        raise ApiError(message, code="training_failed", param="seed")
    store.delete_steps(job["id"], from_step=0)  # this job had begun, and another server was faster
    for metrics in record["metrics"]:
        store.add_event(job["id"], step_message(metrics), step=metrics["step"], data=metrics)
    for checkpoint in record["checkpoints"]:
        _, _, step = checkpoint["fine_tuned_model_checkpoint"].partition(":ckpt-step-")
        if (folder / (f"step-{step}" if step else "final")).is_dir():  # it may have been deleted
            store.add_checkpoint(checkpoint | {"id": new_id("ftckpt_"), "fine_tuning_job_id": job["id"]})
    model = record["model"]
    message = f"Not trained: {model} of the registry has the same base, rows, settings and seed"
    succeed(store, job, model=model, n_tokens=record["trained_tokens"], message=message)
    return True


def own(folder: Path, job: Row) -> None:
    """Begin a run, or go on with it; what another job left, whose losses nobody here knows, is deleted."""
    owner = folder / OWNER
    if not owner.is_file() or owner.read_text() != job["id"]:
        for left in folder.glob("*"):
            drop(left) if left.is_dir() else left.unlink(missing_ok=True)
        folder.mkdir(exist_ok=True)
        owner.write_text(job["id"])
