"""The engine's thread: what fails fails once for all who wait, and long work leaves room for short."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI
from serving import TINY, facts, jsonl, preferences, upload

from tuning_server.engine.cache import ModelCache
from tuning_server.store import Store
from tuning_server.types import Settings
from tuning_server.worker import Sampling, Worker

LORA = {"n_epochs": 1, "lora": True}


def test_a_model_that_fails_to_load_is_loaded_once_for_all_that_wait(
    tiny_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads = []

    def fail(cache: ModelCache, model_id: str) -> Any:
        loads.append(model_id)
        raise OSError(f"attempt {len(loads)}")

    monkeypatch.setattr(ModelCache, "get", fail)
    settings, store = Settings(store=tiny_store), Store(tiny_store)
    worker = Worker(settings, store)
    futures = [worker.submit(Sampling(TINY, lambda loaded: [], lambda loaded, samples: None)) for _ in range(5)]
    worker.start()
    try:
        for future in futures:
            with pytest.raises(OSError, match="attempt 1"):
                future.result(timeout=60)
        assert loads == [TINY]
    finally:
        worker.stop()
        assert worker.join(timeout=60)
        store.close()


@pytest.mark.parametrize(
    ("rows", "method"),
    [
        (facts(30_000), {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 1}}}),
        (preferences(15_000), {"type": "dpo", "dpo": {"hyperparameters": {"n_epochs": 1}}}),
    ],
    ids=["supervised", "dpo"],
)
def test_completions_are_answered_while_a_large_file_is_tokenised(
    client: OpenAI, rows: list[dict[str, Any]], method: Any
) -> None:
    file = upload(client, jsonl(rows))
    client.completions.create(model=TINY, prompt="a", max_tokens=1)  # loads the model
    job = client.fine_tuning.jobs.create(model=TINY, training_file=file.id, method=method)
    for _ in range(3):
        assert client.completions.create(model=TINY, prompt="a", max_tokens=1).choices
        assert client.fine_tuning.jobs.retrieve(job.id).status == "validating_files"
    client.fine_tuning.jobs.cancel(job.id)
