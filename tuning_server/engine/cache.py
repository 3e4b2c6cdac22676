"""Keep models in memory, as many as it holds, and never drop one model of a request for another."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch

from tuning_server.engine import devices, models
from tuning_server.engine.registry import count_weights, fingerprint, resolve

CACHE_SHARE = 0.5  # of a device's memory for models that are kept, unless a limit is given


class ModelCache:
    """Models in memory; the least recently used are dropped when a new one would pass `limit_bytes`.

    Parameters
    ----------
    limit_bytes : half of the device's memory by default; the models of one request may pass it together
    """

    def __init__(
        self, store: Path, *, models_dir: Path | None = None, download: bool = False, limit_bytes: int | None = None
    ) -> None:
        self._store = store
        self._source: dict[str, Any] = {"models_dir": models_dir, "download": download}
        self.limit_bytes = limit_bytes or int(CACHE_SHARE * devices.memory_bytes(devices.best_device()))
        self._loaded: OrderedDict[str, models.LoadedModel] = OrderedDict()

    def get(self, model_id: str, *, beside: Collection[str] = ()) -> models.LoadedModel:
        """The model of an id, loaded at most once while it stays in memory and its weights stay the same.

        Parameters
        ----------
        beside : other models of the same request, which are not dropped for this one

        Raises
        ------
        UnknownModel
            If the id names nothing that can be loaded.
        DoesNotFit
            If there is no memory for it, even without models of other requests.
        """
        folder = resolve(model_id, self._store, **self._source)
        if model_id in self._loaded and self._loaded[model_id].fingerprint != fingerprint(model_id, folder):
            del self._loaded[model_id]
        if model_id not in self._loaded:
            n_weights = count_weights(model_id, folder)
            _, dtype = devices.choose_placement(n_weights)
            self._drop(self.limit_bytes - n_weights * dtype.itemsize, kept=beside)
            self._loaded[model_id] = self._load(model_id, kept=beside)
        self._loaded.move_to_end(model_id)
        return self._loaded[model_id]

    def outline(self, model_id: str) -> models.LoadedModel:
        """See `outline`."""
        return models.outline(model_id, self._store, **self._source)

    def for_training(self, model_id: str, *, adapters: bool) -> models.LoadedModel:
        """A copy to train, which the cache does not keep: in float32, or with `adapters` as it answers."""
        return self._load(model_id, dtype=None if adapters else torch.float32)

    def _drop(self, limit_bytes: float, *, kept: Collection[str]) -> None:
        """Drop models, the least recently used first, until the others take `limit_bytes` at most."""
        for model_id in [name for name in self._loaded if name not in kept]:
            if sum(loaded.model.get_memory_footprint() for loaded in self._loaded.values()) <= limit_bytes:
                return
            del self._loaded[model_id]
            devices.release()

    def _load(
        self, model_id: str, *, kept: Collection[str] = (), dtype: torch.dtype | None = None
    ) -> models.LoadedModel:
        """Load a model; where memory ends, once more without those that the request does not need."""
        for _ in range(2):
            try:
                return models.load(model_id, self._store, **self._source, dtype=dtype)
            except (MemoryError, RuntimeError) as error:
                if not devices.is_out_of_memory(error):
                    raise
            self._drop(-1, kept=kept)
            devices.release()
        raise devices.DoesNotFit(
            f"the model {model_id!r} does not fit in memory: choose a smaller one or a larger machine"
        )
