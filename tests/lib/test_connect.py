"""A notebook finds the server of its store, starts it when there is none, and finds a new one when it was killed."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from lib import api
from lib.paths import read_json


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


def test_a_server_that_cannot_start_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "server.key").write_text("")
    monkeypatch.setattr(api, "START_SECONDS", 20)
    with pytest.raises(RuntimeError, match=r"server\.key is empty"):
        api.connect(tmp_path)
