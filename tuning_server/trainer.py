"""Train the jobs of a store, one at a time and one step at a time.

The states of a job::

    validating_files -> queued -> running -> succeeded
         |                |         |
         +----------------+---------+-----> failed, cancelled, or paused -> validating_files or queued

The engine's thread validates, starts, trains and ends jobs (`Trainer.advance`); requests create, cancel, pause and
resume them (`tuning_server.jobs`). Each change is one transaction that names the statuses it may start from
(`Store.update_job`): what comes first wins, and the trainer, which reads the status before each step, then stops. A
paused job returns to validation if it was paused there, else to the queue.

A stop of the server, or a kill, changes no status. The next server validates again, or takes a running job up from its
last ``state-<n>`` (from its beginning, if there is none), and the job ends with the weights of an undisturbed one: a
step that was not yet reported is repeated. What a job writes appears by rename (`tuning_server.store` has the layout);
what only a resume needs is deleted before the job's last status is stored.
"""

from __future__ import annotations

import logging
import math
import sqlite3
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuning_server.engine.registry import UnknownModel, drop, drop_state
from tuning_server.errors import ApiError, is_full_disk, model_error
from tuning_server.progress import Progress, model_id, write_results
from tuning_server.rows import BadRow, RowCache
from tuning_server.store import DUE, UNFINISHED, Row, Store, method_of
from tuning_server.types import Settings

if TYPE_CHECKING:
    from tuning_server.engine.cache import ModelCache
    from tuning_server.engine.models import LoadedModel
    from tuning_server.engine.training import StepReport

logger = logging.getLogger(__name__)
Preparation = Callable[[Row, "ModelCache"], Iterator[None]]
STATE_EVERY_STEPS = 200  # what a kill in the middle of a long epoch can cost at most


@dataclass
class Active:
    """The job that is being trained."""

    job: Row
    steps: Iterator[StepReport | None]
    folder: Path
    progress: Progress


def resolved(hyperparameters: Row, n_rows: int) -> Row:
    """Hyperparameters with numbers in place of ``auto``.

    Three epochs, a multiplier of 1, and batches of 0.2% of the rows, at least 8 (1 below 64 rows) and at most 256. DPO
    (whose hyperparameters have a beta): one epoch, a multiplier of 0.05, a beta of 0.1.

    >>> resolved({"n_epochs": "auto", "batch_size": "auto", "learning_rate_multiplier": 2.0}, 3600)
    {'n_epochs': 3, 'batch_size': 8, 'learning_rate_multiplier': 2.0}
    >>> resolved({"learning_rate_multiplier": "auto", "beta": "auto"}, 3600)
    {'learning_rate_multiplier': 0.05, 'beta': 0.1}
    """
    batch = min(256, max(8 if n_rows >= 64 else 1, round(0.002 * n_rows)))
    automatic: Row = {"n_epochs": 3, "batch_size": batch, "learning_rate_multiplier": 1.0}
    if "beta" in hyperparameters:
        automatic |= {"n_epochs": 1, "learning_rate_multiplier": 0.05, "beta": 0.1}
    return {name: automatic[name] if value == "auto" else value for name, value in hyperparameters.items()}


