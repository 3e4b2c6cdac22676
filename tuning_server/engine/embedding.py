"""Texts as vectors: the mean of a model's last hidden states over the tokens of each text."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from tuning_server.engine.models import LoadedModel

BATCH_TOKENS = {"cpu": 4_096, "cuda": 65_536}  # fed at once, padding included; a text may be longer


def embed(loaded: LoadedModel, texts: Sequence[Sequence[int]]) -> np.ndarray:
    """Mean of the last hidden states (after the final norm) over the tokens of each text; each distinct text once.

    Parameters
    ----------
    texts : token ids, 1 up to the model's context each

    Returns
    -------
    array, shape (texts, width), float32

    Raises
    ------
    ValueError
        If a text has no tokens, more than the context, or an id that the model has no token for.
    """
    distinct = {tuple(ids): k for k, ids in reversed(list(enumerate(texts)))}  # token ids to their first place
    for ids, k in distinct.items():
        if not 1 <= len(ids) <= loaded.context_tokens:
            raise ValueError(f"text {k} has {len(ids)} tokens; {loaded.id} takes 1 to {loaded.context_tokens}")
        wrong = [token for token in ids if not 0 <= token < loaded.vocab_size]
        if wrong:
            raise ValueError(
                f"text {k}: token id {wrong[0]} is not in the vocabulary of {loaded.id} (0 to {loaded.vocab_size - 1})"
            )
    ordered = sorted(distinct, key=len)
    width = int(loaded.model.get_input_embeddings().weight.shape[1])
    means = {
        ids: mean for batch in _batches(ordered, loaded) for ids, mean in zip(batch, _means(loaded, batch), strict=True)
    }
    return np.stack([means[tuple(ids)] for ids in texts]) if texts else np.zeros((0, width), np.float32)


def _batches(ordered: list[tuple[int, ...]], loaded: LoadedModel) -> list[list[tuple[int, ...]]]:
    """Texts of about one length together; they come in order of length."""
    most = BATCH_TOKENS.get(loaded.device.type, 8_192)
    batches: list[list[tuple[int, ...]]] = []
    for ids in ordered:
        if not batches or (len(batches[-1]) + 1) * len(ids) > most:
            batches.append([])
        batches[-1].append(ids)
    return batches


@torch.inference_mode()
def _means(loaded: LoadedModel, batch: list[tuple[int, ...]]) -> np.ndarray:
    lengths = torch.tensor([len(ids) for ids in batch])
    fed = torch.zeros(len(batch), int(lengths.max()), dtype=torch.long)
    for row, ids in zip(fed, batch, strict=True):
        row[: len(ids)] = torch.tensor(ids)  # right padding: causal attention keeps it from changing what stands before
    states = loaded.model.base_model(input_ids=fed.to(loaded.device), use_cache=False).last_hidden_state
    inside = (torch.arange(fed.shape[1]) < lengths[:, None]).to(loaded.device)[..., None]
    means = torch.where(inside, states.float(), 0.0).sum(1) / lengths.to(loaded.device)[:, None]  # (batch, width)
    return means.cpu().numpy()
