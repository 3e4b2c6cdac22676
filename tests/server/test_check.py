"""``python -m tuning_server check``: what it reports; how requests for a damaged model are refused."""

from __future__ import annotations

import json
import re
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
from tuning_server.engine.folders import drop
from tuning_server.store import acquire_store
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
    """Runs the command; its exit code and what it printed."""

    def go() -> tuple[int, str]:
        code = main(["check", "--store", str(store)])
        printed = capsys.readouterr()
        return code, printed.out + printed.err

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
    code, printed = run()
    assert (code, printed.splitlines()[-1]) == (0, "nothing is wrong")
    assert "checked: 3 files, 2 jobs, 3 checkpoints, 1 bases" in printed
    assert content(store) == before


def training_file(store: Path) -> Path:
    """The file that the paused job needs."""
    with closing(sqlite3.connect(store / "server.db")) as db:
        (job,) = db.execute("SELECT body FROM jobs WHERE status = 'paused'").fetchone()
    return store / "files" / f"{json.loads(job)['training_file']}.jsonl"


def damage_page(store: Path, table: str) -> None:
    """Overwrite the first page of a table."""
    with closing(sqlite3.connect(store / "server.db")) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        page_bytes = db.execute("PRAGMA page_size").fetchone()[0]
        root = db.execute("SELECT rootpage FROM sqlite_schema WHERE name = ?", (table,)).fetchone()[0]
    data = bytearray((store / "server.db").read_bytes())
    data[(root - 1) * page_bytes : root * page_bytes] = b"\xff" * page_bytes
    (store / "server.db").write_bytes(data)


def replace_database(store: Path) -> None:
    (store / "server.db").write_bytes(b"no database" * 1000)
    (store / "server.db-wal").unlink()


FORGET_FILES = "DELETE FROM files WHERE json_extract(body, '$.purpose') = 'fine-tune'"
DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "bytes gone": (lambda s: one(s, "files/*.csv").unlink(), "('step_metrics.csv'): 0 of its"),
    "bytes cut": (lambda s: cut(one(s, "files/*.csv")), "bytes are there"),
    "model cut": (lambda s: cut(done(s) / "final" / "model.safetensors"), "model.safetensors is damaged or cut short"),
    "model changed": (lambda s: flip(done(s) / "step-2" / "model.safetensors"), "not those that were written"),
    "model empty": (lambda s: (done(s) / "step-2" / "model.safetensors").unlink(), "step-2: it holds no weights"),
    "card cut": (lambda s: cut(done(s) / "step-2" / "tuned.json"), "step-2: tuned.json is not JSON"),
    "card gone": (lambda s: (done(s) / "step-2" / "tuned.json").unlink(), "no tuned.json that says what it is"),
    "checkpoint gone": (lambda s: shutil.rmtree(done(s) / "step-2"), ":ckpt-step-2 are gone"),
    "training file forgotten": (lambda s: change(s, FORGET_FILES), "(paused): its training file file-"),
    "base cut": (lambda s: cut(one(s, "bases/*@*/init/*.safetensors")), "init: its file model.safetensors is damaged"),
    "base without config": (lambda s: one(s, "bases/*@*/init/config.json").unlink(), "it has no config.json"),
    "base gone": (lambda s: shutil.rmtree(one(s, "bases/*@*")), "fork-tiny.json: the base that it names is not there"),
    "pointer cut": (lambda s: cut(one(s, "bases/*.json")), "fork-tiny.json: the base that it names is not there"),
    "row not JSON": (lambda s: change(s, "UPDATE events SET body = '{' WHERE seq = 2"), "in events is not JSON"),
    "page damaged": (lambda s: damage_page(s, "checkpoints"), "problem  server.db: "),
    "no database": (replace_database, "server.db: file is not a database"),
}  # fmt: skip
LEFTOVERS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "upload cut off": (lambda s: (s / "files" / ".file-x.jsonl.a1").touch(), "files/.file-x.jsonl.a1 was cut off"),
    "bytes alone": (lambda s: (s / "files" / "file-x.jsonl").touch(), "files/file-x.jsonl belongs to no known file"),
    "half written": (lambda s: (done(s) / ".writing-1").mkdir(), "/.writing-1 was cut off"),
    "half deleted": (lambda s: (done(s) / ".gone-1").mkdir(), "/.gone-1 was cut off"),
    "state left": (lambda s: (done(s) / "state-2").mkdir(), "/state-2 is of no use any more"),
    "state cut": (lambda s: cut(one(s, "tuned/*/state-*/optimizer.safetensors")), "goes on from where it was before"),
    "run of no job": (lambda s: (s / "tuned" / "aaaaaaaa").mkdir(), "tuned/aaaaaaaa belongs to no job"),
}  # fmt: skip


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_reported_with_what_to_do(store: Path, run: Callable[..., tuple[int, str]], kind: str) -> None:
    damage, words = DAMAGE[kind]
    damage(store)
    before = content(store)
    code, printed = run()
    assert code == 1
    first, second = printed.split(words)[1].splitlines()[:2]
    assert second.startswith("         -> "), printed
    assert re.fullmatch(r"\d problems?", printed.splitlines()[-1])
    assert content(store) == before


