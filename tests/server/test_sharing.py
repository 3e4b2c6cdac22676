"""Several servers over one registry: each content is trained once, whoever asks for it, and a kill loses nothing."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from openai import NotFoundError, OpenAI, PermissionDeniedError
from serving import (
    TINY,
    address,
    facts,
    jsonl,
    launch,
    official,
    served,
    speak,
    upload,
    wait_for,
    wait_for_checkpoint,
    wait_for_engine,
)
from starlette.testclient import TestClient

import tuning_server.models
from tuning_server.__main__ import main
from tuning_server.disk import file_hash
from tuning_server.engine.registry import list_models

SETTINGS: dict[str, Any] = {"n_epochs": 3, "batch_size": 4}
N_KILLS = int(os.environ.get("KILLS") or 4)
SEED = int(os.environ.get("KILLS_SEED") or 0)


@pytest.fixture
def registry(grown_store: Path, tmp_path: Path) -> Path:
    shutil.copytree(grown_store, tmp_path / "registry")
    return tmp_path / "registry"


@pytest.fixture
def connect(registry: Path, tmp_path: Path, serve: Callable[..., TestClient]) -> Callable[[str], OpenAI]:
    """Starts servers with stores of their own over the registry."""
    return lambda name: official(serve(tmp_path / name, registry=registry))


def begin(client: OpenAI, *, rows: int = 16, seed: int = 0, suffix: str = "", **settings: Any) -> Any:
    file = upload(client, jsonl(facts(rows)))
    return client.fine_tuning.jobs.create(
        model=TINY, training_file=file.id, validation_file=file.id, seed=seed, suffix=suffix,
        hyperparameters=SETTINGS | settings,
    )  # fmt: skip


def messages(client: OpenAI, job: Any) -> str:
    return "\n".join(event.message for event in client.fine_tuning.jobs.list_events(job.id, limit=100))


def losses(client: OpenAI, job: Any) -> list[Any]:
    found = client.fine_tuning.jobs.checkpoints.list(job.id, limit=100)
    return [(each.step_number, each.fine_tuned_model_checkpoint, each.metrics.model_dump()) for each in found]


def test_what_one_server_trained_is_used_by_another(connect: Callable[[str], OpenAI], registry: Path) -> None:
    one, other = connect("one"), connect("other")
    made = wait_for(one, begin(one, suffix="mine").id)
    assert made.status == "succeeded", made.error
    used = wait_for(other, begin(other, suffix="yours").id)
    assert (used.status, used.fine_tuned_model) == ("succeeded", made.fine_tuned_model)
    assert "Not trained" in messages(other, used)
    assert losses(other, used) == losses(one, made)
    tables = [client.files.content(job.result_files[0]).text for client, job in ((one, made), (other, used))]
    assert tables[0] == tables[1]
    texts = {client.completions.create(model=made.fine_tuned_model, prompt="Q1 is", temperature=0).choices[0].text
             for client in (one, other)}  # fmt: skip
    assert len(texts) == 1
    for changed in ({"seed": 1}, {"rows": 20}, {"batch_size": 2}, {"n_epochs": 1}):
        fresh = wait_for(other, begin(other, **changed).id)
        assert fresh.fine_tuned_model != made.fine_tuned_model, changed
    assert len([info for info in list_models(registry) if info.folder.name == "final"]) == 5


def test_a_deleted_fine_tune_is_trained_again(connect: Callable[[str], OpenAI], registry: Path) -> None:
    one, other = connect("one"), connect("other")
    made = wait_for(one, begin(one).id)
    first = losses(one, made)
    for model in [each[1] for each in first]:
        one.models.delete(model)
    assert not [*(registry / "tuned").glob("*/")]
    with pytest.raises(NotFoundError):
        other.models.retrieve(made.fine_tuned_model)
    again = wait_for(other, begin(other).id)
    assert again.fine_tuned_model == made.fine_tuned_model
    assert "Not trained" not in messages(other, again)
    assert losses(other, again) == first


def test_two_servers_train_one_content_once(connect: Callable[[str], OpenAI], registry: Path) -> None:
    clients = [connect("one"), connect("other")]
    jobs = [begin(client, n_epochs=40) for client in clients]
    wait_for_checkpoint(clients[0], jobs[0].id)
    meanwhile = wait_for(clients[1], begin(clients[1], seed=5).id)  # whoever waits does something else
    assert meanwhile.status == "succeeded"
    done = [wait_for(client, job.id) for client, job in zip(clients, jobs, strict=True)]
    assert {job.status for job in done} == {"succeeded"}
    assert len({job.fine_tuned_model for job in done}) == 1
    logs = [messages(client, job) for client, job in zip(clients, done, strict=True)]
    assert sorted("Not trained" in log for log in logs) == [False, True]
    assert len([info for info in list_models(registry) if info.folder.name == "final"]) == 2
    assert not [*(registry / "tuned").glob("*/state-*")]


def test_a_run_that_servers_train_in_turn_has_every_step_once(connect: Callable[[str], OpenAI]) -> None:
    clients, jobs = [connect("one"), connect("other")], []
    for client in clients:
        jobs.append(begin(client, n_epochs=40))
        wait_for_checkpoint(client, jobs[-1].id)
        client.fine_tuning.jobs.pause(jobs[-1].id)
        wait_for_engine(client)
    for client, job in zip(clients, jobs, strict=True):
        client.fine_tuning.jobs.resume(job.id)
        assert wait_for(client, job.id).status == "succeeded"
        events = client.fine_tuning.jobs.list_events(job.id, limit=1000)
        assert sorted(event.data["step"] for event in events if event.type == "metrics") == [*range(1, 161)]
        assert len(losses(client, job)) == 40


def test_two_contents_of_one_short_id_are_kept_apart(connect: Callable[[str], OpenAI], registry: Path) -> None:
    one, other = connect("one"), connect("other")
    made = wait_for(one, begin(one).id)
    (record,) = registry.glob("tuned/*/job.json")
    record.write_text(json.dumps(json.loads(record.read_text()) | {"key": "0" * 32}))
    failed = wait_for(other, begin(other).id)
    assert (failed.status, failed.error.param) == ("failed", "seed")
    assert one.completions.create(model=made.fine_tuned_model, prompt="Q1 is").choices


def test_a_cancelled_job_leaves_what_another_server_trains(connect: Callable[[str], OpenAI]) -> None:
    one, other = connect("one"), connect("other")
    kept = begin(one, n_epochs=40)
    wait_for_checkpoint(one, kept.id)
    waiting = wait_for(other, begin(other, n_epochs=40).id, status=("queued",))
    other.fine_tuning.jobs.cancel(waiting.id)
    assert wait_for(one, kept.id).status == "succeeded"
    assert other.fine_tuning.jobs.retrieve(waiting.id).status == "cancelled"


def test_a_server_that_vanishes_loses_no_content(
    registry: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stores, processes = [tmp_path / "one", tmp_path / "other"], []
    try:
        for store in stores:
            processes.append(launch(store, "--port", "0", "--registry", str(registry), log=store.with_suffix(".log")))
        clients = [speak(str(address(store, process.pid, process.poll)["url"]).removesuffix("/v1"))
                   for store, process in zip(stores, processes, strict=True)]  # fmt: skip
        jobs = [begin(client, n_epochs=100) for client in clients]
        wait_for_checkpoint(clients[0], jobs[0].id)
        os.kill(processes[0].pid, signal.SIGKILL)
        done = wait_for(clients[1], jobs[1].id)
        assert done.status == "succeeded", done.error
        assert len(losses(clients[1], done)) == 100
    finally:
        for process in processes:
            process.terminate()
            process.wait()
    for store in stores:
        assert main(["check", "--store", str(store), "--registry", str(registry)]) == 0, capsys.readouterr().out
    (tuned,) = (registry / "tuned").glob("*/")
    assert not [*tuned.glob("state-*"), *tuned.glob(".*")]


def hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of the weights of a run, by folder."""
    return {path.parent.name: file_hash(path) for path in folder.glob("*/*.safetensors")}


