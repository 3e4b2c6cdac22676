"""Kill -9 at random moments under load: is the store whole each time, is nothing lost, do jobs end as if undisturbed?

Clients upload and delete files, start jobs (supervised, DPO, LoRA) and sample; the server is killed, its store checked,
and the next one started over it. Moments that chance hardly finds are gone through one by one: a job is killed before
each change of a file or of the database. ``KILLS=25`` asks for more kills than the few of ``make test``,
``KILLS_SEED=1`` for others; what is killed was forked from a process that has torch already, which saves seconds.
"""

from __future__ import annotations

import csv
import hashlib
import io
import itertools
import multiprocessing
import os
import random
import shutil
import signal
import sqlite3
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import pytest
from busy import Acknowledged, Load, begin, fingerprint, kinds
from openai import OpenAI
from serving import address, content, grow, official, wait_for
from starlette.testclient import TestClient

from tuning_server.__main__ import main
from tuning_server.app import make_app
from tuning_server.store import Store
from tuning_server.trainer import Trainer
from tuning_server.types import Settings
from tuning_server.worker import Worker

N_KILLS = int(os.environ.get("KILLS") or 4)
IS_FULL = N_KILLS >= 25
SEED = int(os.environ.get("KILLS_SEED") or 0)
MOMENTS_S = (0.05, 2.0)  # after the server was found at work; drawn uniformly
PATIENCE_S = 600
REMAINDERS = ("files/.*", "tuned/*/.writing-*", "tuned/*/.gone-*", "tuned/*/state-*")
CHANGES = {"os.mkdir", "os.rename", "os.remove", "os.rmdir"}  # audit events; a file that is opened to write is one too
TAKEN_UP = "Fine-tuning job taken up again"
Fork = Callable[..., ForkServerProcess]
Start = Callable[[Path], "tuple[ForkServerProcess, str]"]


def run_server(store: Path, log: Path) -> None:
    """What a forked process does: the command itself, its log in a file."""
    with log.open("a") as file:
        os.dup2(file.fileno(), 2)
    sys.exit(main(["serve", "--port", "0", "--store", str(store), "--threads", "1"]))


def do_jobs(store: Path, fatal: int) -> None:
    """Do the jobs of a store as the engine's thread does, and be killed just before the change of this number."""
    from tuning_server.engine.cache import ModelCache

    n_changes, transaction = itertools.count(), Store._transaction

    def change() -> None:
        if next(n_changes) == fatal:
            os.kill(os.getpid(), signal.SIGKILL)

    def hear(event: str, args: tuple[Any, ...]) -> None:
        if event in CHANGES or (event == "open" and isinstance(args[2], int) and args[2] & os.O_CREAT):
            change()

    @contextmanager
    def counted(self: Store) -> Iterator[sqlite3.Connection]:
        change()
        with transaction(self) as db:
            yield db

    opened, cache = Store(store), ModelCache(store)
    Store._transaction = counted  # type: ignore[method-assign]
    sys.addaudithook(hear)
    trainer = Trainer(Settings(store=store), opened)
    while trainer.has_work():
        trainer.advance(cache)
    store.with_suffix(".changes").write_text(str(next(n_changes)))