@pytest.mark.parametrize("kind", LEFTOVERS)
def test_what_a_kill_leaves_half_done_is_no_problem(
    store: Path, run: Callable[..., tuple[int, str]], kind: str
) -> None:
    leave, words = LEFTOVERS[kind]
    leave(store)
    code, printed = run()
    assert (code, printed.splitlines()[-1]) == (0, "nothing is wrong")
    assert [line for line in printed.splitlines() if words in line and line.startswith("note ")]


def test_what_a_failed_job_can_be_resumed_from_is_of_use(store: Path, run: Callable[..., tuple[int, str]]) -> None:
    paused = "UPDATE jobs SET status = 'failed', body = json_set(body, '$.status', 'failed', '$.error', json('{}'))"
    change(store, f"{paused} WHERE status = 'paused'")
    assert "is of no use any more" in run()[1]
    change(
        store, "UPDATE jobs SET body = json_set(body, '$.error.code', 'training_interrupted') WHERE status = 'failed'"
    )
    assert "is of no use any more" not in run()[1]


def test_a_deletion_that_a_kill_cut_off_leaves_no_half_state(
    store: Path, run: Callable[..., tuple[int, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    state = one(store, "tuned/*/state-*")
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "rmtree", lambda folder, **_: (folder / "model.safetensors").unlink())
        drop(state)
    assert not state.exists()
    code, printed = run()
    assert (code, printed.splitlines()[-1]) == (0, "nothing is wrong")
    assert "/.gone-" in printed


def test_models_stay_when_a_damaged_database_is_moved_away_as_advised(
    store: Path, run: Callable[..., tuple[int, str]], serve: Callable[..., TestClient]
) -> None:
    replace_database(store)
    assert "move server.db* out of the store" in run()[1]
    for path in store.glob("server.db*"):
        path.unlink()
    client = official(serve(store))
    assert len(client.models.list().data) == 5, "the base, its random weights, two checkpoints and a final model"
    for model in client.models.list():
        assert client.completions.create(model=model.id, prompt="Q1 is", max_tokens=1).choices


def test_a_store_in_use_or_of_another_kind_is_not_checked(
    store: Path, run: Callable[..., tuple[int, str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with acquire_store(store):
        code, printed = run()
    assert (code, "is held by" in printed) == (3, True)
    assert main(["check", "--store", str(tmp_path / "none")]) == 1
    assert "is not a folder" in capsys.readouterr().err
    change(store, "PRAGMA user_version = 99")
    code, printed = run()
    assert (code, "newer version (schema 99" in printed) == (1, True)
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
