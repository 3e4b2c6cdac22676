"""A model that reads rows of unequal length side by side, keeps what it read in a cache, and can take tokens back."""

from __future__ import annotations

import inspect
from collections.abc import Sequence

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from lib.engine.models import LoadedModel


def left_padded(loaded: LoadedModel, prompts: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Prompts as one tensor that ends where they end, shape (rows, longest), and its mask (None without padding)."""
    longest = max(map(len, prompts))
    ids = torch.full((len(prompts), longest), loaded.eos_id)
    mask = torch.zeros(len(prompts), longest, dtype=torch.long)
    for r, prompt in enumerate(prompts):
        ids[r, longest - len(prompt) :] = torch.tensor(prompt)
        mask[r, longest - len(prompt) :] = 1
    padded = any(len(prompt) < longest for prompt in prompts)
    return ids.to(loaded.device), mask.to(loaded.device) if padded else None


class Reader:
    """One model and the cache of what it has read, a row a text.

    Parameters
    ----------
    n_vocab : outputs to keep; None for all of them, the padding of an output layer included
    """

    def __init__(self, loaded: LoadedModel, *, n_vocab: int | None = None) -> None:
        self._loaded, self._n_vocab = loaded, n_vocab
        self._cache = DynamicCache(config=loaded.model.config)
        self._mask: torch.Tensor | None = None  # (rows, columns of the cache)
        self._n_read = torch.zeros(1, dtype=torch.long, device=loaded.device)
        self._has_gaps = False
        self._can_skip = "logits_to_keep" in inspect.signature(loaded.model.forward).parameters

    @property
    def can_forget(self) -> bool:
        """Whether tokens can be taken back: not from a sliding window or a recurrent state."""
        return all(type(layer) is DynamicLayer for layer in self._cache.layers)

    def read(self, ids: torch.Tensor, mask: torch.Tensor | None = None, *, n_last: int = 1) -> torch.Tensor:
        """Read on and say what comes next.

        Parameters
        ----------
        ids : tensor, shape (rows, n)
        mask : tensor, shape (rows, n), 0 where a row has padding; None where none has
        n_last : how many of the last tokens to give logits for

        Returns
        -------
        float32 tensor, shape (rows, n_last, vocab), logits
        """
        loaded, fresh = self._loaded, torch.ones_like(ids) if mask is None else mask
        self._has_gaps |= mask is not None
        # a token past the end of a row is drafted before it is known to be one too many
        positions = (self._n_read[:, None] + fresh.cumsum(-1) - 1).clamp(min=0, max=loaded.context_tokens - 1)
        self._n_read = self._n_read + fresh.sum(-1)  # (rows,)
        self._mask = fresh if self._mask is None else torch.cat([self._mask, fresh], dim=1)
        out = loaded.model(
            input_ids=ids,
            attention_mask=self._mask if self._has_gaps else None,
            position_ids=positions,
            past_key_values=self._cache,
            use_cache=True,
            **({"logits_to_keep": n_last} if self._can_skip else {}),
        )
        return out.logits[:, -n_last:, : self._n_vocab].float()

    def prefill(self, ids: torch.Tensor) -> None:
        """Read on, shape (rows, n), where nobody asks what comes next."""
        self.read(ids)

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these rows only; a row that is named twice goes on twice."""
        index = torch.tensor(rows, dtype=torch.long, device=self._loaded.device)
        self._cache.batch_select_indices(index)
        self._n_read = self._n_read[index]
        self._mask = None if self._mask is None else self._mask[index]

    def forget(self, n_tokens: Sequence[int]) -> None:
        """Take back the last tokens of each row, as many as `n_tokens` says.

        What all rows take back leaves the cache; what only some do stays there as a gap that nothing attends to.
        """
        common = min(n_tokens)
        self._n_read = self._n_read - torch.tensor(n_tokens, device=self._n_read.device)
        if self._mask is None or not any(n_tokens):
            return
        if common:
            self._cache.crop(-common)
            self._mask = self._mask[:, :-common]
        if max(n_tokens) > common:
            self._has_gaps = True
            columns = torch.arange(self._mask.shape[1], 0, -1, device=self._mask.device)  # 1 is the last
            hidden = columns <= torch.tensor(n_tokens, device=self._mask.device)[:, None] - common
            self._mask = self._mask.masked_fill(hidden, 0)