def test_kills_of_two_servers_over_one_registry(
    registry: Path, grown_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng, known, used = random.Random(SEED), set[tuple[int, str]](), 0
    stores = [tmp_path / "one", tmp_path / "other"]
    processes: list[subprocess.Popen[str]] = []

    def start(k: int) -> subprocess.Popen[str]:
        return launch(stores[k], "--port", "0", "--registry", str(registry), log=stores[k].with_suffix(".log"))

    def client_of(k: int) -> OpenAI:
        url = str(address(stores[k], processes[k].pid, processes[k].poll)["url"])
        return OpenAI(base_url=url, api_key="any", max_retries=0)

    try:
        processes += [start(0), start(1)]
        clients = [client_of(0), client_of(1)]
        for kill in range(N_KILLS):
            for k, client in enumerate(clients):
                for seed in rng.sample(range(kill, kill + 3), 2):  # mostly what the other server is to train as well
                    known.add((k, begin(client, seed=seed, n_epochs=20).id))
            time.sleep(rng.uniform(0.05, 2.0))
            victim = rng.randrange(2)
            processes[victim].kill()
            processes[victim].wait()
            processes[victim] = start(victim)
            clients[victim] = client_of(victim)
        done = {(k, job): wait_for(clients[k], job, patience_s=600) for k, job in known}
        assert {job.status for job in done.values()} == {"succeeded"}
        used = sum("Not trained" in messages(clients[k], job) for (k, _), job in done.items())
        models = {(job.seed, job.fine_tuned_model) for job in done.values()}
    finally:
        for process in processes:
            process.terminate()
            process.wait()
    assert len(models) == len({seed for seed, _ in models}), "one fine-tune for each content"
    runs = [*(registry / "tuned").glob("*/")]
    assert len(runs) == len(models)
    assert not [path for run in runs for path in [*run.glob("state-*"), *run.glob(".*")]]
    for store in stores:
        assert main(["check", "--store", str(store), "--registry", str(registry)]) == 0, capsys.readouterr().out
        printed = capsys.readouterr().out
        assert printed.splitlines()[-1] == "nothing is wrong", printed
        assert "note" not in printed, printed
    shutil.copytree(grown_store, tmp_path / "calm")
    (tmp_path / "alone").mkdir()
    with served(tmp_path / "alone", "--registry", str(tmp_path / "calm")) as (_, url):
        undisturbed = OpenAI(base_url=url, api_key="any")
        for seed, model in sorted(models)[:: max(1, len(models) // 4)]:
            job = wait_for(undisturbed, begin(undisturbed, seed=seed, n_epochs=20).id)
            assert job.fine_tuned_model == model
            run = Path("tuned", model.rpartition(":")[2])
            assert hashes(tmp_path / "calm" / run) == hashes(registry / run)
    print(f"{N_KILLS} kills (seed {SEED}): {len(known)} jobs, {len(models)} fine-tunes, {used} jobs not trained")


def test_check_reports_a_damaged_fine_tune_of_the_registry(
    connect: Callable[[str], OpenAI], registry: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    client = connect("one")
    wait_for(client, begin(client).id)
    (tmp_path / "fresh").mkdir()
    assert main(["check", "--store", str(tmp_path / "fresh"), "--registry", str(registry)]) == 0
    assert "nothing is wrong" in capsys.readouterr().out
    (weights,) = (registry / "tuned").glob("*/final/*.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    assert main(["check", "--store", str(tmp_path / "fresh"), "--registry", str(registry)]) == 1
    assert "final: its weights are not those that were written" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"version": 99}', "was written by a newer version (layout 99, this one reads 1): update Tuning Fork"),
        ("{", "registry.json does not give its version"),
        ("[]", "registry.json does not give its version"),
    ],
)
def test_a_registry_that_cannot_be_used_is_refused_in_one_line(
    registry: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str, message: str
) -> None:
    (registry / "registry.json").write_text(content)
    assert main(["serve", "--port", "0", "--store", str(tmp_path / "store"), "--registry", str(registry)]) == 1
    printed = capsys.readouterr().err.splitlines()[-1]
    assert message in printed
    (tmp_path / "file").touch()
    assert main(["serve", "--port", "0", "--store", str(tmp_path / "store"), "--registry", str(tmp_path / "file")]) == 1
    assert "cannot be made or read" in capsys.readouterr().err.splitlines()[-1]


def test_a_registry_that_can_only_be_read_gives_what_it_has(
    connect: Callable[[str], OpenAI], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = connect("one"), connect("other")
    made = wait_for(one, begin(one).id)

    def read_only(*_: Any) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("tuning_server.trainer.run_lock", read_only)
    used, failed = wait_for(other, begin(other).id), wait_for(other, begin(other, seed=1).id)
    assert (used.status, used.fine_tuned_model) == ("succeeded", made.fine_tuned_model)
    assert failed.error.message.endswith("cannot be written (Read-only file system).")
    monkeypatch.setattr(tuning_server.models, "drop", read_only)
    with pytest.raises(PermissionDeniedError, match="can only be read"):
        other.models.delete(made.fine_tuned_model)


def test_jobs_fail_in_words_where_the_registry_cannot_be_written(
    connect: Callable[[str], OpenAI], registry: Path
) -> None:
    client = connect("one")
    (registry / "tuned").rmdir() if (registry / "tuned").is_dir() else None
    (registry / "tuned").write_text("a file in the way")
    failed = wait_for(client, begin(client).id)
    assert failed.status == "failed"
    assert failed.error.code == "registry_not_writable"
    assert str(registry) in failed.error.message
    assert client.completions.create(model=TINY, prompt="a", max_tokens=1).choices
    (registry / "tuned").unlink()
    assert wait_for(client, begin(client).id).status == "succeeded"


def test_a_registry_says_its_version(connect: Callable[[str], OpenAI], registry: Path, tmp_path: Path) -> None:
    from tuning_server.sharing import VERSION, open_registry

    open_registry(tmp_path / "new" / "one")
    assert json.loads((tmp_path / "new" / "one" / "registry.json").read_text()) == {"version": VERSION}
