"""How many texts to continue together: as many as memory has room for."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from tuning_server.engine.devices import free_bytes
from tuning_server.engine.models import LoadedModel

USABLE = 0.5  # of the memory that is free, for one batch
CPU_BATCH_TOKENS = 16_384  # tokens of all rows on a processor, where more at once is no faster
LOGITS_BYTES = 64  # for each token of the vocabulary in a step of one row: logits, probabilities, their order


def batches(models: Sequence[LoadedModel], sizes: Sequence[tuple[int, int]]) -> Iterator[list[int]]:
    """Indices of the texts to continue together with all `models`, those of similar length.

    Parameters
    ----------
    sizes : tokens of each text with its new ones, and without them
    """
    device = models[0].device
    most_bytes = USABLE * free_bytes(device)
    most_tokens = CPU_BATCH_TOKENS // len(models) if device.type == "cpu" else math.inf
    of_token, of_row = sum(map(token_bytes, models)), sum(LOGITS_BYTES * loaded.n_outputs for loaded in models)
    batch: list[int] = []
    for k in sorted(range(len(sizes)), key=sizes.__getitem__):
        n_rows, n_tokens = len(batch) + 1, sizes[k][0]
        is_too_large = n_rows * (n_tokens * of_token + of_row) > most_bytes or n_rows * n_tokens > most_tokens
        if batch and is_too_large:
            yield batch
            batch = []
        batch.append(k)
    if batch:
        yield batch


def token_bytes(loaded: LoadedModel) -> int:
    """Memory for a token of one row: keys and values, twice while they are copied, and what lies between layers."""
    config = loaded.model.config.get_text_config()
    n_heads = config.num_attention_heads
    head_width = getattr(config, "head_dim", None) or config.hidden_size // n_heads
    n_shared = getattr(config, "num_key_value_heads", None) or n_heads
    n_numbers = 4 * config.num_hidden_layers * n_shared * head_width + 16 * config.hidden_size
    return n_numbers * loaded.model.dtype.itemsize
