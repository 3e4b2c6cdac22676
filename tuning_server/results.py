"""What does a finished job leave to read? The table of its losses, in the columns of OpenAI's ``step_metrics.csv``."""

from __future__ import annotations

import csv
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from openai.types import FileObject

from tuning_server.progress import losses
from tuning_server.store import Row, Store

logger = logging.getLogger(__name__)
PURPOSE: Final = "fine-tune-results"
COLUMNS = ("step", "train_loss", "train_accuracy", "valid_loss", "valid_mean_token_accuracy")


def table(metrics: Sequence[Row]) -> tuple[list[str], list[Row]]:
    """Columns and rows of a job's results: one row an event, empty where nothing was measured.

    Parameters
    ----------
    metrics : data of a job's metrics events. Losses are nats a token (DPO: a pair), accuracies in [0, 1]

    >>> columns, rows = table([{"step": 1, "train_loss": 2.5, "train_mean_token_accuracy": 0.1, "epoch": 0.5}])
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

    A disk that is too full for it costs the table, not the model: the list is empty then.
    """
    file_id = f"file-{job['id'].removeprefix('ftjob-')}"
    part = store.file_path(file_id).with_suffix(".part")
    columns, rows = table(store.metrics(job["id"]))
    try:
        n_bytes = _write(part, columns, rows)
        body = FileObject(
            id=file_id, object="file", bytes=n_bytes, created_at=int(time.time()), filename="step_metrics.csv",
            purpose=PURPOSE, status="processed",
        )  # fmt: skip
        store.add_file(body.model_dump(), part)
    except OSError as error:
        part.unlink(missing_ok=True)
        logger.warning("job %s: no result file: %s", job["id"], error)
        store.add_event(job["id"], f"The result file could not be written: {error.strerror}", level="warn")
        return []
    return [file_id]


def _write(path: Path, columns: Sequence[str], rows: Sequence[Row]) -> int:
    """Write a table; returns its size in bytes."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return path.stat().st_size