@pytest.fixture
def fork(monkeypatch: pytest.MonkeyPatch) -> Iterator[Fork]:
    """Calls functions in processes of their own; what still runs at the end of the test is killed."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PYTHONWARNINGS", "ignore:resource_tracker:UserWarning")  # of locks that no killed server freed
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")  # else what one process writes, the next one need not
    forking = multiprocessing.get_context("forkserver")
    modules = ["process", "engine.training", "engine.sampling"]
    forking.set_forkserver_preload([f"tuning_server.{name}" for name in modules])
    running = []

    def go(target: Callable[..., None], *args: Any) -> ForkServerProcess:
        process = forking.Process(target=target, args=args)
        process.start()
        running.append(process)
        return process

    yield go
    for process in running:
        process.kill()
        process.join()


@pytest.fixture
def start(fork: Fork) -> Start:
    """Starts servers."""

    def go(store: Path) -> tuple[ForkServerProcess, str]:
        process = fork(run_server, store, store.with_suffix(".log"))
        assert process.pid is not None
        return process, str(address(store, process.pid, lambda: process.exitcode)["url"])

    return go


@dataclass(frozen=True)
class Outcome:
    """All of a job that is the same however often it was interrupted."""

    weights: dict[str, str]  # SHA-256, by the folder that they lie in
    metrics: list[dict[str, Any]]
    messages: list[str]  # less what a start of the engine tells
    checkpoints: list[tuple[int, dict[str, Any]]]
    results: str


def outcome(client: OpenAI, store: Path, job: Any) -> Outcome:
    """Read what a job that succeeded left behind."""
    jobs = client.fine_tuning.jobs
    folder = store / "tuned" / job.fine_tuned_model.rsplit(":", 1)[1]
    weights = {
        path.parent.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("*/*.safetensors")
    }
    events = list(jobs.list_events(job.id, limit=100))[::-1]
    metrics = [
        {name: value for name, value in event.data.items() if name != "tokens_per_second"}
        for event in events
        if event.type == "metrics"
    ]
    messages = [event.message for event in events if event.type == "message"]
    messages = [
        message.replace(job.id, "<job>").replace(job.fine_tuned_model, "<model>")
        for message in messages
        if message != TAKEN_UP and not message.startswith("Training on ")
    ]
    checkpoints = [
        (checkpoint.step_number, checkpoint.metrics.model_dump())
        for checkpoint in jobs.checkpoints.list(job.id, limit=100)
    ]
    return Outcome(weights, metrics, messages, checkpoints, client.files.content(job.result_files[0]).text)


@contextmanager
def connected(store: Path) -> Iterator[OpenAI]:
    """The official client of a server in this process."""
    with TestClient(make_app(Settings(store=store, allow_hosts=frozenset({"testserver"})))) as http:
        yield official(http)


def verify(client: OpenAI, known: Acknowledged) -> None:
    """Hold the server that came after a kill to what the one before acknowledged."""
    there = {file.id for file in client.files.list()}
    assert not there & known.deleted
    for file_id, digest in list(known.files.items()):
        assert hashlib.sha256(client.files.content(file_id).read()).hexdigest() == digest
    jobs = {job.id: job for job in client.fine_tuning.jobs.list(limit=100)}
    assert known.jobs <= set(jobs)
    assert not [job for job in jobs.values() if job.status in ("failed", "cancelled", "paused")]
    assert set(known.models) <= {job.fine_tuned_model for job in jobs.values() if job.status == "succeeded"}
    for job_id, ids in known.checkpoints.items():
        assert ids <= {checkpoint.id for checkpoint in client.fine_tuning.jobs.checkpoints.list(job_id, limit=100)}
    for model, told in known.models.items():
        assert fingerprint(client, model) == told
        client.completions.create(model=model, prompt="The red fox", max_tokens=2)


def where(store: Path, load: Load) -> Iterator[str]:
    """What a kill interrupted, as far as the store and the clients can tell."""
    yield from (f"{what} cut off" for what in load.cut)
    yield from (f"{pattern} left" for pattern in REMAINDERS[:3] if [*store.glob(pattern)])
    with closing(sqlite3.connect(store / "server.db")) as db:
        told = db.execute("SELECT 1 FROM jobs WHERE status = 'running' AND body LIKE '%\"_n_tokens\"%'").fetchall()
    yield "job running" if told else "no job running"


def check(store: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Check a store, which must be whole and stay as it is; what is worth knowing of it."""
    before = content(store)
    code = main(["check", "--store", str(store)])
    said = capsys.readouterr().out
    assert said.splitlines()[-1] == "nothing is wrong", said
    assert code == 0, said
    assert content(store) == before
    return [line for line in said.splitlines() if line.startswith("note")]


