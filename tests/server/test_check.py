"""``python -m tuning_server check``: what it finds, what it mends, and what a damaged model says of itself."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from openai import NotFoundError
from serving import TINY, content, facts, jsonl, official, upload, wait_for, wait_for_checkpoint, wait_for_engine
from starlette.testclient import TestClient

from tuning_server.__main__ import main
from tuning_server.app import make_app
from tuning_server.engine.registry import drop
from tuning_server.holding import hold
from tuning_server.types import Settings


@pytest.fixture(scope="module")
def lived_in(grown_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store as a kill leaves it (journal and all), with a job that succeeded and one that is paused."""
    store = tmp_path_factory.mktemp("lived") / "store"
    shutil.copytree(grown_store, store)
    with TestClient(make_app(Settings(store=store, allow_hosts=frozenset({"testserver"})))) as http:
        client = official(http)
        file = upload(client, jsonl(facts(8)))
        settings: dict[str, Any] = {"model": TINY, "training_file": file.id, "seed": 0}
        quick = {"n_epochs": 2, "batch_size": 4}
        job = client.fine_tuning.jobs.create(hyperparameters=quick, suffix="done", **settings)  # type: ignore[arg-type]
        assert wait_for(client, job.id).status == "succeeded"
        long = client.fine_tuning.jobs.create(
            hyperparameters={"n_epochs": 9, "batch_size": 1}, suffix="paused", **settings
        )
        wait_for_checkpoint(client, long.id)
        client.fine_tuning.jobs.pause(long.id)
        upload(client, jsonl(facts(2)), "unused.jsonl")
        wait_for_engine(client)  # the paused step is written down
        shutil.copytree(store, store.with_name("killed"))
    return store.with_name("killed")


@pytest.fixture
def store(lived_in: Path, tmp_path: Path) -> Path:
    shutil.copytree(lived_in, tmp_path / "store")
    return tmp_path / "store"


