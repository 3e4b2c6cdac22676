"""Jobs as the engine thread sees them: validated, queued, trained one at a time a step at a time, taken up again."""

from __future__ import annotations

import logging
import math
import sqlite3
import time
from collections import OrderedDict
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuning_server.engine.registry import UnknownModel, drop, drop_state
from tuning_server.errors import is_full_disk, model_error
from tuning_server.preference_rows import read_pairs, tokenise_pairs
from tuning_server.progress import Progress, model_id
from tuning_server.results import write_results
from tuning_server.rows import BadRow, read_rows, tokenise
from tuning_server.store import DUE, UNFINISHED, Row, Store
from tuning_server.types import Settings, method_of

if TYPE_CHECKING:
    from tuning_server.engine.losses import Learnable
    from tuning_server.engine.models import LoadedModel, ModelCache
    from tuning_server.engine.training import StepReport

logger = logging.getLogger(__name__)
STATE_EVERY_STEPS = 200  # what a kill in the middle of a long epoch can cost at most
TOKENISED_FILES = 4  # kept in memory, for grids of jobs over one file


class JobFailed(Exception):
    """A job cannot go on, for a reason that its owner can understand."""

    def __init__(self, message: str, *, code: str, param: str | None = None) -> None:
        super().__init__(message)
        self.error = {"code": code, "message": message, "param": param}


@dataclass
class _Active:
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


def _steps(
    job: Row, loaded: LoadedModel, rows: Sequence[Any], *, learning_rate: float, **others: Any
) -> Iterator[StepReport | None]:
    """The training of a job, by its method."""
    from tuning_server.engine.lora import LoraSettings
    from tuning_server.engine.preference import PreferenceSettings, train_preferences
    from tuning_server.engine.training import TrainingSettings, train

    chosen = job["hyperparameters"]
    shared: Row = {
        "n_epochs": chosen["n_epochs"], "batch_size": min(chosen["batch_size"], len(rows)), "seed": job["seed"],
        "learning_rate": learning_rate, "state_every": STATE_EVERY_STEPS,
        "lora": LoraSettings(**chosen["lora"]) if chosen.get("lora") else None,
    }  # fmt: skip
    if method_of(job) == "dpo":
        return train_preferences(loaded, rows, PreferenceSettings(beta=chosen["beta"], **shared), **others)
    settings = TrainingSettings(prompt_loss_weight=chosen["prompt_loss_weight"], **shared)
    return train(loaded, rows, settings, **others)


