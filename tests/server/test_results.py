"""What a job leaves to read: validation losses in events and checkpoints, and the result file."""

from __future__ import annotations

import csv
import errno
import io
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from openai import BadRequestError, NotFoundError, OpenAI
from serving import TINY, facts, jsonl, official, preferences, upload, wait_for

from tuning_server.store import Store

OPENAI_COLUMNS = ["step", "train_loss", "train_accuracy", "valid_loss", "valid_mean_token_accuracy"]


def read_table(client: OpenAI, job: Any) -> pd.DataFrame:
    """As scripts read it: the content of the one result file."""
    (file_id,) = job.result_files
    return pd.read_csv(io.BytesIO(client.files.content(file_id).read()))


def test_the_result_file_of_a_supervised_job(client: OpenAI, fine_tune: Callable[..., Any], tiny_store: Path) -> None:
    held_out = upload(client, jsonl(facts(5)))
    job = fine_tune(facts(16), validation_file=held_out.id, hyperparameters={"n_epochs": 3, "batch_size": 4})
    table = read_table(client, job)
    assert list(table.columns[:5]) == OPENAI_COLUMNS
    assert list(table["step"]) == list(range(1, 13))
    assert list(table["step"][table["valid_loss"].notna()]) == [4, 8, 12]
    assert table["train_accuracy"].between(0, 1).all()
    pd.testing.assert_series_equal(table["full_valid_loss"], table["valid_loss"], check_names=False)
    events = [event.data for event in client.fine_tuning.jobs.list_events(job.id) if event.type == "metrics"]
    assert [row["train_loss"] for row in reversed(events)] == list(table["train_loss"])  # type: ignore[index]

    (checkpoints,) = [list(client.fine_tuning.jobs.checkpoints.list(job.id))]
    for checkpoint in checkpoints:
        told, row = checkpoint.metrics, table.set_index("step").loc[checkpoint.step_number]
        assert told.step == checkpoint.step_number
        for name in ("train_loss", "train_mean_token_accuracy", "valid_loss", "valid_mean_token_accuracy",
                     "full_valid_loss", "full_valid_mean_token_accuracy"):  # fmt: skip
            assert getattr(told, name) == row[name], name

    file = client.files.retrieve(job.result_files[0])
    assert (file.purpose, file.filename, file.status) == ("fine-tune-results", "step_metrics.csv", "processed")
    assert file.bytes == len(client.files.content(file.id).read())
    assert [found.id for found in client.files.list(purpose="fine-tune-results")] == [file.id]
    assert {found.id for found in client.files.list(purpose="fine-tune")} == {job.training_file, held_out.id}
    assert (tiny_store / "files" / f"{file.id}.csv").is_file()
    with pytest.raises(BadRequestError, match="was made for 'fine-tune-results'"):
        client.fine_tuning.jobs.create(model=TINY, training_file=file.id)
    assert client.files.delete(file.id).deleted
    with pytest.raises(NotFoundError):
        client.files.content(file.id)
    assert not (tiny_store / "files" / f"{file.id}.csv").exists()


def test_the_result_file_of_a_dpo_job_and_one_without_validation(client: OpenAI, fine_tune: Callable[..., Any]) -> None:
    held_out = upload(client, jsonl(preferences(4)))
    settings = {"hyperparameters": {"n_epochs": 2, "batch_size": 4}}
    job = fine_tune(preferences(8), validation_file=held_out.id, method={"type": "dpo", "dpo": settings})
    table = read_table(client, job)
    assert list(table.columns[:5]) == OPENAI_COLUMNS
    assert table["train_accuracy"].isna().all(), "a pair has no token to be right about"
    assert {"train_reward_accuracy", "valid_reward_margin", "full_valid_reward_accuracy"} <= set(table.columns)
    assert list(table["step"][table["full_valid_loss"].notna()]) == [2, 4]
    alone = read_table(client, fine_tune(facts(8), hyperparameters={"n_epochs": 1, "batch_size": 4}))
    assert alone["valid_loss"].isna().all()
    assert list(alone.columns) == [*OPENAI_COLUMNS, "train_mean_token_accuracy"]


def test_accuracy_is_that_of_the_completion(client: OpenAI, fine_tune: Callable[..., Any]) -> None:
    """One token of the completion and the end of the text, learnt by heart: the prompt does not count."""
    rows = [{"prompt": "The red fox saw", "completion": " the"}] * 8
    held_out = upload(client, jsonl([{"prompt": "The red fox saw", "completion": " old"}]))
    job = fine_tune(
        rows, validation_file=held_out.id,
        hyperparameters={"n_epochs": 60, "batch_size": 8, "learning_rate_multiplier": 5},
    )  # fmt: skip
    last = read_table(client, job).iloc[-1]
    assert last["train_accuracy"] == 1
    assert last["valid_mean_token_accuracy"] < 1
    assert last["train_loss"] < 0.5 < last["valid_loss"]


def test_a_full_disk_costs_the_table_and_not_the_model(
    client: OpenAI, fine_tune: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("tuning_server.progress.atomic_write", full)
    job = fine_tune(facts(4), hyperparameters={"n_epochs": 1})
    assert (job.status, job.result_files) == ("succeeded", [])
    events = client.fine_tuning.jobs.list_events(job.id).data
    assert [event.level for event in events if "result file" in event.message] == ["warn"]


def test_only_jobs_that_succeed_have_a_result_file(client: OpenAI, fine_tune: Callable[..., Any]) -> None:
    job = fine_tune(facts(40), hyperparameters={"n_epochs": 1000, "batch_size": 1}, wait=False)
    wait_for(client, job.id, status=("running",))
    assert client.fine_tuning.jobs.cancel(job.id).result_files == []
    bad = upload(client, jsonl([{"prompt": 3}]))
    failed = wait_for(client, client.fine_tuning.jobs.create(model=TINY, training_file=bad.id).id)
    assert (failed.status, failed.result_files) == ("failed", [])


def test_a_kill_before_the_last_step_was_told_loses_no_line(
    client: OpenAI, fine_tune: Callable[..., Any], serve: Callable[..., Any], tiny_store: Path
) -> None:
    """The final model is there, but its step is in no event: it is done again."""
    whole = fine_tune(facts(12), hyperparameters={"n_epochs": 2, "batch_size": 4}, seed=1)
    table = client.files.content(whole.result_files[0]).read()
    print_ = client.models.retrieve(whole.fine_tuned_model).fingerprint  # type: ignore[attr-defined]
    client._client.__exit__(None, None, None)  # type: ignore[attr-defined]
    store = Store(tiny_store)
    store.delete_steps(whole.id, from_step=6)
    store.delete_checkpoint(whole.fine_tuned_model)
    store.update_job(whole.id, {"status": "running", "result_files": []}, only=["succeeded"])
    store.close()
    again = official(serve(tiny_store))
    job = wait_for(again, whole.id)
    assert again.models.retrieve(job.fine_tuned_model).fingerprint == print_  # type: ignore[attr-defined]
    assert job.result_files == whole.result_files
    rows, before = (list(csv.DictReader(io.StringIO(content.decode()))) for content in (
        again.files.content(job.result_files[0]).read(), table))  # fmt: skip
    assert [row["step"] for row in rows] == [row["step"] for row in before]
    assert all(math.isclose(float(a["train_loss"]), float(b["train_loss"])) for a, b in zip(rows, before, strict=True))
    steps = [kept.step_number for kept in again.fine_tuning.jobs.checkpoints.list(job.id)]
    assert steps == [6, 3]