@pytest.fixture
def run(store: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Runs the command; its exit code and what it said."""

    def go(*options: str) -> tuple[int, str]:
        code = main(["check", "--store", str(store), *options])
        said = capsys.readouterr()
        return code, said.out + said.err

    return go


def change(store: Path, sql: str) -> None:
    with closing(sqlite3.connect(store / "server.db")) as db, db:
        db.execute(sql)


def one(store: Path, pattern: str) -> Path:
    return sorted(store.glob(pattern))[0]


def done(store: Path) -> Path:
    """The run of the job that succeeded."""
    return one(store, "tuned/*/final").parent


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path) -> None:
    """Change the last byte: no length tells of it."""
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


def test_a_store_that_was_killed_is_clean_and_left_as_it_is(store: Path, run: Callable[..., tuple[int, str]]) -> None:
    assert (store / "server.db-wal").stat().st_size > 0, "as after kill -9"
    before = content(store)
    code, said = run()
    assert (code, said.splitlines()[-1]) == (0, "nothing is wrong")
    assert "looked at: 3 files, 2 jobs, 3 checkpoints" in said
    assert content(store) == before
    assert run("--repair")[0] == 0
    assert content(store) == before


CANCEL = """UPDATE jobs SET status = 'cancelled', body = json_set(body, '$.status', 'cancelled')
            WHERE status = 'succeeded'"""
DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "bytes gone": (lambda s: one(s, "files/*.csv").unlink(), "('step_metrics.csv'): its bytes are gone"),
    "bytes cut": (lambda s: cut(one(s, "files/*.csv")), "bytes are there,"),
    "model cut": (lambda s: cut(done(s) / "final" / "model.safetensors"), "model.safetensors is damaged or cut short"),
    "model changed": (lambda s: flip(done(s) / "step-2" / "model.safetensors"), "not those that were written"),
    "model empty": (lambda s: (done(s) / "step-2" / "model.safetensors").unlink(), "step-2: it holds no weights"),
    "card cut": (lambda s: cut(done(s) / "step-2" / "tuned.json"), "step-2: tuned.json is not JSON"),
    "card gone": (lambda s: (done(s) / "step-2" / "tuned.json").unlink(), "no tuned.json that says what it is"),
    "checkpoint gone": (lambda s: shutil.rmtree(done(s) / "step-2"), "weights of its checkpoint at step 2 are gone"),
    "state cut": (lambda s: cut(one(s, "tuned/*/state-*/optimizer.safetensors")), "optimizer.safetensors is damaged"),
    "folder of nobody": (lambda s: (s / "tuned" / "aaaaaaaa").mkdir(), "left by a job that the database does not know"),
    "base cut": (lambda s: cut(one(s, "bases/*@*/init/*.safetensors")), "init: its file model.safetensors is damaged"),
    "base without config": (lambda s: one(s, "bases/*@*/init/config.json").unlink(), "it has no config.json"),
    "row not JSON": (lambda s: change(s, "UPDATE events SET body = '{' WHERE seq = 2"), "in events is not JSON"),
}  # fmt: skip
REMAINDERS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "upload cut off": (lambda s: (s / "files" / "file-x.part").touch(), "file-x.part: the writing of it was cut off"),
    "bytes alone": (lambda s: (s / "files" / "file-x.jsonl").touch(), "belongs to no file that the database knows"),
    "half written": (lambda s: (done(s) / ".writing-1").mkdir(), "/.writing-1: half written"),
    "half deleted": (lambda s: (done(s) / ".gone-1").mkdir(), "/.gone-1: half deleted"),
    "checkpoint unknown": (lambda s: change(s, "DELETE FROM checkpoints WHERE step = 2"),
                           "step-2: a checkpoint that the database does not know"),
    "final unknown": (lambda s: change(s, "DELETE FROM checkpoints WHERE step = 4"),
                      "final: a checkpoint that the database does not know"),
    "final of one cancelled": (lambda s: (change(s, CANCEL), change(s, "DELETE FROM checkpoints WHERE step = 4")),
                               "final: a final model of a job that cancelled"),
    "state left": (lambda s: (done(s) / "state-2").mkdir(), "state-2: a state of a job that has ended (succeeded)"),
}  # fmt: skip


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_found_and_mended(store: Path, run: Callable[..., tuple[int, str]], kind: str) -> None:
    damage, words = DAMAGE[kind]
    damage(store)
    before = content(store)
    code, said = run()
    assert code == 1
    assert words in said
    assert "-> with --repair: " in said
    assert content(store) == before, "it only looks"
    code, said = run("--repair")
    assert code == 0, said
    assert words in said
    assert "mended" in said
    code, said = run()
    assert (code, said.splitlines()[-1]) == (0, "nothing is wrong")


@pytest.mark.parametrize("kind", REMAINDERS)
def test_what_a_kill_leaves_half_done_is_no_problem(
    store: Path, run: Callable[..., tuple[int, str]], kind: str
) -> None:
    leave, words = REMAINDERS[kind]
    leave(store)
    code, said = run()
    assert (code, said.splitlines()[-1]) == (0, "nothing is wrong")
    assert [line for line in said.splitlines() if words in line and line.startswith("note ")]
    assert "-> with --repair: " in said
    assert run("--repair")[0] == 0
    assert words not in run()[1]


def test_a_deletion_that_a_kill_cut_off_leaves_no_half_state(
    store: Path, run: Callable[..., tuple[int, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    state = one(store, "tuned/*/state-*")
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "rmtree", lambda folder, **_: (folder / "model.safetensors").unlink())
        drop(state)
    assert not state.exists()
    code, said = run()
    assert (code, said.splitlines()[-1]) == (0, "nothing is wrong")
    assert ": half deleted" in said


def test_data_are_set_aside_and_never_deleted(store: Path, run: Callable[..., tuple[int, str]]) -> None:
    weights = done(store) / "final" / "model.safetensors"
    cut(weights)
    half, name = weights.read_bytes(), weights.relative_to(store)
    assert run("--repair")[0] == 0
    assert (store / "lost" / name).read_bytes() == half
    assert not weights.exists()


def test_what_is_beyond_repair_is_told_with_what_to_do(store: Path, run: Callable[..., tuple[int, str]]) -> None:
    with closing(sqlite3.connect(store / "server.db")) as db:
        (job,) = db.execute("SELECT body FROM jobs WHERE status = 'paused'").fetchone()
    file = json.loads(job)["training_file"]
    (store / "files" / f"{file}.jsonl").unlink()
    cut(one(store, "bases/*@*/model.safetensors"))
    code, said = run("--repair")
    assert code == 1
    assert f"its training file {file} is gone" in said
    assert "upload it again" in said
    assert "make it: python -m lib.base fork-tiny" in said


def test_a_job_without_a_state_is_worth_a_note(store: Path, run: Callable[..., tuple[int, str]]) -> None:
    shutil.rmtree(one(store, "tuned/*/state-*"))
    code, said = run()
    assert code == 0
    assert "(paused) has no state: it goes on from its beginning" in said


def test_a_damaged_page_costs_its_rows_alone(
    store: Path, run: Callable[..., tuple[int, str]], serve: Callable[..., TestClient]
) -> None:
    with closing(sqlite3.connect(store / "server.db")) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        page_bytes = db.execute("PRAGMA page_size").fetchone()[0]
        root = db.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'checkpoints'").fetchone()[0]
    data = bytearray((store / "server.db").read_bytes())
    data[(root - 1) * page_bytes : root * page_bytes] = b"\xff" * page_bytes
    (store / "server.db").write_bytes(data)
    code, said = run()
    assert code == 1
    assert "problem  server.db: " in said
    assert "not looked at before the database is mended" in said
    code, said = run("--repair")
    assert code == 0, said
    assert "kept 3 files, 2 jobs, " in said
    assert "0 checkpoints" in said
    assert "final: a checkpoint that the database does not know" in said
    assert (store / "lost" / "server.db").read_bytes() == bytes(data)
    assert run()[0] == 0
    client = official(serve(store))
    paused, ended = client.fine_tuning.jobs.list()
    steps = [kept.step_number for kept in client.fine_tuning.jobs.checkpoints.list(ended.id)]
    assert steps == [4, 2], "made anew from what lies on disk"
    assert client.fine_tuning.jobs.checkpoints.list(ended.id).data[0].metrics.train_loss
    client.fine_tuning.jobs.resume(paused.id)
    assert wait_for(client, paused.id).status == "succeeded"


def test_a_database_that_is_none_is_replaced_and_models_stay(
    store: Path, run: Callable[..., tuple[int, str]], serve: Callable[..., TestClient]
) -> None:
    (store / "server.db").write_bytes(b"no database" * 1000)
    (store / "server.db-wal").unlink()
    assert run()[0] == 1
    code, said = run("--repair")
    assert code == 0, said
    assert "models of no job that the database knows; they can be used" in said
    assert len(list((store / "lost" / "files").iterdir())) == 3
    client = official(serve(store))
    for model in client.models.list():
        assert client.completions.create(model=model.id, prompt="Q1 is", max_tokens=1).choices


def test_a_store_in_use_or_of_another_kind_is_not_looked_at(
    store: Path, run: Callable[..., tuple[int, str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lock = hold(store)
    code, said = run("--repair")
    assert (code, "is held by" in said) == (3, True)
    lock.release()
    assert main(["check", "--store", str(tmp_path / "none")]) == 1
    assert "is not a folder" in capsys.readouterr().err
    change(store, "PRAGMA user_version = 99")
    code, said = run("--repair")
    assert (code, "newer version (schema 99" in said) == (1, True)
    (tmp_path / "empty").mkdir()
    assert main(["check", "--store", str(tmp_path / "empty")]) == 0


def test_a_model_that_was_cut_short_says_so_when_asked(store: Path, serve: Callable[..., TestClient]) -> None:
    cut(done(store) / "final" / "model.safetensors")
    client = official(serve(store))
    paused, ended = client.fine_tuning.jobs.list()
    model = ended.fine_tuned_model
    assert model is not None
    asked: list[Callable[[], object]] = [
        lambda: client.models.retrieve(model),
        lambda: client.completions.create(model=model, prompt="a"),
        lambda: client.chat.completions.create(model=model, messages=[{"role": "user", "content": "a"}]),
        lambda: client.embeddings.create(model=model, input="a"),
    ]
    for ask in asked:
        with pytest.raises(NotFoundError, match="model.safetensors is damaged or cut short") as refused:
            ask()
        assert (refused.value.code, refused.value.param) == ("model_broken", "model")
    listed = {found.id: found for found in client.models.list()}
    assert "cut short" in listed[model].broken  # type: ignore[attr-defined]
    assert listed[TINY].n_weights  # type: ignore[attr-defined]
    job = wait_for(client, client.fine_tuning.jobs.create(model=model, training_file=ended.training_file).id)
    assert (job.status, job.error.code) == ("failed", "model_broken")
    assert client.models.delete(model).deleted
    assert model not in {found.id for found in client.models.list()}
    steps = [kept.step_number for kept in client.fine_tuning.jobs.checkpoints.list(ended.id)]
    assert steps == [2], "no checkpoint is named whose weights were deleted"


def test_a_state_that_was_cut_short_costs_time_and_not_the_job(store: Path, serve: Callable[..., TestClient]) -> None:
    for path in store.glob("tuned/*/state-*/model.safetensors"):
        cut(path)
    client = official(serve(store))
    paused = client.fine_tuning.jobs.list().data[0]
    client.fine_tuning.jobs.resume(paused.id)
    resumed = wait_for(client, paused.id)
    again = client.fine_tuning.jobs.create(
        model=TINY, training_file=paused.training_file, seed=0, hyperparameters={"n_epochs": 9, "batch_size": 1}
    )
    models = [job.fine_tuned_model for job in (resumed, wait_for(client, again.id))]
    prints = [client.models.retrieve(model).fingerprint for model in models]  # type: ignore[attr-defined]
    assert prints[0] == prints[1]
