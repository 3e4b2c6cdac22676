"""What a job reports: metrics events and checkpoints while it trains, and the table of its losses in the end."""

from __future__ import annotations

import csv
import logging
import math
import time
from collections.abc import Sequence
from statistics import fmean
from typing import Any

from tuning_server.disk import atomic_write
from tuning_server.engine.training import StepReport
from tuning_server.store import DUE, RESULTS, Row, Store, file_path, new_id

logger = logging.getLogger(__name__)
EVENTS_PER_JOB = 200  # metrics events, about; each reports the mean loss since the one before
COLUMNS = ("step", "train_loss", "train_accuracy", "valid_loss", "valid_mean_token_accuracy")  # of OpenAI's results


def model_id(job: Row, step: int | None) -> str:
    """Id of a job's checkpoint after a step, or (None) of the fine-tune itself.

    >>> model_id({"_model_id": "ft:fork-1m:a:x1y2z3a4"}, 30)
    'ft:fork-1m:a:x1y2z3a4:ckpt-step-30'
    """
    return str(job["_model_id"]) if step is None else f"{job['_model_id']}:ckpt-step-{step}"


def card_after(step: int | None, job: Row, card: Row) -> Row:
    """What lies beside the weights after a step as ``tuned.json``; None for the final model."""
    return {"id": model_id(job, step), "step": step, "created": int(time.time()), **card}


def losses(metrics: Row) -> Row:
    """Losses and accuracies among the data of a metrics event.

    >>> losses({"step": 3, "epoch": 1.0, "train_loss": 0.5, "full_valid_loss": 0.6})
    {'train_loss': 0.5, 'full_valid_loss': 0.6}
    """
    return {name: value for name, value in metrics.items() if name.startswith(("train_", "valid_", "full_valid_"))}


def step_message(metrics: Row) -> str:
    """What the event of a step says.

    >>> step_message({"step": 3, "total_steps": 9, "train_loss": 0.5, "valid_loss": 0.625})
    'Step 3/9: training loss=0.50, validation loss=0.62'
    """
    message = (
        f"Step {metrics['step']}/{metrics['total_steps']}: training loss={metrics.get('train_loss', math.nan):.2f}"
    )
    return message + (f", validation loss={metrics['valid_loss']:.2f}" if "valid_loss" in metrics else "")


class Progress:
    """Turns the engine's reports on one job into events and checkpoints."""

    def __init__(self, store: Store, job: Row) -> None:
        self._store, self._job = store, job
        self._reports: list[StepReport] = []  # since the last event
        self._written_at, self._n_tokens = time.monotonic(), -1  # of the last event; -1 before the first step

    def add(self, report: StepReport) -> None:
        """Add a step; every few steps and at each checkpoint there is an event."""
        if self._n_tokens < 0:
            self._store.delete_steps(self._job["id"], from_step=report.step)  # which a kill makes the run repeat
            self._n_tokens = 0 if report.step == 1 else report.n_tokens
        self._reports.append(report)
        every = max(1, report.n_steps // EVENTS_PER_JOB)
        if report.step % every == 0 or report.checkpoint is not None or report.step == report.n_steps:
            self._write(report)
        if report.note:
            self._store.add_event(self._job["id"], report.note, level="warn")

    def _write(self, report: StepReport) -> None:
        job_id, reports, seconds = self._job["id"], self._reports, max(time.monotonic() - self._written_at, 1e-6)
        metrics: dict[str, Any] = {
            "step": report.step, "total_steps": report.n_steps, "epoch": report.epoch,
            "train_loss": fmean(step.loss for step in reports), "learning_rate": report.learning_rate,
            "tokens_per_second": (report.n_tokens - self._n_tokens) / seconds, "trained_tokens": report.n_tokens,
            **{f"train_{name}": fmean(step.measures[name] for step in reports) for name in report.measures},
        }  # fmt: skip
        if report.valid_loss is not None:
            for name, value in {"loss": report.valid_loss, **report.valid_measures}.items():
                metrics |= {f"valid_{name}": value, f"full_valid_{name}": value}
        metrics = {name: value for name, value in metrics.items() if math.isfinite(value)}  # JSON has no NaN
        self._store.add_event(job_id, step_message(metrics), step=report.step, data=metrics)
        left_s = seconds / len(reports) * (report.n_steps - report.step)
        self._store.update_job(job_id, {"estimated_finish": int(time.time() + left_s) + 1}, only=["running"])
        self._reports, self._written_at, self._n_tokens = [], time.monotonic(), report.n_tokens
        if report.checkpoint is not None:
            is_last = report.step == report.n_steps
            name = model_id(self._job, None if is_last else report.step)
            record = {
                "id": new_id("ftckpt_"), "object": "fine_tuning.job.checkpoint", "created_at": int(time.time()),
                "fine_tuned_model_checkpoint": name, "fine_tuning_job_id": job_id,
                "metrics": {"step": report.step, **losses(metrics)}, "step_number": report.step,
            }  # fmt: skip
            created = [] if is_last else [f"Checkpoint created at step {report.step}: {name}"]
            self._store.add_checkpoint(record, messages=created)


def results_table(metrics: Sequence[Row]) -> tuple[list[str], list[Row]]:
    """Columns and rows of a job's results, as OpenAI's ``step_metrics.csv``: one row per event.

    Parameters
    ----------
    metrics : data of a job's metrics events. Losses are in nats per token (DPO: per pair), accuracies in [0, 1]

    >>> columns, rows = results_table([{"step": 1, "train_loss": 2.5, "train_mean_token_accuracy": 0.1, "epoch": 0.5}])
    >>> columns[:3], rows[0]["train_accuracy"]
    (['step', 'train_loss', 'train_accuracy'], 0.1)
    """
    rows = [{"step": event["step"], **losses(event)} for event in metrics]
    further = dict.fromkeys(name for row in rows for name in row)
    for row in rows:
        if "train_mean_token_accuracy" in row:
            row["train_accuracy"] = row["train_mean_token_accuracy"]
    return [*COLUMNS, *(name for name in further if name not in COLUMNS)], rows


def write_results(store: Store, job: Row) -> list[str]:
    """Write the result file of a job and return its id, which follows from the job's: written twice, it is one file.

    A full disk costs the table, not the model: the list is empty then.
    """
    file_id = f"file-{job['id'].removeprefix('ftjob-')}"
    try:
        columns, rows = results_table(store.metrics(job["id"]))
        with atomic_write(file_path(store.folder, file_id, RESULTS)) as file:
            writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        store.add_file(file_id, "step_metrics.csv", RESULTS)
    except OSError as error:
        logger.warning("job %s: no result file: %s", job["id"], error)
        store.add_event(job["id"], f"The result file could not be written: {error.strerror}", level="warn")
        return []
    return [file_id]


def succeed(store: Store, job: Row, *, model: str, n_tokens: int, message: str) -> bool:
    """Store that a job ended with a model, and its results; False if a request has ended it meanwhile."""
    changes = {
        "status": "succeeded", "fine_tuned_model": model, "_model_id": model, "finished_at": int(time.time()),
        "trained_tokens": n_tokens, "estimated_finish": None, "result_files": write_results(store, job),
    }  # fmt: skip
    return store.update_job(job["id"], changes, only=DUE, messages=[message, "The job has successfully completed"])
