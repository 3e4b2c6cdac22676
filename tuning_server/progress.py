"""What a running job tells: losses, speed, time left and checkpoints, as events of the store."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any

from tuning_server.store import Row, Store, new_id

if TYPE_CHECKING:
    from tuning_server.engine.training import StepReport

EVENTS_A_JOB = 200  # metrics events, about; each tells the mean loss since the one before


def model_id(job: Row, step: int | None) -> str:
    """Id of a job's checkpoint after a step, or (None) of the fine-tune itself.

    >>> model_id({"_model_id": "ft:fork-1m:a:x1y2z3a4"}, 30)
    'ft:fork-1m:a:x1y2z3a4:ckpt-step-30'
    """
    return str(job["_model_id"]) if step is None else f"{job['_model_id']}:ckpt-step-{step}"


def losses(metrics: Row) -> Row:
    """Of what an event tells, that which says how well the model does: losses and accuracies.

    >>> losses({"step": 3, "epoch": 1.0, "train_loss": 0.5, "full_valid_loss": 0.6})
    {'train_loss': 0.5, 'full_valid_loss': 0.6}
    """
    return {name: value for name, value in metrics.items() if name.startswith(("train_", "valid_", "full_valid_"))}


def checkpoint_of(job: Row, name: str, metrics: Row) -> Row:
    """The record of a checkpoint; `metrics` are those of the event of its step."""
    return {
        "id": new_id("ftckpt_"), "object": "fine_tuning.job.checkpoint", "created_at": int(time.time()),
        "fine_tuned_model_checkpoint": name, "fine_tuning_job_id": job["id"],
        "metrics": {"step": metrics["step"], **losses(metrics)}, "step_number": metrics["step"],
    }  # fmt: skip


class Progress:
    """Turns the engine's reports on one job into events and checkpoints."""

    def __init__(self, store: Store, job: Row) -> None:
        self._store, self._job = store, job
        self._started = self._told_at = time.monotonic()
        self._first_step: int | None = None
        self._told_tokens = 0
        self._losses: list[float] = []
        self._measures: dict[str, list[float]] = {}

    def tell(self, report: StepReport) -> None:
        """Take in a step; every few steps and at each checkpoint it becomes an event."""
        if self._first_step is None:
            self._store.forget_steps(self._job["id"], from_step=report.step)
            self._first_step = report.step - 1
            self._told_tokens = report.n_tokens if self._first_step else 0  # of steps before a restart
        self._losses.append(report.loss)
        for name, value in report.measures.items():
            self._measures.setdefault(name, []).append(value)
        every = max(1, report.n_steps // EVENTS_A_JOB)
        if report.step % every and report.checkpoint is None and report.step != report.n_steps:
            return
        now = time.monotonic()
        metrics: dict[str, Any] = {
            "step": report.step, "total_steps": report.n_steps, "epoch": report.epoch,
            "train_loss": sum(self._losses) / len(self._losses), "learning_rate": report.learning_rate,
            "tokens_per_second": (report.n_tokens - self._told_tokens) / max(now - self._told_at, 1e-6),
            "trained_tokens": report.n_tokens,
            **{f"train_{name}": sum(values) / len(values) for name, values in self._measures.items()},
        }  # fmt: skip
        message = f"Step {report.step}/{report.n_steps}: training loss={metrics['train_loss']:.2f}"
        if report.valid_loss is not None:
            metrics |= {"valid_loss": report.valid_loss, "full_valid_loss": report.valid_loss}
            for name, value in report.valid_measures.items():
                metrics |= {f"valid_{name}": value, f"full_valid_{name}": value}
            message += f", validation loss={report.valid_loss:.2f}"
        metrics = {name: value for name, value in metrics.items() if math.isfinite(value)}  # JSON has no NaN
        self._store.add_event(self._job["id"], message, step=report.step, data=metrics)
        left_s = (now - self._started) / (report.step - self._first_step) * (report.n_steps - report.step)
        self._store.update_job(self._job["id"], {"estimated_finish": int(time.time() + left_s) + 1}, only=["running"])
        self._losses, self._measures, self._told_at, self._told_tokens = [], {}, now, report.n_tokens
        if report.checkpoint is not None:
            self._keep_checkpoint(report, metrics)

    def _keep_checkpoint(self, report: StepReport, metrics: Row) -> None:
        last = report.step == report.n_steps
        name = model_id(self._job, None if last else report.step)
        told = [] if last else [f"Checkpoint created at step {report.step}: {name}"]
        self._store.add_checkpoint(checkpoint_of(self._job, name, metrics), told=told)