def test_kills_under_load(start: Start, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    calm, store = tmp_path / "calm", tmp_path / "store"
    for folder in (calm, store):
        grow(folder)
    process, url = start(calm)
    undisturbed = OpenAI(base_url=url, api_key="any")
    references = {kind: begin(undisturbed, asked).id for kind, asked in kinds(undisturbed).items()}

    rng, known, hit, n_notes = random.Random(SEED), Acknowledged(), Counter[str](), 0
    process, url = start(store)
    wanted = kinds(OpenAI(base_url=url, api_key="any"))
    for _ in range(N_KILLS):
        load = Load(url, known, wanted, rng)
        load.start()
        deadline = time.monotonic() + PATIENCE_S
        while not load.is_on:
            assert time.monotonic() < deadline, load.done
            time.sleep(0.01)
        time.sleep(rng.uniform(*MOMENTS_S))
        process.kill()
        process.join()
        load.join()
        n_notes += len(check(store, capsys))
        hit.update(where(store, load))
        process, url = start(store)
        verify(OpenAI(base_url=url, api_key="any"), known)

    client = OpenAI(base_url=url, api_key="any")
    expected = {}
    for kind, job_id in references.items():
        job = wait_for(undisturbed, job_id, patience_s=PATIENCE_S)
        expected[kind] = outcome(undisturbed, calm, job)
        steps = [data["step"] for data in expected[kind].metrics]
        assert steps == list(range(1, expected[kind].metrics[0]["total_steps"] + 1))
        assert len(expected[kind].weights) == len(expected[kind].checkpoints) > 5
        assert len(list(csv.DictReader(io.StringIO(expected[kind].results)))) == len(steps)
    again = Counter[str]()
    jobs = list(client.fine_tuning.jobs.list(limit=100))
    for job in jobs:
        done = wait_for(client, job.id, patience_s=PATIENCE_S)
        assert done.status == "succeeded", done.error
        assert outcome(client, store, done) == expected[done.metadata["kind"]], done
        messages = [event.message for event in client.fine_tuning.jobs.list_events(job.id, limit=100)]
        if n_times := messages.count(TAKEN_UP):
            again.update({f"{done.metadata['kind']} jobs": 1, "times": n_times})
    verify(client, known)
    process.terminate()
    process.join()
    assert process.exitcode == 0
    check(store, capsys)
    assert [path for pattern in REMAINDERS for path in store.glob(pattern)] == []
    with closing(sqlite3.connect(store / "server.db")) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    told = f"{N_KILLS} kills (seed {SEED}): {dict(hit)}; of {len(jobs)} jobs taken up again: {dict(again)}"
    print(f"{told}; {n_notes} notes of the checks")
    assert again["times"]


@pytest.mark.parametrize("kind", ["supervised", "dpo", "lora"] if IS_FULL else ["dpo"])
def test_kills_before_every_change(
    kind: str, fork: Fork, tiny_store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(Worker, "start", lambda self: None)  # the job is to wait
        with connected(tiny_store) as client:
            job_id = begin(client, kinds(client, n_epochs=2, batch_size=20)[kind]).id
    calm = tiny_store.with_name("calm")
    shutil.copytree(tiny_store, calm)
    fork(do_jobs, calm, -1).join()
    n_changes = int(calm.with_suffix(".changes").read_text())
    with connected(calm) as client:
        expected = outcome(client, calm, client.fine_tuning.jobs.retrieve(job_id))
    stride = 1 if IS_FULL else n_changes // N_KILLS
    for fatal in range(SEED % stride, n_changes, stride):
        store = tiny_store.with_name(f"killed-{fatal}")
        shutil.copytree(tiny_store, store)
        process = fork(do_jobs, store, fatal)
        process.join()
        assert process.exitcode == -signal.SIGKILL
        check(store, capsys)
        with connected(store) as client:
            done = wait_for(client, job_id, patience_s=PATIENCE_S)
            assert done.status == "succeeded", done.error
            assert outcome(client, store, done) == expected, f"killed before change {fatal} of {n_changes}"
        assert [path for pattern in REMAINDERS for path in store.glob(pattern)] == []
        shutil.rmtree(store)
    print(f"{kind}: killed before every {stride}. of {n_changes} changes")
