"""A tiny base model with random weights, rows to train it on, and patience: what the tests of the server share."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from openai import OpenAI

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


def jsonl(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def facts(n_rows: int) -> list[dict[str, Any]]:
    return [{"prompt": f"Q{k % 7} is", "completion": f" the baker {k % 7}.", "id": k} for k in range(n_rows)]


def wait_for(client: OpenAI, job_id: str, *, status: tuple[str, ...] = ("succeeded", "failed", "cancelled")) -> Any:
    """Poll a job until it has one of these statuses."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        job = client.fine_tuning.jobs.retrieve(job_id)
        if job.status in status:
            return job
        time.sleep(0.02)
    raise AssertionError(f"{job_id} is still {job.status}")
