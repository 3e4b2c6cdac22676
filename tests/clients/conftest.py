"""A server over fork-300k, in a process of its own, for clients that nobody here wrote."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI
from serving import served

os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
ROOT = Path(__file__).parents[2]
MODEL = "fork-300k"


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
    with served(store) as (_, url):
        yield url
        assert " 500 " not in (store / "server.log").read_text()


@pytest.fixture(scope="session")
def client(url: str) -> OpenAI:
    return OpenAI(base_url=url, api_key="any")


@pytest.fixture(scope="session")
def rows() -> list[dict[str, Any]]:
    lines = (Path(__file__).parent / "questions.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]
