"""Pause and resume: a job that was paused ends with the weights of one that was not."""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from openai import BadRequestError, NotFoundError, OpenAI
from serving import TINY, facts, jsonl, official, preferences, wait_for, wait_for_engine
from starlette.testclient import TestClient

from lib import finetune

SUPERVISED = {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 12, "batch_size": 2}}}
DPO = {"type": "dpo", "dpo": {"hyperparameters": {"n_epochs": 12, "batch_size": 2, "learning_rate_multiplier": 0.2}}}
LONG: dict[str, Any] = {"hyperparameters": {"n_epochs": 1000, "batch_size": 1}, "wait": False}


def steps_told(client: OpenAI, job_id: str) -> list[int]:
    """Steps of a job's metrics events, in order."""
    events = list(client.fine_tuning.jobs.list_events(job_id, limit=1000))
    return [event.data["step"] for event in reversed(events) if event.type == "metrics"]  # type: ignore[index]


def messages(client: OpenAI, job_id: str) -> list[str]:
    return [event.message for event in reversed(list(client.fine_tuning.jobs.list_events(job_id, limit=1000)))]


def wait_for_step(client: OpenAI, job_id: str, step: int) -> None:
    while max(steps_told(client, job_id), default=0) < step:
        assert client.fine_tuning.jobs.retrieve(job_id).status in ("validating_files", "queued", "running")


def wait_until_stopped(store: Path, client: OpenAI) -> int:
    """Wait until a paused job has written the step it is at; returns that."""
    wait_for_engine(client)
    (state,) = store.glob("tuned/*/state-*")
    return int(state.name.removeprefix("state-"))


def fingerprint(client: OpenAI, job: Any) -> str:
    assert job.status == "succeeded", job.error
    return client.models.retrieve(job.fine_tuned_model).fingerprint  # type: ignore[attr-defined, no-any-return]


@pytest.mark.parametrize(
    ("method", "rows"), [(SUPERVISED, facts(20)), (DPO, preferences(20))], ids=["supervised", "dpo"]
)
def test_a_paused_job_ends_with_the_weights_of_an_undisturbed_one(
    client: OpenAI, fine_tune: Callable[..., Any], tiny_store: Path, method: Any, rows: Any
) -> None:
    undisturbed = fine_tune(rows, method=method, seed=5)
    job = fine_tune(rows, method=method, seed=5, wait=False)
    kept = []
    for step in (3, 17, 44):  # within the first epoch, too: before there is any checkpoint
        wait_for_step(client, job.id, step)
        assert client.fine_tuning.jobs.pause(job.id).status == "paused"
        kept.append(wait_until_stopped(tiny_store, client))
        other = fine_tune(facts(4), hyperparameters={"n_epochs": 1})
        assert other.status == "succeeded", "the engine is free for others meanwhile"
        assert client.fine_tuning.jobs.retrieve(job.id).status == "paused"
        assert client.fine_tuning.jobs.resume(job.id).status == "queued"
    done = wait_for(client, job.id)
    assert fingerprint(client, done) == fingerprint(client, undisturbed)
    assert steps_told(client, job.id) == list(range(1, 121)), "no step is told twice or left out"
    assert kept == sorted(set(kept))
    told = [message for message in messages(client, job.id) if "Fine-tuning job" in message]
    again = ["Fine-tuning job paused", "Fine-tuning job resumed", "Fine-tuning job taken up again"]
    assert told == ["Fine-tuning job started", *again * 3]
    for paused, whole in zip(*(sorted(tiny_store.glob(f"tuned/*{j.fine_tuned_model[-8:]}/step-*/model.safetensors"))
                               for j in (done, undisturbed)), strict=True):  # fmt: skip
        assert paused.read_bytes() == whole.read_bytes()
    assert not list(tiny_store.glob("tuned/*/state-*"))


def test_a_job_stays_paused_while_the_server_is_away(
    client: OpenAI, serve: Callable[..., TestClient], fine_tune: Callable[..., Any], tiny_store: Path
) -> None:
    options: dict[str, Any] = {"hyperparameters": {"n_epochs": 12, "batch_size": 2}, "seed": 5}
    undisturbed = fine_tune(facts(20), **options)
    job = fine_tune(facts(20), wait=False, **options)
    wait_for_step(client, job.id, 5)
    client.fine_tuning.jobs.pause(job.id)
    client._client.__exit__(None, None, None)  # type: ignore[attr-defined]
    again = official(serve(tiny_store))
    assert again.fine_tuning.jobs.retrieve(job.id).status == "paused"
    assert not again._client.app.state.service.worker.busy  # type: ignore[attr-defined]
    with pytest.raises(BadRequestError, match="in use by job"):
        again.files.delete(job.training_file)
    again.fine_tuning.jobs.resume(job.id)
    assert fingerprint(again, wait_for(again, job.id)) == fingerprint(again, undisturbed)


