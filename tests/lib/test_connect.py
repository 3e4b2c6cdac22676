"""A notebook finds the server of its store, starts it when there is none, and finds a new one when it was killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from serving import TINY, facts, jsonl

from lib import api
from lib.paths import read_json
from tuning_server.__main__ import main
from tuning_server.store import acquire_store


@pytest.fixture
def store(tiny_store: Path) -> Iterator[Path]:
    yield tiny_store
    if (tiny_store / "server.json").exists():
        os.kill(read_json(tiny_store / "server.json")["pid"], signal.SIGKILL)


def test_one_server_a_store_found_again_and_replaced_when_killed(store: Path) -> None:
    client = api.connect(store)
    first = read_json(store / "server.json")["pid"]
    answer = client.completions.create(model="fork-tiny", prompt="The red", max_tokens=3, temperature=0, seed=1)
    api.connect(store)
    assert read_json(store / "server.json")["pid"] == first
    assert psutil.Process(first).ppid() != os.getpid() or psutil.Process(first).terminal() is None
    assert (store / "server.key").stat().st_mode & 0o077 == 0
    os.kill(first, signal.SIGKILL)
    if psutil.pid_exists(first):
        psutil.wait_procs([psutil.Process(first)], timeout=10)
    again = api.connect(store)
    assert read_json(store / "server.json")["pid"] != first
    same = again.completions.create(model="fork-tiny", prompt="The red", max_tokens=3, temperature=0, seed=1)
    assert same.choices[0].text == answer.choices[0].text


def test_a_client_outlives_its_server(store: Path) -> None:
    client = api.connect(store)
    client.max_retries = 0  # it would try the old address for some seconds
    first = read_json(store / "server.json")["pid"]
    assert main(["stop", "--store", str(store)]) == 0  # as it ends when idle
    assert TINY in {model.id for model in client.with_options(timeout=60).models.list()}
    assert client.completions.create(model=TINY, prompt="The red", max_tokens=1).choices
    assert read_json(store / "server.json")["pid"] != first


def test_a_server_that_cannot_start_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "server.key").write_text("")
    monkeypatch.setattr(api, "START_SECONDS", 20)
    with pytest.raises(RuntimeError, match=r"server\.key is empty"):
        api.connect(tmp_path)


def test_a_server_that_a_run_started_is_replaced_by_one_that_finds_more_models(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    api.connect(store)
    first = read_json(store / "server.json")["pid"]
    models = tmp_path / "models"
    models.mkdir()
    monkeypatch.setenv("TUNING_FORK_MODELS", str(models))
    api.connect(store)
    about = read_json(store / "server.json")
    assert about["pid"] != first
    assert about["models"] == str(models)
    api.connect(store)
    monkeypatch.delenv("TUNING_FORK_MODELS")
    api.connect(store)
    assert read_json(store / "server.json")["pid"] == about["pid"], "it serves those who need less, too"


def test_a_server_that_trains_or_that_a_person_started_is_left_alone(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = api.connect(store)
    file = client.files.create(file=("rows.jsonl", jsonl(facts(24))), purpose="fine-tune")
    job = client.fine_tuning.jobs.create(
        model=TINY, training_file=file.id, hyperparameters={"n_epochs": 1000, "batch_size": 4}
    )
    monkeypatch.setenv("TUNING_FORK_DOWNLOAD", "1")
    with pytest.raises(RuntimeError, match=rf"without --download and trains a model \({job.id}\): stop it first"):
        api.connect(store)
    client.fine_tuning.jobs.cancel(job.id)
    about = read_json(store / "server.json")
    (store / "server.json").write_text(json.dumps(about | {"idle_minutes": 0}))
    with pytest.raises(RuntimeError, match=r"was not started by a run: stop it first \(python -m tuning_server stop"):
        api.connect(store)


def test_stop_ends_the_server_of_a_store_and_no_other_process(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    api.connect(store)
    process = psutil.Process(read_json(store / "server.json")["pid"])
    assert main(["stop", "--store", str(store)]) == 0
    assert "stopped the server" in capsys.readouterr().err
    assert not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        (store / "server.json").write_text(json.dumps({"pid": other.pid, "url": ""}))  # as a killed server leaves it
        with acquire_store(store):  # as a check does
            assert main(["stop", "--store", str(store)]) == 3
        assert main(["stop", "--store", str(store)]) == 0
        assert "no server uses" in capsys.readouterr().err.splitlines()[-1]
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()
