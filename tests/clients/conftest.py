"""A server over fork-300k, in a process of its own, for clients that nobody here wrote."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI

os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
ROOT = Path(__file__).parents[2]
MODEL = "fork-300k"
PATIENCE_S = 120


@pytest.fixture(scope="session")
def model_folder() -> Path:
    """Where the model's tokenizer lies."""
    bases = ROOT / "data" / "store" / "bases"
    current = json.loads((bases / f"{MODEL}.json").read_text())["current"]
    return bases / f"{MODEL}@{current}"


@pytest.fixture(scope="session")
def url(tmp_path_factory: pytest.TempPathFactory, model_folder: Path) -> Iterator[str]:
    """Base URL of a server that ends with the tests."""
    store = tmp_path_factory.mktemp("store")
    (store / "bases").symlink_to(model_folder.parent.resolve())
    command = [str(ROOT / ".venv/bin/python"), "-m", "lib.server", "--port", "0", "--store", str(store)]
    with (store / "server.log").open("w") as log:
        server = subprocess.Popen(command, cwd=ROOT, stderr=log)
    try:
        deadline = time.monotonic() + PATIENCE_S
        while not (store / "server.json").exists():
            assert server.poll() is None, (store / "server.log").read_text()
            assert time.monotonic() < deadline, "the server did not start"
            time.sleep(0.1)
        yield str(json.loads((store / "server.json").read_text())["url"])
        assert " 500 " not in (store / "server.log").read_text()
    finally:
        server.terminate()
        server.wait()


@pytest.fixture(scope="session")
def client(url: str) -> OpenAI:
    return OpenAI(base_url=url, api_key="any")


@pytest.fixture(scope="session")
def rows() -> list[dict[str, Any]]:
    lines = (Path(__file__).parent / "questions.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]
