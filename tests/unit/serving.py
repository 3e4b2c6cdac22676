"""A tiny base model with random weights, rows to train it on, and patience: what the tests of the server share."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import uvicorn
from openai import OpenAI

if TYPE_CHECKING:
    from lib.server.service import Settings

TINY = "fork-tiny"
TEXTS = ["The red fox saw the old baker. Ada Lind is the mother of Bo Lind.", "café naïve 東京 🙂 emoji", "0123456789"]


def grow(
    store: Path, name: str = TINY, *, seed: int = 0, texts: Sequence[str] = TEXTS, context_tokens: int = 512
) -> None:
    """Put a base of width 32 and two layers into a store; those of the same texts share a tokenizer."""
    import torch

    from lib.engine.fork import Shape, build_model, build_tokenizer

    torch.set_num_threads(1)
    loaded = build_model(name, Shape(32, 2, 2), build_tokenizer([*texts] * 20, []), seed=seed)
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


def wait_for_engine(client: OpenAI) -> None:
    """Wait until the engine has looked at the jobs, as it does between two answers."""
    for _ in range(2):
        client.completions.create(model=TINY, prompt="a", max_tokens=1)


def wait_for(client: OpenAI, job_id: str, *, status: tuple[str, ...] = ("succeeded", "failed", "cancelled")) -> Any:
    """Poll a job until it has one of these statuses."""
    deadline = time.monotonic() + 60
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
    from lib.server.app import make_app

    with closing(socket.socket()) as bound:
        bound.bind(("127.0.0.1", 0))
        bound.listen()
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
