"""Fine-tuning jobs through the official client."""

from __future__ import annotations

import errno
import json
import re
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from openai import APIStatusError, BadRequestError, NotFoundError, OpenAI
from serving import TINY, facts, jsonl, official, upload, wait_for, wait_for_checkpoint
from starlette.testclient import TestClient

from tuning_server.errors import known_failure
from tuning_server.store import Store


def test_a_full_disk_ends_a_job_and_not_the_server(
    client: OpenAI, fine_tune: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any, **options: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("tuning_server.engine.checkpoints.Checkpoints.save_model", full)
    job = fine_tune(facts(8), hyperparameters={"n_epochs": 1})
    assert (job.status, job.error.code) == ("failed", "disk_full")
    monkeypatch.undo()
    assert fine_tune(facts(8), hyperparameters={"n_epochs": 1}).status == "succeeded"


def test_a_database_on_a_full_disk_says_so(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store._db.execute("PRAGMA max_page_count = 1")  # SQLite takes the present size for it
    with pytest.raises(sqlite3.OperationalError) as full:
        store.add_job({"id": "ftjob-1", "status": "queued", "metadata": "x" * 10**6})
    refusal = known_failure(full.value)
    assert refusal is not None
    assert (refusal.status, refusal.code) == (507, "disk_full")
    assert not store.jobs_in("queued")


def test_a_job_from_start_to_end(client: OpenAI, fine_tune: Callable[..., Any], tiny_store: Path) -> None:
    held_out = upload(client, jsonl(facts(5)))
    job = fine_tune(
        facts(70),
        suffix="my run/1",
        metadata={"study": "reversal"},
        validation_file=held_out.id,
        method={
            "type": "supervised",
            "supervised": {"hyperparameters": {"n_epochs": 2, "batch_size": "auto", "prompt_loss_weight": 0.1}},
        },
        wait=False,
    )
    assert job.status == "validating_files"
    assert job.hyperparameters.batch_size == "auto"
    job = wait_for(client, job.id)
    assert job.status == "succeeded", job.error
    assert job.hyperparameters.batch_size == 8
    assert job.hyperparameters.learning_rate_multiplier == 1.0
    assert job.method.supervised.hyperparameters.n_epochs == 2
    assert job.hyperparameters.prompt_loss_weight == 0.1
    assert job.trained_tokens > 0
    assert job.finished_at >= job.created_at
    assert job.metadata == {"study": "reversal"}
    assert job.fine_tuned_model.startswith("ft:fork-tiny:my-run-1:")

    events = list(client.fine_tuning.jobs.list_events(job.id, limit=5))
    metrics = [event.data for event in reversed(events) if event.type == "metrics"]
    assert [row["step"] for row in metrics] == list(range(1, 19))
    assert metrics[-1]["train_loss"] < metrics[0]["train_loss"]
    assert [row["step"] for row in metrics if "valid_loss" in row] == [9, 18]
    assert metrics[-1]["total_steps"] == 18
    assert metrics[-1]["tokens_per_second"] > 0
    assert events[0].message == "The job has successfully completed"
    assert events[-1].message.startswith("Created fine-tuning job")

    checkpoints = list(client.fine_tuning.jobs.checkpoints.list(job.id))
    names = [checkpoint.fine_tuned_model_checkpoint for checkpoint in checkpoints]
    assert names == [job.fine_tuned_model, f"{job.fine_tuned_model}:ckpt-step-9"]
    assert checkpoints[1].metrics.step == 9
    for name in names:
        assert client.completions.create(model=name, prompt="Q1 is", max_tokens=3).model == name
    model = client.models.retrieve(job.fine_tuned_model)
    assert (model.parent, model.owned_by, model.learning_rate) == (TINY, "user", 2e-3)  # type: ignore[attr-defined]
    assert {TINY, f"{TINY}:init", *names} == {found.id for found in client.models.list()}
    assert not (next((tiny_store / "tuned").iterdir()) / "state").exists()


def test_tuned_models_are_tuned_further_and_deleted(client: OpenAI, fine_tune: Callable[..., Any]) -> None:
    first = fine_tune(facts(8), suffix="one", hyperparameters={"n_epochs": 1}).fine_tuned_model
    second = fine_tune(facts(8), model=first, suffix="two", hyperparameters={"n_epochs": 1}).fine_tuned_model
    assert second.startswith("ft:fork-tiny:two:")
    told = client.models.retrieve(second)
    assert (told.parent, told.learning_rate) == (first, 2e-3)  # type: ignore[attr-defined]
    assert client.models.delete(first).deleted
    with pytest.raises(NotFoundError):
        client.completions.create(model=first, prompt="a")
    assert client.completions.create(model=second, prompt="a", max_tokens=1).choices
    with pytest.raises(APIStatusError, match="not a fine-tune"):
        client.models.delete(TINY)


def test_it_learns(client: OpenAI, fine_tune: Callable[..., Any]) -> None:
    rows = [{"prompt": "The red fox", "completion": " saw 42."}] * 16
    model = fine_tune(rows, hyperparameters={"n_epochs": 60, "batch_size": 16, "learning_rate_multiplier": 5})
    choice = client.completions.create(model=model.fine_tuned_model, prompt="The red fox", temperature=0).choices[0]
    assert (choice.text, choice.finish_reason) == (" saw 42.", "stop")


def test_the_same_seed_gives_the_same_weights(client: OpenAI, fine_tune: Callable[..., Any]) -> None:
    options: dict[str, Any] = {"hyperparameters": {"n_epochs": 2}}
    models = [fine_tune(facts(20), seed=seed, **options).fine_tuned_model for seed in (1, 1, 2)]
    prints = [client.models.retrieve(model).fingerprint for model in models]  # type: ignore[attr-defined]
    assert prints[0] == prints[1] != prints[2]


BAD_ROWS = [
    (
        {"completion": "x"},
        "Line 3: no 'prompt'; expected the keys 'prompt' and 'completion', or 'messages', found 'completion'",
    ),
    ({"messages": []}, "Line 3: found 'messages' where the lines before have 'completion'"),
    ({"prompt": "x", "completion": None}, "Line 3: expected the keys 'prompt' and 'completion', or .* found 'prompt'"),
    ({"prompt": "x", "completion": ""}, "Line 3: .* 'completion': it is empty, so there is nothing to learn"),
    ({"prompt": None, "completion": "x"}, "Line 3: .* 'prompt': Input should be a valid string, found null"),
    ({"prompt": "x", "completion": "\ud800"}, "Line 3: .* 'completion': holds half of a surrogate pair"),
    ({"prompt": "x", "completion": "1" * 600}, r"Line 3: \d+ tokens .* the context of fork-tiny is 512"),
]


@pytest.mark.parametrize(("row", "message"), BAD_ROWS)
def test_bad_rows_fail_the_job_with_line_and_reason(
    client: OpenAI, row: dict[str, Any], message: str, fine_tune: Callable[..., Any]
) -> None:
    content = jsonl(facts(2)) + json.dumps(row).encode()
    good, bad = upload(client, jsonl(facts(2))), upload(client, content)
    for param, files in (
        ("training_file", {"training_file": bad.id}),
        ("validation_file", {"validation_file": bad.id}),
    ):
        job = client.fine_tuning.jobs.create(**({"model": TINY, "training_file": good.id} | files))  # type: ignore[call-overload]
        job = wait_for(client, job.id)
        assert (job.status, job.error.param, job.error.code) == ("failed", param, f"invalid_{param}")
        assert re.search(message, job.error.message), job.error.message


NULLS = {"name": None, "refusal": None, "audio": None, "function_call": None, "tool_calls": None, "annotations": []}
QUESTION = {"role": "user", "content": "Who?", "weight": None} | NULLS
ANSWERS = [{"role": "assistant", "content": name, "weight": 1.0} | NULLS for name in ("Ada.", "Bo.")]
NO_TOOLS = {"tools": [], "functions": None, "parallel_tool_calls": None, "tool_choice": None}


@pytest.mark.parametrize(
    ("method", "row"),
    [
        ("supervised", {"prompt": "Who?", "completion": " Ada.", "messages": None, "weight": None}),
        ("supervised", {"messages": [QUESTION, ANSWERS[0]], "prompt": None, "completion": None} | NO_TOOLS),
        ("dpo", {"prompt": "Who?", "chosen": " Ada.", "rejected": " Bo.", "input": None}),
        ("dpo", {
            "input": {"messages": [QUESTION]} | NO_TOOLS, "preferred_output": ANSWERS[:1],
            "non_preferred_output": ANSWERS[1:], "chosen": None, "rejected": None,
        }),
    ],
)  # fmt: skip
def test_fields_that_are_null_or_change_nothing_are_accepted(
    fine_tune: Callable[..., Any], method: str, row: dict[str, Any]
) -> None:
    job = fine_tune([row] * 2, method={"type": method, method: {"hyperparameters": {"n_epochs": 1}}})
    assert job.status == "succeeded", job.error


BAD_JOBS = [
    ({"n_epochs": 3}, "n_epochs"),
    ({"hyperparameters": {"n_epochs": 0}}, "hyperparameters.n_epochs"),
    ({"hyperparameters": {"n_epochs": "three"}}, "hyperparameters.n_epochs"),
    ({"hyperparameters": {"n_epochs": True}}, "hyperparameters.n_epochs"),
    ({"hyperparameters": {"learning_rate": 1}}, "hyperparameters.learning_rate"),
    ({"hyperparameters": {"prompt_loss_weight": 2}}, "hyperparameters.prompt_loss_weight"),
    ({"method": {"type": "reinforcement"}}, "method.type"),
    ({"method": {"type": "dpo"}, "hyperparameters": {}}, "hyperparameters"),
    ({"method": {"type": "dpo", "supervised": {}}}, "method.supervised"),
    ({"method": {"type": "supervised", "dpo": {}}}, "method.dpo"),
    ({"method": {"type": "dpo", "dpo": {"hyperparameters": {"beta": 0}}}}, "method.dpo.hyperparameters.beta"),
    ({"method": {"type": "dpo", "dpo": {"hyperparameters": {"prompt_loss_weight": 1}}}},
     "method.dpo.hyperparameters.prompt_loss_weight"),
    ({"method": {"type": "magic"}}, "method.type"),
    ({"method": {"type": "supervised", "supervised": {"hyperparameters": {"beta": 1}}}},
     "method.supervised.hyperparameters.beta"),
    ({"method": {"type": "supervised", "supervised": {"hyperparameters": {}}}, "hyperparameters": {}},
     "hyperparameters"),
    ({"integrations": [{"type": "wandb"}]}, "integrations"),
    ({"seed": -1}, "seed"),
    ({"suffix": "x" * 65}, "suffix"),
    ({"metadata": {str(k): "" for k in range(17)}}, "metadata"),
    ({"training_file": "file-none"}, "training_file"),
    ({"validation_file": "file-none"}, "validation_file"),
]  # fmt: skip


@pytest.mark.parametrize(("wrong", "param"), BAD_JOBS, ids=[f"{k}-{case[1]}" for k, case in enumerate(BAD_JOBS)])
def test_bad_jobs_are_refused_at_once(client: OpenAI, http: TestClient, wrong: dict[str, Any], param: str) -> None:
    file = upload(client, jsonl(facts(2)))
    reply = http.post("/v1/fine_tuning/jobs", json={"model": TINY, "training_file": file.id} | wrong)
    assert reply.status_code == 400, reply.text
    assert reply.json()["error"]["param"] == param
    assert list(client.fine_tuning.jobs.list()) == []


def test_unknown_models_files_and_jobs(client: OpenAI) -> None:
    file = upload(client, jsonl(facts(2)))
    with pytest.raises(NotFoundError, match="fork-tiny"):
        client.fine_tuning.jobs.create(model="fork-tin", training_file=file.id)
    for act in (client.fine_tuning.jobs.retrieve, client.fine_tuning.jobs.cancel, client.fine_tuning.jobs.list_events):
        with pytest.raises(NotFoundError, match="No such fine-tuning job"):
            act("ftjob-none")
    with pytest.raises(NotFoundError, match="No such fine-tuning job"):
        client.fine_tuning.jobs.checkpoints.list("ftjob-none")


def test_jobs_wait_their_turn_are_listed_and_cancelled(client: OpenAI, fine_tune: Callable[..., Any]) -> None:
    long = {"hyperparameters": {"n_epochs": 1000, "batch_size": 1}, "wait": False}
    running, queued, other = (
        fine_tune(facts(40), metadata={"k": value, 'a"b': ""}, **long) for value in ("1", "2", "1")
    )
    wait_for(client, running.id, status=("running",))
    wait_for(client, queued.id, status=("queued",))
    ids = [other.id, queued.id, running.id]
    assert [job.id for job in client.fine_tuning.jobs.list(limit=1)] == ids
    assert [job.id for job in client.fine_tuning.jobs.list(metadata={"k": "1"})] == [other.id, running.id]
    assert [job.id for job in client.fine_tuning.jobs.list(metadata={"k": "2", 'a"b': ""})] == [queued.id]
    assert list(client.fine_tuning.jobs.list(metadata={"k": "3"})) == []
    assert list(client.fine_tuning.jobs.list(extra_query={"metadata": "null"})) == []
    with pytest.raises(BadRequestError, match="limit"):
        client.fine_tuning.jobs.list(limit=0)
    with pytest.raises(BadRequestError, match="Unrecognized request argument supplied: colour"):
        client.fine_tuning.jobs.list(extra_query={"colour": "red"})
    # sampling goes on between the steps of the running job
    assert client.completions.create(model=TINY, prompt="a", max_tokens=2).choices
    with pytest.raises(BadRequestError, match="in use by job"):
        client.files.delete(running.training_file)
    for job in (queued, running, other):
        assert client.fine_tuning.jobs.cancel(job.id).status == "cancelled"
        with pytest.raises(BadRequestError, match="already been cancelled"):
            client.fine_tuning.jobs.cancel(job.id)
    quick = fine_tune(facts(4), hyperparameters={"n_epochs": 1})
    assert quick.status == "succeeded"
    assert client.fine_tuning.jobs.retrieve(running.id).fine_tuned_model is None
    assert client.files.delete(running.training_file).deleted


def test_a_job_goes_on_after_a_restart_with_the_same_weights(
    tiny_store: Path, serve: Callable[..., TestClient], fine_tune: Callable[..., Any], client: OpenAI
) -> None:
    options: dict[str, Any] = {"hyperparameters": {"n_epochs": 12, "batch_size": 2}, "seed": 5}
    undisturbed = fine_tune(facts(20), **options)
    stopped = fine_tune(facts(20), wait=False, **options)
    deadline = wait_for_checkpoint(client, stopped.id)
    client._client.__exit__(None, None, None)  # type: ignore[attr-defined]
    http = serve(tiny_store)
    again = official(http)
    job = wait_for(again, stopped.id)
    assert job.status == "succeeded"
    prints = [again.models.retrieve(done.fine_tuned_model).fingerprint for done in (undisturbed, job)]  # type: ignore[attr-defined]
    assert prints[0] == prints[1]
    events = list(again.fine_tuning.jobs.list_events(job.id, limit=1000))
    assert [event.data["step"] for event in reversed(events) if event.type == "metrics"] == list(range(1, 121))
    if deadline < 12:
        assert any(event.message == "Fine-tuning job taken up again" for event in events)


def test_a_job_changes_together_with_its_log_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path)
    store.add_job({"id": "ftjob-a", "status": "queued"}, messages=["made"])

    def cut_off(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("tuning_server.store._log", cut_off)
        with pytest.raises(KeyboardInterrupt):
            store.update_job("ftjob-a", {"status": "running"}, only=["queued"], messages=["begun"])
    assert store.job_status("ftjob-a") == "queued"
    assert store.update_job("ftjob-a", {"status": "running"}, only=["queued"], messages=["begun"])
    assert not store.update_job("ftjob-a", {"status": "running"}, only=["queued"], messages=["begun again"])
    events, _ = store.page("events", after=None, limit=9, ascending=True)
    assert [event["message"] for event in events] == ["made", "begun"]