class Trainer:
    """Drives the jobs of a store; used by the engine's thread alone."""

    def __init__(self, settings: Settings, store: Store) -> None:
        self._settings, self._store = settings, store
        self._active: Active | None = None
        self._prepared: dict[Preparation, tuple[str, Iterator[None]]] = {}  # job and what is left to do for it
        self._files = RowCache()

    def has_work(self) -> bool:
        try:
            return self._active is not None or bool(self._store.jobs_in(*DUE, limit=1))
        except sqlite3.Error:
            return True  # `advance` reports what is wrong with the store

    def advance(self, cache: ModelCache) -> bool:
        """Do a slice of validating one job, and a step of training another. False if the store cannot be written."""
        try:
            self._prepare(self._validate, self._store.jobs_in("validating_files", limit=1), cache)
            if self._active is not None:
                self._step(self._active)
            else:
                next_job = self._store.jobs_in("running", limit=1) or self._store.jobs_in("queued", limit=1)
                self._prepare(self._start, next_job, cache)
        except sqlite3.Error as error:
            logger.error("the store cannot be used: %s", error)
            self.close()
            return False
        return True

    def close(self, *, keep: bool = True) -> None:
        """Stop training at the step it is at.

        The step is written down (unless `keep` is False), so that the job, paused or interrupted by a stop of the
        server, goes on from there; where the disk is full, from its last state.
        """
        active, self._active = self._active, None
        if active is None or not isinstance(active.steps, Generator):
            return
        from tuning_server.engine.training import Pause

        try:
            active.steps.throw(Pause()) if keep else active.steps.close()
        except (Pause, StopIteration):
            pass
        except OSError as error:
            logger.warning("job %s: the step it is at could not be written: %s", active.job["id"], error)

    @contextmanager
    def _failing(self, job: Row) -> Iterator[None]:
        """Let whatever goes wrong end this job and no other."""
        try:
            yield
        except sqlite3.Error:
            raise
        except Exception as error:
            self._fail(job, error)

    def _prepare(self, preparation: Preparation, jobs: Sequence[Row], cache: ModelCache) -> None:
        """Go on for a slice of time with preparing the first of these jobs, and forget any other."""
        job_id, rest = self._prepared.pop(preparation, (None, None))
        if not jobs:
            return
        if rest is None or job_id != jobs[0]["id"]:
            rest = preparation(jobs[0], cache)
        with self._failing(jobs[0]):
            for _ in rest:
                self._prepared[preparation] = (jobs[0]["id"], rest)
                break

    def _rows(self, job: Row, param: str, loaded: LoadedModel) -> Generator[None, None, Sequence[Any]]:
        """Rows of one of a job's files, as its method takes them; none where it has no such file."""
        file_id = job[param]
        if not file_id:
            return ()
        path = self._store.file_path(file_id)  # of rows: a table of results is refused when a job is made
        if not path.is_file():
            raise ApiError(f"File {file_id} was deleted.", code="file_not_found", param=param)
        try:
            return (yield from self._files.read(path, method_of(job), loaded))
        except BadRow as error:
            message = f"The job failed due to an invalid {param.replace('_', ' ')}. {error}."
            raise ApiError(message, code=f"invalid_{param}", param=param) from error

    def _validate(self, job: Row, cache: ModelCache) -> Iterator[None]:
        """Check a job's files and choose its hyperparameters."""
        from tuning_server.engine.lora import choose

        loaded = cache.outline(job["model"])
        rows = yield from self._rows(job, "training_file", loaded)
        yield from self._rows(job, "validation_file", loaded)
        requested = dict(job["hyperparameters"])
        lora, reason = choose(requested.pop("lora", "auto"), loaded.n_weights)
        chosen = resolved(requested, len(rows)) | ({"lora": asdict(lora)} if lora else {})
        changes = {"status": "queued", "hyperparameters": chosen}
        messages = [f"Files validated ({len(rows)} rows), moving job to queued state", reason]
        self._store.update_job(job["id"], changes, only=["validating_files"], messages=messages)

    def _start(self, job: Row, cache: ModelCache) -> Iterator[None]:
        """Start a queued job, or take up one that a stop of the server interrupted."""
        from tuning_server.engine.lora import RATE, LoraSettings
        from tuning_server.engine.registry import reference_learning_rate
        from tuning_server.engine.training import TrainingSettings, describe, train

        outline = cache.outline(job["model"])
        rows = yield from self._rows(job, "training_file", outline)
        validation_rows = yield from self._rows(job, "validation_file", outline)
        folder = self._settings.store / "tuned" / job["_short"]
        if not self._store.has_checkpoint(model_id(job, None)):
            drop(folder / "final")  # a kill came before its step was reported: repeat that
        if not self._store.update_job(job["id"], {"status": "running"}, only=["queued", "running"]):
            return
        chosen = job["hyperparameters"]
        lora = LoraSettings(**chosen["lora"]) if chosen.get("lora") else None
        loaded = cache.for_training(job["model"], adapters=lora is not None)
        reference_rate = reference_learning_rate(loaded.folder)
        settings = TrainingSettings(
            n_epochs=chosen["n_epochs"], batch_size=min(chosen["batch_size"], len(rows)), seed=job["seed"],
            learning_rate=reference_rate * chosen["learning_rate_multiplier"] * (RATE if lora else 1), lora=lora,
            prompt_loss_weight=chosen.get("prompt_loss_weight", 0.0), beta=chosen.get("beta"),
            state_every=STATE_EVERY_STEPS,
        )  # fmt: skip

        def card(step: int | None) -> Row:
            """What lies beside the weights as ``tuned.json``; `step` None is the final model."""
            return {
                "id": model_id(job, step), "parent": job["model"], "job": job["id"], "step": step,
                "created": int(time.time()), "learning_rate": reference_rate,
            }  # fmt: skip

        steps = train(loaded, rows, settings, folder=folder, validation_rows=validation_rows, describe=card)
        n_tokens = chosen["n_epochs"] * sum(row.n_tokens for row in rows)
        begun = "Fine-tuning job taken up again" if "_n_tokens" in job else "Fine-tuning job started"
        messages = [begun, describe(loaded)]
        self._store.update_job(job["id"], {"_n_tokens": n_tokens}, only=["running"], messages=messages)
        self._active = Active(job, steps, folder, Progress(self._store, job))

    def _step(self, active: Active) -> None:
        """Take one step of the active job, end it after its last, or stop it where a request changed its status."""
        status = self._store.job_status(active.job["id"])
        if status != "running":
            self.close(keep=status in UNFINISHED)
            if self._store.job_status(active.job["id"]) not in UNFINISHED:
                drop_state(active.folder)  # cancelled: whole checkpoints stay, what only a resume needs goes
            return
        with self._failing(active.job):
            try:
                report = next(active.steps)
            except StopIteration:
                self._finish(active)
                return
            if report is None:  # the reference of DPO is still scoring its pairs
                return
            if not math.isfinite(report.loss + (report.valid_loss or 0)):
                if report.checkpoint is not None:
                    drop(active.folder / report.checkpoint)
                message = (
                    f"The loss at step {report.step} is not finite (NaN or infinity): lower learning_rate_multiplier, "
                    "or start from another model."
                )
                raise ApiError(message, code="training_failed", param="learning_rate_multiplier")
            active.progress.add(report)
            if report.note:
                self._store.add_event(active.job["id"], report.note, level="warn")

    def _finish(self, active: Active) -> None:
        job = self._store.get("jobs", active.job["id"])
        assert job is not None
        self._active = None
        changes = {
            "status": "succeeded", "fine_tuned_model": job["_model_id"], "finished_at": int(time.time()),
            "trained_tokens": job.get("_n_tokens"), "estimated_finish": None,
            "result_files": write_results(self._store, job),
        }  # fmt: skip
        drop_state(active.folder)
        messages = [f"New fine-tuned model created: {job['_model_id']}", "The job has successfully completed"]
        if self._store.update_job(job["id"], changes, only=["running"], messages=messages):
            return
        if self._store.job_status(job["id"]) not in UNFINISHED:  # cancelled within its last step
            self._store.delete_checkpoint(model_id(job, None))
            drop(active.folder / "final")  # a cancelled job leaves no final model

    def _fail(self, job: Row, error: Exception) -> None:
        if self._active is not None and self._active.job["id"] == job["id"]:
            self.close(keep=False)
        drop_state(self._settings.store / "tuned" / job["_short"])
        reason = failure(job, error)
        changes = {
            "status": "failed", "finished_at": int(time.time()), "estimated_finish": None,
            "error": {"code": reason.code, "message": reason.message, "param": reason.param},
        }  # fmt: skip
        self._store.update_job(job["id"], changes, only=UNFINISHED, messages=[reason.message], level="error")


def failure(job: Row, error: Exception) -> ApiError:
    """Why a job failed, for its owner."""
    from tuning_server.engine.devices import DoesNotFit, is_out_of_memory

    if isinstance(error, ApiError):
        return error
    if isinstance(error, UnknownModel):
        return model_error(error)
    if is_full_disk(error):
        message = "The disk of the server is full: no checkpoint could be written. Free some space and start again."
        return ApiError(message, code="disk_full")
    if isinstance(error, DoesNotFit):
        return ApiError(f"{error}.", code="out_of_memory", param="model")
    if is_out_of_memory(error):
        message = "The model and its batch do not fit in memory: choose a smaller batch_size or model."
        return ApiError(message, code="out_of_memory", param="batch_size")
    logger.error("job %s failed", job["id"], exc_info=error)
    return ApiError(f"Training failed: {error}", code="training_failed")
