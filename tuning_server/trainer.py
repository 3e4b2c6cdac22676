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
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

from filelock import Timeout

from tuning_server.engine.cache import ModelCache
from tuning_server.engine.folders import drop, drop_state
from tuning_server.engine.lora import RATE, LoraSettings, choose
from tuning_server.engine.models import LoadedModel
from tuning_server.engine.registry import card_of, fingerprint, reference_learning_rate
from tuning_server.engine.training import Pause, TrainingSettings, describe, train
from tuning_server.errors import ApiError, known_failure
from tuning_server.launched import launch
from tuning_server.progress import Progress, card_after, model_id, succeed
from tuning_server.rows import BadRow, read_rows, tokenise
from tuning_server.sharing import adopt, drop_resume, named_by_content, own, run_lock, write_record
from tuning_server.store import DUE, INTERRUPTED, UNFINISHED, Row, Store, file_path, method_of
from tuning_server.types import Settings

logger = logging.getLogger(__name__)
Steps = Generator[None, None, None]
Work = Callable[[Row, ModelCache], Steps]
SLICE_S = 0.05  # of tokenising, before requests are answered
CACHED_FILES = 4  # for grids of jobs over one file
STATE_EVERY_STEPS = 200  # what a kill in the middle of a long epoch can cost at most


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
        self._active: dict[Work, tuple[Row, Steps]] = {}  # the job that is validated, and the one that is trained
        self._rows_of: dict[tuple[str, str, str, int], Sequence[Any]] = {}  # tokenised files, the last used last

    def has_work(self) -> bool:
        try:
            return bool(self._active or self._store.jobs_in(*DUE, limit=1))
        except sqlite3.Error:
            return True  # `advance` reports what is wrong with the store

    def advance(self, cache: ModelCache) -> bool:
        """Do a slice of validating one job, and a step of training another; returns whether there was anything to do.

        Raises
        ------
        sqlite3.Error
            If the store cannot be written; what was active goes on from its last state.
        """
        try:
            validating = self._step(self._validate, cache, "validating_files")
            return self._step(self._train, cache, "running", "queued") or validating
        except sqlite3.Error:
            self.close()
            raise

    def close(self) -> None:
        """Stop training; the job, paused or interrupted by a stop of the server, goes on from the step it is at."""
        for work in list(self._active):
            self._stop(work)

    def _step(self, work: Work, cache: ModelCache, status: str, *further: str) -> bool:
        """Take a step of the job that has this `status`, or begin one of these statuses; whether there is one."""
        if work not in self._active:
            limit = 1 if self._settings.registry is None else -1  # other servers may be training the first ones
            due = (job for each in (status, *further) for job in self._store.jobs_in(each, limit=limit))
            return any(self._next(work, job, work(job, cache)) for job in due)
        job, steps = self._active[work]
        now = self._store.job_status(job["id"])
        if now == status:
            return self._next(work, job, steps)
        self._stop(work, keep=now in UNFINISHED)  # a request has changed it
        if self._store.job_status(job["id"]) not in UNFINISHED:
            drop_resume(self._settings, self._folder(job))  # cancelled: whole checkpoints stay
        return True

    def _next(self, work: Work, job: Row, steps: Steps) -> bool:
        """Take a step of a job; False if another server is training what it would train."""
        self._active[work] = job, steps
        try:
            next(steps)
        except sqlite3.Error:
            raise
        except Exception as error:  # ends this job and no other
            del self._active[work]
            if isinstance(error, Timeout):
                return False
            if not isinstance(error, StopIteration):
                self._fail(job, error)
        return True

    def _stop(self, work: Work, *, keep: bool = True) -> None:
        """Stop at a step and, to `keep` it, write it down; on a full disk the job goes on from its last state."""
        job, steps = self._active.pop(work)
        try:
            steps.throw(Pause()) if keep else steps.close()
        except (Pause, StopIteration):
            pass
        except OSError as error:
            logger.warning("job %s: the step it is at could not be written: %s", job["id"], error)

    def _folder(self, job: Row) -> Path:
        return self._settings.weights / "tuned" / job["_short"]

    def _rows(self, job: Row, param: str, loaded: LoadedModel) -> Generator[None, None, Sequence[Any]]:
        """Rows of one of a job's files, as its method takes them; none where it has no such file."""
        file_id = job[param]
        if not file_id:
            return ()
        path = file_path(self._store.folder, file_id)  # of rows: a table of results is refused when a job is made
        if not path.is_file():
            raise ApiError(f"File {file_id} was deleted.", code="file_not_found", param=param)
        key = (file_id, method_of(job), loaded.codec.hash, loaded.context_tokens)
        rows = self._rows_of.pop(key, None)
        if rows is None:
            rows, deadline = [], time.monotonic() + SLICE_S
            try:
                for row in tokenise(read_rows(path, method_of(job)), loaded):
                    rows.append(row)
                    if time.monotonic() >= deadline:
                        yield
                        deadline = time.monotonic() + SLICE_S
            except BadRow as error:
                message = f"The job failed due to an invalid {param.replace('_', ' ')}. {error}."
                raise ApiError(message, code=f"invalid_{param}", param=param) from error
        self._rows_of[key] = rows
        if len(self._rows_of) > CACHED_FILES:
            del self._rows_of[next(iter(self._rows_of))]
        return rows

    def _validate(self, job: Row, cache: ModelCache) -> Steps:
        """Check a job's files and choose its hyperparameters."""
        loaded = cache.outline(job["model"])
        rows = yield from self._rows(job, "training_file", loaded)
        yield from self._rows(job, "validation_file", loaded)
        requested = dict(job["hyperparameters"])
        lora, reason = choose(requested.pop("lora", "auto"), loaded.n_weights)
        chosen = resolved(requested, len(rows)) | ({"lora": asdict(lora)} if lora else {})
        changes = {"status": "queued", "hyperparameters": chosen, "_validated": True}
        if self._settings.registry is not None:
            changes |= named_by_content(self._store, job | changes, fingerprint(job["model"], loaded.folder))
        messages = [f"Files validated ({len(rows)} rows), moving job to queued state", reason]
        self._store.update_job(job["id"], changes, only=["validating_files"], messages=messages)

    def _train(self, job: Row, cache: ModelCache) -> Steps:
        """Train a queued job, or take up one that a stop of the server interrupted; a shared registry may have it."""
        folder = self._folder(job)
        lock: AbstractContextManager[Any] = nullcontext()
        if self._settings.registry is not None:
            try:
                lock = run_lock(folder).acquire(timeout=0)
            except Timeout:
                raise
            except OSError as error:
                if adopt(self._store, folder, job):
                    return
                reason = f"The registry {self._settings.registry} cannot be written ({error.strerror})."
                raise ApiError(reason, code="registry_not_writable") from error
        with lock:
            if not adopt(self._store, folder, job):
                yield from self._train_run(job, cache)

    def _train_run(self, job: Row, cache: ModelCache) -> Steps:
        if not self._store.update_job(job["id"], {"status": "running"}, only=["queued", "running"]):
            return
        outline, folder = cache.outline(job["model"]), self._folder(job)
        if "_key" in job:
            own(folder, job)
        rows = yield from self._rows(job, "training_file", outline)
        validation_rows = yield from self._rows(job, "validation_file", outline)
        if not self._store.has_checkpoint(model_id(job, None)):
            drop(folder / "final")  # a kill came before its step was reported: repeat that
        chosen = job["hyperparameters"]
        lora = LoraSettings(**chosen["lora"]) if chosen.get("lora") else None
        reference_rate = reference_learning_rate(card_of(outline.folder), outline.n_weights)
        settings = TrainingSettings(
            n_epochs=chosen["n_epochs"], batch_size=min(chosen["batch_size"], len(rows)), seed=job["seed"],
            learning_rate=reference_rate * chosen["learning_rate_multiplier"] * (RATE if lora else 1), lora=lora,
            prompt_loss_weight=chosen.get("prompt_loss_weight", 0.0), beta=chosen.get("beta"),
            state_every=STATE_EVERY_STEPS,
        )  # fmt: skip

        card = {"parent": job["model"], "job": job["id"], "learning_rate": reference_rate}
        if self._settings.launcher:
            steps = launch(self._settings, folder, settings, job=job, card=card)
            where = f"Training by {' '.join(self._settings.launcher)}"
        else:
            loaded = cache.for_training(job["model"], adapters=lora is not None)
            where = describe(loaded)
            steps = train(
                loaded, rows, settings, folder=folder, validation_rows=validation_rows,
                describe=lambda step: card_after(step, job, card),
            )  # fmt: skip
        n_tokens = chosen["n_epochs"] * sum(row.n_tokens for row in rows)
        begun = "Fine-tuning job taken up again" if "_n_tokens" in job else "Fine-tuning job started"
        messages = [begun, where]
        self._store.update_job(job["id"], {"_n_tokens": n_tokens}, only=["running"], messages=messages)
        progress = Progress(self._store, job)
        try:
            for report in steps:
                if report is not None:  # None while the reference of DPO scores its pairs
                    if not math.isfinite(report.loss + (report.valid_loss or 0)):
                        if report.checkpoint is not None:
                            drop(folder / report.checkpoint)
                        message = f"The loss at step {report.step} is not finite: lower learning_rate_multiplier."
                        raise ApiError(message, code="training_failed", param="learning_rate_multiplier")
                    progress.add(report)
                yield
        except Pause as pause:
            steps.throw(pause)  # writes down the step it is at
        self._finish(job["id"])

    def _finish(self, job_id: str) -> None:
        job = self._store.get("jobs", job_id)
        assert job is not None
        folder, model = self._folder(job), job["_model_id"]
        if "_key" in job:
            write_record(self._store, folder, job)
        drop_state(folder)
        message = f"New fine-tuned model created: {model}"
        if succeed(self._store, job, model=model, n_tokens=job["_n_tokens"], message=message):
            return
        if self._store.job_status(job_id) not in UNFINISHED:  # cancelled within its last step
            self._store.delete_checkpoint(model_id(job, None))
            drop(folder / "final")  # a cancelled job leaves no final model

    def _fail(self, job: Row, error: Exception) -> None:
        reason = known_failure(error)
        if reason is None or reason.code != INTERRUPTED:
            drop_resume(self._settings, self._folder(job))
        if reason is None:
            logger.error("job %s failed", job["id"], exc_info=error)
            reason = ApiError(f"Training failed: {error}", code="training_failed")
        changes = {
            "status": "failed", "finished_at": int(time.time()), "estimated_finish": None,
            "error": {"code": reason.code, "message": reason.message, "param": reason.param},
        }  # fmt: skip
        self._store.update_job(job["id"], changes, only=UNFINISHED, messages=[reason.message])
