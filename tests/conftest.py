"""Fixtures of all tests: no key, no endpoint, one thread; own folders for runs and stores; servers, a browser."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from chromium import Chromium, find_chromium
from openai import OpenAI
from serving import TINY, grow, jsonl, listening, official, wait_for
from starlette.testclient import TestClient

for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"):
    os.environ.pop(name, None)
os.environ["TQDM_DISABLE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"

HEAD = 'preset: str = "tiny"  # values to start from\n'

MakeStage = Callable[..., Path]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home: no study, no preset, no run."""
    monkeypatch.setenv("TUNING_FORK_HOME", str(tmp_path))
    monkeypatch.setenv("TUNING_FORK_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("TUNING_FORK_STORE", str(tmp_path / "store"))
    return tmp_path


@pytest.fixture
def make_stage(home: Path) -> MakeStage:
    """Writes a stage notebook: its parameters cell, then start_run and `body`."""

    def make(stage: str, parameters: str = "", body: str = 'run.finish("done")', *, head: str = HEAD) -> Path:
        path = home / "notebooks" / f"{stage}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        start = f'from lib.notebook import start_run\nrun = start_run("{stage}", globals())'
        cells = [" [markdown]\n# # Try", f' tags=["parameters"]\n{head}{parameters}', f"\n{start}", f"\n{body}"]
        path.write_text("\n\n".join(f"# %%{cell}" for cell in cells) + "\n", encoding="utf-8")
        return path

    return make


@pytest.fixture
def make_preset(home: Path) -> Callable[[str, str, str], Path]:
    """Writes ``params/<study>/<preset>.yaml``."""

    def make(study: str, preset: str, text: str) -> Path:
        path = home / "params" / study / f"{preset}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    return make


@pytest.fixture(scope="session")
def grown_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("grown")
    grow(store)
    return store


@pytest.fixture(scope="session")
def family_store(grown_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny base, two relatives (one with a short context) and a stranger."""
    store = tmp_path_factory.mktemp("family") / "store"
    shutil.copytree(grown_store, store)
    grow(store, "fork-kin", seed=5)
    grow(store, "fork-short", seed=6, context_tokens=24)
    grow(store, "fork-other", texts=["other words entirely"])
    return store


@pytest.fixture
def tiny_store(grown_store: Path, tmp_path: Path) -> Path:
    """A store of the test's own that holds the tiny base, of which nothing has been hashed yet."""
    shutil.copytree(grown_store, tmp_path / "store", ignore=shutil.ignore_patterns(".weights-hash.json"))
    return tmp_path / "store"


@pytest.fixture
def serve() -> Iterator[Callable[..., TestClient]]:
    """Starts servers in this process; they end with the test."""
    from tuning_server.app import make_app
    from tuning_server.types import Settings

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
    return official(http)


@pytest.fixture
def fine_tune(client: OpenAI) -> Callable[..., Any]:
    """Uploads rows, starts a job and (unless told not to) waits for its end."""

    def run(rows: list[dict[str, Any]], *, wait: bool = True, model: str = TINY, **options: Any) -> Any:
        file = client.files.create(file=("rows.jsonl", jsonl(rows)), purpose="fine-tune")
        options.setdefault("seed", 0)
        job = client.fine_tuning.jobs.create(model=model, training_file=file.id, **options)
        return wait_for(client, job.id) if wait else job

    return run


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    program = find_chromium()
    if program is None:
        missing = pytest.fail if os.environ.get("CI") else pytest.skip
        missing("no Chromium on this machine: apt-get install chromium (or Google Chrome), and these tests run")
    with Chromium(program, tmp_path_factory.mktemp("chromium")) as started:
        yield started


@pytest.fixture
def browser(chromium: Chromium) -> Iterator[Chromium]:
    """The browser, its windows closed after the test."""
    yield chromium
    chromium.close_pages()


@pytest.fixture
def live(tiny_store: Path) -> Iterator[Callable[..., str]]:
    """Starts servers that a browser can reach; gives their addresses."""
    from tuning_server.types import Settings

    with ExitStack() as started:
        yield lambda **settings: started.enter_context(listening(Settings(store=tiny_store, **settings)))
