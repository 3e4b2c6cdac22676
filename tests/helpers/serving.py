"""A tiny base with random weights, rows to train it on, servers and patience: what the tests of the server share."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import uvicorn
from openai import OpenAI

if TYPE_CHECKING:
    from starlette.testclient import TestClient

    from tuning_server.types import Settings

TINY = "fork-tiny"
TEXTS = ["The red fox saw the old baker. Ada Lind is the mother of Bo Lind.", "café naïve 東京 🙂 emoji", "0123456789"]


def grow(
    store: Path, name: str = TINY, *, seed: int = 0, texts: Sequence[str] = TEXTS, context_tokens: int = 512
) -> None:
    """Put a base of width 32 and two layers into a store; those of the same texts share a tokenizer."""
    import torch

    from tuning_server.engine.fork import build_model, build_tokenizer

    torch.set_num_threads(1)
    loaded = build_model(name, build_tokenizer([*texts] * 20, []), width=32, layers=2, heads=2, seed=seed)
    loaded.model.config.max_position_embeddings = context_tokens
    folder = store / "bases" / f"{name}@0123456789ab"
    for place in (folder, folder / "init"):
        loaded.model.save_pretrained(place)
        loaded.tokenizer.save_pretrained(place)
        (place / "base.json").write_text(json.dumps({"learning_rate": 2e-3}))
    (store / "bases" / f"{name}.json").write_text(json.dumps({"current": "0123456789ab"}))


def jsonl(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def upload(client: OpenAI, content: bytes, name: str = "rows.jsonl") -> Any:
    return client.files.create(file=(name, content), purpose="fine-tune")


def facts(n_rows: int) -> list[dict[str, Any]]:
    return [{"prompt": f"Q{k % 7} is", "completion": f" the baker {k % 7}.", "id": k} for k in range(n_rows)]


def official(http: TestClient) -> OpenAI:
    """The official client of a server in this process, which it asks once."""
    return OpenAI(http_client=http, base_url="http://testserver/v1", api_key="any", max_retries=0)  # type: ignore[arg-type]


def wait_for_checkpoint(client: OpenAI, job_id: str) -> int:
    """Wait until a job has a checkpoint; returns how many it has."""
    while not (found := client.fine_tuning.jobs.checkpoints.list(job_id, limit=100).data):
        pass
    return len(found)


def wait_for_engine(client: OpenAI) -> None:
    """Wait until the engine has looked at the jobs, as it does between two answers."""
    for _ in range(2):
        client.completions.create(model=TINY, prompt="a", max_tokens=1)


def wait_for(
    client: OpenAI,
    job_id: str,
    *,
    status: tuple[str, ...] = ("succeeded", "failed", "cancelled"),
    patience_s: float = 60,
) -> Any:
    """Poll a job until it has one of these statuses."""
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        job = client.fine_tuning.jobs.retrieve(job_id)
        if job.status in status:
            return job
        time.sleep(0.02)
    raise AssertionError(f"{job_id} is still {job.status}")


def preferences(n_rows: int) -> list[dict[str, Any]]:
    """Pairs of answers as plain texts."""
    return [{"prompt": f"Q{k % 7} is", "chosen": f" the baker {k % 7}.", "rejected": " old fox"} for k in range(n_rows)]


def spoken(row: dict[str, Any]) -> dict[str, Any]:
    """A pair of answers in OpenAI's format."""
    chosen, rejected = ([{"role": "assistant", "content": row[name].strip()}] for name in ("chosen", "rejected"))
    asked = {"messages": [{"role": "user", "content": row["prompt"]}]}
    return {"input": asked, "preferred_output": chosen, "non_preferred_output": rejected}


@contextmanager
def listening(settings: Settings) -> Iterator[str]:
    """A server on a port of this machine, in this process; yields its address."""
    from tuning_server.__main__ import listen
    from tuning_server.app import make_app

    with closing(listen("127.0.0.1", 0)) as bound:
        config = uvicorn.Config(make_app(settings), log_config=None, access_log=False, timeout_graceful_shutdown=1)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{bound.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


def speak(url: str) -> OpenAI:
    """The official client of a server that wants no key."""
    return OpenAI(base_url=f"{url}/v1", api_key="any")


def content(store: Path) -> dict[str, bytes]:
    """Every file that a check must leave as it is; a journal's shared memory, and an empty one, are no data."""
    files = [path for path in store.rglob("*") if path.is_file() and path.name not in ("server.lock", "server.db-shm")]
    found = {str(path.relative_to(store)): path.read_bytes() for path in files}
    return {name: data for name, data in found.items() if data or name != "server.db-wal"}


def launch(store: Path, *options: str, log: Path) -> subprocess.Popen[str]:
    """Start a server process, which may take a while or refuse; who calls ends it."""
    command = [sys.executable, "-m", "tuning_server", "serve", "--store", str(store), "--threads", "1", *options]
    with log.open("w") as file:  # a pipe that nobody reads would block the server
        return subprocess.Popen(command, stderr=file, text=True, cwd=Path(__file__).parents[2])


def address(store: Path, pid: int, exit_code: Callable[[], int | None]) -> dict[str, Any]:
    """Wait for a server process to say in its store where it is; `exit_code` is None while it runs."""
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        assert exit_code() is None, "the server ended"
        with suppress(FileNotFoundError):  # the one of a server that was killed goes at any time
            told: dict[str, Any] = json.loads((store / "server.json").read_text())
            if told["pid"] == pid:
                return told
        time.sleep(0.02)
    raise AssertionError("no server.json")


@contextmanager
def served(store: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server process on a free port, and its address (which ends in ``/v1``); it is told to stop in the end."""
    process = launch(store, "--port", "0", *options, log=store / "server.log")
    try:
        yield process, str(address(store, process.pid, process.poll)["url"])
    finally:
        process.terminate()
        process.wait()


def rows_of(loaded: Any, n: int = 40) -> list[Any]:
    """Training rows of several lengths."""
    from tuning_server.engine.losses import TrainingRow

    rows = []
    for k in range(n):
        prompt = loaded.codec.encode_prompt("The fox " * (k % 5 + 1))
        rows.append(TrainingRow([*prompt, *loaded.codec.encode(f" baker {k}"), loaded.codec.eos_id], len(prompt)))
    return rows
