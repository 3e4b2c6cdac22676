"""A tiny base model with random weights, and a server over it in this very process."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI
from starlette.testclient import TestClient

TINY = "fork-tiny"
TEXTS = ["The red fox saw the old baker. Ada Lind is the mother of Bo Lind.", "café naïve 東京 🙂 emoji", "0123456789"]


def grow_tiny(store: Path) -> None:
    """Put ``fork-tiny`` (width 32, two layers) into a store."""
    import torch

    from lib.engine.fork import Shape, build_model, build_tokenizer

    torch.set_num_threads(1)
    loaded = build_model(TINY, Shape(32, 2, 2), build_tokenizer(TEXTS * 20, []), seed=0)
    folder = store / "bases" / f"{TINY}@0123456789ab"
    for place in (folder, folder / "init"):
        loaded.model.save_pretrained(place)
        loaded.tokenizer.save_pretrained(place)
        (place / "base.json").write_text(json.dumps({"learning_rate": 2e-3}))
    (store / "bases" / f"{TINY}.json").write_text(json.dumps({"current": "0123456789ab"}))


@pytest.fixture(scope="session")
def grown_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("grown")
    grow_tiny(store)
    return store


@pytest.fixture
def tiny_store(grown_store: Path, tmp_path: Path) -> Path:
    """A store of the test's own that holds the tiny base."""
    shutil.copytree(grown_store, tmp_path / "store")
    return tmp_path / "store"


@pytest.fixture
def serve() -> Iterator[Callable[..., TestClient]]:
    """Starts servers in this process; they end with the test."""
    from lib.server.app import make_app
    from lib.server.service import Settings

    started = []

    def start(store: Path, **settings: Any) -> TestClient:
        hosts = frozenset({"testserver"})
        http = TestClient(make_app(Settings(store=store, allow_hosts=hosts, **settings)))
        http.__enter__()
        started.append(http)
        return http

    yield start
    for http in started:
        http.__exit__(None, None, None)


@pytest.fixture
def http(tiny_store: Path, serve: Callable[..., TestClient]) -> TestClient:
    """Raw HTTP to a server over the tiny base."""
    return serve(tiny_store)


@pytest.fixture
def client(http: TestClient) -> OpenAI:
    """The official client of the same server."""
    return OpenAI(http_client=http, base_url="http://testserver/v1", api_key="any", max_retries=0)  # type: ignore[arg-type]


def jsonl(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def facts(n_rows: int) -> list[dict[str, Any]]:
    return [{"prompt": f"Q{k % 7} is", "completion": f" the baker {k % 7}.", "id": k} for k in range(n_rows)]


@pytest.fixture
def fine_tune(client: OpenAI) -> Callable[..., Any]:
    """Uploads rows, starts a job and (unless told not to) waits for its end."""

    def run(rows: list[dict[str, Any]], *, wait: bool = True, model: str = TINY, **options: Any) -> Any:
        file = client.files.create(file=("rows.jsonl", jsonl(rows)), purpose="fine-tune")
        options.setdefault("seed", 0)
        job = client.fine_tuning.jobs.create(model=model, training_file=file.id, **options)
        return wait_for(client, job.id) if wait else job

    return run


def wait_for(client: OpenAI, job_id: str, *, status: tuple[str, ...] = ("succeeded", "failed", "cancelled")) -> Any:
    """Poll a job until it has one of these statuses."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        job = client.fine_tuning.jobs.retrieve(job_id)
        if job.status in status:
            return job
        time.sleep(0.02)
    raise AssertionError(f"{job_id} is still {job.status}")
