"""Jobs that a launcher trains in processes of their own: the same weights, pauses, kills, and errors in words."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from openai import OpenAI
from safetensors.torch import load_file
from serving import TINY, facts, jsonl, official, preferences, upload, wait_for, wait_for_checkpoint
from starlette.testclient import TestClient

from tuning_server.app import make_app
from tuning_server.types import Settings

TWO = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")  # accelerate: GPUs only
SHARDED = (*TWO, str(Path(__file__).parents[1] / "helpers" / "sharded.py"))


@pytest.fixture
def connect(tiny_store: Path, serve: Callable[..., TestClient]) -> Callable[..., OpenAI]:
    """Starts a server over the tiny base with a launcher; one at a time."""
    return lambda launcher=(): official(serve(tiny_store, launcher=launcher))


def begin(client: OpenAI, kind: str = "supervised", **hyperparameters: Any) -> Any:
    hyperparameters = {"n_epochs": 3, "batch_size": 5, **hyperparameters}
    rows, held_out = (preferences(18), preferences(5)) if kind == "dpo" else (facts(18), facts(5))
    files = [upload(client, jsonl(each)).id for each in (rows, held_out)]
    return client.fine_tuning.jobs.create(
        model=TINY, training_file=files[0], validation_file=files[1], seed=0,
        method={"type": kind, kind: {"hyperparameters": hyperparameters}},
    )  # fmt: skip


def weights(store: Path, job: Any, step: str = "final") -> dict[str, torch.Tensor]:
    (file,) = (store / "tuned" / job.fine_tuned_model.rpartition(":")[2] / step).glob("*.safetensors")
    return load_file(file)


@pytest.mark.parametrize(
    ("kind", "options", "launcher"),
    [("supervised", {}, TWO), ("dpo", {}, TWO), ("supervised", {"lora": {"rank": 2}}, TWO),
     ("supervised", {}, SHARDED)],
    ids=["sft", "dpo", "lora", "fsdp"],
)  # fmt: skip
def test_two_processes_end_with_the_weights_of_one(
    connect: Callable[..., OpenAI], tiny_store: Path, kind: str, options: dict[str, Any],
    launcher: tuple[str, ...], serve: Callable[..., TestClient], tmp_path: Path,
) -> None:  # fmt: skip
    shutil.copytree(tiny_store, tmp_path / "other")
    alone, together = official(serve(tmp_path / "other")), connect(launcher)
    jobs = [begin(client, kind, **options) for client in (alone, together)]
    done = [wait_for(client, job.id, patience_s=120) for client, job in zip((alone, together), jobs, strict=True)]
    assert [job.status for job in done] == ["succeeded"] * 2, done[1].error
    for step in ("step-4", "final"):
        one, two = weights(tmp_path / "other", done[0], step), weights(tiny_store, done[1], step)
        assert one.keys() == two.keys()
        assert max((one[name] - two[name]).abs().max().item() for name in one) < 1e-5
    losses = [
        [(each.step_number, each.metrics.full_valid_loss, each.metrics.train_loss)
         for each in client.fine_tuning.jobs.checkpoints.list(job.id)]
        for client, job in zip((alone, together), done, strict=True)
    ]  # fmt: skip
    assert losses[1] == [pytest.approx(each, abs=1e-4) for each in losses[0]]
    left = {path.name for path in (tiny_store / "tuned").glob("*/*")}
    assert left == {"step-4", "step-8", "final"}


def processes(folder: Path) -> list[int]:
    """Ids of the processes that train in a folder, without the launcher."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if str(folder).encode() in words and b"torch.distributed.run" not in words:
            found.append(int(path.parent.name))
    return sorted(found)


def test_a_killed_process_fails_its_job_which_can_be_resumed(connect: Callable[..., OpenAI], tiny_store: Path) -> None:
    client = connect(TWO)
    job = begin(client, n_epochs=60)
    n_before = wait_for_checkpoint(client, job.id)
    (folder,) = (tiny_store / "tuned").glob("*")
    both = processes(folder)
    assert len(both) == 2
    os.kill(both[-1], signal.SIGKILL)
    failed = wait_for(client, job.id, patience_s=120)
    assert (failed.status, failed.error.code) == ("failed", "training_interrupted")
    assert "Resume the job" in failed.error.message
    assert not processes(folder)
    client.fine_tuning.jobs.resume(job.id)
    done = wait_for(client, job.id, patience_s=120)
    assert (done.status, done.error) == ("succeeded", None)
    steps = [each.step_number for each in client.fine_tuning.jobs.checkpoints.list(job.id)]
    assert sorted(steps) == [4 * epoch for epoch in range(1, 61)]
    messages = [event.message for event in client.fine_tuning.jobs.list_events(job.id, limit=100)]
    assert "Fine-tuning job taken up again" in messages
    assert n_before >= 1


@pytest.mark.parametrize(
    ("launcher", "code", "message"),
    [
        (("no-such-launcher",), "launcher_not_found", "The launcher 'no-such-launcher' cannot be started"),
        ((sys.executable, "-c", "raise SystemExit('no GPU here')"), "training_interrupted", "exit code 1: no GPU here"),
        ((sys.executable, "-c", "pass"), "training_interrupted", "exit code 0: they printed nothing"),
    ],
)
def test_a_launcher_that_does_not_train_fails_the_job_in_words(
    connect: Callable[..., OpenAI], launcher: tuple[str, ...], code: str, message: str
) -> None:
    client = connect(launcher)
    failed = wait_for(client, begin(client).id)
    assert (failed.status, failed.error.code) == ("failed", code)
    assert message in failed.error.message


def test_an_error_in_a_process_is_the_error_of_the_job(connect: Callable[..., OpenAI]) -> None:
    client = connect(SHARDED)
    failed = wait_for(client, begin(client, lora={"rank": 2}).id, patience_s=120)
    assert failed.status == "failed"
    assert "exit code 1: ValueError: adapters (LoRA) are trained on whole weights" in failed.error.message


@contextmanager
def server(store: Path, launcher: tuple[str, ...]) -> Iterator[OpenAI]:
    with TestClient(make_app(Settings(store=store, launcher=launcher, allow_hosts=frozenset({"testserver"})))) as http:
        yield official(http)


def test_what_one_process_began_others_end(tiny_store: Path, tmp_path: Path) -> None:
    """A state has one format, whoever wrote it; sampling goes on while processes of a launcher train."""
    shutil.copytree(tiny_store, tmp_path / "other")
    with server(tmp_path / "other", ()) as client:
        expected = wait_for(client, begin(client, n_epochs=10).id)
    with server(tiny_store, ()) as client:
        job = begin(client, n_epochs=10)
        n_before = wait_for_checkpoint(client, job.id)
        client.fine_tuning.jobs.pause(job.id)
    (folder,) = (tiny_store / "tuned").glob("*")
    with server(tiny_store, SHARDED) as client:
        client.fine_tuning.jobs.resume(job.id)
        while wait_for_checkpoint(client, job.id) <= n_before:
            pass
        client.completions.create(model=TINY, prompt="The fox", max_tokens=4)
        assert len(processes(folder)) == 2
        client.fine_tuning.jobs.pause(job.id)
        while processes(folder):
            time.sleep(0.05)
        assert len([*folder.glob("state-*")]) == 1
    with server(tiny_store, TWO) as client:
        client.fine_tuning.jobs.resume(job.id)
        done = wait_for(client, job.id, patience_s=120)
    assert done.status == "succeeded", done.error
    one, two = weights(tmp_path / "other", expected), weights(tiny_store, done)
    assert max((one[name] - two[name]).abs().max().item() for name in one) < 1e-5