class Trainer:
    """Drives the jobs of a store; only the engine thread calls `advance`."""

    def __init__(self, settings: Settings, store: Store) -> None:
        self._settings, self._store = settings, store
        self._active: _Active | None = None
        self._tokenised: OrderedDict[tuple[str, str, str], Sequence[Learnable]] = OrderedDict()

    def has_work(self) -> bool:
        try:
            return self._active is not None or bool(self._store.jobs_in(*DUE, limit=1))
        except sqlite3.Error:
            return True  # `advance` says what is wrong with the store

    def advance(self, cache: ModelCache) -> bool:
        """Do the next small thing: validate one job, or one step of training. False if the store cannot be written."""
        try:
            for job in self._store.jobs_in("validating_files", limit=1):
                self._guarded(job, partial(self._validate, job, cache))
            active = self._active
            if active is not None:
                self._guarded(active.job, partial(self._step, active))
                return True
            for job in self._store.jobs_in("running", limit=1) or self._store.jobs_in("queued", limit=1):
                self._guarded(job, partial(self._begin, job, cache))
        except sqlite3.Error as error:
            logger.error("the store cannot be used: %s", error)
            self.close()
            return False
        return True

    def _guarded(self, job: Row, work: Callable[[], None]) -> None:
        """Do something for a job; whatever goes wrong ends that job and no other."""
        try:
            work()
        except sqlite3.Error:
            raise
        except Exception as error:
            self._fail(job, error)

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

    def _rows(self, job: Row, param: str, loaded: LoadedModel) -> Sequence[Any]:
        """Rows of one of a job's files, as its method takes them; none where it has no such file."""
        from tuning_server.engine.chat import form_mark

        file_id, method = job[param], method_of(job)
        if not file_id:
            return ()
        form = f"{loaded.tokenizer_mark}:{form_mark(loaded)}"
        key = (file_id, f"{form}:{loaded.context_tokens}", method)
        if key not in self._tokenised:
            if self._store.get("files", file_id) is None:
                raise JobFailed(f"File {file_id} was deleted.", code="file_not_found", param=param)
            path = self._store.file_path(file_id)  # of rows: a table of results is refused when a job is made
            try:
                self._tokenised[key] = (
                    tokenise_pairs(read_pairs(path), loaded) if method == "dpo" else tokenise(read_rows(path), loaded)
                )
            except BadRow as error:
                message = f"The job failed due to an invalid {param.replace('_', ' ')}. {error}."
                raise JobFailed(message, code=f"invalid_{param}", param=param) from error
        self._tokenised.move_to_end(key)
        while len(self._tokenised) > TOKENISED_FILES:
            self._tokenised.popitem(last=False)
        return self._tokenised[key]

    def _validate(self, job: Row, cache: ModelCache) -> None:
        from tuning_server.engine.lora import choose

        loaded = cache.outline(job["model"])
        rows = self._rows(job, "training_file", loaded)
        self._rows(job, "validation_file", loaded)
        asked = dict(job["hyperparameters"])
        lora, why = choose(asked.pop("lora", "auto"), loaded.n_weights)
        chosen = resolved(asked, len(rows)) | ({"lora": asdict(lora)} if lora else {})
        changes = {"status": "queued", "hyperparameters": chosen}
        told = [f"Files validated ({len(rows)} rows), moving job to queued state", why]
        self._store.update_job(job["id"], changes, only=["validating_files"], told=told)

    def _begin(self, job: Row, cache: ModelCache) -> None:
        """Start a queued job, or take up one that a stop of the server interrupted."""
        from tuning_server.engine.lora import RATE
        from tuning_server.engine.registry import reference_learning_rate
        from tuning_server.engine.training import describe

        again = "_n_tokens" in job
        folder = self._settings.store / "tuned" / job["_short"]
        if not self._store.knows_checkpoint(model_id(job, None)):
            drop(folder / "final")  # a kill came before its step was told: do that again
        if not self._store.update_job(job["id"], {"status": "running"}, only=["queued", "running"]):
            return
        chosen = job["hyperparameters"]
        loaded = cache.for_training(job["model"], adapters="lora" in chosen)
        rows = self._rows(job, "training_file", loaded)
        validation = self._rows(job, "validation_file", loaded)
        rate = reference_learning_rate(loaded.folder)
        others = {
            "folder": folder, "validation_rows": validation, "describe": lambda step: self._card(job, step, rate),
        }  # fmt: skip
        peak = rate * chosen["learning_rate_multiplier"] * (RATE if "lora" in chosen else 1)
        steps = _steps(job, loaded, rows, learning_rate=peak, **others)
        n_tokens = chosen["n_epochs"] * sum(row.n_tokens for row in rows)
        begun = "Fine-tuning job taken up again" if again else "Fine-tuning job started"
        self._store.update_job(job["id"], {"_n_tokens": n_tokens}, only=["running"], told=[begun, describe(loaded)])
        self._active = _Active(job, steps, folder, Progress(self._store, job))

    def _card(self, job: Row, step: int | None, reference_rate: float) -> Row:
        """What lies beside the weights as ``tuned.json``; `step` None is the final model."""
        return {
            "id": model_id(job, step), "parent": job["model"], "job": job["id"], "step": step,
            "created": int(time.time()), "learning_rate": reference_rate,
        }  # fmt: skip

    def _step(self, active: _Active) -> None:
        status = self._store.job_status(active.job["id"])
        if status != "running":
            self.close(keep=status in UNFINISHED)
            if self._store.job_status(active.job["id"]) not in UNFINISHED:
                drop_state(active.folder)  # cancelled: checkpoints that are whole stay, what only a resume needs goes
            return
        try:
            report = next(active.steps)
        except StopIteration:
            self._finish(active)
            return
        if report is not None:  # nothing to tell yet while the reference of DPO scores its pairs
            if not math.isfinite(report.loss + (report.valid_loss or 0)):
                if report.checkpoint is not None:
                    drop(active.folder / report.checkpoint)
                message = (
                    f"The loss at step {report.step} is no number (NaN or infinity): lower learning_rate_multiplier, "
                    "or start from another model."
                )
                raise JobFailed(message, code="training_failed", param="learning_rate_multiplier")
            active.progress.tell(report)
            if report.note:
                self._store.add_event(active.job["id"], report.note, level="warn")

    def _finish(self, active: _Active) -> None:
        job = self._store.get("jobs", active.job["id"])
        assert job is not None
        self._active = None
        changes = {
            "status": "succeeded", "fine_tuned_model": job["_model_id"], "finished_at": int(time.time()),
            "trained_tokens": job.get("_n_tokens"), "estimated_finish": None,
            "result_files": write_results(self._store, job),
        }  # fmt: skip
        drop_state(active.folder)  # before the job is one that has ended, and is not looked at again after a kill
        told = [f"New fine-tuned model created: {job['_model_id']}", "The job has successfully completed"]
        if self._store.update_job(job["id"], changes, only=["running"], told=told):
            return
        if self._store.job_status(job["id"]) not in UNFINISHED:  # cancelled within its last step
            self._store.forget_checkpoint(model_id(job, None))
            drop(active.folder / "final")  # a cancelled job leaves no final model

    def _fail(self, job: Row, error: Exception) -> None:
        from tuning_server.engine.devices import DoesNotFit, is_out_of_memory

        if isinstance(error, JobFailed):
            told = error.error
        elif isinstance(error, UnknownModel):
            refusal = model_error(error)
            told = {"code": refusal.code, "message": refusal.message, "param": refusal.param}
        elif is_full_disk(error):
            message = (
                "The disk of the server is full: the checkpoint could not be written. Free some space and start again."
            )
            told = {"code": "disk_full", "message": message, "param": None}
        elif isinstance(error, DoesNotFit):
            told = {"code": "out_of_memory", "message": f"{error}.", "param": "model"}
        elif is_out_of_memory(error):
            message = "The model and its batch do not fit in memory: choose a smaller batch_size or model."
            told = {"code": "out_of_memory", "message": message, "param": "batch_size"}
        else:
            logger.error("job %s failed", job["id"], exc_info=error)
            told = {"code": "training_failed", "message": f"Training failed: {error}", "param": None}
        if self._active is not None and self._active.job["id"] == job["id"]:
            self.close(keep=False)
        drop_state(self._settings.store / "tuned" / job["_short"])
        changes = {"status": "failed", "error": told, "finished_at": int(time.time()), "estimated_finish": None}
        self._store.update_job(job["id"], changes, only=UNFINISHED, told=[str(told["message"])], level="error")
