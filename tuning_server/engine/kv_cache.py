"""Read rows of unequal length side by side, each model with its cache of keys and values.

Prompts that begin alike are read together: their common beginning once, and each distinct prompt once. Few-shot prompts
share their examples, the answers to one request their whole prompt.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from os.path import commonprefix
from typing import Any

import torch
import torch.nn.functional as F
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache, StaticCache
from transformers.cache_utils import DynamicLayer

from tuning_server.engine.gpu import Replayed
from tuning_server.engine.models import LoadedModel
from tuning_server.engine.registry import NON_FINITE, BrokenModel


def left_padded(loaded: LoadedModel, prompts: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Prompts as one tensor that ends where they end, shape (rows, longest), and its mask (None without padding)."""
    rows = [torch.tensor(prompt) for prompt in prompts]
    ids = pad_sequence(rows, batch_first=True, padding_value=loaded.codec.eos_id, padding_side="left").to(loaded.device)
    mask = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True, padding_side="left")
    return ids, None if mask.all() else mask.to(loaded.device)


class Reader:
    """One model and the cache of what it has read, one row per text."""

    def __init__(self, loaded: LoadedModel) -> None:
        self.loaded = loaded
        self._cache: Any = DynamicCache(config=loaded.model.config)
        # no sliding window and no recurrent state
        self.is_plain = all(type(layer) is DynamicLayer for layer in self._cache.layers)
        self._mask: torch.Tensor | None = None  # (rows, columns of the cache)
        self._n_read = torch.zeros(1, dtype=torch.long, device=loaded.device)
        self._has_gaps = False
        self._step: Replayed[torch.Tensor] | None = None  # reads one token of each row into memory that was reserved
        self._n_columns = 0  # of that memory that are filled

    def read(self, ids: torch.Tensor, mask: torch.Tensor | None = None, *, n_last: int = 1) -> torch.Tensor:
        """Read on and predict what comes next.

        Parameters
        ----------
        ids : tensor, shape (rows, n)
        mask : tensor, shape (rows, n), 0 where a row has padding; None where none has
        n_last : how many of the last tokens to give logits for

        Returns
        -------
        tensor in the model's precision, shape (rows, n_last, vocab), logits
        """
        if self._step is not None:
            self._n_columns += 1
            return self._step(ids)
        loaded, fresh = self.loaded, torch.ones_like(ids) if mask is None else mask
        self._has_gaps |= mask is not None
        # a row that has ended may be read on beside the others
        positions = (self._n_read[:, None] + fresh.cumsum(-1) - 1).clamp(min=0, max=loaded.context_tokens - 1)
        self._n_read = self._n_read + fresh.sum(-1)  # (rows,)
        self._mask = fresh if self._mask is None else torch.cat([self._mask, fresh], dim=1)
        attended = self._mask if self._has_gaps else None
        if ids.shape[1] == 1 and self.is_plain and _is_grouped(loaded):
            attended = self._mask[:, None, None].bool()
        return self._logits(ids, attended, positions, n_last=n_last)

    def _logits(
        self, ids: torch.Tensor, mask: torch.Tensor | None, positions: torch.Tensor, *, n_last: int
    ) -> torch.Tensor:
        out = self.loaded.model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=n_last,
        )
        return out.logits[..., : self.loaded.vocab_size]

    @property
    def can_replay(self) -> bool:
        """Whether `reserve` is possible with this model, and worth it on its device."""
        return self.is_plain and _takes_masks(self.loaded) and self.loaded.device.type in REPLAYING

    def reserve(self, n_new: int) -> None:
        """Allocate memory for `n_new` tokens of each row, which are then read one by one in recorded steps."""
        loaded, grown, n_read = self.loaded, self._cache, self._cache.get_seq_length()
        assert self._mask is not None
        self._cache = StaticCache(config=loaded.model.config, max_cache_len=n_read + n_new)
        for layer, old in zip(self._cache.layers, grown.layers, strict=True):
            layer.lazy_initialization(old.keys, old.values)
            layer.keys[:, :, :n_read], layer.values[:, :, :n_read] = old.keys, old.values
            layer.cumulative_length.fill_(n_read)
        mask = self._mask = F.pad(self._mask.bool(), (0, n_new))
        column, positions = torch.tensor([n_read], device=loaded.device), self._n_read[:, None]

        def step(ids: torch.Tensor) -> torch.Tensor:
            mask.index_fill_(1, column, True)
            logits = self._logits(ids, mask[:, None, None], positions, n_last=1)
            column.add_(1)
            positions.add_(1).clamp_(max=loaded.context_tokens - 1)
            return logits

        self._step, self._n_columns = Replayed(step), n_read

    def release(self) -> None:
        """Go back to memory that grows, so that rows can be dropped."""
        if self._step is None or self._mask is None:
            return
        fixed, self._cache, self._step = self._cache, DynamicCache(config=self.loaded.model.config), None
        for k, layer in enumerate(fixed.layers):
            self._cache.update(layer.keys[:, :, : self._n_columns], layer.values[:, :, : self._n_columns], k)
        self._mask = self._mask[:, : self._n_columns].long()

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these rows only; a row that is named twice goes on twice."""
        index = torch.tensor(rows, dtype=torch.long, device=self.loaded.device)
        self._cache.batch_select_indices(index)
        self._n_read = self._n_read[index]
        self._mask = None if self._mask is None else self._mask[index]


def _is_grouped(loaded: LoadedModel) -> bool:
    """Whether a new token is read faster with a mask of the shape (rows, 1, 1, columns), even where it masks nothing.

    On a processor, where heads share keys and values: with such a mask transformers makes the heads of a group queries
    of one head, without it torch's grouped attention is called, which takes 3 to 5 times as long in bfloat16.
    """
    config = loaded.model.config
    n_heads, n_shared = getattr(config, "num_attention_heads", 0), getattr(config, "num_key_value_heads", 0)
    return loaded.device.type == "cpu" and _takes_masks(loaded) and 0 < n_shared < n_heads


def _takes_masks(loaded: LoadedModel) -> bool:
    """Whether the model takes masks of the shape (rows, 1, 1, columns) as they are."""
    config = loaded.model.config
    return config._attn_implementation == "sdpa" and not getattr(config, "alibi", False)


REPLAYING = {"cuda"}  # kinds of device on which steps are recorded
LEAST_REPLAYED = 8  # new tokens from which on recording a step takes less time than it saves
MOST_REPLAYED = 256  # new tokens to reserve memory for at once: a step reads all of it, and rows cannot be dropped
LEAST_SAVED_TOKENS = 512  # an extra pass for what is shared costs as much as reading some hundred tokens
LOGITS_BYTES = 2**29  # float32 logits in memory at once when prompts are scored


def shared_tokens(prompts: Sequence[tuple[int, ...]]) -> int:
    """Tokens to read once for prompts that are all different: what they begin with, or 0 where that saves too little.

    The last shared token is not counted, so that at least one token of every prompt is left to predict from.

    >>> opening = tuple(range(600))
    >>> shared_tokens([(*opening, 7), opening]), shared_tokens([opening]), shared_tokens([(1, 2), (1, 3)])
    (599, 0, 0)
    """
    n_common = len(commonprefix(prompts))  # of any sequences, though it stands in os.path
    return n_common - 1 if (n_common - 1) * (len(prompts) - 1) >= LEAST_SAVED_TOKENS else 0


def read_prompts(reader: Reader, prompts: Sequence[Sequence[int]]) -> torch.Tensor:
    """Read prompts of unequal length with a fresh reader, which then has one row per prompt.

    Returns
    -------
    tensor, shape (rows, vocab), logits after each prompt

    Raises
    ------
    BrokenModel
        If one of them is NaN.
    """
    indices = group_equal(prompts)
    distinct, loaded = list(indices), reader.loaded
    n_shared = shared_tokens(distinct) if reader.is_plain else 0
    if n_shared:
        reader.read(torch.tensor([distinct[0][:n_shared]], device=loaded.device))
        reader.keep([0] * len(distinct))
    logits = reader.read(*left_padded(loaded, [prompt[n_shared:] for prompt in distinct]))[:, -1]  # (distinct, vocab)
    if logits.isnan().any():
        raise BrokenModel(loaded.id, NON_FINITE)
    if len(distinct) == len(prompts):
        return logits
    row_of = {prompt: row for row, prompt in enumerate(distinct)}
    rows = [row_of[tuple(prompt)] for prompt in prompts]
    reader.keep(rows)
    return logits[rows]


def prompt_logits(
    loaded: LoadedModel, prompts: Sequence[Sequence[int]]
) -> Iterator[tuple[list[int], int, torch.Tensor]]:
    """Predict the tokens of prompts, all but each one's first, in consecutive parts.

    Yields
    ------
    rows : list of int
        Indices of the prompts that the part belongs to.
    first : int
        Position in the prompt of the first token that the part predicts.
    logits : tensor, shape (n, vocab)
        Predictions of the tokens ``first`` to ``first + n - 1``.
    """
    indices = group_equal(prompts)
    distinct = list(indices)
    n_rows = max(1, LOGITS_BYTES // (4 * loaded.n_outputs * max(map(len, distinct), default=1)))
    for start in range(0, len(distinct), n_rows):
        part, reader = distinct[start : start + n_rows], Reader(loaded)
        n_shared = shared_tokens(part) if reader.is_plain else 0
        if n_shared:
            shared = torch.tensor([part[0][:n_shared]], device=loaded.device)
            logits = reader.read(shared, n_last=n_shared)  # (1, n_shared, vocab)
            yield [k for prompt in part for k in indices[prompt]], 1, logits[0]
            reader.keep([0] * len(part))
        rests = [torch.tensor(prompt[n_shared:]) for prompt in part]
        # right padding: causal attention keeps what follows a token from changing its prediction
        ids = pad_sequence(rests, batch_first=True).to(loaded.device)  # (part, longest)
        logits = reader.read(ids, n_last=ids.shape[1])  # (part, longest, vocab)
        for r, prompt in enumerate(part):
            yield indices[prompt], n_shared + 1, logits[r, : len(prompt) - n_shared - 1]


def group_equal(prompts: Sequence[Sequence[int]]) -> dict[tuple[int, ...], list[int]]:
    """Indices of each distinct prompt, in the order of their first ones."""
    indices: dict[tuple[int, ...], list[int]] = {}
    for k, prompt in enumerate(prompts):
        indices.setdefault(tuple(prompt), []).append(k)
    return indices