def test_jobs_are_paused_before_they_began_and_cancelled_while_paused(
    client: OpenAI, fine_tune: Callable[..., Any], tiny_store: Path
) -> None:
    running, queued = (fine_tune(facts(40), **LONG) for _ in range(2))
    wait_for(client, running.id, status=("running",))
    fresh = fine_tune(facts(4), wait=False, hyperparameters={"n_epochs": 1})
    assert client.fine_tuning.jobs.pause(fresh.id).status == "paused"
    assert client.fine_tuning.jobs.pause(queued.id).status == "paused"
    jobs = client.fine_tuning.jobs
    for act, job, message in (
        (jobs.pause, queued, "cannot be paused: it is paused, and only a job that is waiting or running can be"),
        (jobs.resume, running, "cannot be resumed: it is running, and only a job that is paused can be"),
    ):
        with pytest.raises(BadRequestError, match=message) as refused:
            act(job.id)
        assert (refused.value.code, refused.value.param) == ("invalid_state", "fine_tuning_job_id")
    for act in (jobs.pause, jobs.resume):
        with pytest.raises(NotFoundError, match="No such fine-tuning job"):
            act("ftjob-none")
    wait_for_step(client, running.id, 3)
    jobs.pause(running.id)
    wait_until_stopped(tiny_store, client)
    jobs.resume(fresh.id)
    assert wait_for(client, fresh.id).status == "succeeded"
    for job in (queued, running):
        assert jobs.cancel(job.id).status == "cancelled"
        assert "Fine-tuning job cancelled" in messages(client, job.id)
        for act in (jobs.pause, jobs.resume, jobs.cancel):
            with pytest.raises(BadRequestError, match="it has already been cancelled"):
                act(job.id)
    assert not list(tiny_store.glob("tuned/*/state-*")), "nothing goes on from a cancelled job"
    assert steps_told(client, running.id), "its events can still be read"
    with pytest.raises(BadRequestError, match="it has already succeeded"):
        jobs.resume(fresh.id)


def test_a_full_disk_costs_a_pause_some_steps_and_not_the_job(
    client: OpenAI, fine_tune: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any, **options: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    options: dict[str, Any] = {"hyperparameters": {"n_epochs": 3, "batch_size": 1}, "seed": 5}
    undisturbed = fine_tune(facts(40), **options)
    job = fine_tune(facts(40), wait=False, **options)
    wait_for_step(client, job.id, 3)
    monkeypatch.setattr("tuning_server.engine.checkpoints.save_file", full)
    client.fine_tuning.jobs.pause(job.id)
    fine_tune(facts(4), hyperparameters={"n_epochs": 1}, model="fork-tiny:init")  # it only saves models
    monkeypatch.undo()
    assert client.fine_tuning.jobs.retrieve(job.id).status == "paused"
    client.fine_tuning.jobs.resume(job.id)
    done = wait_for(client, job.id)
    assert fingerprint(client, done) == fingerprint(client, undisturbed)
    assert steps_told(client, job.id) == list(range(1, 121))
    assert client.models.retrieve(done.fine_tuned_model).parent == TINY  # type: ignore[attr-defined]


def test_who_waits_for_a_job_hears_that_it_is_paused(
    client: OpenAI, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(finetune, "POLL_SECONDS", 0.02)
    file = tmp_path / "rows.jsonl"
    file.write_bytes(jsonl(facts(20)))
    long = finetune.FineTune(base=TINY, n_epochs=30, batch_size=1, learning_rate_multiplier=1.0, seed=0)
    with ThreadPoolExecutor(1) as pool, caplog.at_level(logging.WARNING, logger="lib.finetune"):
        waiting = pool.submit(finetune.finetune, client, [long], training_file=file, suffix="waits")
        while not (jobs := client.fine_tuning.jobs.list().data):
            assert not waiting.done(), waiting.result()
        client.fine_tuning.jobs.pause(jobs[0].id)
        while not caplog.messages:
            assert not waiting.done(), waiting.result()
        client.fine_tuning.jobs.resume(jobs[0].id)
        assert len(waiting.result()) == 30
    assert caplog.messages == [f"job {jobs[0].id} is paused: resume or cancel it"]
