"""The engine's thread: what fails fails once for all who wait, and long work leaves room for short."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from serving import TINY

from tuning_server.engine.models import ModelCache
from tuning_server.service import Activity
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
        raise MemoryError(f"attempt {len(loads)}")

    monkeypatch.setattr(ModelCache, "get", fail)
    settings, store = Settings(store=tiny_store), Store(tiny_store)
    worker = Worker(settings, store, Activity())
    futures = [worker.submit(Sampling(TINY, lambda loaded: [], lambda loaded, samples: None)) for _ in range(5)]
    worker.start()
    try:
        for future in futures:
            with pytest.raises(MemoryError, match="attempt 1"):
                future.result(timeout=60)
        assert loads == [TINY]
    finally:
        worker.stop()
        assert worker.join(timeout=60)
        store.close()
