"""The server as a process: start, lock, port, key, idleness, signals, kill -9 in the middle of a job."""

from __future__ import annotations

import errno
import os
import signal
import socket
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from openai import AuthenticationError, OpenAI
from serving import address, facts, jsonl, launch, wait_for

from tuning_server.__main__ import main, read_key
from tuning_server.types import hash_key

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts servers; what still runs at the end of the test is killed."""
    running: list[subprocess.Popen[str]] = []

    def go(store: Path, *options: str) -> subprocess.Popen[str]:
        process = launch(store, *options, log=tmp_path / f"{len(running)}.log")
        running.append(process)
        return process

    yield go
    for process in running:
        process.kill()
        process.wait()


def url_of(store: Path, process: subprocess.Popen[str]) -> str:
    return str(address(store, process.pid, process.poll)["url"])


def test_a_job_survives_kill_9_and_ends_with_the_same_weights(tiny_store: Path, start: Start, tmp_path: Path) -> None:
    def connect(process: subprocess.Popen[str]) -> OpenAI:
        report = address(tiny_store, process.pid, process.poll)
        key = (tiny_store / report["key_file"]).read_text().strip()
        return OpenAI(base_url=report["url"], api_key=key)

    options = ("--port", "0", "--key-file", str(tiny_store / "server.key"))
    process = start(tiny_store, *options)
    client = connect(process)
    assert stat.S_IMODE((tiny_store / "server.key").stat().st_mode) == 0o600
    with pytest.raises(AuthenticationError):
        client.with_options(api_key="wrong").models.list()

    # a second server reports quickly which one holds the store
    began = time.monotonic()
    second = start(tiny_store, "--port", "0", "--idle-minutes", "2")
    assert second.wait(10) == 3
    assert time.monotonic() - began < 3
    report = (tmp_path / "1.log").read_text()
    assert str(process.pid) in report
    assert report.count("\n") == 1

    file = client.files.create(file=("rows.jsonl", jsonl(facts(30))), purpose="fine-tune")
    request: dict[str, Any] = {
        "model": "fork-tiny", "training_file": file.id, "seed": 3, "hyperparameters": {"n_epochs": 12, "batch_size": 4},
    }  # fmt: skip
    undisturbed = wait_for(client, client.fine_tuning.jobs.create(**request).id)
    killed = client.fine_tuning.jobs.create(**request)
    while len(client.fine_tuning.jobs.checkpoints.list(killed.id).data) < 2:
        time.sleep(0.005)
    assert client.fine_tuning.jobs.retrieve(killed.id).status == "running"
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (tiny_store / "server.json").exists()  # nobody was there to take it back

    process = start(tiny_store, *options)
    client = connect(process)
    done = wait_for(client, killed.id)
    assert done.status == "succeeded"
    prints = [client.models.retrieve(job.fine_tuned_model).fingerprint for job in (undisturbed, done)]
    assert prints[0] == prints[1]
    messages = [event.message for event in client.fine_tuning.jobs.list_events(killed.id, limit=1000)]
    assert "Fine-tuning job taken up again" in messages

    # stopped in the middle of a job, it ends at once, cleanly
    client.fine_tuning.jobs.create(**request)
    began = time.monotonic()
    process.terminate()
    assert process.wait(10) == 0
    assert time.monotonic() - began < 3
    assert not (tiny_store / "server.json").exists()


def test_it_ends_by_itself_when_idle(tiny_store: Path, start: Start, tmp_path: Path) -> None:
    process = start(tiny_store, "--port", "0", "--idle-minutes", "0.02")
    OpenAI(base_url=url_of(tiny_store, process), api_key="any").files.list()
    assert process.wait(15) == 0
    assert "stopping" in (tmp_path / "0.log").read_text()
    assert not (tiny_store / "server.json").exists()


def test_a_port_in_use_is_reported_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["serve", "--store", str(tmp_path / "store"), "--port", str(port)]) == 1
    report = capsys.readouterr().err
    assert f"port {port}" in report
    assert "choose another --port" in report
    assert report.count("\n") == 1


def test_only_the_hash_of_a_key_is_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNING_FORK_SERVER_KEY", "the-key\n")
    assert read_key(None) == hash_key("the-key")
    assert "TUNING_FORK_SERVER_KEY" not in os.environ, "what is started from here does not have it"
    made = read_key(tmp_path / "new")
    assert made == hash_key((tmp_path / "new").read_text().strip())


def test_a_full_disk_keeps_no_server_from_starting(
    tiny_store: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("tuning_server.process.write_json", full)
    assert main(["serve", "--store", str(tiny_store), "--port", "0", "--idle-minutes", "0.001", "--threads", "1"]) == 0
    assert "server.json cannot be written" in caplog.text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "arguments are required: COMMAND"),
        (["--port", "0"], "argument COMMAND: invalid choice: '0'"),
        (["serve", "--port", "65536"], "argument --port: expected 0 to 65535, found 65536"),
        (["serve", "--port", "http"], "argument --port: invalid int value: 'http'"),
        (["serve", "--threads", "0"], "argument --threads: expected 1 or more, found 0"),
        (["serve", "--idle-minutes", "nan"], "argument --idle-minutes: expected 0 or more, found nan"),
        (["serve", "--cache-mb", "much"], "argument --cache-mb: invalid int value: 'much'"),
    ],
)
def test_wrong_arguments_are_code_2(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("command", ["serve", "check"])
def test_a_store_that_cannot_be_written_is_refused_in_one_line(
    command: str, tiny_store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def read_only(*_: Any, **__: Any) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("tuning_server.store.FileLock.acquire", read_only)
    assert main([command, "--store", str(tiny_store)]) == 1
    assert capsys.readouterr().err == (
        f"cannot use the store {tiny_store} (Read-only file system): make it a folder that can be written, or choose "
        "another by --store or TUNING_FORK_STORE\n"
    )


def test_other_hosts_need_a_key(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TUNING_FORK_SERVER_KEY", raising=False)
    serve = ["serve", "--store", str(tmp_path / "store")]
    assert main([*serve, "--host", "0.0.0.0"]) == 1
    assert "needs a key" in capsys.readouterr().err
    (tmp_path / "key").touch()
    os.chmod(tmp_path / "key", 0o600)
    assert main([*serve, "--host", "0.0.0.0", "--key-file", str(tmp_path / "key")]) == 1
    assert "is empty" in capsys.readouterr().err
    (tmp_path / "key").write_bytes(b"\xff")
    assert main([*serve, "--key-file", str(tmp_path / "key")]) == 1
    assert "cannot read the key" in capsys.readouterr().err
    assert main([*serve, "--models", str(tmp_path / "none")]) == 1
    assert "is not a folder" in capsys.readouterr().err
    (tmp_path / "file").touch()
    assert main(["serve", "--store", str(tmp_path / "file")]) == 1
    assert "cannot use the store" in capsys.readouterr().err
